//! Memory that exists already, made a device's buffer: nothing is copied.
//!
//! Pages of this process come in by one of two ways. As a dma-buf, made of a memfd by
//! `/dev/udmabuf`: every driver that takes dma-bufs takes it, but before Linux 7.3 one holds only
//! 64 MiB by default, and a Vulkan buffer is bound to one memory. Or by their address: no such limit,
//! but some drivers refuse pages that a file stands behind (amdgpu does). So the first is tried where
//! it can be, then the second, and the buffer tells which it was and why.
//!
//! # Safety
//!
//! What is imported outlives the buffer: see the second law of `buffer`.
#![allow(unsafe_code)]

use std::sync::{Arc, OnceLock};

use ash::vk;
use ash::vk::ExternalMemoryFeatureFlags as Features;
use ash::vk::ExternalMemoryHandleTypeFlags as Handle;
use iomap::{Memory, MemoryError, PageSize};

use super::allocation::Origin;
use super::buffer::{Bare, Behind, Buffer, Way, not_exportable};
use super::device::Device;
use super::error::{VulkanError, failed};
use super::memory_types::{HOST_PAGES, IMPORTED};
use crate::udmabuf::{Udmabuf, UdmabufError};
use crate::{Absent, DmaBuf};

impl Device {
    /// Makes pages of this process a buffer of the device, and keeps them.
    ///
    /// They come in as a dma-buf if `/dev/udmabuf` and `VK_EXT_external_memory_dma_buf` are there
    /// and the memory fits into one udmabuf, else by their address
    /// (`VK_EXT_external_memory_host`); [`Buffer::way`] tells.
    ///
    /// The CPU, or a drive by DMA, may write the pages at any time; what was written before a copy
    /// is submitted is seen by that copy.
    ///
    /// # Errors
    /// [`VulkanError::Unavailable`] if the device has neither way; [`VulkanError::Alignment`];
    /// [`VulkanError::Length`]; [`VulkanError::Call`] if the driver refuses these pages.
    pub fn import_memory(&self, memory: Arc<Memory>) -> Result<Buffer, VulkanError> {
        let no_udmabuf = match self.import_udmabuf(&memory) {
            Ok(buffer) => return Ok(buffer),
            Err(absent) => absent,
        };
        self.import_host_pages(memory, no_udmabuf)
    }

    /// Memory of the kind that [`import_memory`](Self::import_memory) takes best, of at least `len` bytes: behind a memfd
    /// where a dma-buf can be made of all of it, since every driver takes those that takes any, and else ordinary, in the
    /// largest pages that the kernel has ready, since drivers that import pages by their address may refuse a file's.
    ///
    /// # Errors
    /// As [`Memory::memfd`] and [`Memory::anonymous`].
    pub fn memory_to_import(&self, len: usize) -> Result<Memory, MemoryError> {
        let takes_dma_buf = self.info().extension("VK_EXT_external_memory_dma_buf").is_ok();
        let longest = Udmabuf::open().map_or(0, |udmabuf| udmabuf.limit());
        if takes_dma_buf && len <= longest {
            return Memory::memfd("bufmap", len.max(1), PageSize::Base);
        }
        let memory = Memory::anonymous(len.max(1), PageSize::Base)?;
        // A kernel without huge pages has small ones.
        let _ = memory.advise_huge();
        Ok(memory)
    }

    /// Makes a dma-buf a buffer of the device, as long as the dma-buf.
    ///
    /// The driver is given a duplicate of the descriptor, and the buffer keeps a handle on the
    /// [`DmaBuf`]. Others who use the memory are waited for by
    /// [`Transfer::copy_synced`](super::Transfer::copy_synced); else they must have finished before a
    /// copy is submitted.
    ///
    /// # Errors
    /// [`VulkanError::Unavailable`] without `VK_EXT_external_memory_dma_buf`;
    /// [`VulkanError::Call`] if the driver refuses this exporter's buffers.
    pub fn import_dma_buf(&self, dma_buf: &DmaBuf) -> Result<Buffer, VulkanError> {
        let handle = Handle::DMA_BUF_EXT;
        self.can(handle, Features::IMPORTABLE, "VK_EXT_external_memory_dma_buf")
            .map_err(VulkanError::Unavailable)?;
        let raw = Bare::new(self, dma_buf.len(), Some(handle))?
            .allocate(IMPORTED, Some(Origin::DmaBuf(dma_buf)))?;
        let exportable = Err(Absent::new("the buffer is an imported dma-buf", "share that one"));
        let shared = OnceLock::from(dma_buf.clone());
        let (len, way) = (dma_buf.len(), Way::DmaBuf);
        Ok(Buffer { behind: Behind::Own(raw), len, way, exportable, memory: None, shared })
    }

