//! NVMe drives, driven from user space.
//!
//! So far: what a drive says of itself ([`identify`]), and how memory is described to it: by
//! [PRPs](prp) or by an [SGL](sgl), both built from the ranges that the drive sees
//! ([`DmaList`](crate::dma::DmaList)).

pub mod identify;
mod list;
pub mod prp;
pub mod sgl;

pub use identify::{IdentifyController, IdentifyNamespace};
pub use list::ListMemory;
