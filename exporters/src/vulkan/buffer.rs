//! A Vulkan buffer: with the memory behind it, made in one step and freed in one, or a range of a program's own, which
//! is neither.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. A [`Bare`] owns its buffer, which is destroyed once, when it is dropped, before its memory is
//!    freed. Whoever submits work on a buffer keeps it until the work is done.
//! 2. What was imported lives as long as the buffer: pages of this process because the buffer owns a
//!    share of their [`Memory`], a dma-buf because the driver holds it.
//! 3. A [`Lent`] range is the program's, which keeps it alive (`lent`); only its handle is here.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::{Arc, OnceLock};

use ash::vk;
use ash::vk::ExternalMemoryHandleTypeFlags as Handle;
use ash::vk::MemoryPropertyFlags as Flags;
use iomap::{BufMap, Memory};

use super::allocation::{Allocation, Need, Origin};
use super::capabilities::BUFFER_USAGE;
use super::device::Device;
use super::error::{VulkanError, failed};
use super::handover::Holding;
use super::memory_types::{self, DEVICE_LOCAL, HOST_VISIBLE, READ_BACK};
use crate::dmabuf::{Bytes, Turns};
use crate::{Absent, CpuAccess, DmaBuf, Intent};

/// By which way a buffer's memory came to the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The device allocated it.
    Allocated,
    /// A dma-buf that somebody else made (`VK_EXT_external_memory_dma_buf`).
    DmaBuf,
    /// Pages of this process, as a dma-buf that `/dev/udmabuf` made of them.
    Udmabuf,
    /// It is the program's own ([`Device::adopt_buffer`]).
    Lent,
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
            Self::Lent => f.write_str("the program's own"),
            Self::HostPages { .. } => f.write_str("host page import"),
        }
    }
}

