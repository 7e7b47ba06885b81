//! wgpu: its buffers and textures over dma-bufs and frames, and the other way round.
//!
//! wgpu has no words for memory that others share, so this module goes through `wgpu-hal` to the
//! Vulkan beneath. It is behind the cargo feature `wgpu`, which brings some sixty crates. A program
//! goes through these files in order:
//!
//! * `open`: [`Device::open`] opens a device of wgpu with the extensions that sharing needs;
//!   [`Device::new`] takes a program's own and says what it lacks;
//! * `buffer`: [`Device::import_buffer`] makes a dma-buf a [`SharedBuffer`], and
//!   [`Device::create_buffer`] a new one that leaves as a dma-buf;
//! * `texture`: [`Device::import_texture`] and [`Device::create_texture`] do the same for a
//!   [`SharedTexture`] and a [`Frame`](crate::Frame);
//! * `turn`: wgpu uses either in turns ([`SharedBuffer::acquire`], [`Turn`]).
//!
//! A program that only wants its own buffers and textures filled needs none of this:
//!
//! * `target`: of an [`OwnDevice`], of any backend, [`BufferRange`] and [`TextureLevel`] are a range of a buffer and a mip
//!   level of a texture;
//! * `uploads`: [`Uploads`] copies into them ([`upload`](crate::upload)).
//!
//! Between turns the memory is everybody's: the CPU looks at it in brackets
//! ([`Mapping`](crate::dmabuf::Mapping)), other devices and processes import it. A turn keeps what
//! they wrote. It is exclusive, because it borrows what it is a turn with; and wgpu's handle dies with
//! it, so that a program which still uses it gets an error from wgpu instead of somebody's pixels.
//!
//! ```no_run
//! use exporters::frame::{Frame, Picture};
//! use exporters::wgpu::{Device, wgpu};
//! use exporters::{DmaHeap, Intent};
//!
//! let device = Device::open(None, &wgpu::DeviceDescriptor::default())?;
//!
//! let layout = "640x480 AB24 LINEAR".parse::<Picture>()?.lay_out(256)?;
//! let dma_buf = DmaHeap::open("system")?.allocate(layout.len())?;
//! let frame: Frame = layout.over(&dma_buf)?;
//! // ... a camera writes into `dma_buf` ...
//! let usage = wgpu::TextureUsages::TEXTURE_BINDING | wgpu::TextureUsages::COPY_SRC;
//! let mut shared = device.import_texture(&frame, usage)?;
//!
//! let texture = shared.acquire(Intent::Read)?;
//! let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
//! let mut encoder = device.device().create_command_encoder(&Default::default());
//! // ... draw with `view` ...
//! device.queue().submit([encoder.finish()]);
//! texture.release()?; // the camera may write again
//! # drop(view);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Fences
//!
//! A turn begins by waiting on the CPU for the fences on the dma-buf: for its writers if wgpu is to
//! read, for all its users if wgpu is to write. It ends by waiting on the CPU for the device, so that no
//! fence need be put on the dma-buf: whoever comes next, whether he looks for fences or not, finds the
//! memory finished. That costs a frame its overlap with the next; programs that need it keep two.
//!
//! # What it does not do
//!
//! Pictures whose planes lie in several dma-bufs are refused, and new ones of several planes. A shared
//! buffer is not mapped through wgpu: the CPU maps its dma-buf.

mod buffer;
mod caught;
mod device;
mod error;
mod format;
#[cfg(test)]
mod listener;
mod memory;
mod open;
mod target;
mod texture;
mod turn;
mod uploads;

pub use ::wgpu;
pub use buffer::SharedBuffer;
pub use device::Device;
pub use error::WgpuError;
pub use target::{BufferRange, OwnDevice, TextureLevel};
pub use texture::SharedTexture;
pub use turn::Turn;
pub use uploads::Uploads;
