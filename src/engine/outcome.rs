//! What came of a request.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use exporters::SyncFile;

use crate::transfer::{DataPath, Share, StepDown, TransferError};

/// What came of a request: its bytes are in the buffer, or the error says which are.
pub type Outcome = Result<Landed, TransferError>;

/// A request whose bytes are in the buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Landed {
    /// How many bytes were asked for.
    pub bytes: u64,
    /// How many of them took which path, best first.
    pub paths: Shares,
    /// Why not a better path.
    pub step_downs: Vec<StepDown>,
    /// The CRC-32 of each range, in the order of the ranges, where the request asked for it.
    pub fingerprints: Vec<u32>,
    /// What the bytes are in the buffer after, where the request asked for it ([`Request::fenced`](super::Request::fenced)); none
    /// if they are in it already.
    #[serde(skip)]
    pub fence: Option<Fence>,
}

/// A sync file that is signalled when a device's copies are done. Until then the device writes into the buffer, and nobody else
/// uses or destroys it without waiting. If the device is lost it may be signalled with an error, which is the only word of it.
///
/// ```no_run
/// use std::os::fd::AsFd;
/// use bufmap::engine::Landed;
/// use exporters::{DmaBuf, DmaBufError, Intent};
///
/// /// Everybody who uses the buffer as a dma-buf waits for the copies.
/// fn publish(landed: &Landed, buffer: &DmaBuf) -> Result<(), DmaBufError> {
///     match &landed.fence {
///         Some(fence) => buffer.import_sync_file(fence.as_fd(), Intent::Write),
///         None => Ok(()),
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Fence(Arc<SyncFile>);

impl Fence {
    pub(super) fn of(sync_file: SyncFile) -> Self {
        Self(Arc::new(sync_file))
    }

    /// Waits until it is signalled, as the kernel promises that every fence is, with an error or without.
    pub(super) fn wait(&self) {
        let _ = self.0.wait(Duration::MAX);
    }
}

impl AsFd for Fence {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether they are one.
impl PartialEq for Fence {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Fence {}

/// Bytes by path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares([u64; DataPath::ALL.len()]);

impl Shares {
    /// How many bytes took a path.
    pub const fn of(&self, path: DataPath) -> u64 {
        self.0[path as usize]
    }

    /// The paths that were taken, best first.
    pub fn iter(&self) -> impl Iterator<Item = Share> {
        let taken = DataPath::ALL.into_iter().zip(self.0).filter(|(_, bytes)| *bytes > 0);
        taken.map(|(path, bytes)| Share { path, bytes })
    }

    /// How many bytes there are by all paths.
    pub(super) fn bytes(&self) -> u64 {
        self.0.into_iter().fold(0, u64::saturating_add)
    }

    pub(super) const fn add(&mut self, path: DataPath, bytes: u64) {
        self.0[path as usize] = self.0[path as usize].saturating_add(bytes);
    }
}

/// A list, as in a [`Receipt`](crate::transfer::Receipt).
impl serde::Serialize for Shares {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}
