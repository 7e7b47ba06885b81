//! A container: devices that share one address space behind the IOMMU.
//!
//! What is mapped in it is mapped for all of its devices at the same IOVAs. The kernel has two ways to
//! such a space, [`Iommu`]: VFIO's own (`type1`), and `iommufd`, which takes dma-bufs too. Devices are
//! opened in `device`, and memory is mapped in `dma`.

use std::sync::{Mutex, PoisonError};

use super::error::VfioError;
use super::function::Function;
use super::iommu::{IoSpace, Iommu};
use super::iommufd::Iommufd;
use super::type1::Type1;

/// Devices bound to vfio-pci, and the addresses at which they see memory.
///
/// ```no_run
/// use std::sync::Arc;
/// use exporters::Intent;
/// use exporters::vfio::Container;
/// use iomap::{Memory, PageSize};
///
/// let container = Arc::new(Container::new()?);
/// let drive = container.open("0000:02:00.0")?;
/// let card = container.open("0000:01:00.0")?;
/// let vram = Arc::new(card.map_region(2)?);
/// // The drive may write into the card's memory, and into the system's, at these addresses.
/// let there = container.map_dma(vram, Intent::Write)?;
/// let here = container.map_dma(Memory::anonymous(1 << 20, PageSize::Base)?, Intent::Write)?;
/// println!("{} and {}", there.iova(), here.iova());
/// # drop(drive);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Container {
    iommu: Box<dyn Iommu>,
    /// Absent until the first device brings an IOMMU.
    space: Mutex<Option<IoSpace>>,
}

impl Container {
    /// An empty container of the kind that the machine has: type1, or else iommufd.
    ///
    /// # Errors
    /// [`VfioError::Unavailable`] for the lack of type1, if there is neither.
    pub fn new() -> Result<Self, VfioError> {
        Self::type1().or_else(|lack| Self::iommufd().map_err(|_| lack))
    }

    /// An empty container of VFIO's own kind, in which memory is mapped by the address that this
    /// process has it at.
    ///
    /// # Errors
    /// [`VfioError::Unavailable`] without `/dev/vfio/vfio`, or without type1 in it.
    pub fn type1() -> Result<Self, VfioError> {
        Ok(Self::of(Box::new(Type1::new()?)))
    }

    /// An empty container of iommufd (since Linux 6.6, `CONFIG_VFIO_DEVICE_CDEV`), which maps pages,
    /// and dma-bufs of other devices' memory by their file (vfio-pci's, since Linux 7.0). BARs are
    /// mapped by a dma-buf of theirs, so that their driver can take them back.
    ///
    /// # Errors
    /// [`VfioError::Unavailable`] without `/dev/iommu`.
    pub fn iommufd() -> Result<Self, VfioError> {
        Ok(Self::of(Box::new(Iommufd::new()?)))
    }

    pub(super) fn of(iommu: Box<dyn Iommu>) -> Self {
        Self { iommu, space: Mutex::default() }
    }

    /// Who translates its addresses: `type1` or `iommufd`.
    pub fn kind(&self) -> &'static str {
        self.iommu.name()
    }

    /// Opens the function at a PCI address, whose addresses this translates from then on.
    pub(super) fn attach(&self, address: &str) -> Result<Box<dyn Function>, VfioError> {
        let function = self.iommu.open(address)?;
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        if space.is_none() {
            *space = Some(self.iommu.space()?);
        }
        Ok(function)
    }

    pub(super) fn iommu(&self) -> &dyn Iommu {
        &*self.iommu
    }

    /// Does something with the space, if a device has brought one.
    pub(super) fn with_space<T>(&self, act: impl FnOnce(&mut IoSpace) -> T) -> Option<T> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(act)
    }
}
