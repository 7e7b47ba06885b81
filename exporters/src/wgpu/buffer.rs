//! Buffers of wgpu over dma-bufs.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. A [`RawBuffer`] owns its buffer, and its memory, which is freed after it. It is destroyed before
//!    its device (law 1 of `device`), and after wgpu's handles on it, each of which owns a share.
//! 2. wgpu learns of a buffer what it was made with: its length and its usage.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use ash::vk;
use ash::vk::{AccessFlags, PipelineStageFlags};
use wgpu::hal::api::Vulkan;

use super::device::{Device, Hal};
use super::error::{WgpuError, lacks};
use super::format;
use super::memory::{HANDLE, Memory};
use super::turn::{Handle, Raw, Shared, Turn};
use crate::vulkan::VulkanError;
use crate::vulkan::error::failed;
use crate::{DmaBuf, Intent};

/// A buffer that wgpu shares with others by a dma-buf.
///
/// It is made by [`Device::import_buffer`] or [`Device::create_buffer`]. wgpu uses it in turns
/// ([`acquire`](Self::acquire)).
pub struct SharedBuffer {
    raw: Arc<RawBuffer>,
    dma_buf: DmaBuf,
    len: u64,
    usage: wgpu::BufferUsages,
    taken: bool,
    device: Device,
}

impl Device {
    /// Makes a dma-buf a buffer of wgpu, as long as the dma-buf, with what is in it.
    ///
    /// `usage` is of copies, storage, uniforms, vertices and indices. The bytes come from outside, and
    /// a shader treats them so: an index of a draw call is used as it is.
    ///
    /// # Errors
    /// [`WgpuError::Usage`]; [`WgpuError::Unavailable`] if the driver imports no dma-bufs for such a
    /// buffer; [`WgpuError::Vulkan`] if it is longer than the device's longest buffer
    /// ([`VulkanError::Length`]), shorter than the driver needs ([`VulkanError::TooShort`]), or the
    /// driver refuses this exporter's.
    pub fn import_buffer(
        &self,
        dma_buf: &DmaBuf,
        usage: wgpu::BufferUsages,
    ) -> Result<SharedBuffer, WgpuError> {
        format::check_buffer(usage)?;
        let len = dma_buf.len() as u64;
        let hal = self.hal();
        can(hal, usage, vk::ExternalMemoryFeatureFlags::IMPORTABLE)?;
        let raw = RawBuffer::new(self, len, format::buffer_usage(usage), |need, only_for| {
            Memory::import(hal, dma_buf, need, only_for)
        })?;
        Ok(SharedBuffer {
            raw: Arc::new(raw),
            dma_buf: dma_buf.clone(),
            len,
            usage,
            taken: false,
            device: self.clone(),
        })
    }

    /// Makes a buffer of wgpu that others import as a dma-buf: `len` bytes, rounded up to a multiple of
    /// four, all zero.
    ///
    /// # Errors
    /// [`WgpuError::Usage`]; [`WgpuError::Unavailable`] if the driver exports no dma-bufs;
    /// [`WgpuError::Vulkan`] for a length that the device does not take
    /// ([`VulkanError::Length`]) or has not left.
    pub fn create_buffer(
        &self,
        len: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<SharedBuffer, WgpuError> {
        format::check_buffer(usage)?;
        let hal = self.hal();
        let len = len.checked_next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT).unwrap_or(u64::MAX);
        // It is cleared by a fill.
        let with_fill = usage | wgpu::BufferUsages::COPY_DST;
        can(hal, with_fill, vk::ExternalMemoryFeatureFlags::EXPORTABLE)?;
        let raw = RawBuffer::new(self, len, format::buffer_usage(with_fill), |need, only_for| {
            Memory::exportable(hal, need, only_for)
        })?;
        let dma_buf = raw.memory()?.dma_buf()?;
        self.finish(|commands| raw.clear(commands))?;
        let (raw, device) = (Arc::new(raw), self.clone());
        Ok(SharedBuffer { raw, dma_buf, len, usage, taken: false, device })
    }

