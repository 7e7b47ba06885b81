//! Memory of a device: allocated or imported for one buffer or image, and mapped where the CPU
//! reaches it.
//!
//! Memory of a type that is not `HOST_COHERENT` lies behind caches that nobody but the driver keeps in
//! order: what the device wrote is seen after `vkInvalidateMappedMemoryRanges`, what the CPU wrote
//! after `vkFlushMappedMemoryRanges` (Vulkan, "Host Access to Device Memory Objects"). Both are the
//! ends of the CPU's turn ([`Turns`]). They are about the whole memory, which is one buffer's or
//! image's alone: so they are multiples of `nonCoherentAtomSize`
//! (VUID-VkMappedMemoryRange-size-01389), and no neighbour's bytes lie in a line that is discarded.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. An [`Allocation`] owns its memory, which is freed once, when it is dropped. Whoever binds it
//!    frees what he bound first.
//! 2. Host memory stays mapped, at one address, from [`Allocation::map`] until the memory is freed.
//! 3. What is imported is alive, and lives as long as the allocation: who imports sees to it.
//! 4. Only memory of [`Origin::Export`] is asked for as a dma-buf: who allocates sees to it.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ash::vk;
use ash::vk::ExternalMemoryHandleTypeFlags as Handle;
use ash::vk::MemoryPropertyFlags as Flags;
use iomap::{Access, BufMap};

use super::device::Device;
use super::error::{VulkanError, failed};
use super::memory_fd::{self, Import};
use super::memory_types::{self, Seen};
use crate::dmabuf::{DmaBufError, Intent, Turns};
use crate::{Absent, DmaBuf};

/// Where memory comes from or goes to, other than the device and back.
pub(super) enum Origin<'a> {
    /// It is to leave as a dma-buf.
    Export,
    /// A dma-buf.
    DmaBuf(&'a DmaBuf),
    /// Pages of this process.
    Host { pages: vk::ImportMemoryHostPointerInfoEXT<'static>, size: u64, types: u32 },
}

/// What the memory is to be bound to, and what that needs.
pub(super) struct Need {
    /// Its size and the types that fit.
    pub(super) requirements: vk::MemoryRequirements,
    /// What it is for, if it must be for that alone.
    pub(super) dedicated: Option<vk::MemoryDedicatedAllocateInfo<'static>>,
}

/// Memory of a device.
#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) device: Device,
    pub(super) memory: vk::DeviceMemory,
    flags: Flags,
    host: Option<Host>,
}

impl Allocation {
    /// Allocates or imports memory of the first fitting type among `wishes`.
    pub(super) fn new(
        device: &Device,
        need: Need,
        wishes: &[Flags],
        origin: Option<Origin<'_>>,
    ) -> Result<Self, VulkanError> {
        let Need { requirements, dedicated } = need;
        let import = match origin {
            Some(Origin::DmaBuf(dma_buf)) => Some(Import::new(device.memory_fd()?, dma_buf)?),
            _ => None,
        };
        let (size, types) = match (&origin, &import) {
            (Some(Origin::DmaBuf(dma_buf)), Some(import)) => (dma_buf.len() as u64, import.types),
            (Some(Origin::Host { size, types, .. }), _) => (*size, *types),
            _ => (requirements.size, !0),
        };
        if size < requirements.size {
            return Err(VulkanError::TooShort { len: size as usize, need: requirements.size });
        }
        // VUID-VkMemoryDedicatedAllocateInfo-buffer-02965 and -image-02964.
        let size = if dedicated.is_some() { requirements.size } else { size };
        // VUID-VkMemoryAllocateInfo-memoryTypeIndex-00648 and -01744: an imported handle limits the
        // types, and so does what it is bound to (VUID-vkBindBufferMemory-memory-01035,
        // VUID-vkBindImageMemory-memory-01047).
        let kinds = device.memory();
        let index = memory_types::choose(kinds, requirements.memory_type_bits & types, wishes)
            .ok_or_else(|| VulkanError::Unavailable(no_type(device)))?;
        let kind = kinds.memory_types[index as usize];
        let out_of_memory =
            || VulkanError::OutOfMemory { asked: size, free: device.free(kind.heap_index) };
        let imported = matches!(origin, Some(Origin::DmaBuf(_) | Origin::Host { .. }));
        // VUID-vkAllocateMemory-pAllocateInfo-01713.
        if !imported && size > kinds.memory_heaps[kind.heap_index as usize].size {
            return Err(out_of_memory());
        }
        if !imported && device.info().shares_system_memory {
            iomap::is_available(usize::try_from(size).unwrap_or(usize::MAX))?;
        }

        let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(Handle::DMA_BUF_EXT);
        let mut fd = import.as_ref().map(Import::info);
        let (mut pages, mut alone);
        let mut info =
            vk::MemoryAllocateInfo::default().allocation_size(size).memory_type_index(index);
        if let Some(dedicated) = dedicated {
            alone = dedicated;
            info = info.push_next(&mut alone);
        }
        if let Some(fd) = &mut fd {
            info = info.push_next(fd);
        }
        match origin {
            Some(Origin::Export) => info = info.push_next(&mut export),
            Some(Origin::Host { pages: import, .. }) => {
                pages = import;
                info = info.push_next(&mut pages);
            }
            Some(Origin::DmaBuf(_)) | None => {}
        }
        // SAFETY: `info` and its chain are valid, and what they import is alive (law 3).
        let memory = match unsafe { device.ash().allocate_memory(&info, None) } {
            Ok(memory) => memory,
            Err(vk::Result::ERROR_OUT_OF_DEVICE_MEMORY | vk::Result::ERROR_OUT_OF_HOST_MEMORY)
                if !imported =>
            {
                return Err(out_of_memory());
            }
            Err(result) => return Err(failed("vkAllocateMemory")(result)),
        };
        if let Some(import) = import {
            import.taken();
        }
        Ok(Self { device: device.clone(), memory, flags: kind.property_flags, host: None })
    }

