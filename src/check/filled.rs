//! A buffer that is filled, and whether it is still present.

use std::sync::atomic::AtomicBool;

use exporters::Destination;
use iomap::BufMap;

use crate::transfer::{Request, TransferError};

/// A buffer, and what it is filled with.
pub(crate) struct Filled<'a, S> {
    pub files: &'a [S],
    pub requests: &'a [Request],
    pub destination: &'a dyn Destination,
    pub stop: &'a AtomicBool,
}

/// The CPU's view of a buffer that was planned for by it.
pub(crate) fn map_of(buffer: &dyn Destination) -> BufMap<'_> {
    buffer.cpu_map().unwrap_or(BufMap::null())
}

/// Fails if a buffer has gone away.
pub(crate) fn present(buffer: &dyn Destination) -> Result<(), TransferError> {
    if buffer.is_present() { Ok(()) } else { Err(lost(buffer)) }
}

/// The end of a transfer whose buffer has gone away.
pub(crate) fn lost(buffer: &dyn Destination) -> TransferError {
    TransferError::BufferLost { device: buffer.holder() }
}