    /// Runs commands that make something new everybody's.
    pub(super) fn finish(&self, write: impl FnOnce(vk::CommandBuffer)) -> Result<(), WgpuError> {
        let index = self.caught("clearing new memory", || {
            Ok::<_, WgpuError>(self.queue().submit([self.record(write)?]))
        })??;
        self.wait(index)
    }
}

impl SharedBuffer {
    /// The dma-buf, for others. It may be a little longer than the buffer.
    pub fn dma_buf(&self) -> &DmaBuf {
        &self.dma_buf
    }

    /// The length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Always false: a buffer has at least four bytes.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Begins wgpu's turn, for reading or for writing too: waits for the others' fences, on the CPU,
    /// and acquires the memory.
    ///
    /// # Errors
    /// [`WgpuError::Busy`] if the others are not done in fifteen seconds;
    /// [`WgpuError::NeverGivenBack`] after a turn that was forgotten; [`WgpuError::Wgpu`].
    pub fn acquire(&mut self, intent: Intent) -> Result<Turn<'_, wgpu::Buffer>, WgpuError> {
        let shared = Shared { device: &self.device, raw: &*self.raw, dma_buf: &self.dma_buf };
        let wrapped = || Ok(wrap(&self.device, &self.raw, self.len, self.usage));
        Turn::begin(shared, &mut self.taken, intent, wrapped)
    }
}

/// wgpu's handle on a buffer.
fn wrap(
    device: &Device,
    raw: &Arc<RawBuffer>,
    size: u64,
    usage: wgpu::BufferUsages,
) -> wgpu::Buffer {
    let keep = Arc::clone(raw);
    let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
    // SAFETY: law 2, and law 1: wgpu's handle keeps a share of the buffer until it is gone. It is not
    // mapped, which its usage does not allow.
    unsafe {
        let hal = wgpu::hal::vulkan::Buffer::from_raw_externally_owned(
            raw.buffer,
            Box::new(move || drop(keep)),
        );
        device.device().create_buffer_from_hal::<Vulkan>(hal, &descriptor)
    }
}

impl fmt::Debug for SharedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("SharedBuffer");
        all.field("dma_buf", &self.dma_buf).field("len", &self.len).field("usage", &self.usage);
        all.finish_non_exhaustive()
    }
}

impl Handle for wgpu::Buffer {
    fn rest(&self, encoder: &mut wgpu::CommandEncoder) {
        let state = format::resting_buffer(self.usage());
        let transition = wgpu::BufferTransition { buffer: self, state };
        encoder.transition_resources([transition].into_iter(), std::iter::empty());
    }

    fn destroy(&self) {
        wgpu::Buffer::destroy(self);
    }
}

/// A Vulkan buffer and its memory.
struct RawBuffer {
    hal: Arc<Hal>,
    buffer: vk::Buffer,
    memory: Option<Memory>,
}

impl RawBuffer {
    fn new(
        device: &Device,
        len: u64,
        usage: vk::BufferUsageFlags,
        memory: impl FnOnce(
            vk::MemoryRequirements,
            vk::MemoryDedicatedAllocateInfo<'_>,
        ) -> Result<Memory, WgpuError>,
    ) -> Result<Self, WgpuError> {
        let hal = device.hal();
        let max = device.device().limits().max_buffer_size;
        if len == 0 || len > max {
            return Err(VulkanError::Length { len: len as usize, max: max as usize }.into());
        }
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(HANDLE);
        let create =
            vk::BufferCreateInfo::default().size(len).usage(usage).push_next(&mut external);
        // SAFETY: the device is alive, `create` is valid.
        let buffer =
            unsafe { hal.ash.create_buffer(&create, None) }.map_err(failed("vkCreateBuffer"))?;
        let mut raw = Self { hal: Arc::clone(hal), buffer, memory: None };
        // SAFETY: the buffer is ours and alive.
        let need = unsafe { hal.ash.get_buffer_memory_requirements(buffer) };
        let only_for = vk::MemoryDedicatedAllocateInfo::default().buffer(buffer);
        let memory = raw.memory.insert(memory(need, only_for)?);
        // SAFETY: buffer and memory are ours, fresh and made for each other.
        unsafe { hal.ash.bind_buffer_memory(buffer, memory.raw, 0) }
            .map_err(failed("vkBindBufferMemory"))?;
        Ok(raw)
    }

