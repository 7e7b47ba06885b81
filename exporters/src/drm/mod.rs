//! DRM: the buffers of graphics drivers, and the fences that order their use.
//!
//! A [`Card`] is a node in `/dev/dri`, opened, with what its driver can. Buffers are known there by
//! *GEM handles*, numbers that are good on one open file only. A [`Gem`] owns one; *PRIME* turns it
//! into a dma-buf and a dma-buf into it, in both directions between any two drivers that can.
//!
//! | what | made by | can become |
//! |---|---|---|
//! | [`DumbBuffer`]: plain pixels that a display can show | [`Card::dumb_buffer`] | a dma-buf, an [`Export`](crate::Export) |
//! | [`Gem`]: any buffer of the driver | [`Card::import`], [`Card::adopt`] | a dma-buf |
//! | [`Framebuffer`]: buffers that a display can show | [`Card::framebuffer`] | dma-bufs, by [`Card::framebuffer_planes`] |
//! | a handle that belongs to somebody else | a program's own calls | a dma-buf, by [`export_handle`] |
//! | [`Syncobj`]: a box for one fence | [`Card::syncobj`] | a sync file |
//! | [`Timeline`]: a box whose fences are numbered | [`Card::timeline`] | a sync file for any point |
//!
//! A sync file is what [`DmaBuf::export_sync_file`](crate::DmaBuf::export_sync_file) gives and
//! [`DmaBuf::import_sync_file`](crate::DmaBuf::import_sync_file) takes, so a fence goes from a
//! buffer to a sync object and back.
//!
//! Everything here is an ioctl of `drm/drm.h` and `drm/drm_mode.h`; no library is linked. The
//! kernel's side is described in `Documentation/gpu/drm-mm.rst` and `drm-uapi.rst`.
//!
//! ```no_run
//! use exporters::Intent;
//! use exporters::drm::{Card, Node};
//!
//! let card = Card::find("vgem", Node::Primary)?;
//! let picture = card.dumb_buffer(640, 480, 32)?;
//! let access = picture.buffer().cpu()?.begin(Intent::Write)?;
//! picture.plane(access.map())?.row(0)?.fill(0xff)?;
//! access.finish()?;
//!
//! let other = Card::find("virtio_gpu", Node::Primary)?;
//! let there = other.import(picture.buffer().dma_buf()?)?;
//! println!("handle {} of {}", there.handle(), other.driver());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod card;
mod dumb;
mod framebuffer;
mod gem;
mod syncobj;
mod vgem;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use card::{Card, Node, nodes};
pub use dumb::DumbBuffer;
pub use framebuffer::Framebuffer;
pub use gem::{Gem, export_handle};
use iomap::Shortage;
pub use syncobj::{Syncobj, Timeline};
pub use vgem::Writing;

use crate::Absent;
use crate::dmabuf::DmaBufError;
use crate::outside::outside;

/// Why a DRM device gave nothing.
#[derive(Debug, thiserror::Error)]
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
