//! A Vulkan buffer and the memory behind it, made in one step and freed in one.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. A [`Raw`] owns its buffer and its memory, which are of its device and freed once, when it is
//!    dropped. Whoever submits work on a buffer keeps it until the work is done.
//! 2. Host memory stays mapped, at one address and coherent, from [`Raw::map`] until the memory is
//!    freed.
//! 3. What was imported lives as long as the buffer: pages of this process because the buffer owns a
//!    share of their [`Memory`], a dma-buf because the driver holds it.
#![allow(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use ash::vk;
use ash::vk::MemoryPropertyFlags as Flags;
use iomap::{Access, BufMap, Caching, Location, Memory};

use super::device::Device;
use super::error::{VulkanError, failed};
use super::memory_types::{self, DEVICE_LOCAL, HOST_VISIBLE, READ_BACK};
use crate::Absent;
use crate::export::Bytes;

/// What every buffer may be used for: copies, and shaders that read and write it.
pub(super) const USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::TRANSFER_SRC.as_raw()
        | vk::BufferUsageFlags::TRANSFER_DST.as_raw()
        | vk::BufferUsageFlags::STORAGE_BUFFER.as_raw(),
);

/// By which way a buffer's memory came to the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The device allocated it.
    Allocated,
    /// A dma-buf that somebody else made (`VK_EXT_external_memory_dma_buf`).
    DmaBuf,
    /// Pages of this process, as a dma-buf that `/dev/udmabuf` made of them.
    Udmabuf,
    /// Pages of this process, by their address (`VK_EXT_external_memory_host`).
    HostPages {
        /// Why not as a dma-buf, which every driver takes that takes any.
        no_udmabuf: Absent,
    },
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allocated => f.write_str("device allocation"),
            Self::DmaBuf => f.write_str("dma-buf import"),
            Self::Udmabuf => f.write_str("udmabuf import"),
            Self::HostPages { .. } => f.write_str("host page import"),
        }
    }
}

/// A buffer that a Vulkan device can use.
///
/// It is made by [`Device::import_memory`], [`Device::import_dma_buf`], [`Device::allocate`] or
/// [`Device::allocate_host_visible`], and freed when dropped. [`Transfer`](super::Transfer) keeps the buffers that it works on.
#[derive(Debug)]
pub struct Buffer {
    pub(super) raw: Raw,
    pub(super) len: usize,
    pub(super) way: Way,
    pub(super) exportable: Result<(), Absent>,
    pub(super) memory: Option<Arc<Memory>>,
}

impl Buffer {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Always false: a buffer has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Its device.
    pub fn device(&self) -> &Device {
        &self.raw.device
    }

    /// How its memory came to the device.
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// The bytes for the CPU: the imported pages, or memory of the device that the CPU reaches.
    ///
    /// None for memory that the CPU cannot reach. The bytes of an imported dma-buf are reached
    /// through [`DmaBuf::map`](crate::DmaBuf::map). What a copy wrote is there when the copy has
    /// been waited for.
    pub fn cpu(&self) -> Option<BufMap<'_>> {
        match &self.memory {
            Some(memory) => Some(memory.map()),
            None => self.raw.host.as_ref().map(|host| host.map(self.len)),
        }
    }

    /// The buffer for users of `ash` (see [`Device::ash`]), who must not destroy it nor use it past
    /// this value's life. It may be copied from and to and be a storage buffer; it is owned by one
    /// queue family at a time ([`Device::queue_family`] at first).
    pub fn ash(&self) -> vk::Buffer {
        self.raw.buffer
    }

    /// A buffer for the CPU to read what the device copies into it.
    pub(super) fn read_back(device: &Device, len: usize) -> Result<Self, VulkanError> {
        let mut raw = Raw::new(device, len, None)?;
        raw.allocate(READ_BACK, None)?;
        raw.map()?;
        Ok(Self::allocated(raw, len, Err(not_exportable())))
    }

    pub(super) fn allocated(raw: Raw, len: usize, exportable: Result<(), Absent>) -> Self {
        Self { raw, len, way: Way::Allocated, exportable, memory: None }
    }

    /// Whether somebody outside this Vulkan instance may use the same memory through the kernel, so
    /// that ownership passes to and fro.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.way, Way::DmaBuf | Way::Udmabuf) || self.exportable.is_ok()
    }
}

