//! How a loader works.

use crate::transfer::{Options, TransferError};

/// How a [`Loader`](super::Loader) works.
///
/// ```no_run
/// use bufmap::engine::{Loader, LoaderOptions};
///
/// let loader = Loader::with(LoaderOptions::default().depth(128).in_flight(16 << 20))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderOptions {
    pub(super) depth: u32,
    pub(super) block: u64,
    pub(super) in_flight: u64,
    pub(super) background: u64,
    pub(super) waiting: usize,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self {
            depth: 32,
            block: 1 << 20,
            in_flight: 32 << 20,
            background: 4 << 20,
            waiting: 1 << 16,
        }
    }
}

impl LoaderOptions {
    /// Whether they make sense.
    pub(super) fn checked(self) -> Result<Self, TransferError> {
        Options { depth: self.depth, block: self.block, ..Options::default() }.validate()?;
        match self.waiting {
            0 => Err(TransferError::Options("at least one request must be allowed to wait")),
            _ => Ok(self),
        }
    }

    /// How long a slot is, in bytes: as long as the longest read.
    pub(super) fn slot_len(&self) -> usize {
        self.block.max(1 << 16) as usize
    }

    /// The most reads that are with the drive at once, 1 to 4096: 32 unless said otherwise.
    pub const fn depth(self, reads: u32) -> Self {
        Self { depth: reads, ..self }
    }

    /// The most bytes of one read, a power of two from 4 KiB to 1 GiB: 1 MiB unless said otherwise.
    pub const fn block(self, bytes: u64) -> Self {
        Self { block: bytes, ..self }
    }

    /// The most bytes that are with the drive at once, but for `Realtime` requests: 32 MiB unless said otherwise. What is
    /// with the drive cannot be overtaken: fewer bytes make urgent requests faster.
    pub const fn in_flight(self, bytes: u64) -> Self {
        Self { in_flight: bytes, ..self }
    }

    /// The most bytes of `Low` requests that are with the drive at once: 4 MiB unless said otherwise.
    pub const fn background(self, bytes: u64) -> Self {
        Self { background: bytes, ..self }
    }

    /// The most requests that wait to be begun: 65,536 unless said otherwise. Who submits more waits, or is refused.
    pub const fn waiting(self, requests: usize) -> Self {
        Self { waiting: requests, ..self }
    }
}
