//! What every source of buffers has in common.
//!
//! An [`Exporter`] makes buffers; an [`Export`] is one, owned. Not every buffer can be had in every
//! form, and a program must be able to ask which it can: an export has four facets, and each is
//! there or [`Absent`] with a reason.
//!
//! | facet | what it is for |
//! |---|---|
//! | [`cpu`](Export::cpu) | the CPU reads and writes the bytes |
//! | [`phyrs`](Export::phyrs) | a driver in user space programs a device with physical addresses |
//! | [`dma_buf`](Export::dma_buf) | another device, subsystem or process imports the buffer |
//! | [`provider`](Export::provider) | who holds the memory |

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use iomap::{BufMap, Memory, PhyrList, Pinned, pagemap};

use crate::Absent;
use crate::dmabuf::{Bytes, CpuAccess, DmaBuf, DmaBufError, Intent, Turns};
use crate::outside::outside;

/// A source of buffers.
///
/// ```
/// use exporters::{Exporter, Intent, SystemMemory};
///
/// /// The same for memory of the system, a dma-heap or a GPU.
/// fn greet(exporter: &dyn Exporter) -> Result<(), Box<dyn std::error::Error>> {
///     let buffer = exporter.export(4096)?;
///     let access = buffer.cpu()?.begin(Intent::Write)?;
///     access.map().copy_from_slice(0, b"hello")?;
///     access.finish()?;
///     match buffer.dma_buf() {
///         Ok(dma_buf) => println!("{} bytes to share", dma_buf.len()),
///         Err(absent) => println!("not to be shared: {absent}"),
///     }
///     Ok(())
/// }
/// greet(&SystemMemory::default())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Exporter {
    /// What the source is called: `memfd`, `udmabuf`, a heap's or a device's name.
    fn name(&self) -> &str;

    /// Makes a buffer of at least `len` bytes; it may be rounded up to whole pages.
    ///
    /// # Errors
    /// [`ExportError`] with the source's own error: a length of zero or more than there is, a device that
    /// went away.
    fn export(&self, len: usize) -> Result<Export, ExportError>;
}

/// Why a source gave no buffer: which source it was, and its own error.
///
/// ```
/// use exporters::{Exporter, SystemMemory};
/// use iomap::MemoryError;
///
/// let error = SystemMemory::default().export(0).expect_err("a buffer has at least one byte");
/// assert_eq!(error.exporter(), "memfd");
/// assert!(matches!(error.downcast_ref(), Some(MemoryError::Length { len: 0 })));
/// assert!(error.to_string().starts_with("memfd: a buffer of 0 bytes"));
/// ```
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", outside(exporter))]
pub struct ExportError {
    exporter: String,
    source: Box<dyn Error + Send + Sync>,
}

impl ExportError {
    /// The error of the exporter of this [`name`](Exporter::name).
    pub fn new(exporter: &str, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { exporter: exporter.to_owned(), source: error.into() }
    }

    /// What the source is called.
    pub fn exporter(&self) -> &str {
        &self.exporter
    }

    /// The source's own error, if it is of this type: each exporter names its own.
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        self.source.downcast_ref()
    }
}

/// Who holds a buffer's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The system: ordinary pages.
    System,
    /// A dma-heap, by name. Which memory a heap uses is the platform's business.
    DmaHeap(String),
    /// A DRM device, by its driver's name. Whether the memory is the system's or the device's own
    /// is the driver's business.
    Drm(String),
    /// A Vulkan device, by name.
    Vulkan(String),
    /// A BAR of a PCI device.
    Bar {
        /// The device's PCI address.
        device: String,
        /// The BAR's number, 0 to 5.
        index: u32,
    },
    /// A PCI device whose driver gives memory to peers.
    PeerMemory {
        /// The device's PCI address.
        device: String,
    },
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system memory"),
            Self::DmaHeap(heap) => write!(f, "dma-heap {heap}"),
            Self::Drm(driver) => write!(f, "DRM driver {driver}"),
            Self::Vulkan(device) => write!(f, "Vulkan device {device}"),
            Self::Bar { device, index } => write!(f, "BAR {index} of {device}"),
            Self::PeerMemory { device } => write!(f, "peer memory of {device}"),
        }
    }
}

/// A buffer as the CPU sees it: bytes, and the dma-bufs whose brackets make it safe to look.
#[derive(Debug)]
pub struct CpuView {
    bytes: Arc<dyn Bytes>,
    brackets: Vec<DmaBuf>,
}

impl CpuView {
    pub(crate) fn new(bytes: Arc<dyn Bytes>, brackets: Vec<DmaBuf>) -> Self {
        Self { bytes, brackets }
    }