impl Device {
    /// Allocates a buffer of `len` bytes in the device's own memory; `exportable` if it is to leave
    /// as a dma-buf ([`Buffer::export_dma_buf`]).
    ///
    /// # Errors
    /// [`VulkanError::Length`], [`VulkanError::OutOfMemory`]; [`VulkanError::Unavailable`] if it
    /// cannot be exported and must.
    pub fn allocate(&self, len: usize, exportable: bool) -> Result<Buffer, VulkanError> {
        let dma_buf = vk::ExternalMemoryHandleTypeFlags::DMA_BUF_EXT;
        if exportable {
            self.exports_dma_bufs().map_err(VulkanError::Unavailable)?;
        }
        let mut raw = Raw::new(self, len, exportable.then_some(dma_buf))?;
        raw.allocate(DEVICE_LOCAL, exportable.then_some(Origin::Export))?;
        raw.map()?;
        let exportable = if exportable { Ok(()) } else { Err(not_exportable()) };
        Ok(Buffer::allocated(raw, len, exportable))
    }

    /// Allocates a buffer in the device's own memory that the CPU reaches too (a memory type that is
    /// `DEVICE_LOCAL`, `HOST_VISIBLE` and `HOST_COHERENT`), mapped for as long as it lives:
    /// [`Buffer::cpu`] is always there. `len` is rounded up to whole pages, so that the buffer can be
    /// mapped for another device ([`Buffer::steady`]).
    ///
    /// A GPU with memory of its own shows it through a BAR: [`Location::Io`], and write-combining
    /// unless the type is `HOST_CACHED`; how much there is of it depends on the firmware's setting
    /// "resizable BAR" (256 MiB are usual without). On a device that shares the system's memory it
    /// is [`Location::System`].
    ///
    /// What the CPU or another device wrote is seen by work that is submitted afterwards.
    ///
    /// ```no_run
    /// use exporters::vulkan::Device;
    ///
    /// let device = Device::open(None)?;
    /// let buffer = device.allocate_host_visible(1 << 20)?;
    /// let map = buffer.cpu().expect("it is host-visible");
    /// map.copy_from_slice(0, b"straight into the GPU's memory")?;
    /// println!("{} at {:?}, {:?}", buffer.len(), map.location(), map.caching());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`VulkanError::Unavailable`] if the device has no such memory; [`VulkanError::Length`],
    /// [`VulkanError::OutOfMemory`].
    pub fn allocate_host_visible(&self, len: usize) -> Result<Buffer, VulkanError> {
        memory_types::host_visible(&self.info().name, self.memory())
            .map_err(VulkanError::Unavailable)?;
        let max = self.info().max_buffer;
        let len = len
            .checked_next_multiple_of(rustix::param::page_size())
            .ok_or(VulkanError::Length { len, max })?;
        let mut raw = Raw::new(self, len, None)?;
        raw.allocate(HOST_VISIBLE, None)?;
        raw.map()?;
        Ok(Buffer::allocated(raw, len, Err(not_exportable())))
    }
}

impl Bytes for Buffer {
    fn map(&self) -> BufMap<'_> {
        self.cpu().unwrap_or(BufMap::null())
    }
}

/// Why a buffer that was not made for it does not leave.
pub(super) fn not_exportable() -> Absent {
    Absent::new(
        "the buffer was not allocated to be exported",
        "allocate it with Device::allocate(len, true)",
    )
}

