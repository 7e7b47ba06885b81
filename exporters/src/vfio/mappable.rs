//! Memory that a device may be given: what stays at one place for as long as it lives.

use std::fmt;
use std::sync::Arc;

use iomap::{BufMap, Memory};

use super::error::VfioError;
use crate::export::Phyrs;
use crate::vulkan::SteadyBuffer;
use crate::{Absent, DmaBuf};

pub(crate) mod sealed {
    use std::fmt::Debug;
    use std::sync::Arc;

    pub trait Steady {
        /// What a mapping shares, even of memory that it borrows, because once freed it would be
        /// somebody else's.
        fn held(&self) -> Option<Arc<dyn Debug + Send + Sync>> {
            None
        }
    }
    impl Steady for iomap::Memory {}
    impl Steady for crate::vulkan::SteadyBuffer {
        fn held(&self) -> Option<Arc<dyn Debug + Send + Sync>> {
            Some(self.buffer().clone())
        }
    }
    impl<T: Steady + ?Sized> Steady for &T {
        fn held(&self) -> Option<Arc<dyn Debug + Send + Sync>> {
            T::held(self)
        }
    }
    impl<T: Steady + ?Sized> Steady for Arc<T> {
        fn held(&self) -> Option<Arc<dyn Debug + Send + Sync>> {
            T::held(self)
        }
    }
}

/// Memory that a device may be given: at one place for as long as it lives. Type1 pins system memory,
/// but is never told when a driver moves memory of its own, so a GPU's buffer is not among it: a
/// [`SteadyBuffer`] is, which is a buffer that is known or promised to stay.
///
/// ```compile_fail,E0277
/// # fn f(container: std::sync::Arc<exporters::vfio::Container>, device: exporters::vulkan::Device) {
/// let buffer = device.allocate_host_visible(1 << 20).unwrap();
/// let mapping = container.map_dma(buffer, exporters::Intent::Write);
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not known to stay where it is, so it cannot be mapped for a device",
    note = "VFIO type1 is never told when a driver moves its memory",
    note = "of a Vulkan buffer take `Buffer::steady`, or opt in by `Buffer::assume_it_stays`"
)]
pub trait Mappable: sealed::Steady + fmt::Debug + Send + Sync {
    /// A map of all of it.
    fn map(&self) -> BufMap<'_>;

    /// Where it lies on the memory bus, pinned for as long as the answer is kept.
    ///
    /// # Errors
    /// Absent without the privilege to know, or to pin so much.
    fn phyrs(&self) -> Result<Phyrs<'_>, Absent>;

    /// A dma-buf of it, if it has no pages: a BAR's. iommufd maps that by a dma-buf only.
    fn dma_buf(&self) -> Option<Result<DmaBuf, VfioError>> {
        None
    }
}

impl Mappable for Memory {
    fn map(&self) -> BufMap<'_> {
        Self::map(self)
    }

    fn phyrs(&self) -> Result<Phyrs<'_>, Absent> {
        Phyrs::pinned(Self::map(self))
    }
}

impl Mappable for SteadyBuffer {
    fn map(&self) -> BufMap<'_> {
        Self::map(self)
    }

    fn phyrs(&self) -> Result<Phyrs<'_>, Absent> {
        Self::phyrs(self)
    }
}

impl<T: Mappable + ?Sized> Mappable for &T {
    fn map(&self) -> BufMap<'_> {
        T::map(self)
    }

    fn phyrs(&self) -> Result<Phyrs<'_>, Absent> {
        T::phyrs(self)
    }

    fn dma_buf(&self) -> Option<Result<DmaBuf, VfioError>> {
        T::dma_buf(self)
    }
}

impl<T: Mappable + ?Sized> Mappable for Arc<T> {
    fn map(&self) -> BufMap<'_> {
        T::map(self)
    }

    fn phyrs(&self) -> Result<Phyrs<'_>, Absent> {
        T::phyrs(self)
    }

    fn dma_buf(&self) -> Option<Result<DmaBuf, VfioError>> {
        T::dma_buf(self)
    }
}
