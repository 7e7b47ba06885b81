//! Why a DRM device gave nothing.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use iomap::Shortage;

use crate::Absent;
use crate::dmabuf::DmaBufError;
use crate::outside::outside;

/// Why a DRM device gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrmError {
    /// There is no such node, or it cannot do what was asked.
    #[error(transparent)]
    Unavailable(#[from] Absent),
    /// A buffer without bytes, or of more than a driver can be asked for.
    #[error("{card}: {len} bytes: a dumb buffer has at least one byte, and at most {max}", card = outside(card))]
    Length {
        /// The node.
        card: PathBuf,
        /// What was asked for, in bytes.
        len: usize,
        /// The most that can be asked for, in bytes.
        max: usize,
    },
    /// More than there is, of a driver that takes the system's memory. Such a driver
    /// would not refuse before it had taken all there is (seen on Linux 7.2).
    #[error("{card}: {source}", card = outside(card))]
    OutOfMemory {
        /// The node.
        card: PathBuf,
        /// What there is instead.
        source: Shortage,
    },
    /// A picture of no planes, or of more than there can be.
    #[error("{card}: a framebuffer has one to four planes, not {count}", card = outside(card))]
    Planes {
        /// The node.
        card: PathBuf,
        /// How many were given.
        count: usize,
    },
    /// A wait that ended before the fence was signalled.
    #[error("{card}: no signal within {limit:?}; wait longer, or ask what holds up the device", card = outside(card))]
    TimedOut {
        /// The node.
        card: PathBuf,
        /// How long was waited.
        limit: Duration,
    },
    /// A sync object, or a point of a timeline, that holds no fence yet.
    #[error("{card}: {step}: there is no fence yet; signal or import one first, or wait for it", card = outside(card))]
    NoFence {
        /// The node.
        card: PathBuf,
        /// What was being done.
        step: &'static str,
    },
    /// Things of two open files, whose handles are good on their own one only.
    #[error("{card}: this was made on {other}, opened by itself; pass it on as a file descriptor", card = outside(card), other = outside(other))]
    OtherFile {
        /// The node.
        card: PathBuf,
        /// The other's node, which may be the same.
        other: PathBuf,
    },
    /// The driver refused.
    #[error("{card}: {step}: {source}", card = outside(card))]
    Kernel {
        /// The node, or the number of a file descriptor whose path is not known.
        card: PathBuf,
        /// What was being done.
        step: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// What it made is no dma-buf we can use.
    #[error(transparent)]
    DmaBuf(#[from] DmaBufError),
}
