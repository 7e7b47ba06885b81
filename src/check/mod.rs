//! What can be proved about bytes: fingerprints as they land, and a comparison with a second read.

mod compare;
mod fingerprints;

pub(crate) use compare::{Filled, SecondRead, compare};
pub(crate) use fingerprints::{Fingerprints, Part, Parts};
