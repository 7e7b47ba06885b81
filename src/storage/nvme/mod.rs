//! NVMe drives: how memory is described to them.
//!
//! A command names the memory that its data goes to by [PRPs](prp) or by an [SGL](sgl), both built
//! from the ranges that the drive sees ([`DmaList`](crate::dma::DmaList)) into memory of the
//! caller's ([`ListMemory`]), without a copy or an allocation.

mod list;
pub mod prp;
pub mod sgl;

pub use list::ListMemory;
