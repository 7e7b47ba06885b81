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
mod error;
mod framebuffer;
mod gem;
mod handles;
mod syncobj;
mod vgem;

pub use card::{Card, Node, nodes};
pub use dumb::DumbBuffer;
pub use error::DrmError;
pub use framebuffer::Framebuffer;
pub use gem::{Gem, export_handle};
pub use syncobj::{Syncobj, Timeline};
pub use vgem::Writing;
