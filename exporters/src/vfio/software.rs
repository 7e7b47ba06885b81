//! A device of software: for tests and fuzzers of drivers, which no real device obliges by
//! misbehaving as they need it.
//!
//! A driver cannot tell it from a device that the kernel gave. Its registers are a file in memory,
//! which the driver maps; its transfers go through an IOMMU of software, which knows what is mapped
//! at the time and refuses everything else. It does its work on the driver's own thread, whenever the
//! driver waits ([`Device::rest`]), so that a run is the same each time.
//!
//! # Safety
//!
//! The law of this module: memory in the table of mappings is mapped in this process, because a
//! [`DmaMapping`](super::DmaMapping) takes it out before it lets go of the memory, and nobody
//! reaches it but under the table's lock.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iomap::{Access, BufMap, Caching, Location};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
};

use super::container::Container;
use super::device::Device;
use super::error::VfioError;
use super::function::{Function, Interrupt, RegionInfo};
use super::iommu::{IoSpace, Iommu};
use super::mappable::Mappable;
use super::ranges::FreeRanges;
use crate::{DmaBuf, Intent};

const PAGE: u64 = 4096;

/// Where the file has BAR 0. What comes before is configuration space.
const BAR: u64 = PAGE;

/// What a device of software does.
pub trait Model: Send {
    /// Does what it would have done since the last time.
    fn step(&mut self, wires: &Arc<Wires>);

    /// Its function was reset, as it is when it is opened.
    fn reset(&mut self, wires: &Arc<Wires>);
}

/// Opens a device of software: BAR 0 of `bar_len` bytes, in whole pages, and so many interrupts
/// (MSI-X). It is in a container of its own.
///
/// # Errors
/// [`VfioError::Kernel`], if there is no memory for it.
pub fn device(
    address: &str,
    bar_len: u64,
    interrupts: u32,
    model: Box<dyn Model>,
) -> Result<Device, VfioError> {
    let failed = |step| VfioError::kernel(step, address);
    let fd = memfd_create("device", MemfdFlags::CLOEXEC);
    let file = File::from(fd.map_err(|e| failed("memfd_create")(e.into()))?);
    let bar_len = bar_len.next_multiple_of(PAGE);
    file.set_len(BAR + bar_len).map_err(failed("ftruncate"))?;
    let wires = Wires { file, bar_len, mappings: Mutex::default(), eventfds: Mutex::default() };
    let wires = Arc::new(wires);
    let iommu = SoftwareIommu { wires, interrupts, model: Arc::new(Mutex::new(model)) };
    Arc::new(Container::of(Box::new(iommu))).open(address)
}

/// What a device reaches: its registers, memory by way of the IOMMU, interrupts.
#[derive(Debug)]
pub struct Wires {
    file: File,
    bar_len: u64,
    mappings: Mutex<BTreeMap<u64, Mapping>>,
    eventfds: Mutex<Vec<OwnedFd>>,
}

/// The device reached for memory that is not mapped for it, or not for that. Nothing was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IommuFault;

impl Wires {
    /// A register of BAR 0. Past its end all bits are set.
    pub fn register(&self, offset: u64) -> u32 {
        let mut bytes = [0xff; 4];
        if offset.saturating_add(4) <= self.bar_len {
            let _ = self.file.read_exact_at(&mut bytes, BAR + offset);
        }
        u32::from_le_bytes(bytes)
    }

    /// Sets a register of BAR 0, if it has it.
    pub fn set_register(&self, offset: u64, value: u32) {
        if offset.saturating_add(4) <= self.bar_len {
            let _ = self.file.write_all_at(&value.to_le_bytes(), BAR + offset);
        }
    }

    /// Whether the driver lets it begin transfers.
    pub fn is_bus_master(&self) -> bool {
        let mut command = [0; 2];
        let read = self.file.read_exact_at(&mut command, super::device::COMMAND);
        read.is_ok() && u16::from_le_bytes(command) & super::device::BUS_MASTER != 0
    }

    /// Reads memory by DMA.
    ///
    /// # Errors
    /// [`IommuFault`].
    pub fn dma_read(&self, iova: u64, out: &mut [u8]) -> Result<(), IommuFault> {
        self.reach(iova, out.len(), Intent::Read, |map| map.copy_to_slice(0, out).is_ok())
    }

    /// Writes memory by DMA.
    ///
    /// # Errors
    /// [`IommuFault`].
    pub fn dma_write(&self, iova: u64, bytes: &[u8]) -> Result<(), IommuFault> {
        self.reach(iova, bytes.len(), Intent::Write, |map| map.copy_from_slice(0, bytes).is_ok())
    }

    /// How many bytes are mapped for it.
    pub fn mapped(&self) -> u64 {
        self.mappings().values().map(|mapping| mapping.len).sum()
    }

    /// Signals an interrupt, if the driver listens to it.
    pub fn interrupt(&self, vector: usize) {
        let eventfds = self.eventfds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(eventfd) = eventfds.get(vector) {
            let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
        }
    }

