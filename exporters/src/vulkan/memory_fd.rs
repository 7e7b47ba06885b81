//! The driver's calls that make a dma-buf its memory and memory a dma-buf, for devices of this crate and
//! for wgpu's.
//!
//! # Safety
//!
//! The laws of this module (`VkImportMemoryFdInfoKHR`, `vkGetMemoryFdKHR`): a descriptor that is imported
//! is the driver's once the import succeeded, and ours until then; one that the driver returns is new
//! and ours.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use ash::khr::external_memory_fd::Device as Functions;
use ash::vk;

use super::error::{VulkanError, failed};
use crate::DmaBuf;
use crate::dmabuf::duplicate;

/// The one kind of handle here.
const HANDLE: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::DMA_BUF_EXT;

/// A descriptor that the driver is about to take.
pub(crate) struct Import {
    fd: OwnedFd,
    /// In which of its types the driver can have this memory, a bit for each.
    pub(crate) types: u32,
}

impl Import {
    pub(crate) fn new(functions: &Functions, dma_buf: &DmaBuf) -> Result<Self, VulkanError> {
        let fd = duplicate(dma_buf, "dma-buf").map_err(VulkanError::Unavailable)?;
        let mut properties = vk::MemoryFdPropertiesKHR::default();
        // SAFETY: `fd` is open; the call takes no ownership of it.
        unsafe { functions.get_memory_fd_properties(HANDLE, fd.as_raw_fd(), &mut properties) }
            .map_err(failed("vkGetMemoryFdPropertiesKHR"))?;
        Ok(Self { fd, types: properties.memory_type_bits })
    }

    /// For the chain of the allocation, while `self` lives.
    pub(crate) fn info(&self) -> vk::ImportMemoryFdInfoKHR<'static> {
        vk::ImportMemoryFdInfoKHR::default().handle_type(HANDLE).fd(self.fd.as_raw_fd())
    }

    /// The allocation succeeded, so the driver has the descriptor.
    pub(crate) fn taken(self) {
        let _ = self.fd.into_raw_fd();
    }
}

/// Memory as a new dma-buf.
///
/// # Safety
/// The memory is alive, of the functions' device, and was allocated to be exported as a dma-buf
/// (VUID-VkMemoryGetFdInfoKHR-handleType-00671).
pub(crate) unsafe fn export(
    functions: &Functions,
    memory: vk::DeviceMemory,
) -> Result<DmaBuf, VulkanError> {
    let get = vk::MemoryGetFdInfoKHR::default().memory(memory).handle_type(HANDLE);
    // SAFETY: by the caller's promise.
    let fd = unsafe { functions.get_memory_fd(&get) }.map_err(failed("vkGetMemoryFdKHR"))?;
    // SAFETY: the module's laws.
    Ok(DmaBuf::answering(unsafe { OwnedFd::from_raw_fd(fd) })?)
}
