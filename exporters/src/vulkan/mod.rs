//! Vulkan: memory of GPUs, and of this process for GPUs to use.
//!
//! The loader is opened at run time, so nothing is linked and its absence is an error like any other
//! ([`VulkanError::NoLoader`]). A program goes through these files in order:
//!
//! * `info`: [`devices`] lists what there is, [`DeviceInfo`] says what each can do;
//! * `heap`: its memories, and the types in which buffers lie there;
//! * `open`: [`Device::open`] opens one; `adopt`: [`Device::adopt`] takes a program's own;
//! * `device`: what either is from then on; `capabilities`: what it can do; `queue`: who may submit to it, and when;
//! * `import`: [`Device::import_memory`] and [`Device::import_dma_buf`] make existing memory a
//!   [`Buffer`], without a copy;
//! * `buffer`: [`Device::allocate`] makes a buffer in the device's own memory,
//!   [`Device::allocate_host_visible`] one that the CPU reaches through the device's BAR;
//! * `allocation`: the memory behind it; what of it is not coherent, the CPU sees in turns
//!   ([`Buffer::begin_cpu_access`]);
//! * `staging`: [`Device::staging`] makes what is filled first and copied from then;
//! * `lent`, `region`: [`Device::adopt_buffer`] and [`Device::adopt_region`] take a range of a program's buffer and a
//!   region of its image to be filled; `texel`: the blocks of their formats; `handover`: how they pass to the copies
//!   and back;
//! * `transfer`, `copy`, `commands`: [`Transfer`] copies between buffers, and between buffers and images, by the
//!   device's transfer queue, and reads back;
//! * `timeline`: a value of a program's own semaphore that is reached when copies are done
//!   ([`Device::adopt_timeline`]);
//! * `uploads`: the queue with slots of its own, for who fills a target and knows no device
//!   ([`upload`](crate::upload));
//! * `progress`: how many of the copies are done;
//! * `fingerprint`: a [`Fingerprinter`] has the device take the CRC-32 of what lies in its buffers; `compute`: the queue on
//!   which it does; `crc_tables`: what it looks up;
//! * `fence`: the copies' turns with those of other devices, by sync files ([`Device::sync_files`]);
//! * `layout`, `format`: [`Device::image_layouts`] says which pictures it shares, and in which layouts;
//! * `image`: [`Device::import_image`] makes a frame of anybody's an [`Image`], [`Device::image`] a new
//!   one, and [`Image::export`] a frame of it;
//! * `export`: [`Buffer::export_dma_buf`] lets a buffer leave the process;
//! * `memory_fd`: how a dma-buf becomes a driver's memory, and memory a dma-buf;
//! * `steady`: [`Buffer::steady`] lets VFIO map a buffer for another device, a drive for one, if it is
//!   known to stay in its place, and [`Buffer::assume_it_stays`] if the caller says so.
//!
//! On a device that shares the system's memory ([`DeviceInfo::shares_system_memory`]) the imported
//! pages are the buffer, and no transfer is needed at all.
//!
//! With `BUFMAP_VULKAN_VALIDATION=1` in the environment Khronos' validation layer watches every call
//! (`validation`); the tests run under it.

mod adopt;
mod allocation;
mod buffer;
mod capabilities;
mod commands;
mod compute;
mod copy;
mod crc_tables;
mod destination;
mod device;
pub(crate) mod error;
mod export;
mod fence;
mod fingerprint;
pub(crate) mod format;
mod handover;
mod heap;
mod image;
mod import;
mod info;
pub(crate) mod instance;
pub(crate) mod layout;
mod lent;
pub(crate) mod memory_fd;
pub(crate) mod memory_types;
pub(crate) mod open;
mod progress;
mod queue;
mod region;
mod staging;
mod steady;
mod texel;
mod timeline;
mod transfer;
mod uploads;
mod validation;

pub use crate::upload::CopyRegion;
pub use adopt::Handles;
pub use ash;
pub use buffer::{Buffer, Way};
pub use device::Device;
pub use error::VulkanError;
pub use fingerprint::Fingerprinter;
pub use handover::Handover;
pub use heap::{Heap, MemoryType};
pub use image::Image;
pub use info::{ApiVersion, DeviceInfo, DeviceKind, devices};
pub use layout::{ImageLayout, ImageUse};
pub use lent::BufferRange;
pub use queue::QueueLock;
pub use region::{ImageRegion, Region};
pub use staging::Staging;
pub use steady::SteadyBuffer;
pub use timeline::Timeline;
pub use transfer::{Ticket, Transfer, When};
pub use uploads::Uploads;
pub use validation::{ValidationLog, ValidationMessage};
