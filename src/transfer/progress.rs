//! How far a transfer has come.

use std::time::Instant;

/// How far a load has come, in bytes, and what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The bytes in place.
    pub done: u64,
    /// The bytes asked for.
    pub total: u64,
    /// The read or write that has been waited for longest, if one is under way: a file system or drive that does not
    /// answer keeps a load or a save from ending, even when it is [stopped](crate::load::Load::stop).
    pub pending: Option<Pending>,
}

/// A read or a write that has not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pending {
    /// The index of its file among those of the load.
    pub file: usize,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// When it was asked for.
    pub since: Instant,
}