/// A buffer that a Vulkan device can use.
///
/// It is made by [`Device::import_memory`], [`Device::import_dma_buf`], [`Device::allocate`] or
/// [`Device::allocate_host_visible`], and freed when dropped; or it is a range of a program's own
/// ([`Device::adopt_buffer`]), which is not. [`Transfer`](super::Transfer) keeps the buffers that it works on.
#[derive(Debug)]
pub struct Buffer {
    pub(super) behind: Behind,
    pub(super) len: usize,
    pub(super) way: Way,
    pub(super) exportable: Result<(), Absent>,
    pub(super) memory: Option<Arc<Memory>>,
    /// The dma-buf that it is to others: from its import, or since its first export.
    pub(super) shared: OnceLock<DmaBuf>,
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
        match &self.behind {
            Behind::Own(raw) => &raw.bare.device,
            Behind::Lent(lent) => &lent.device,
        }
    }

    /// How its memory came to the device.
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// The pages of this process that it was made of, if it was ([`Device::import_memory`]).
    pub const fn imported_memory(&self) -> Option<&Arc<Memory>> {
        self.memory.as_ref()
    }

    /// The bytes for the CPU, to be touched at any time: the imported pages, or memory of the device
    /// that the CPU reaches and that is coherent.
    ///
    /// None for memory that the CPU cannot reach, and for memory that is not coherent, which takes
    /// [`begin_cpu_access`](Self::begin_cpu_access). The bytes of an imported dma-buf are reached
    /// through [`DmaBuf::map`](crate::DmaBuf::map). What a copy wrote is there when the copy has
    /// been waited for.
    pub fn cpu(&self) -> Option<BufMap<'_>> {
        self.bytes().filter(|_| self.turns().is_none())
    }

    /// Begins the CPU's turn with the bytes, whether the memory is coherent or not: of what is not,
    /// the driver discards what the CPU has cached at the beginning and writes it back at the end
    /// (Vulkan, "Host Access to Device Memory Objects"). Turns that overlap see the bytes as the first
    /// of them found them.
    ///
    /// # Errors
    /// [`VulkanError::Unavailable`] if the CPU cannot reach the memory; [`VulkanError::DmaBuf`] if the
    /// driver fails.
    pub fn begin_cpu_access(&self, intent: Intent) -> Result<CpuAccess<'_>, VulkanError> {
        let bytes = self.bytes().ok_or_else(|| VulkanError::Unavailable(self.unreached()))?;
        Ok(CpuAccess::begin(self.turns(), bytes, intent)?)
    }

    /// The bytes, if the CPU reaches them, whether coherent or not.
    pub(super) fn bytes(&self) -> Option<BufMap<'_>> {
        match &self.memory {
            Some(memory) => Some(memory.map()),
            None => self.allocation()?.bytes(self.len),
        }
    }

    /// The memory that was allocated for it; none behind a program's own.
    pub(super) fn allocation(&self) -> Option<&Allocation> {
        match &self.behind {
            Behind::Own(raw) => Some(&raw.memory),
            Behind::Lent(_) => None,
        }
    }

    /// Whether the CPU may look at the memory, so that copies into it must be made visible to it: of a program's own
    /// nobody knows.
    pub(super) fn is_host_visible(&self) -> bool {
        self.allocation().is_none_or(Allocation::is_host_visible)
    }

    /// What it was created for.
    pub(super) fn usage(&self) -> vk::BufferUsageFlags {
        match &self.behind {
            Behind::Own(_) => BUFFER_USAGE,
            Behind::Lent(lent) => lent.usage,
        }
    }

    /// How it passes to the copies and back, if it is a program's own.
    pub(super) fn holding(&self) -> Option<&Holding> {
        match &self.behind {
            Behind::Own(_) => None,
            Behind::Lent(lent) => Some(&lent.holding),
        }
    }

    pub(super) fn unreached(&self) -> Absent {
        Absent::new(
            format!("the CPU does not reach this memory of {}", self.device().info().name),
            "copy it by the device (vulkan::Transfer::read_back)",
        )
    }

    /// The buffer for users of `ash` (see [`Device::ash`]), who must not destroy it nor use it past
    /// this value's life. It may be copied from and to and be a storage buffer; it is owned by one
    /// queue family at a time ([`Device::queue_family`] at first). A program's own is what the program made it.
    pub fn ash(&self) -> vk::Buffer {
        match &self.behind {
            Behind::Own(raw) => raw.bare.buffer,
            Behind::Lent(lent) => lent.buffer,
        }
    }

    /// Where it begins in [`ash`](Self::ash), in bytes: zero but for a range of a program's own.
    pub fn ash_offset(&self) -> u64 {
        match &self.behind {
            Behind::Own(_) => 0,
            Behind::Lent(lent) => lent.offset,
        }
    }

    /// A buffer for the CPU to read what the device copies into it.
    pub(super) fn read_back(device: &Device, len: usize) -> Result<Self, VulkanError> {
        let mut raw = Bare::new(device, len, None)?.allocate(READ_BACK, None)?;
        raw.memory.map()?;
        Ok(Self::allocated(raw, len, Err(not_exportable())))
    }

    pub(super) fn allocated(raw: Raw, len: usize, exportable: Result<(), Absent>) -> Self {
        let (behind, way, shared) = (Behind::Own(raw), Way::Allocated, OnceLock::new());
        Self { behind, len, way, exportable, memory: None, shared }
    }

    /// A range of a program's own.
    pub(super) fn lent(lent: Lent, len: usize) -> Self {
        let exportable = Err(Absent::new(
            "the buffer is the program's own, and so is its memory",
            "export it where it was allocated, or allocate it with Device::allocate(len, true)",
        ));
        let (behind, way, shared) = (Behind::Lent(lent), Way::Lent, OnceLock::new());
        Self { behind, len, way, exportable, memory: None, shared }
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
        let dma_buf = Handle::DMA_BUF_EXT;
        if exportable {
            self.exports_dma_bufs().map_err(VulkanError::Unavailable)?;
        }
        let mut raw = Bare::new(self, len, exportable.then_some(dma_buf))?
            .allocate(DEVICE_LOCAL, exportable.then_some(Origin::Export))?;
        raw.memory.map()?;
        let exportable = if exportable { Ok(()) } else { Err(not_exportable()) };
        Ok(Buffer::allocated(raw, len, exportable))
    }

    /// Allocates a buffer in the device's own memory that the CPU reaches too (a memory type that is
    /// `DEVICE_LOCAL`, `HOST_VISIBLE` and `HOST_COHERENT`), mapped for as long as it lives:
    /// [`Buffer::cpu`] is always there. `len` is rounded up to whole pages, so that the buffer can be
    /// mapped for another device ([`Buffer::steady`]).
    ///
    /// A GPU with memory of its own shows it through a BAR: [`Location::Io`](iomap::Location::Io), and write-combining
    /// unless the type is `HOST_CACHED`; how much there is of it depends on the firmware's setting
    /// "resizable BAR" (256 MiB are usual without). On a device that shares the system's memory it
    /// is [`Location::System`](iomap::Location::System).
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
        let mut raw = Bare::new(self, len, None)?.allocate(HOST_VISIBLE, None)?;
        raw.memory.map()?;
        Ok(Buffer::allocated(raw, len, Err(not_exportable())))
    }

    /// Allocates a buffer of `len` bytes in the memory type of an index in
    /// [`DeviceInfo::memory_types`](super::DeviceInfo::memory_types), and maps it where the CPU can.
    ///
    /// For who measures or must have one kind of memory; [`allocate`](Self::allocate) and
    /// [`allocate_host_visible`](Self::allocate_host_visible) choose well.
    ///
    /// # Errors
    /// [`VulkanError::Unavailable`] if the device has no such type or takes no buffer in it;
    /// [`VulkanError::Length`], [`VulkanError::OutOfMemory`].
    pub fn allocate_of_type(&self, len: usize, index: usize) -> Result<Buffer, VulkanError> {
        let info = self.info();
        let Some(index) = u32::try_from(index).ok().filter(|_| index < info.memory_types.len())
        else {
            return Err(VulkanError::Unavailable(Absent::new(
                format!(
                    "{} has {} memory types, and not {index}",
                    info.name,
                    info.memory_types.len()
                ),
                "see DeviceInfo::memory_types",
            )));
        };
        let mut raw = Bare::new(self, len, None)?.allocate_of_type(index)?;
        raw.memory.map()?;
        Ok(Buffer::allocated(raw, len, Err(not_exportable())))
    }
}

