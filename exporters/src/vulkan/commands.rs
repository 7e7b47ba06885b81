//! What every recording of commands is made of: its two ends and barriers.
//!
//! # Safety
//!
//! The law of this module: who records has the commands alone, of the device's own queue family, and keeps what they
//! name until they are done.
#![allow(unsafe_code)]

use ash::vk;
use ash::vk::PipelineStageFlags;

use super::device::Device;
use super::error::{VulkanError, failed};

/// Memory that passes from one queue family to another.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) buffers: Vec<vk::BufferMemoryBarrier<'static>>,
    pub(super) images: Vec<vk::ImageMemoryBarrier<'static>>,
}

impl Passed {
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