    fn reach(
        &self,
        iova: u64,
        len: usize,
        intent: Intent,
        act: impl FnOnce(&BufMap<'_>) -> bool,
    ) -> Result<(), IommuFault> {
        if !self.is_bus_master() {
            return Err(IommuFault);
        }
        let mappings = self.mappings();
        let (start, mapping) = mappings.range(..=iova).next_back().ok_or(IommuFault)?;
        let map = mapping.part(iova - start, len, intent).ok_or(IommuFault)?;
        if act(&map) { Ok(()) } else { Err(IommuFault) }
    }

    fn mappings(&self) -> MutexGuard<'_, BTreeMap<u64, Mapping>> {
        self.mappings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory of this process that the device may reach.
#[derive(Debug)]
struct Mapping {
    addr: *mut u8,
    len: u64,
    intent: Intent,
}

// SAFETY: the module's law: the memory is reached under the table's lock only.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Some of it, if it is inside and may be reached so.
    fn part(&self, offset: u64, len: usize, intent: Intent) -> Option<BufMap<'_>> {
        let allowed = self.intent == Intent::ReadWrite || self.intent == intent;
        let end = offset.checked_add(len as u64)?;
        if !allowed || end > self.len {
            return None;
        }
        // SAFETY: the module's law; the lifetime is that of the table's lock, and memory that is mapped
        // for a device lies outside every Rust allocation.
        let whole = unsafe {
            BufMap::from_raw(
                self.addr,
                self.len as usize,
                Location::System,
                Caching::WriteBack,
                Access::ReadWrite,
            )
        };
        whole.subrange(offset as usize..end as usize).ok()
    }
}

/// The IOMMU, which has one device behind it.
struct SoftwareIommu {
    wires: Arc<Wires>,
    interrupts: u32,
    model: Arc<Mutex<Box<dyn Model>>>,
}

impl fmt::Debug for SoftwareIommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftwareIommu").field("wires", &self.wires).finish_non_exhaustive()
    }
}

impl Iommu for SoftwareIommu {
    fn name(&self) -> &'static str {
        "software"
    }

    fn open(&self, address: &str) -> Result<Box<dyn Function>, VfioError> {
        let software = Software {
            wires: Arc::clone(&self.wires),
            interrupts: self.interrupts,
            model: Arc::clone(&self.model),
        };
        software.reset().map_err(VfioError::kernel("reset", address))?;
        Ok(Box::new(software))
    }

    fn space(&self) -> Result<IoSpace, VfioError> {
        let mut free = FreeRanges::default();
        free.add(PAGE..1 << 39);
        Ok(IoSpace { free, page: PAGE })
    }

    unsafe fn map(
        &self,
        memory: &dyn Mappable,
        iova: u64,
        len: u64,
        intent: Intent,
    ) -> Result<(), String> {
        let mapping = Mapping { addr: memory.map().as_ptr(), len, intent };
        self.wires.mappings().insert(iova, mapping);
        Ok(())
    }

    fn map_dma_buf(&self, _: &DmaBuf, _: u64, _: u64, _: Intent) -> Result<(), String> {
        Err("a device of software takes no dma-buf; map memory of this process".into())
    }

    fn unmap(&self, iova: u64, _: u64) -> io::Result<()> {
        let unmapped = self.wires.mappings().remove(&iova);
        unmapped.map(drop).ok_or_else(|| Errno::NOENT.into())
    }
}

/// The device.
struct Software {
    wires: Arc<Wires>,
    interrupts: u32,
    model: Arc<Mutex<Box<dyn Model>>>,
}

impl fmt::Debug for Software {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Software").field("wires", &self.wires).finish_non_exhaustive()
    }
}

impl Software {
    fn model(&self) -> MutexGuard<'_, Box<dyn Model>> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Function for Software {
    fn file(&self) -> &File {
        &self.wires.file
    }

    fn region(&self, index: u32) -> io::Result<RegionInfo> {
        let flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
        match index {
            0 => Ok(RegionInfo {
                flags: flags | VFIO_REGION_INFO_FLAG_MMAP,
                offset: BAR,
                len: self.wires.bar_len,
            }),
            VFIO_PCI_CONFIG_REGION_INDEX => Ok(RegionInfo { flags, offset: 0, len: PAGE }),
            _ => Err(Errno::INVAL.into()),
        }
    }

    fn reset(&self) -> io::Result<()> {
        self.model().reset(&self.wires);
        Ok(())
    }

    fn interrupts(&self, kind: Interrupt) -> io::Result<u32> {
        Ok(if kind == Interrupt::MsiX { self.interrupts } else { 0 })
    }

    fn listen(&self, kind: Interrupt, eventfds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if kind != Interrupt::MsiX {
            return Err(Errno::INVAL.into());
        }
        let owned =
            eventfds.iter().map(BorrowedFd::try_clone_to_owned).collect::<Result<_, _>>()?;
        *self.wires.eventfds.lock().unwrap_or_else(PoisonError::into_inner) = owned;
        Ok(())
    }

    /// No time passes: the device works at once.
    fn rest(&self, _: Duration) {
        self.model().step(&self.wires);
    }
}
