//! Facts in, decision out: which path each byte takes and why not a better one, and which reads that makes.
//!
//! In the order in which data flows:
//!
//! * [`Place`]: where a buffer lies, by its facets; `asked`: what is asked, if it makes sense;
//! * `run` and `cut`: from requests to reads, by arithmetic alone; `job`: one read;
//! * `peer`: whether a drive may write into another device's memory, and the proof of it;
//! * `fit`: what a buffer allows; `by_kernel` and `by_driver`: the decision, for the kernel's drivers and the
//!   driver in user space; `decided`: what was decided;
//! * `out`: the same decision the other way, out of a buffer into a file;
//! * [`Explain`]: the decision for a load that nobody runs.
//!
//! Nothing here moves data but a proof and, for a file of many gigabytes in the page cache, a sample of it.

pub(crate) mod asked;
pub(crate) mod by_driver;
pub(crate) mod by_kernel;
mod contest;
pub(crate) mod cut;
pub(crate) mod decided;
mod explain;
mod fit;
pub(crate) mod job;
pub(crate) mod out;
pub(crate) mod peer;
mod place;
pub(crate) mod requested;
pub(crate) mod run;

pub(crate) use explain::OWN;
pub use explain::{Explain, Explanation};
pub use place::Place;
