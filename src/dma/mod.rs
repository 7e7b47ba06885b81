//! From memory to what a device is programmed with.
//!
//! A device does not know the CPU's addresses, and often not the memory bus's: behind an IOMMU it
//! sees IOVAs, below a switch the bus addresses of its peers. A [`Mapper`] takes memory and gives a
//! [`DmaList`], the ranges as the device sees them, in a guard that keeps it true ([`Mapped`]). The
//! list is cut to what a device takes ([`DmaLimits`]), or becomes a drive's own kind of list
//! ([`storage::nvme`](crate::storage::nvme)).

mod error;
mod iovec;
mod limits;
mod list;
mod mapper;
mod range;

pub use error::DmaError;
pub use iovec::iovecs;
pub use limits::DmaLimits;
pub use list::{DmaList, Part};
pub use mapper::{Bounce, Direct, Iommu, Mapped, Mapper};
pub use range::{DmaKind, DmaRange, RangeError};
