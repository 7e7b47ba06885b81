//! What can go wrong between two processes that share frames.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::wire::{Farewell, WireError};
use crate::dmabuf::DmaBufError;
use crate::frame::FrameError;
use crate::outside::outside;
use crate::sync_file::SyncFileError;

/// Why frames did not come, or did not go.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// A socket's file that cannot be made or reached.
    #[error("{path}: {step}: {source}; {fix}", path = outside(path))]
    Path {
        /// The file.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
        /// What to do.
        fix: &'static str,
    },
    /// Nobody listens on a socket, or on none there is.
    #[error("nobody listens on {path}, for {limit:?}; start the exporter first, with this path", path = outside(path))]
    NoListener {
        /// The file.
        path: PathBuf,
        /// How long was waited.
        limit: Duration,
    },
    /// Somebody listens who is not to be trusted.
    #[error(
        "{}: a process of user {user} listens there, and not of user {wanted}; take another path, or say \
         that you trust that user (Link::connect_to; --user {user} of the examples)",
        outside(path)
    )]
    Stranger {
        /// The file.
        path: PathBuf,
        /// Whose process it is.
        user: u32,
        /// Whose it should be.
        wanted: u32,
    },
    /// The other process ended, or closed its socket, without a word.
    #[error("the other process is gone; start it again")]
    Gone,
    /// The other process said that it leaves.
    #[error("the other process has left: {}", match farewell {
        Farewell::Done => "it has seen all that it wanted",
        Farewell::Refused => "it cannot use these frames; see what it says, or take another source",
    })]
    Left {
        /// Why.
        farewell: Farewell,
    },
    /// Nothing happened in time.
    #[error("{what}: nothing came of it within {limit:?}; the other process hangs, or is too slow")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// A message longer than any there is.
    #[error("a message of more than {most} bytes; the peer is at fault")]
    TooLong {
        /// The longest, in bytes.
        most: usize,
    },
    /// More file descriptors than any message has, or than this process may open.
    #[error(
        "more file descriptors came than the {most} of the longest message, or than this process may \
         open (ulimit -n)"
    )]
    TooManyFds {
        /// The most that a message has.
        most: usize,
    },
    /// More or fewer file descriptors than the message says.
    #[error("{found} file descriptors came with a message that has {told}; the peer is at fault")]
    FdCount {
        /// How many the message says.
        told: usize,
        /// How many came.
        found: usize,
    },
    /// A message that is none.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A file descriptor that is no dma-buf.
    #[error("buffer {index} of a pool: {source}")]
    Buffer {
        /// Which of those that came.
        index: usize,
        /// What is wrong with it.
        source: DmaBufError,
    },
    /// A frame that does not lie in its buffers.
    #[error("frame {slot} of a pool: {source}")]
    Frame {
        /// Its slot.
        slot: usize,
        /// What is wrong with it.
        source: FrameError,
    },
    /// A file descriptor that is no fence.
    #[error(transparent)]
    Fence(#[from] SyncFileError),
    /// A message that this side does not take, or not now.
    #[error("{what} came where {wanted} was to come; the peer is at fault")]
    OutOfTurn {
        /// What came.
        what: &'static str,
        /// What may come.
        wanted: &'static str,
    },
    /// A slot that the pool does not have.
    #[error("slot {slot} of a pool of {slots} frames")]
    Slot {
        /// The slot.
        slot: usize,
        /// How many there are.
        slots: usize,
    },
    /// A frame that the wrong side has.
    #[error("{what} of slot {slot}, which {holder} has")]
    Held {
        /// What was done to it.
        what: &'static str,
        /// The slot.
        slot: usize,
        /// Who has it.
        holder: &'static str,
    },
    /// Frames out of their order.
    #[error("frame {number} came after frame {last}; the peer is at fault")]
    Number {
        /// The frame's number.
        number: u64,
        /// That of the one before.
        last: u64,
    },
    /// Frames that are no pool: none, too many, or not all of one picture.
    #[error(
        "{frames} frames, {pictures} different pictures: a pool is 1 to 16 frames of one picture"
    )]
    NoPool {
        /// How many frames.
        frames: usize,
        /// How many different pictures.
        pictures: usize,
    },
    /// The kernel refused.
    #[error("{step} of a Unix socket: {source}")]
    Kernel {
        /// What was being done.
        step: &'static str,
        /// Its answer.
        source: io::Error,
    },
}
