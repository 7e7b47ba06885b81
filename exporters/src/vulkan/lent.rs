//! A range of a buffer of a program's own.
//!
//! # Safety
//!
//! The law of this module: buffer and range are what who adopted them promised; neither is ever destroyed here.
#![allow(unsafe_code)]

use std::sync::Arc;

use ash::vk;

use super::buffer::{Buffer, Lent};
use super::device::Device;
use super::error::VulkanError;
use super::handover::{Handover, Holding};

/// Which range of a buffer of a program's own is to be filled, and how it passes to the copies and back: for
/// [`Device::adopt_buffer`].
#[derive(Clone, Debug)]
#[must_use = "it is copied into when a device has adopted it"]
pub struct BufferRange {
    buffer: vk::Buffer,
    offset: u64,
    len: usize,
    usage: vk::BufferUsageFlags,
    handover: Handover,
}

impl BufferRange {
    /// The `len` bytes from `offset` on of a buffer that was created with `usage`.
    pub fn new(buffer: vk::Buffer, offset: u64, len: usize, usage: vk::BufferUsageFlags) -> Self {
        Self { buffer, offset, len, usage, handover: Handover::default() }
    }

    /// The queue family that it comes from and the one it goes to, and what is signalled at the end.
    pub fn handover(mut self, handover: Handover) -> Self {
        self.handover = handover;
        self
    }
}

impl Device {
    /// Takes a range of a buffer of the program's own, which is never destroyed here. To everything that copies it is
    /// a [`Buffer`] as long as the range.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use exporters::vulkan::ash::vk;
    /// use exporters::vulkan::{Buffer, BufferRange, Device, VulkanError};
    ///
    /// /// The second mebibyte of a vertex buffer, to be filled.
    /// fn vertices(device: &Device, buffer: vk::Buffer) -> Result<Arc<Buffer>, VulkanError> {
    ///     let usage = vk::BufferUsageFlags::VERTEX_BUFFER | vk::BufferUsageFlags::TRANSFER_DST;
    ///     let range = BufferRange::new(buffer, 1 << 20, 1 << 20, usage);
    ///     // SAFETY: the program's buffer of 2 MiB, created with this usage, of which nothing uses the second half.
    ///     unsafe { device.adopt_buffer(range) }
    /// }
    /// ```
    ///
    /// # Safety
    /// Each with the chapter of the Vulkan specification that asks for it:
    ///
    /// * The buffer is this device's, was created with this usage, is bound to memory, as long as the range says at
    ///   least, and not protected ("Buffers", "Resource Memory Association").
    /// * It is destroyed only after the answer's last share and the transfers into it ("Object Lifetime").
    /// * When the first copy begins, the range belongs to the family of the copies, or was released to it, or the
    ///   buffer is shared (`VK_SHARING_MODE_CONCURRENT`) with that family among its own ("Resource Sharing Mode").
    /// * From then until the end is done nobody else uses the range, but that others read what is not copied into
    ///   ("Synchronization and Cache Control").
    ///
    /// # Errors
    /// [`VulkanError::Length`] for no bytes; [`VulkanError::OtherDevice`] for another device's timeline.
    pub unsafe fn adopt_buffer(&self, range: BufferRange) -> Result<Arc<Buffer>, VulkanError> {
        let BufferRange { buffer, offset, len, usage, handover } = range;
        if len == 0 || offset.checked_add(len as u64).is_none() {
            return Err(VulkanError::Length { len, max: self.info().max_buffer });
        }
        if handover.end().is_some_and(|end| !end.is_of(self)) {
            return Err(VulkanError::OtherDevice);
        }
        let holding = Holding::new(handover, self.queue_family(), None);
        let lent = Lent { device: self.clone(), buffer, offset, usage, holding };
        Ok(Arc::new(Buffer::lent(lent, len)))
    }
}
