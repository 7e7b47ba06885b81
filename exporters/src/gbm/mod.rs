//! Pictures from GBM, the allocator that Mesa and display servers use.
//!
//! A [`Device`] is a DRM node that `libgbm` has opened; a [`Bo`] is a picture in its memory: so many
//! pixels of a format, laid out as the driver likes them. How it is laid out is its *modifier*, one
//! of those that the caller allowed, or *implicit*: known to the driver alone, and to be shared with
//! no one but that driver. Import and export are one [`Frame`](crate::frame::Frame), which names the
//! dma-buf, the offset and the pitch of each plane.
//!
//! `libgbm.so.1` is loaded when first needed, and its absence is a reason
//! ([`GbmError::Unavailable`]). It believes what it is told: a stride shorter than a row and a height
//! past the end of a dma-buf are taken without a word, and the fault comes when somebody touches the
//! pixels. So all that can be checked is checked here first
//! ([`Frame::check`](crate::frame::Frame::check)).
//!
//! # The CPU's view
//!
//! [`Bo::map`] shows a rectangle of pixels row by row, whatever the layout, and that may be a copy:
//! `libgbm` does not say. Where the buffer is tiled or out of the CPU's reach, the driver makes a
//! linear copy when it is mapped and writes it back when it is unmapped; elsewhere it hands out the
//! buffer itself, in memory of any caching. So the [`BufMap`](iomap::BufMap) of a [`Map`] says
//! write-combining I/O memory, the one answer whose rules are right for all of these, and what is
//! written counts as arrived only after the [`Map`] is dropped. To see a linear buffer's own bytes,
//! between brackets, map the dma-buf of a plane ([`DmaBuf::map`](crate::DmaBuf::map)).
//!
//! # Why there is no `Exporter`
//!
//! An [`Exporter`](crate::Exporter) makes bytes by their number. A bo is rows of pixels with padding
//! between them that the driver chooses, 32767 of either at most and often less, so that a length in
//! bytes would be met on some drivers, at some lengths. Bytes from the same drivers are had as
//! Vulkan buffers ([`vulkan`](crate::vulkan)).
//!
//! ```no_run
//! use exporters::Intent;
//! use exporters::frame::{DrmFourcc, DrmModifier};
//! use exporters::gbm::{Device, Usage};
//!
//! let device = Device::open("/dev/dri/card0")?;
//! let allowed = [DrmModifier::Linear];
//! let mut bo = device.create_with(640, 480, DrmFourcc::Xrgb8888, &allowed, Usage::SCANOUT)?;
//! let map = bo.map(Intent::Write)?;
//! map.plane().fill(0x80)?;
//! drop(map); // now it is written
//! for plane in &bo.export()?.planes {
//!     println!("{} bytes, rows {} bytes apart", plane.buffer.len(), plane.pitch);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bo;
mod create;
mod device;
mod error;
mod library;
mod region;

pub use bo::{Bo, Map};
pub use device::{Device, Usage};
pub use error::GbmError;
pub use region::Region;