    /// The bytes, to be touched during an access.
    pub(crate) fn bytes(&self) -> BufMap<'_> {
        self.bytes.map()
    }

    /// Begins the CPU's turn. For plain memory it costs nothing; for a dma-buf it is one ioctl at
    /// each end; of a GPU's memory that is not coherent what the CPU has cached is discarded at the
    /// beginning and written back at the end.
    ///
    /// # Errors
    /// As [`Mapping::begin_cpu_access`](crate::dmabuf::Mapping::begin_cpu_access);
    /// [`DmaBufError::Caches`] if a GPU's driver fails.
    pub fn begin(&self, intent: Intent) -> Result<CpuAccess<'_>, DmaBufError> {
        let dma_bufs = self.brackets.iter().map(|dma_buf| dma_buf as &dyn Turns);
        CpuAccess::begin(dma_bufs.chain(self.bytes.turns()), self.bytes.map(), intent)
    }
}

/// Physical ranges of a buffer, and the pin that keeps them true.
#[derive(Debug)]
pub struct Phyrs<'a> {
    /// Absent for memory that never moves.
    _pinned: Option<Pinned<'a>>,
    list: PhyrList,
}

impl<'a> Phyrs<'a> {
    /// Those of system memory, pinned now.
    pub(crate) fn pinned(map: BufMap<'a>) -> Result<Self, Absent> {
        let pinned = Pinned::new(map).map_err(|e| Phyrs::unknown(&e))?;
        let list = pagemap::phyrs(&pinned).map_err(|e| Phyrs::unknown(&e))?;
        Ok(Self { _pinned: Some(pinned), list })
    }

    /// Those of memory that never moves.
    pub(crate) const fn fixed(list: PhyrList) -> Self {
        Self { _pinned: None, list }
    }

    pub(crate) fn unknown(error: &dyn Error) -> Absent {
        Absent::new(
            format!("the physical addresses cannot be learned: {error}"),
            "map the buffer through the IOMMU, by its dma-buf or its mapping",
        )
    }

    /// The ranges, in the buffer's order.
    pub fn list(&self) -> &PhyrList {
        &self.list
    }
}

/// Where the physical ranges of a buffer are learned.
#[derive(Debug)]
pub(crate) enum PhyrSource {
    /// From the kernel, once the pages are pinned.
    Pages(Arc<Memory>),
    /// They were learned when the buffer was made, and stay as they are.
    Fixed(PhyrList),
    /// Nowhere.
    Absent(Absent),
}

/// An owned buffer, from whichever source.
#[derive(Debug)]
pub struct Export {
    pub(crate) len: usize,
    pub(crate) provider: Provider,
    pub(crate) cpu: Result<CpuView, Absent>,
    pub(crate) phyrs: PhyrSource,
    pub(crate) dma_bufs: Result<Vec<DmaBuf>, Absent>,
}

impl Export {
    /// The length in bytes, at least what was asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is zero, which no exporter makes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Who holds the memory.
    pub fn provider(&self) -> &Provider {
        &self.provider
    }

    /// The CPU's view.
    ///
    /// # Errors
    /// Absent for memory that the CPU cannot reach, such as VRAM outside a GPU's window.
    pub fn cpu(&self) -> Result<&CpuView, Absent> {
        self.cpu.as_ref().map_err(Absent::clone)
    }

    /// The physical ranges, pinned for as long as the answer is kept.
    ///
    /// # Errors
    /// Absent for memory whose addresses the kernel keeps to itself (a dma-buf of a driver), and
    /// without the privilege (`CAP_SYS_ADMIN`) or the right to pin so much (`RLIMIT_MEMLOCK`).
    pub fn phyrs(&self) -> Result<Phyrs<'_>, Absent> {
        match &self.phyrs {
            PhyrSource::Pages(memory) => Phyrs::pinned(memory.map()),
            PhyrSource::Fixed(list) => Ok(Phyrs::fixed(list.clone())),
            PhyrSource::Absent(why) => Err(why.clone()),
        }
    }

    /// The whole buffer as one dma-buf.
    ///
    /// # Errors
    /// Absent if it cannot be shared, or only in several parts: see [`dma_bufs`](Self::dma_bufs).
    pub fn dma_buf(&self) -> Result<&DmaBuf, Absent> {
        match self.dma_bufs()? {
            [dma_buf] => Ok(dma_buf),
            parts => Err(Absent::new(
                format!("the buffer of {} bytes is {} dma-bufs", self.len, parts.len()),
                "take them all (Export::dma_bufs), or raise \
                 /sys/module/udmabuf/parameters/size_limit_mb",
            )),
        }
    }

    /// The buffer as dma-bufs that follow each other: one, or several where the kernel limits the
    /// size of each (udmabuf).
    ///
    /// # Errors
    /// Absent if it cannot be shared.
    pub fn dma_bufs(&self) -> Result<&[DmaBuf], Absent> {
        self.dma_bufs.as_deref().map_err(Absent::clone)
    }
}