impl Bytes for Buffer {
    fn map(&self) -> BufMap<'_> {
        self.bytes().unwrap_or(BufMap::null())
    }

    fn turns(&self) -> Option<&dyn Turns> {
        self.allocation()?.turns()
    }
}

/// Why a buffer that was not made for it does not leave.
pub(super) fn not_exportable() -> Absent {
    Absent::new(
        "the buffer was not allocated to be exported",
        "allocate it with Device::allocate(len, true)",
    )
}

/// What stands behind a buffer.
#[derive(Debug)]
pub(super) enum Behind {
    /// A buffer of this crate's.
    Own(Raw),
    /// A range of a program's.
    Lent(Lent),
}

/// A range of a program's buffer.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) device: Device,
    pub(super) buffer: vk::Buffer,
    pub(super) offset: u64,
    pub(super) usage: vk::BufferUsageFlags,
    pub(super) holding: Holding,
}

/// A buffer and its memory.
#[derive(Debug)]
pub(super) struct Raw {
    /// Destroyed before the memory is freed: it stands before it.
    pub(super) bare: Bare,
    pub(super) memory: Allocation,
}

/// A buffer without memory.
#[derive(Debug)]
pub(super) struct Bare {
    pub(super) device: Device,
    pub(super) buffer: vk::Buffer,
    handle: Option<Handle>,
}