/// Where a buffer's memory comes from or goes to, other than the device and back.
pub(super) enum Origin {
    /// It is to leave as a dma-buf.
    Export,
    /// A dma-buf, which the driver takes over on success only.
    DmaBuf { fd: vk::ImportMemoryFdInfoKHR<'static>, size: u64, types: u32 },
    /// Pages of this process.
    Host { pages: vk::ImportMemoryHostPointerInfoEXT<'static>, size: u64, types: u32 },
}

/// A buffer and its memory, each null until it is made.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) device: Device,
    pub(super) buffer: vk::Buffer,
    pub(super) memory: vk::DeviceMemory,
    flags: Flags,
    host: Option<Host>,
    handle: Option<vk::ExternalMemoryHandleTypeFlags>,
}

impl Raw {
    /// A buffer without memory; `handle` says by which handle its memory will come or go
    /// (VUID-VkBindBufferMemoryInfo-memory-02985 and -02726: the buffer names it too).
    pub(super) fn new(
        device: &Device,
        len: usize,
        handle: Option<vk::ExternalMemoryHandleTypeFlags>,
    ) -> Result<Self, VulkanError> {
        let max = device.info().max_buffer;
        // VUID-VkBufferCreateInfo-size-00912 and -06409.
        if len == 0 || len > max {
            return Err(VulkanError::Length { len, max });
        }
        let mut external = vk::ExternalMemoryBufferCreateInfo::default();
        let mut create = vk::BufferCreateInfo::default().size(len as u64).usage(USAGE);
        if let Some(handle) = handle {
            external = external.handle_types(handle);
            create = create.push_next(&mut external);
        }
        // SAFETY: the device is alive, `create` is valid.
        let buffer = unsafe { device.ash().create_buffer(&create, None) }
            .map_err(failed("vkCreateBuffer"))?;
        Ok(Self {
            device: device.clone(),
            buffer,
            memory: vk::DeviceMemory::null(),
            flags: Flags::empty(),
            host: None,
            handle,
        })
    }

    /// Allocates or imports memory of the first fitting type among `wishes` and binds it.
    pub(super) fn allocate(
        &mut self,
        wishes: &[Flags],
        origin: Option<Origin>,
    ) -> Result<(), VulkanError> {
        let ash = self.device.ash();
        let mut dedicated_only = vk::MemoryDedicatedRequirements::default();
        let mut answer = vk::MemoryRequirements2::default().push_next(&mut dedicated_only);
        let query = vk::BufferMemoryRequirementsInfo2::default().buffer(self.buffer);
        // SAFETY: the buffer is ours and alive (law 1).
        unsafe { ash.get_buffer_memory_requirements2(&query, &mut answer) };
        let need = answer.memory_requirements;

        let (size, types) = match &origin {
            Some(Origin::DmaBuf { size, types, .. } | Origin::Host { size, types, .. }) => {
                (*size, *types)
            }
            Some(Origin::Export) | None => (need.size, !0),
        };
        if size < need.size {
            return Err(VulkanError::TooShort { len: size as usize, need: need.size });
        }
        // VUID-VkMemoryAllocateInfo-memoryTypeIndex-00648 and -01744: an imported handle limits the
        // types, and so does the buffer (VUID-vkBindBufferMemory-memory-01035).
        let kinds = self.device.memory();
        let index = memory_types::choose(kinds, need.memory_type_bits & types, wishes)
            .ok_or_else(|| VulkanError::Unavailable(no_type(&self.device)))?;
        let kind = kinds.memory_types[index as usize];
        let heap = kinds.memory_heaps[kind.heap_index as usize];
        let imported = matches!(origin, Some(Origin::DmaBuf { .. } | Origin::Host { .. }));
        // VUID-vkAllocateMemory-pAllocateInfo-01713.
        if !imported && size > heap.size {
            return Err(self.out_of_memory(size, kind.heap_index));
        }

        let mut dedicated = vk::MemoryDedicatedAllocateInfo::default().buffer(self.buffer);
        let mut export = vk::ExportMemoryAllocateInfo::default()
            .handle_types(vk::ExternalMemoryHandleTypeFlags::DMA_BUF_EXT);
        let (mut fd, mut pages);
        let mut info =
            vk::MemoryAllocateInfo::default().allocation_size(size).memory_type_index(index);
        // VUID-VkMemoryAllocateInfo-pNext-00639 and -02390: some handle types only with memory for
        // one buffer alone. Imported pages are never so (VUID-VkMemoryAllocateInfo-pNext-02806).
        let by_handle = self.handle.is_some_and(|handle| {
            self.device.external(handle).contains(vk::ExternalMemoryFeatureFlags::DEDICATED_ONLY)
        });
        let host = matches!(origin, Some(Origin::Host { .. }));
        if !host && (by_handle || dedicated_only.requires_dedicated_allocation == vk::TRUE) {
            info = info.push_next(&mut dedicated);
        }
        match origin {
            Some(Origin::Export) => info = info.push_next(&mut export),
            Some(Origin::DmaBuf { fd: import, .. }) => {
                fd = import;
                info = info.push_next(&mut fd);
            }
            Some(Origin::Host { pages: import, .. }) => {
                pages = import;
                info = info.push_next(&mut pages);
            }
            None => {}
        }
        // SAFETY: `info` and its chain are valid, and what they import is alive (law 3).
        self.memory =
            match unsafe { ash.allocate_memory(&info, None) } {
                Ok(memory) => memory,
                Err(
                    vk::Result::ERROR_OUT_OF_DEVICE_MEMORY | vk::Result::ERROR_OUT_OF_HOST_MEMORY,
                ) if !imported => return Err(self.out_of_memory(size, kind.heap_index)),
                Err(result) => return Err(failed("vkAllocateMemory")(result)),
            };
        self.flags = kind.property_flags;
        // SAFETY: buffer and memory are ours, fresh and of one device.
        unsafe { ash.bind_buffer_memory(self.buffer, self.memory, 0) }
            .map_err(failed("vkBindBufferMemory"))
    }

