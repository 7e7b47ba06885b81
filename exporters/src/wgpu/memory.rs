//! Memory that comes from a dma-buf or leaves as one.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. A [`Memory`] owns its memory and frees it once, when it is dropped, which is before its device
//!    (law 1 of `device`).
//! 2. Only memory that [`Memory::exportable`] made is asked for as a dma-buf: its caller sees to it.
#![allow(unsafe_code)]

use std::sync::Arc;

use ash::vk;

use super::device::Hal;
use super::error::{WgpuError, lacks};
use crate::DmaBuf;
use crate::vulkan::VulkanError;
use crate::vulkan::error::failed;
use crate::vulkan::memory_fd::{self, Import};
use crate::vulkan::memory_types::{DEVICE_LOCAL, IMPORTED, choose};

/// The only kind of handle here.
pub(super) const HANDLE: vk::ExternalMemoryHandleTypeFlags =
    vk::ExternalMemoryHandleTypeFlags::DMA_BUF_EXT;

/// Memory for one buffer or one image alone.
pub(super) struct Memory {
    hal: Arc<Hal>,
    pub(super) raw: vk::DeviceMemory,
}

impl Memory {
    /// The memory of a dma-buf, which must be as long as its one user needs.
    pub(super) fn import(
        hal: &Arc<Hal>,
        dma_buf: &DmaBuf,
        need: vk::MemoryRequirements,
        mut only_for: vk::MemoryDedicatedAllocateInfo<'_>,
    ) -> Result<Self, WgpuError> {
        if need.size > dma_buf.len() as u64 {
            return Err(VulkanError::TooShort { len: dma_buf.len(), need: need.size }.into());
        }
        let import = Import::new(&hal.memory_fd, dma_buf)?;
        let index = choose(&hal.memory, need.memory_type_bits & import.types, IMPORTED)
            .ok_or_else(no_type)?;
        let mut fd = import.info();
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(need.size)
            .memory_type_index(index)
            .push_next(&mut fd)
            .push_next(&mut only_for);
        let memory = Self::allocate(hal, &info)?;
        import.taken();
        Ok(memory)
    }

    /// Memory of the device's own that may leave.
    pub(super) fn exportable(
        hal: &Arc<Hal>,
        need: vk::MemoryRequirements,
        mut only_for: vk::MemoryDedicatedAllocateInfo<'_>,
    ) -> Result<Self, WgpuError> {
        let index = choose(&hal.memory, need.memory_type_bits, DEVICE_LOCAL).ok_or_else(no_type)?;
        let heap = hal.memory.memory_types[index as usize].heap_index;
        let free = hal.memory.memory_heaps[heap as usize].size;
        // VUID-vkAllocateMemory-pAllocateInfo-01713.
        if need.size > free {
            return Err(VulkanError::OutOfMemory { asked: need.size, free }.into());
        }
        let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(HANDLE);
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(need.size)
            .memory_type_index(index)
            .push_next(&mut export)
            .push_next(&mut only_for);
        Self::allocate(hal, &info)
    }

    fn allocate(hal: &Arc<Hal>, info: &vk::MemoryAllocateInfo<'_>) -> Result<Self, WgpuError> {
        // SAFETY: `info` and its chain are valid, its type is the device's and allowed
        // (VUID-vkAllocateMemory-pAllocateInfo-01714), its descriptor is open.
        let raw =
            unsafe { hal.ash.allocate_memory(info, None) }.map_err(failed("vkAllocateMemory"))?;
        Ok(Self { hal: Arc::clone(hal), raw })
    }

    /// The memory as a dma-buf (law 2).
    pub(super) fn dma_buf(&self) -> Result<DmaBuf, WgpuError> {
        // SAFETY: laws 1 and 2.
        Ok(unsafe { memory_fd::export(&self.hal.memory_fd, self.raw) }?)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: law 1; its user is gone (it is declared before its memory).
        unsafe { self.hal.ash.free_memory(self.raw, None) };
    }
}

fn no_type() -> WgpuError {
    lacks("no memory type of the device fits", "allocate by another source, or take another device")
}
