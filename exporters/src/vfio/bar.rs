//! A device's BAR as a source of buffers.

use std::sync::{Arc, Mutex, PoisonError};

use iomap::BufMap;

use super::device::Device;
use super::error::VfioError;
use super::ranges::FreeRanges;
use super::region::Region;
use crate::Absent;
use crate::dmabuf::Bytes;
use crate::export::{CpuView, Export, ExportError, Exporter, PhyrSource, Provider};

/// Memory behind a BAR of a device that VFIO opened, given out in pieces of whole pages. What the
/// BAR is to the device (memory, or registers) is for the caller to know.
///
/// ```no_run
/// use std::sync::Arc;
/// use exporters::Exporter;
/// use exporters::vfio::{Bar, Container};
///
/// let container = Arc::new(Container::new()?);
/// let vram = Bar::new(&container.open("0000:01:00.0")?, 2)?;
/// let buffer = vram.export(1 << 20)?;
/// println!("{:?}", buffer.phyrs()?.list());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Bar {
    name: String,
    device: Device,
    index: u32,
    free: Arc<Mutex<FreeRanges>>,
}

impl Bar {
    /// All of a BAR (0 to 5).
    ///
    /// # Errors
    /// [`VfioError::Region`] if the device has none of this number.
    pub fn new(device: &Device, index: u32) -> Result<Self, VfioError> {
        let mut free = FreeRanges::default();
        free.add(0..device.region_len(index)?);
        let name = format!("BAR {index} of {}", device.address());
        Ok(Self { name, device: device.clone(), index, free: Arc::new(Mutex::new(free)) })
    }

    fn take(&self, len: usize) -> Result<Piece, VfioError> {
        let page = rustix::param::page_size();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = len.checked_next_multiple_of(page).filter(|&whole| whole > 0);
        let range = whole.and_then(|whole| free.take(whole as u64, page as u64));
        let range = range.ok_or_else(|| VfioError::Region {
            device: self.device.address().into(),
            region: self.index,
            why: format!("a piece of {len} bytes: the longest free one has {}", free.longest()),
        })?;
        match self.device.map_part(self.index, range.clone()) {
            Ok(region) => Ok(Piece { region, free: Arc::clone(&self.free) }),
            Err(error) => {
                free.add(range);
                Err(error)
            }
        }
    }
}

impl Exporter for Bar {
    fn name(&self) -> &str {
        &self.name
    }

    fn export(&self, len: usize) -> Result<Export, ExportError> {
        let piece = self.take(len).map_err(|e| ExportError::new(self.name(), e))?;
        let range = piece.region.range();
        let absent = |error: VfioError| {
            Absent::new(error.to_string(), "the BAR can still be mapped for other VFIO devices")
        };
        Ok(Export {
            len: (range.end - range.start) as usize,
            provider: Provider::Bar { device: self.device.address().into(), index: self.index },
            phyrs: match piece.region.phyrs() {
                Ok(list) => PhyrSource::Fixed(list),
                Err(error) => PhyrSource::Absent(absent(error)),
            },
            dma_bufs: self.device.dma_buf(self.index, range).map(|one| vec![one]).map_err(absent),
            cpu: Ok(CpuView::new(Arc::new(piece), Vec::new())),
        })
    }
}

/// A piece of a BAR, which goes back when it is dropped.
#[derive(Debug)]
struct Piece {
    region: Region,
    free: Arc<Mutex<FreeRanges>>,
}

impl Bytes for Piece {
    fn map(&self) -> BufMap<'_> {
        self.region.map()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.add(self.region.range());
    }
}
