//! What can be proved about bytes: fingerprints as they land, and a comparison with a second read.

mod compare;
mod filled;
mod fingerprints;

pub(crate) use compare::{Reader, SecondRead, compare};
pub(crate) use filled::{Filled, lost, map_of, present};
pub(crate) use fingerprints::{Fingerprints, Part, Parts, meets};