    /// Maps the memory if the CPU can reach it without flushing.
    pub(super) fn map(&mut self) -> Result<(), VulkanError> {
        if !self.flags.contains(Flags::HOST_VISIBLE | Flags::HOST_COHERENT) {
            return Ok(());
        }
        let ash = self.device.ash();
        // SAFETY: the memory is ours, of a type that can be mapped, and not mapped yet.
        let pointer =
            unsafe { ash.map_memory(self.memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty()) }
                .map_err(failed("vkMapMemory"))?;
        let (location, caching) = seen(self.flags, self.device.info().shares_system_memory);
        self.host = NonNull::new(pointer.cast()).map(|pointer| Host { pointer, location, caching });
        Ok(())
    }

    /// Whether the CPU may look at the memory, so that copies into it must be made visible to it.
    pub(super) fn is_host_visible(&self) -> bool {
        self.flags.contains(Flags::HOST_VISIBLE)
    }

    fn out_of_memory(&self, asked: u64, heap: u32) -> VulkanError {
        VulkanError::OutOfMemory { asked, free: self.device.free(heap) }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let ash = self.device.ash();
        // SAFETY: law 1; null handles are ignored, and freeing memory unmaps it.
        unsafe {
            ash.destroy_buffer(self.buffer, None);
            ash.free_memory(self.memory, None);
        }
    }
}

/// How the CPU sees memory of a type: through a BAR if it is the device's own. Whatever is not cached
/// is write-combining, with every driver.
fn seen(flags: Flags, shares_system_memory: bool) -> (Location, Caching) {
    let own = flags.contains(Flags::DEVICE_LOCAL) && !shares_system_memory;
    let cached = flags.contains(Flags::HOST_CACHED);
    (
        if own { Location::Io } else { Location::System },
        if cached { Caching::WriteBack } else { Caching::WriteCombining },
    )
}

/// Mapped memory of a device.
#[derive(Debug)]
struct Host {
    pointer: NonNull<u8>,
    location: Location,
    caching: Caching,
}

// SAFETY: the pointer is only ever handed out as a `BufMap`, whose accesses are volatile and may
// race (iomap's laws); the mapping belongs to no thread.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

impl Host {
    fn map(&self, len: usize) -> BufMap<'_> {
        // SAFETY: law 2: mapped over the whole memory, of which the buffer's `len` bytes are a part,
        // until the `Raw` that owns `self` is dropped; made by the driver, outside Rust.
        unsafe {
            BufMap::from_raw(
                self.pointer.as_ptr(),
                len,
                self.location,
                self.caching,
                Access::ReadWrite,
            )
        }
    }
}

fn no_type(device: &Device) -> Absent {
    Absent::new(
        format!("no memory type of {} fits the buffer", device.info().name),
        "take another way to bring the memory in, or another device",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_seen_through_a_bar_and_shared_memory_is_the_systems() {
        let visible = Flags::HOST_VISIBLE | Flags::HOST_COHERENT;
        let own = visible | Flags::DEVICE_LOCAL;
        let cached = Flags::HOST_CACHED;
        for (flags, shares, expected) in [
            (own, false, (Location::Io, Caching::WriteCombining)),
            (own | cached, false, (Location::Io, Caching::WriteBack)),
            (visible, false, (Location::System, Caching::WriteCombining)),
            (visible | cached, false, (Location::System, Caching::WriteBack)),
            (own, true, (Location::System, Caching::WriteCombining)),
            (own | cached, true, (Location::System, Caching::WriteBack)),
        ] {
            assert_eq!(seen(flags, shares), expected, "{flags:?}, {shares}");
        }
    }
}