    fn memory(&self) -> Result<&Memory, WgpuError> {
        self.memory.as_ref().ok_or_else(|| lacks("the buffer has no memory", "make another"))
    }

    /// Fills new memory with zeros and gives it to the others.
    fn clear(&self, commands: vk::CommandBuffer) {
        // SAFETY: the buffer may be filled, and lives until the commands are done, which its maker
        // waits for.
        unsafe { self.hal.ash.cmd_fill_buffer(commands, self.buffer, 0, vk::WHOLE_SIZE, 0) };
        self.release(commands, true);
    }

    fn pass(&self, commands: vk::CommandBuffer, barrier: vk::BufferMemoryBarrier<'_>) {
        let barrier = barrier.buffer(self.buffer).size(vk::WHOLE_SIZE);
        // SAFETY: the commands are being recorded; the buffer lives until they are done, because
        // wgpu's handle, which they are submitted with, has a share of it.
        unsafe {
            self.hal.ash.cmd_pipeline_barrier(
                commands,
                PipelineStageFlags::ALL_COMMANDS,
                PipelineStageFlags::ALL_COMMANDS,
                vk::DependencyFlags::empty(),
                &[],
                &[barrier],
                &[],
            );
        }
    }
}

impl Raw for RawBuffer {
    fn acquire(&self, commands: vk::CommandBuffer) {
        let from_outside = vk::BufferMemoryBarrier::default()
            .src_queue_family_index(vk::QUEUE_FAMILY_FOREIGN_EXT)
            .dst_queue_family_index(self.hal.family)
            .dst_access_mask(AccessFlags::MEMORY_READ | AccessFlags::MEMORY_WRITE);
        self.pass(commands, from_outside);
    }

    fn release(&self, commands: vk::CommandBuffer, _kept: bool) {
        let to_outside = vk::BufferMemoryBarrier::default()
            .src_queue_family_index(self.hal.family)
            .dst_queue_family_index(vk::QUEUE_FAMILY_FOREIGN_EXT)
            .src_access_mask(AccessFlags::MEMORY_WRITE);
        self.pass(commands, to_outside);
    }
}

impl Drop for RawBuffer {
    fn drop(&mut self) {
        // SAFETY: law 1; nothing uses it any more. Its memory is freed afterwards.
        unsafe { self.hal.ash.destroy_buffer(self.buffer, None) };
    }
}

/// Whether buffers of a usage come or go as dma-bufs (VUID-VkBufferCreateInfo-pNext-00920).
fn can(
    hal: &Hal,
    usage: wgpu::BufferUsages,
    feature: vk::ExternalMemoryFeatureFlags,
) -> Result<(), WgpuError> {
    let query = vk::PhysicalDeviceExternalBufferInfo::default()
        .usage(format::buffer_usage(usage))
        .handle_type(HANDLE);
    let mut answer = vk::ExternalBufferProperties::default();
    // SAFETY: the instance is alive and the device is one of its own, of Vulkan 1.1 or later.
    unsafe {
        hal.instance.get_physical_device_external_buffer_properties(
            hal.physical,
            &query,
            &mut answer,
        );
    }
    if answer.external_memory_properties.external_memory_features.contains(feature) {
        return Ok(());
    }
    Err(lacks(
        format!("the driver has no dma-bufs ({feature:?}) for buffers of usage {usage:?}"),
        "ask for less usage, or take another device",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::listener::{OURS, Pass, listener, passes};
    use super::*;

    #[test]
    fn a_buffer_comes_from_the_others_and_goes_back() {
        let raw = RawBuffer { hal: listener(), buffer: vk::Buffer::null(), memory: None };
        let theirs = vk::QUEUE_FAMILY_FOREIGN_EXT;
        let pass = |from, to| vec![Pass { families: [from, to], layouts: None }];
        assert_eq!(passes(|commands| raw.acquire(commands)), pass(theirs, OURS));
        for kept in [true, false] {
            assert_eq!(passes(|commands| raw.release(commands, kept)), pass(OURS, theirs));
        }
    }
}
