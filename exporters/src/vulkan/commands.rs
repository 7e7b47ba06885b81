//! What every recording of commands is made of: its two ends and barriers.
//!
//! # Safety
//!
//! The law of this module: who records has the commands alone, of the device's own queue family, and keeps what they
//! name until they are done.
#![allow(unsafe_code)]

use ash::vk;
use ash::vk::{AccessFlags, PipelineStageFlags};

use super::buffer::Buffer;
use super::device::Device;
use super::error::{VulkanError, failed};

/// Memory that passes from one queue family to another.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) buffers: Vec<vk::BufferMemoryBarrier<'static>>,
    pub(super) images: Vec<vk::ImageMemoryBarrier<'static>>,
}

impl Passed {
    /// Adds a buffer that others use through the kernel; one that nobody else uses does not pass.
    pub(super) fn add_shared(
        &mut self,
        buffer: &Buffer,
        (from, to): (u32, u32),
        (src, dst): (AccessFlags, AccessFlags),
    ) {
        if buffer.is_shared() {
            self.buffers.push(
                vk::BufferMemoryBarrier::default()
                    .buffer(buffer.ash())
                    .size(vk::WHOLE_SIZE)
                    .src_queue_family_index(from)
                    .dst_queue_family_index(to)
                    .src_access_mask(src)
                    .dst_access_mask(dst),
            );
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffers.is_empty() && self.images.is_empty()
    }
}

/// Begins commands that are submitted once.
///
/// # Safety
/// The module's law.
pub(super) unsafe fn begin(
    device: &Device,
    commands: vk::CommandBuffer,
) -> Result<(), VulkanError> {
    let begin =
        vk::CommandBufferBeginInfo::default().flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
    // SAFETY: the caller's promises.
    unsafe { device.ash().begin_command_buffer(commands, &begin) }
        .map_err(failed("vkBeginCommandBuffer"))
}

/// Ends commands, which may be submitted then.
///
/// # Safety
/// The module's law.
pub(super) unsafe fn end(device: &Device, commands: vk::CommandBuffer) -> Result<(), VulkanError> {
    // SAFETY: the caller's promises.
    unsafe { device.ash().end_command_buffer(commands) }.map_err(failed("vkEndCommandBuffer"))
}

/// What was before is done, and seen, before what comes after.
///
/// # Safety
/// The module's law; between [`begin`] and [`end`].
pub(super) unsafe fn barrier(
    device: &Device,
    commands: vk::CommandBuffer,
    (from, to): (PipelineStageFlags, PipelineStageFlags),
    memory: &[vk::MemoryBarrier<'_>],
    passed: &Passed,
) {
    let flags = vk::DependencyFlags::empty();
    let Passed { buffers, images } = passed;
    // SAFETY: the caller's promises.
    unsafe {
        device.ash().cmd_pipeline_barrier(commands, from, to, flags, memory, buffers, images);
    }
}
