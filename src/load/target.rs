//! Buffers of the loader's own making.

use std::fmt;
use std::sync::Arc;

use exporters::vfio::{Container, Region};
use exporters::vulkan::{self, Device, Way};
use exporters::{Destination, Export, Exporter, P2pmem, PeerMemory};
use iomap::{Memory, PageSize};

use crate::transfer::{DataPath, StepDown, TransferError};

/// A buffer made to be loaded into.
#[derive(Debug)]
pub enum Target {
    /// System memory.
    Memory(Arc<Memory>),
    /// System memory, imported by a Vulkan device that shares the system's memory.
    Imported(Arc<vulkan::Buffer>),
    /// Memory of a Vulkan device's own.
    Device(Arc<vulkan::Buffer>),
    /// Memory of a PCI device that its driver gives to peers.
    Peer(Arc<PeerMemory>),
    /// A BAR of a device that vfio-pci has, or a part of one.
    Bar(Arc<Region>),
    /// A GPU's buffer that the CPU sees and that stays where it is.
    Visible(vulkan::SteadyBuffer),
    /// What a source exported: a dma-heap, a DRM driver, `/dev/udmabuf`.
    Exported(Export),
}

impl Target {
    /// System memory of at least `len` bytes.
    ///
    /// # Errors
    /// [`TransferError::Memory`].
    pub fn memory(len: u64) -> Result<Self, TransferError> {
        let memory = Memory::anonymous(in_memory(len)?.max(1), PageSize::Base)?;
        // Fewer faults, fewer pins. A kernel without huge pages has small ones.
        let _ = memory.advise_huge();
        Ok(Self::Memory(Arc::new(memory)))
    }

    /// A Vulkan buffer of at least `len` bytes, for the path demanded or for the best one.
    ///
    /// On a device that shares the system's memory the buffer is made of system pages, which a
    /// drive fills and nothing is copied; on one with memory of its own it lies there. When a
    /// device that could share refuses the pages, the second is taken, and the reason comes along.
    ///
    /// # Errors
    /// [`TransferError::Memory`], [`TransferError::Vulkan`].
    pub fn vulkan(
        device: &Device,
        len: u64,
        path: Option<DataPath>,
    ) -> Result<(Self, Option<StepDown>), TransferError> {
        let own_memory = || {
            let buffer = device.allocate(in_memory(len)?.max(1), false)?;
            Ok::<_, TransferError>(Self::Device(Arc::new(buffer)))
        };
        let share = match path {
            Some(path) => path != DataPath::Staged,
            None => device.info().shares_system_memory,
        };
        if !share {
            return Ok((own_memory()?, None));
        }
        let memory = Arc::new(device.memory_to_import(in_memory(len)?)?);
        match device.import_memory(memory) {
            Ok(buffer) => Ok((Self::Imported(Arc::new(buffer)), None)),
            Err(refused) if path.is_none() => {
                let why = format!("the device does not import system pages ({refused})");
                Ok((own_memory()?, Some(StepDown { path: DataPath::Direct, why, bytes: len })))
            }
            Err(refused) => Err(refused.into()),
        }
    }

    /// At least `len` bytes of the memory that the PCI function at an address (`0000:03:00.0`) has
    /// for peers.
    ///
    /// # Errors
    /// [`TransferError::P2pmem`].
    pub fn p2pmem(function: &str, len: u64) -> Result<Self, TransferError> {
        let memory = P2pmem::open(function)?.allocate(in_memory(len)?.max(1))?;
        Ok(Self::Peer(Arc::new(memory)))
    }

    /// A buffer of at least `len` bytes of an exporter's.
    ///
    /// # Errors
    /// [`TransferError::Export`], as the source has it.
    pub fn export(exporter: &dyn Exporter, len: u64) -> Result<Self, TransferError> {
        Ok(Self::Exported(exporter.export(in_memory(len)?.max(1))?))
    }

    /// At least the first `len` bytes of a BAR of a device that is bound to vfio-pci, opened in
    /// `container`: of `bar` (0 to 5), or else of its longest one that can be mapped.
    ///
    /// # Errors
    /// [`TransferError::Vfio`]; [`TransferError::TooSmall`] if the BAR is shorter.
    pub fn vfio(
        container: &Arc<Container>,
        function: &str,
        bar: Option<u32>,
        len: u64,
    ) -> Result<Self, TransferError> {
        let device = container.open(function)?;
        let len_of = |bar: &u32| device.region_len(*bar).unwrap_or(0);
        let bar = bar.or_else(|| (0..6).max_by_key(len_of)).unwrap_or(0);
        let bar_len = device.region_len(bar)?;
        let page = rustix::param::page_size() as u64;
        let needed = len.max(1).next_multiple_of(page);
        if needed > bar_len {
            return Err(TransferError::TooSmall { needed, len: bar_len });
        }
        Ok(Self::Bar(Arc::new(device.map_part(bar, 0..needed)?)))
    }

    /// Why the pages were not imported as a dma-buf, if they were imported otherwise.
    pub fn no_udmabuf(&self) -> Option<&str> {
        match self {
            Self::Imported(buffer) => match buffer.way() {
                Way::HostPages { no_udmabuf } => Some(&no_udmabuf.why),
                _ => None,
            },
            _ => None,
        }
    }

    /// Where to load.
    pub fn destination(&self) -> &dyn Destination {
        match self {
            Self::Memory(memory) => &**memory,
            Self::Imported(buffer) | Self::Device(buffer) => buffer,
            Self::Peer(memory) => &**memory,
            Self::Bar(region) => &**region,
            Self::Visible(buffer) => buffer,
            Self::Exported(export) => export,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(_) => f.write_str("system memory"),
            Self::Imported(buffer) => {
                let device = &buffer.device().info().name;
                write!(f, "pages shared with {device} by {}", buffer.way())
            }
            Self::Device(buffer) => {
                write!(f, "memory of {}", buffer.device().info().name)
            }
            Self::Exported(export) => write!(f, "{}", export.provider()),
            Self::Peer(memory) => write!(f, "peer memory of {}", memory.function()),
            Self::Visible(buffer) => {
                let device = buffer.buffer().device().info();
                write!(f, "memory of {} that the CPU sees", device.name)
            }
            Self::Bar(region) => {
                write!(f, "BAR {} of {}", region.index(), region.device().address())
            }
        }
    }
}

/// A length as this process's memory has it.
fn in_memory(len: u64) -> Result<usize, TransferError> {
    Ok(usize::try_from(len).map_err(|_| iomap::MemoryError::Length { len: usize::MAX })?)
}
