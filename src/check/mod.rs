//! What can be proved about bytes: fingerprints as they land, and a comparison with a second read, of all or of a sample; a GPU's own fingerprints.

mod by_gpu;
mod compare;
mod filled;
mod fingerprints;
mod first_use;
mod sample;

pub(crate) use by_gpu::by_gpu;
pub(crate) use compare::{Comparison, Reader, SecondRead, compare};
pub(crate) use filled::{Filled, lost, map_of, present};
pub(crate) use fingerprints::{Fingerprints, Part, Parts, meets};
pub(crate) use first_use::FirstUse;
pub(crate) use sample::{Extent, asked_of, compare_some};
