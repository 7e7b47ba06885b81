//! Dumb buffers: plain pixels that a display can show and the CPU can write, made by every driver
//! that has displays.
//!
//! The driver chooses the pitch and the memory, and does not say which memory it is. Some map it
//! cached, some write-combining (vgem, and what lies in VRAM), and a new kernel may change that for a
//! driver (bochs). The mapping is therefore treated as a device's, written and read as
//! write-combining memory wants it: right for both kinds, and slower for one of them.
//!
//! # Safety
//!
//! The law of this module: a `Mapping` stays where it is, over its whole length, until it is dropped.
//! A buffer has one size for life, and the kernel keeps it while it is mapped, even when its handle
//! is closed.
#![allow(unsafe_code)]

use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::sync::Arc;

use iomap::{Access, BufMap, Caching, Location, Plane, PlaneError, is_available};
use memmap2::{MmapOptions, MmapRaw};

use super::{Card, DrmError, Gem};
use crate::Absent;
use crate::dmabuf::Bytes;
use crate::export::{CpuView, Export, ExportError, Exporter, PhyrSource, Provider};

/// A row of a buffer that is asked for by its length: a page, of pixels of 32 bits, the one size that
/// every driver knows.
const ROW_BYTES: usize = 4096;
const ROW_PIXELS: u32 = 1024;

/// The most rows that are asked for. Drivers count bytes in 32 bits in places.
const MAX_ROWS: u32 = u32::MAX / ROW_BYTES as u32;

/// Drivers of devices without memory of their own, or that keep their buffers elsewhere until a
/// display shows them.
const OF_THE_SYSTEM: [&str; 3] = ["vgem", "virtio_gpu", "bochs-drm"];

/// A dumb buffer: a picture of known shape, or a run of bytes.
///
/// ```no_run
/// use exporters::Intent;
/// use exporters::drm::{Card, Node};
///
/// let card = Card::find("bochs-drm", Node::Primary)?;
/// let picture = card.dumb_buffer(1280, 800, 32)?;
/// let access = picture.buffer().cpu()?.begin(Intent::Write)?;
/// let plane = picture.plane(access.map())?;
/// for y in 0..800 {
///     plane.row(y)?.fill(y as u8)?; // and not what lies between the rows
/// }
/// access.finish()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DumbBuffer {
    gem: Gem,
    width: u32,
    height: u32,
    bits_per_pixel: u32,
    pitch: usize,
    buffer: Export,
}

impl DumbBuffer {
    /// The handle on its card, which lives as long as this or a clone of it.
    pub fn gem(&self) -> &Gem {
        &self.gem
    }

    /// The width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// The height in rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The bits of a pixel.
    pub fn bits_per_pixel(&self) -> u32 {
        self.bits_per_pixel
    }

    /// From row to row, in bytes, as the driver chose it: at least what a row of pixels takes.
    pub fn pitch(&self) -> usize {
        self.pitch
    }

    /// The bytes: for the CPU, as a dma-buf, and what else there is of them.
    pub fn buffer(&self) -> &Export {
        &self.buffer
    }

    /// The picture in a map of its bytes, as a bracket on [`buffer`](Self::buffer) gives it.
    ///
    /// # Errors
    /// [`PlaneError::TooShort`] for a map of other, fewer bytes.
    pub fn plane<'a>(&self, map: BufMap<'a>) -> Result<Plane<'a>, PlaneError> {
        let row_bytes = (self.width as usize * self.bits_per_pixel as usize).div_ceil(8);
        Plane::new(map, self.pitch, row_bytes, self.height as usize)
    }
}

impl From<DumbBuffer> for Export {
    /// Keeps the bytes and closes the handle.
    fn from(dumb: DumbBuffer) -> Self {
        dumb.buffer
    }
}

