//! Memory that comes from a dma-buf or leaves as one.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. A [`Memory`] owns its memory and frees it once, when it is dropped, which is before its device
//!    (law 1 of `device`).
//! 2. A descriptor that is imported is the driver's from success on, and ours until then
//!    (`VkImportMemoryFdInfoKHR`). One that `vkGetMemoryFdKHR` returns is new and the caller's.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use ash::vk;

use super::device::Hal;
use super::error::{WgpuError, lacks};
use crate::DmaBuf;
use crate::vulkan::VulkanError;
use crate::vulkan::error::failed;
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
        let fd = duplicate(dma_buf)?;
        let mut properties = vk::MemoryFdPropertiesKHR::default();
        // SAFETY: `fd` is open; the call takes no ownership of it.
        unsafe { hal.memory_fd.get_memory_fd_properties(HANDLE, fd.as_raw_fd(), &mut properties) }
            .map_err(failed("vkGetMemoryFdPropertiesKHR"))?;
        let index =
            choose(&hal.memory, need.memory_type_bits & properties.memory_type_bits, IMPORTED)
                .ok_or_else(no_type)?;
        let mut import =
            vk::ImportMemoryFdInfoKHR::default().handle_type(HANDLE).fd(fd.as_raw_fd());
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(need.size)
            .memory_type_index(index)
            .push_next(&mut import)
            .push_next(&mut only_for);
        let memory = Self::allocate(hal, &info)?;
        // Law 2: the driver has it now.
        let _ = fd.into_raw_fd();
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

    /// The memory as a dma-buf.
    pub(super) fn dma_buf(&self) -> Result<DmaBuf, WgpuError> {
        let get = vk::MemoryGetFdInfoKHR::default().memory(self.raw).handle_type(HANDLE);
        // SAFETY: the memory is alive; if it was not allocated to be exported, the driver refuses
        // (VUID-VkMemoryGetFdInfoKHR-handleType-00671, which `exportable` keeps).
        let fd = unsafe { self.hal.memory_fd.get_memory_fd(&get) }
            .map_err(failed("vkGetMemoryFdKHR"))?;
        // SAFETY: law 2.
        Ok(DmaBuf::new(unsafe { OwnedFd::from_raw_fd(fd) })?)
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

fn duplicate(dma_buf: &DmaBuf) -> Result<OwnedFd, WgpuError> {
    dma_buf.as_fd().try_clone_to_owned().map_err(|error| {
        lacks(
            format!("the dma-buf's descriptor cannot be duplicated: {error}"),
            "raise RLIMIT_NOFILE (ulimit -n)",
        )
    })
}