    fn import_udmabuf(&self, memory: &Arc<Memory>) -> Result<Buffer, Absent> {
        self.can(Handle::DMA_BUF_EXT, Features::IMPORTABLE, "VK_EXT_external_memory_dma_buf")?;
        let dma_buf = udmabuf(memory).map_err(|e| match e {
            UdmabufError::Unavailable(absent) => absent,
            e => Absent::new(e.to_string(), "none is needed if host pages can be imported"),
        })?;
        let buffer = self.import_dma_buf(&dma_buf).map_err(|e| {
            Absent::new(format!("the driver refuses the udmabuf: {e}"), "update the driver")
        })?;
        Ok(Buffer { way: Way::Udmabuf, memory: Some(memory.clone()), ..buffer })
    }

    fn import_host_pages(
        &self,
        memory: Arc<Memory>,
        no_udmabuf: Absent,
    ) -> Result<Buffer, VulkanError> {
        let handle = Handle::HOST_ALLOCATION_EXT;
        self.can(handle, Features::IMPORTABLE, "VK_EXT_external_memory_host").map_err(|host| {
            VulkanError::Unavailable(Absent::new(
                format!("pages cannot be imported: {}; {}", no_udmabuf.why, host.why),
                format!("{}, or {}", no_udmabuf.fix, host.fix),
            ))
        })?;
        let functions = self.memory_host()?;
        let pointer: *mut std::ffi::c_void = memory.map().as_ptr().cast();
        let len = memory.len();
        // VUID-VkImportMemoryHostPointerInfoEXT-pHostPointer-01749 and
        // VUID-VkMemoryAllocateInfo-allocationSize-01745.
        let alignment = self.info().host_import_alignment.unwrap_or(1).max(1);
        if !len.is_multiple_of(alignment) || !pointer.addr().is_multiple_of(alignment) {
            return Err(VulkanError::Alignment { len, alignment });
        }

        let mut properties = vk::MemoryHostPointerPropertiesEXT::default();
        // SAFETY: the pointer is the memory's, which is alive, and aligned as the call wants.
        unsafe {
            (functions.fp().get_memory_host_pointer_properties_ext)(
                self.ash().handle(),
                handle,
                pointer,
                &mut properties,
            )
        }
        .result()
        .map_err(failed("vkGetMemoryHostPointerPropertiesEXT"))?;
        let pages = vk::ImportMemoryHostPointerInfoEXT {
            handle_type: handle,
            p_host_pointer: pointer,
            ..Default::default()
        };
        let raw = Bare::new(self, len, Some(handle))?.allocate(
            HOST_PAGES,
            Some(Origin::Host { pages, size: len as u64, types: properties.memory_type_bits }),
        )?;
        Ok(Buffer {
            behind: Behind::Own(raw),
            len,
            way: Way::HostPages { no_udmabuf },
            exportable: Err(not_exportable()),
            memory: Some(memory),
            shared: OnceLock::new(),
        })
    }

    /// Whether buffers may come or go by a handle type: the extension is there and the driver says
    /// so for buffers of our usage (VUID-VkBufferCreateInfo-pNext-00920).
    pub(super) fn can(
        &self,
        handle: Handle,
        feature: Features,
        extension: &str,
    ) -> Result<(), Absent> {
        self.info().extension(extension)?;
        if self.external(handle).contains(feature) {
            return Ok(());
        }
        Err(Absent::new(
            format!("{} has {extension}, but not for such buffers", self.info().name),
            "update the driver or take another device",
        ))
    }
}

/// The whole memory as one dma-buf.
fn udmabuf(memory: &Memory) -> Result<DmaBuf, UdmabufError> {
    Udmabuf::open()?.create(memory, 0..memory.len())
}
