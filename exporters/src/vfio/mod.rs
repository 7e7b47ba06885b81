//! VFIO: a PCI device in the hands of this process, and memory mapped for it by the IOMMU.
//!
//! A device that is bound to vfio-pci is a source of memory, its BARs, and a device to map memory
//! for. [`Container`] opens devices and maps memory for them (type1 or iommufd); [`Device`] is one of them;
//! [`Region`] is a BAR as the CPU sees it; [`Bar`] hands a BAR out in pieces, as an
//! [`Exporter`](crate::Exporter) does. `VFIO_IOMMU_MAP_DMA` accepts the mapping of one device's BAR
//! for another: so a drive writes into a card's memory on a stock kernel.
//!
//! VFIO never asks the kernel's rules for peer-to-peer: whether the bytes arrive is for the PCI
//! tree, the IOMMU and the platform, and is found out by moving some and looking.
//!
//! It needs an IOMMU, the modules `vfio-pci` and `vfio_iommu_type1` or `iommufd`, and the right to open
//! `/dev/vfio/*` and `/dev/iommu`. Read `container` first, then `device`, `mappable` and `dma`.

mod bar;
mod container;
mod destination;
mod device;
mod dma;
mod error;
mod function;
mod iommu;
mod iommufd;
pub(crate) mod mappable;
mod ranges;
mod region;
#[cfg(feature = "software")]
pub mod software;
mod sys;
mod type1;

pub use bar::Bar;
pub use container::Container;
pub use device::Device;
pub use dma::DmaMapping;
pub use error::VfioError;
pub use function::Interrupt;
pub use mappable::Mappable;
pub use region::Region;