    /// The memory as a new dma-buf (law 4).
    pub(super) fn dma_buf(&self) -> Result<DmaBuf, VulkanError> {
        // SAFETY: laws 1 and 4.
        unsafe { memory_fd::export(self.device.memory_fd()?, self.memory) }
    }

    /// Maps the memory if the CPU can reach it.
    pub(super) fn map(&mut self) -> Result<(), VulkanError> {
        if !self.is_host_visible() {
            return Ok(());
        }
        let ash = self.device.ash();
        // SAFETY: the memory is ours, of a type that can be mapped, and not mapped yet.
        let pointer =
            unsafe { ash.map_memory(self.memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty()) }
                .map_err(failed("vkMapMemory"))?;
        let seen = Seen::new(self.flags, self.device.info().shares_system_memory);
        self.host = NonNull::new(pointer.cast()).map(|pointer| Host {
            pointer,
            seen,
            writers: Mutex::new(0),
        });
        Ok(())
    }

    /// Whether the CPU may look at the memory, so that copies into it must be made visible to it.
    pub(super) fn is_host_visible(&self) -> bool {
        self.flags.contains(Flags::HOST_VISIBLE)
    }

    /// The first `len` bytes, which are part of the memory, if it is mapped.
    pub(super) fn bytes(&self, len: usize) -> Option<BufMap<'_>> {
        self.host.as_ref().map(|host| host.map(len))
    }

    /// Who is to be told of the CPU's turns: nobody if the memory is coherent or not mapped.
    pub(super) fn turns(&self) -> Option<&dyn Turns> {
        self.host.as_ref().filter(|host| !host.seen.coherent).map(|_| self as &dyn Turns)
    }

    /// How many turns of writers are open: zero for memory that is not mapped.
    fn writers(&self) -> Option<MutexGuard<'_, usize>> {
        let host = self.host.as_ref()?;
        Some(host.writers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn whole(&self) -> vk::MappedMemoryRange<'static> {
        vk::MappedMemoryRange::default().memory(self.memory).size(vk::WHOLE_SIZE)
    }

    fn caches(&self, step: &'static str) -> impl Fn(vk::Result) -> DmaBufError {
        let device = self.device.info().name.clone();
        move |result| DmaBufError::Caches {
            step,
            device: device.clone(),
            source: io::Error::other(result),
        }
    }
}

impl Turns for Allocation {
    /// What the CPU has cached is discarded, for a writer too: the last line that he writes may hold
    /// older bytes beside his own, and goes back whole. Not while somebody writes, whose bytes it
    /// would discard: turns that overlap see the memory as the first of them found it.
    fn begin(&self, intent: Intent) -> Result<(), DmaBufError> {
        let Some(mut writers) = self.writers() else { return Ok(()) };
        if *writers == 0 {
            // SAFETY: the memory is ours and mapped as a whole (law 2).
            unsafe { self.device.ash().invalidate_mapped_memory_ranges(&[self.whole()]) }
                .map_err(self.caches("vkInvalidateMappedMemoryRanges"))?;
        }
        if intent != Intent::Read {
            *writers += 1;
        }
        Ok(())
    }

    fn end(&self, intent: Intent) -> Result<(), DmaBufError> {
        let Some(mut writers) = self.writers() else { return Ok(()) };
        if intent == Intent::Read {
            return Ok(());
        }
        *writers -= 1;
        // SAFETY: as above.
        unsafe { self.device.ash().flush_mapped_memory_ranges(&[self.whole()]) }
            .map_err(self.caches("vkFlushMappedMemoryRanges"))
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: law 1; freeing memory unmaps it.
        unsafe { self.device.ash().free_memory(self.memory, None) };
    }
}

/// Mapped memory of a device.
#[derive(Debug)]
struct Host {
    pointer: NonNull<u8>,
    seen: Seen,
    /// How many turns of the CPU's that write are open.
    writers: Mutex<usize>,
}