impl Bare {
    /// `handle` says by which handle its memory will come or go
    /// (VUID-VkBindBufferMemoryInfo-memory-02985 and -02726: the buffer names it too).
    pub(super) fn new(
        device: &Device,
        len: usize,
        handle: Option<Handle>,
    ) -> Result<Self, VulkanError> {
        let max = device.info().max_buffer;
        // VUID-VkBufferCreateInfo-size-00912 and -06409.
        if len == 0 || len > max {
            return Err(VulkanError::Length { len, max });
        }
        let mut external = vk::ExternalMemoryBufferCreateInfo::default();
        let mut create = vk::BufferCreateInfo::default().size(len as u64).usage(BUFFER_USAGE);
        // What a dma-buf is of belongs to others in between and is passed on; the rest is used by both queues in turns.
        let families = device.families();
        if families[0] != families[1] && handle != Some(Handle::DMA_BUF_EXT) {
            create =
                create.sharing_mode(vk::SharingMode::CONCURRENT).queue_family_indices(&families);
        }
        if let Some(handle) = handle {
            external = external.handle_types(handle);
            create = create.push_next(&mut external);
        }
        // SAFETY: the device is alive, `create` is valid.
        let buffer = unsafe { device.ash().create_buffer(&create, None) }
            .map_err(failed("vkCreateBuffer"))?;
        Ok(Self { device: device.clone(), buffer, handle })
    }

    /// Allocates or imports memory of the first fitting type among `wishes` and binds it.
    pub(super) fn allocate(
        self,
        wishes: &[Flags],
        origin: Option<Origin<'_>>,
    ) -> Result<Raw, VulkanError> {
        let need = self.need(matches!(origin, Some(Origin::Host { .. })));
        self.with_memory(need, wishes, origin)
    }

    /// Allocates memory of one type and binds it.
    pub(super) fn allocate_of_type(self, index: u32) -> Result<Raw, VulkanError> {
        let mut need = self.need(false);
        need.requirements.memory_type_bits &= 1 << index;
        self.with_memory(need, &[Flags::empty()], None)
    }

    fn with_memory(
        self,
        need: Need,
        wishes: &[Flags],
        origin: Option<Origin<'_>>,
    ) -> Result<Raw, VulkanError> {
        let memory = Allocation::new(&self.device, need, wishes, origin)?;
        // SAFETY: buffer and memory are ours, fresh and of one device.
        unsafe { self.device.ash().bind_buffer_memory(self.buffer, memory.memory, 0) }
            .map_err(failed("vkBindBufferMemory"))?;
        Ok(Raw { bare: self, memory })
    }

    fn need(&self, host_pages: bool) -> Need {
        let mut asks = vk::MemoryDedicatedRequirements::default();
        let mut answer = vk::MemoryRequirements2::default().push_next(&mut asks);
        let query = vk::BufferMemoryRequirementsInfo2::default().buffer(self.buffer);
        // SAFETY: the buffer is ours and alive (law 1).
        unsafe { self.device.ash().get_buffer_memory_requirements2(&query, &mut answer) };
        let requirements = answer.memory_requirements;
        // VUID-VkMemoryAllocateInfo-pNext-00639 and -02390: some handle types only with memory for
        // one buffer alone. Imported pages are never so (VUID-VkMemoryAllocateInfo-pNext-02806).
        let by_handle = self.handle.is_some_and(|handle| {
            self.device.external(handle).contains(vk::ExternalMemoryFeatureFlags::DEDICATED_ONLY)
        });
        let alone = by_handle || asks.requires_dedicated_allocation == vk::TRUE;
        let dedicated = (alone && !host_pages)
            .then(|| vk::MemoryDedicatedAllocateInfo::default().buffer(self.buffer));
        Need { requirements, dedicated }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // SAFETY: law 1.
        unsafe { self.device.ash().destroy_buffer(self.buffer, None) };
    }
}