impl Card {
    /// Makes a buffer for a picture of `width` times `height` pixels of `bits_per_pixel` each
    /// (`DRM_IOCTL_MODE_CREATE_DUMB`). The bytes are zero. Every driver knows 32 bits a pixel, some
    /// know no other.
    ///
    /// # Errors
    /// [`DrmError::Unavailable`] on a card without dumb buffers, [`DrmError::OutOfMemory`] for more
    /// of the system's memory than there is, [`DrmError::Kernel`] for a shape that the driver refuses.
    pub fn dumb_buffer(
        &self,
        width: u32,
        height: u32,
        bits_per_pixel: u32,
    ) -> Result<DumbBuffer, DrmError> {
        const CREATE: &str = "DRM_IOCTL_MODE_CREATE_DUMB";
        self.dumb_buffers()?;
        let least = u64::from(width).saturating_mul(height.into());
        let least = least.saturating_mul(bits_per_pixel.into()) / 8;
        if OF_THE_SYSTEM.contains(&self.driver()) {
            is_available(least as usize)
                .map_err(|source| DrmError::OutOfMemory { card: self.path().to_owned(), source })?;
        }
        let (mut pitch, mut len) = (0, 0);
        let gem = Gem::own(self, || {
            let fd = self.device().as_fd();
            let made = drm_ffi::mode::dumbbuffer::create(fd, width, height, bits_per_pixel, 0)
                .map_err(self.failed(CREATE))?;
            (pitch, len) = (made.pitch as usize, made.size as usize);
            let no_handle = || std::io::Error::other("the driver gave no handle");
            NonZeroU32::new(made.handle).ok_or_else(no_handle).map_err(self.failed(CREATE))
        })?;
        let dma_buf = gem.dma_buf();
        let cpu = match Mapping::new(&gem, len) {
            Ok(mapping) => {
                // What cannot be shared is touched by no other device, and needs no bracket.
                Ok(CpuView::new(Arc::new(mapping), dma_buf.iter().cloned().collect()))
            }
            Err(e) => Err(Absent::new(
                format!("the buffer cannot be mapped: {e}"),
                "let a device read and write it, or take another exporter",
            )),
        };
        let buffer = Export {
            len,
            provider: Provider::Drm(self.driver().to_owned()),
            cpu,
            phyrs: PhyrSource::Absent(Absent::new(
                format!("the driver {} keeps physical addresses to itself", self.driver()),
                "map the dma-buf through the IOMMU, or share a memfd by /dev/udmabuf instead",
            )),
            dma_bufs: match dma_buf {
                Ok(dma_buf) => Ok(vec![dma_buf]),
                Err(DrmError::Unavailable(absent)) => Err(absent),
                Err(e) => Err(Absent::new(e.to_string(), "take another exporter")),
            },
        };
        Ok(DumbBuffer { gem, width, height, bits_per_pixel, pitch, buffer })
    }

    /// Makes a buffer of at least `len` bytes.
    fn run_of(&self, len: usize) -> Result<DumbBuffer, DrmError> {
        let rows = rows(len).ok_or_else(|| DrmError::Length {
            card: self.path().to_owned(),
            len,
            max: MAX_ROWS as usize * ROW_BYTES,
        })?;
        self.dumb_buffer(ROW_PIXELS, rows, 32)
    }
}

impl Exporter for Card {
    fn name(&self) -> &str {
        self.driver()
    }

    fn export(&self, len: usize) -> Result<Export, ExportError> {
        Ok(self.run_of(len).map_err(|e| ExportError::new(self.name(), e))?.into())
    }
}

/// How many rows hold `len` bytes, if it is not too many, or none.
fn rows(len: usize) -> Option<u32> {
    let rows = u32::try_from(len.div_ceil(ROW_BYTES)).ok()?;
    (1..=MAX_ROWS).contains(&rows).then_some(rows)
}

/// A dumb buffer in this process's address space.
#[derive(Debug)]
struct Mapping(MmapRaw);

impl Mapping {
    /// Maps a buffer at the place in the node's file that the driver gives it
    /// (`DRM_IOCTL_MODE_MAP_DUMB`).
    fn new(gem: &Gem, len: usize) -> Result<Self, DrmError> {
        let card = gem.card();
        let place = drm_ffi::mode::dumbbuffer::map(card.as_fd(), gem.handle().get(), 0, 0)
            .map_err(card.failed("DRM_IOCTL_MODE_MAP_DUMB"))?;
        let mut options = MmapOptions::new();
        options.offset(place.offset).len(len);
        Ok(Self(options.map_raw(&card.as_fd()).map_err(card.failed("mmap"))?))
    }
}

impl Bytes for Mapping {
    fn map(&self) -> BufMap<'_> {
        // SAFETY: the module's law: the mapping, made by mmap for reading and writing, is there over
        // its length until `self` is dropped, which the returned lifetime prevents.
        unsafe {
            BufMap::from_raw(
                self.0.as_mut_ptr(),
                self.0.len(),
                Location::Io,
                Caching::WriteCombining,
                Access::ReadWrite,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_at_the_edges() {
        let most = MAX_ROWS as usize * ROW_BYTES;
        assert_eq!([rows(0), rows(1), rows(4096), rows(4097)], [None, Some(1), Some(1), Some(2)]);
        assert_eq!([rows(most), rows(most + 1), rows(usize::MAX)], [Some(MAX_ROWS), None, None]);
    }

    proptest! {
        #[test]
        fn as_many_rows_as_it_takes(len in 1..=MAX_ROWS as usize * ROW_BYTES) {
            let bytes = rows(len).map_or(0, |rows| rows as usize * ROW_BYTES);
            prop_assert!(bytes >= len && bytes - len < ROW_BYTES);
        }
    }
}
