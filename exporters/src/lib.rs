//! Where buffers come from, and how they leave the process.
//!
//! This is the middle layer of `bufmap`. Below it, `iomap` knows memory you can point at; above it,
//! files are loaded and devices are brought together. Here are the sources of buffers, one module
//! each, behind one trait, [`Exporter`]; what a source makes is an [`Export`], which says of each of
//! its forms whether it is there, and if not, why and what to do ([`Absent`]).
//!
//! The common currency is the *dma-buf*: a file descriptor for a piece of memory that any driver may
//! import. [`DmaBuf`] owns one. The CPU touches its bytes only inside a bracket ([`CpuAccess`]), so
//! that caches are in order for the device that comes next. What makes a picture of its bytes is a
//! [`Frame`]; fences go between devices as [`SyncFile`]s, and all of them between processes by a
//! [`socket`].
//!
//! | module | what it gives | needs |
//! |---|---|---|
//! | [`system`] | ordinary or huge pages behind a memfd | nothing |
//! | [`udmabuf`] | dma-bufs made of a memfd's pages | `/dev/udmabuf` |
//! | [`dma_heap`] | memory that is a dma-buf from the start | `/dev/dma_heap` |
//! | [`drm`] | dumb buffers, any GEM handle by PRIME, framebuffers and sync objects | a DRM driver's node |
//! | [`gbm`] | pictures that a display or a GPU takes, tiled as it likes them | `libgbm.so.1` and a DRM node |
//! | [`p2pmem`] | memory of a PCI device that its driver gives to peers | such a driver, Linux 6.2, root |
//! | [`vfio`] | the BARs of a PCI device, and memory mapped for it | an IOMMU, and vfio-pci as its driver |
//! | [`vulkan`] | memory and images of a GPU, and any of the above for a GPU to use | `libvulkan.so.1` and a driver |
//! | `wgpu` | buffers and textures of wgpu, both ways | the cargo feature `wgpu`, and the same |
//!
//! Nothing is linked and nothing need be there: what is missing is an error when it is opened.
//!
//! What fills a buffer asks it for the facets of a [`Destination`]: the CPU's view, pages that the kernel pins,
//! memory that a device may be given, the device whose own it is, the queue that copies into it ([`upload`]).
//!
//! A buffer that moves from one of them to another while it is held is a [`movable`] one.
//!
//! The path of a file to a GPU shows how the parts meet. The file is read into a memfd by DMA; the
//! GPU imports those very pages; and if it has memory of its own, its transfer queue moves them
//! there. The CPU copies nothing.
//!
//! ```no_run
//! use std::sync::Arc;
//! use exporters::vulkan::{CopyRegion, Device};
//! use iomap::{Memory, PageSize};
//!
//! let memory = Arc::new(Memory::memfd("model", 64 << 20, PageSize::Base)?);
//! // ... a drive writes into `memory` ...
//! let device = Device::open(None)?;
//! let pages = Arc::new(device.import_memory(memory)?);
//! if device.info().shares_system_memory {
//!     return Ok(()); // the pages are the buffer
//! }
//! let vram = Arc::new(device.allocate(pages.len(), false)?);
//! let mut transfer = device.transfer()?;
//! let all = CopyRegion { src_offset: 0, dst_offset: 0, len: pages.len() };
//! let ticket = transfer.copy(&pages, &vram, &[all])?;
//! transfer.wait(ticket)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Read [`export`] first, then [`dmabuf`], then the source you need.
#![deny(unsafe_code)]
// What a system, a file or a peer can refuse is an error and no panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::print_stdout,
        clippy::print_stderr,
        clippy::disallowed_methods
    )
)]

mod absent;
mod apart;
mod blocks;
pub mod destination;
pub mod dma_heap;
pub mod dmabuf;
pub mod drm;
pub mod export;
mod foreign;
pub mod frame;
pub mod gbm;
pub mod movable;
pub mod outside;
pub mod p2pmem;
mod pages;
mod present;
mod ready;
pub mod socket;
pub mod sync_file;
pub mod system;
pub mod udmabuf;
pub mod upload;
pub mod vfio;
pub mod vulkan;
#[cfg(feature = "wgpu")]
pub mod wgpu;

pub use absent::Absent;
pub use destination::{Destination, Peer, PeerAccess};
pub use dma_heap::DmaHeap;
pub use dmabuf::{CpuAccess, DmaBuf, DmaBufError, Intent};
pub use export::{CpuView, Export, ExportError, Exporter, Phyrs, Provider};
pub use frame::Frame;
pub use outside::outside;
pub use p2pmem::{P2pmem, P2pmemError, PeerMemory};
pub use sync_file::{SyncFile, SyncFileError};
pub use system::SystemMemory;
pub use udmabuf::Udmabuf;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