// SAFETY: the pointer is only ever handed out as a `BufMap`, whose accesses are volatile and may
// race (iomap's laws); the mapping belongs to no thread.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

impl Host {
    fn map(&self, len: usize) -> BufMap<'_> {
        let Seen { location, caching, .. } = self.seen;
        // SAFETY: law 2: mapped over the whole memory, of which `len` bytes are a part, until the
        // allocation that owns `self` is dropped; made by the driver, outside Rust.
        unsafe {
            BufMap::from_raw(self.pointer.as_ptr(), len, location, caching, Access::ReadWrite)
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
    use std::sync::Arc;

    use super::super::buffer::{Behind, Buffer};
    use super::super::validation::ValidationLog;
    use super::*;
    use crate::dmabuf::Bytes;

    fn allocation(buffer: &mut Buffer) -> &mut Allocation {
        match &mut buffer.behind {
            Behind::Own(raw) => &mut raw.memory,
            Behind::Lent(_) => panic!("it was allocated"),
        }
    }

    /// A buffer on the driver that is installed here, whose memory is taken for what is not coherent.
    /// The calls are legal on memory of any type.
    fn incoherent() -> Option<(Buffer, ValidationLog)> {
        let device = match Device::open_validated(None) {
            Ok(device) => device,
            Err(why) => {
                println!("SKIPPED: needs Vulkan and its validation layer: {why}");
                return None;
            }
        };
        let log = device.validation().cloned().expect("it was asked for");
        let mut buffer = device.allocate(10_000, false).expect("10 kB");
        let Some(host) = &mut allocation(&mut buffer).host else {
            println!(
                "SKIPPED: needs a device whose first memory the CPU reaches, such as lavapipe"
            );
            return None;
        };
        host.seen.coherent = false;
        Some((buffer, log))
    }

    #[test]
    fn a_turn_with_memory_that_is_not_coherent_is_valid() {
        let Some((buffer, log)) = incoherent() else { return };
        assert!(buffer.cpu().is_none(), "bytes without a turn");
        let turn = buffer.begin_cpu_access(Intent::Write).expect("a turn");
        turn.map().fill(7).expect("in bounds");
        turn.finish().expect("a flush");
        let turn = buffer.begin_cpu_access(Intent::Read).expect("a turn");
        assert!(turn.map().write(0, 1u8).is_err(), "a reader writes");
        assert_eq!(turn.map().read::<u8>(9_999).expect("in bounds"), 7);
        drop(turn);

        let (device, buffer) = (buffer.device().clone(), Arc::new(buffer));
        let mut seen = vec![0; 10_000];
        device.transfer().and_then(|mut t| t.read_back(&buffer, 0, &mut seen)).expect("a copy");
        assert!(seen.iter().all(|&byte| byte == 7), "the device sees other bytes");
        drop((device, buffer));
        assert_eq!(log.errors(), Vec::<String>::new());
    }

    /// The layer, which sees that nothing is mapped, complains of each call: so they are counted.
    #[test]
    fn a_turn_invalidates_first_and_flushes_what_was_written() {
        let Some((mut buffer, log)) = incoherent() else { return };
        let memory = allocation(&mut buffer).memory;
        // SAFETY: mapped once; nothing touches the bytes from here on.
        unsafe { buffer.device().ash().unmap_memory(memory) };
        let said = |invalidates: usize, flushes: usize| {
            let errors = log.errors();
            let of = |call: &str| errors.iter().filter(|error| error.contains(call)).count();
            let calls = ["vkInvalidateMappedMemoryRanges", "vkFlushMappedMemoryRanges"].map(of);
            assert_eq!(calls, [invalidates, flushes], "{errors:#?}");
        };
        let begin = |buffer: &Buffer, intent| {
            buffer.turns().map(|turns| turns.begin(intent).expect("no error of the driver's"))
        };
        let end = |buffer: &Buffer, intent| {
            buffer.turns().map(|turns| turns.end(intent).expect("no error of the driver's"))
        };
        begin(&buffer, Intent::Read);
        said(1, 0);
        end(&buffer, Intent::Read);
        said(1, 0);
        begin(&buffer, Intent::Write);
        said(2, 0);
        // What the first writes would be discarded by an invalidate.
        begin(&buffer, Intent::Read);
        begin(&buffer, Intent::ReadWrite);
        end(&buffer, Intent::Read);
        said(2, 0);
        end(&buffer, Intent::Write);
        said(2, 1);
        begin(&buffer, Intent::Read);
        said(2, 1);
        end(&buffer, Intent::ReadWrite);
        said(2, 2);
        begin(&buffer, Intent::Read);
        said(3, 2);

        let host = allocation(&mut buffer).host.as_mut().expect("it was mapped");
        host.seen.coherent = true;
        assert!(buffer.turns().is_none(), "coherent memory needs no turns");
        let turn = buffer.begin_cpu_access(Intent::Write).expect("no call");
        turn.finish().expect("no call");
        said(3, 2);
    }
}
