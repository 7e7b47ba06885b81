//! Vulkan's transfer queue as one that fills whatever of its device, out of slots.

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use iomap::{BufMap, PageSize};

use super::buffer::Buffer;
use super::device::Device;
use super::error::VulkanError;
use super::handover::Holding;
use super::region::ImageRegion;
use super::staging::Staging;
use super::transfer::{self, Transfer, When};
use crate::Absent;
use crate::upload::{
    self, CopyRegion, Filled, UploadDevice, UploadError, UploadQueue, UploadTarget,
};

/// The transfer queue of a device with slots of staging memory ([`Device::staging`]): fills buffers and image regions.
#[derive(Debug)]
pub struct Uploads {
    transfer: Transfer,
    staging: Staging,
    slot_len: usize,
    slots: usize,
    free: Arc<Free>,
    /// Submitted, in order: the number, and the slots that are kept until it is done.
    copying: VecDeque<(u64, transfer::Ticket, Vec<Slot>)>,
    last: u64,
}

/// The slots that nobody has.
type Free = Mutex<Vec<usize>>;

/// A part of the staging memory, whose maps end with it.
#[derive(Debug)]
struct Slot {
    staging: Staging,
    index: usize,
    len: usize,
    free: Arc<Free>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
    }
}

impl upload::Slot for Slot {
    fn map(&self) -> BufMap<'_> {
        let all = self.staging.buffer().cpu().unwrap_or(BufMap::null());
        let start = self.index * self.len;
        all.subrange(start..start + self.len).unwrap_or(BufMap::null())
    }

    fn pages(&self) -> Result<(), Absent> {
        self.staging.pages()
    }
}

impl Device {
    /// A queue with `slots` slots of `len` bytes, rounded up to whole pages; of either one at least.
    ///
    /// # Errors
    /// [`VulkanError::Length`], [`VulkanError::OutOfMemory`], [`VulkanError::SystemMemory`]; [`VulkanError::Call`] if
    /// the device is lost.
    pub fn uploads(&self, slots: usize, len: usize) -> Result<Uploads, VulkanError> {
        let max = self.info().max_buffer;
        let (slots, too_long) = (slots.max(1), VulkanError::Length { len, max });
        let Some(slot_len) = len.max(1).checked_next_multiple_of(PageSize::Base.bytes()) else {
            return Err(too_long);
        };
        let Some(all) = slot_len.checked_mul(slots) else { return Err(too_long) };
        Ok(Uploads {
            transfer: self.transfer()?,
            staging: self.staging(all)?,
            slot_len,
            slots,
            free: Arc::new(Mutex::new((0..slots).rev().collect())),
            copying: VecDeque::new(),
            last: 0,
        })
    }
}

impl Uploads {
    /// The transfer, for copies between buffers and for what a program's timelines are to reach.
    pub fn transfer(&mut self) -> &mut Transfer {
        &mut self.transfer
    }

    fn device(&self) -> &Device {
        self.transfer.device()
    }

    fn failed(&self) -> impl Fn(VulkanError) -> UploadError + use<> {
        failed(self.device())
    }

    fn submitted(&mut self, ticket: transfer::Ticket, slots: Vec<Slot>) -> upload::Ticket {
        self.last += 1;
        self.copying.push_back((self.last, ticket, slots));
        upload::Ticket(self.last)
    }

    /// Frees the slots of what is done.
    fn retire(&mut self) -> Result<(), UploadError> {
        while let Some(&(_, ticket, _)) = self.copying.front() {
            if !self.transfer.is_done(ticket).map_err(self.failed())? {
                break;
            }
            self.copying.pop_front();
        }
        Ok(())
    }

    /// A slot that nobody has.
    fn take(&self) -> Option<Slot> {
        let index = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        let (staging, len, free) = (self.staging.clone(), self.slot_len, self.free.clone());
        Some(Slot { staging, index, len, free })
    }

    /// What of this device it is, if it is.
    fn target<'a>(&self, target: &'a dyn UploadTarget) -> Option<Target<'a>> {
        Target::of(target, self.device())
    }

    /// The slot, if it is one of these.
    fn ours(&self, slot: Box<dyn upload::Slot>) -> Option<Slot> {
        let slot = (slot as Box<dyn Any>).downcast::<Slot>().ok()?;
        Arc::ptr_eq(&slot.free, &self.free).then_some(*slot)
    }

    /// Regions of a slot, by their place in the memory of all.
    fn here<'r>(
        &self,
        slot: &Slot,
        regions: &'r [CopyRegion],
    ) -> impl Iterator<Item = Result<CopyRegion, VulkanError>> + use<'r> {
        let (start, buffer_len) = (slot.index * self.slot_len, self.slot_len);
        regions.iter().map(move |region| {
            let (offset, len) = (region.src_offset, region.len);
            if offset > buffer_len || len > buffer_len - offset {
                return Err(VulkanError::OutOfBounds { side: "slot", offset, len, buffer_len });
            }
            Ok(CopyRegion { src_offset: start + offset, ..*region })
        })
    }

    fn copy_to(
        &mut self,
        target: Target<'_>,
        regions: &[CopyRegion],
    ) -> Result<transfer::Ticket, VulkanError> {
        let from = self.staging.buffer();
        match target {
            Target::Buffer(buffer) => self.transfer.copy(from, buffer, regions),
            Target::Region(region) => {
                self.transfer.copy_to_region(from, region, regions, When::AtOnce)
            }
        }
    }
}

impl UploadQueue for Uploads {
    fn slot_len(&self) -> usize {
        self.slot_len
    }

    fn slot(&mut self) -> Result<Option<Box<dyn upload::Slot>>, UploadError> {
        let slot = match self.take() {
            None => {
                self.retire()?;
                self.take()
            }
            slot => slot,
        };
        Ok(slot.map(|slot| Box::new(slot) as Box<dyn upload::Slot>))
    }

    fn wait_for_slot(&mut self) -> Result<Box<dyn upload::Slot>, UploadError> {
        if let Some(slot) = self.slot()? {
            return Ok(slot);
        }
        let oldest = self.copying.iter().find(|(.., slots)| !slots.is_empty());
        let oldest = oldest.map(|&(number, ..)| upload::Ticket(number));
        self.wait(oldest.ok_or(UploadError::AllTaken { slots: self.slots })?)?;
        self.slot()?.ok_or(UploadError::AllTaken { slots: self.slots })
    }

    fn copy_together(
        &mut self,
        filled: Vec<Filled>,
        target: &dyn UploadTarget,
    ) -> Result<upload::Ticket, UploadError> {
        let target = self.target(target).ok_or(UploadError::OtherQueue)?;
        let (mut slots, mut here) = (Vec::with_capacity(filled.len()), Vec::new());
        for Filled { slot, regions } in filled {
            let slot = self.ours(slot).ok_or(UploadError::OtherQueue)?;
            for region in self.here(&slot, &regions) {
                here.push(region.map_err(self.failed())?);
            }
            slots.push(slot);
        }
        let ticket = self.copy_to(target, &here).map_err(self.failed())?;
        Ok(self.submitted(ticket, slots))
    }

    fn finish(&mut self, target: &dyn UploadTarget) -> Result<upload::Ticket, UploadError> {
        let ended = match self.target(target).ok_or(UploadError::OtherQueue)? {
            Target::Buffer(buffer) => self.transfer.finish(buffer),
            Target::Region(region) => self.transfer.finish_region(region),
        };
        let ticket = ended.map_err(self.failed())?;
        Ok(self.submitted(ticket, Vec::new()))
    }

    fn is_done(&mut self, ticket: upload::Ticket) -> Result<bool, UploadError> {
        self.retire()?;
        Ok(self.copying.front().is_none_or(|&(oldest, ..)| oldest > ticket.0))
    }

    fn wait(&mut self, ticket: upload::Ticket) -> Result<(), UploadError> {
        let wanted = self.copying.iter().rfind(|(number, ..)| *number <= ticket.0);
        if let Some(&(_, ticket, _)) = wanted {
            self.transfer.wait(ticket).map_err(self.failed())?;
        }
        self.retire()
    }

    fn sync_file(&mut self) -> Result<Option<OwnedFd>, UploadError> {
        self.transfer.sync_file().map_err(self.failed())
    }

    fn step_downs(&self) -> Vec<Absent> {
        let staging = self.staging.not_imported().cloned();
        let timelines = self.device().timelines().err();
        staging.into_iter().chain(timelines).collect()
    }
}

/// What of a device the queue fills.
#[derive(Clone, Copy)]
enum Target<'a> {
    Buffer(&'a Arc<Buffer>),
    Region(&'a Arc<ImageRegion>),
}

impl<'a> Target<'a> {
    /// One of these of a device, if it is one.
    fn of(target: &'a dyn UploadTarget, device: &Device) -> Option<Self> {
        let target: &dyn Any = target;
        let region = || target.downcast_ref().map(Self::Region);
        let found = target.downcast_ref().map(Self::Buffer).or_else(region)?;
        let theirs = match found {
            Self::Buffer(buffer) => buffer.device(),
            Self::Region(region) => region.device(),
        };
        (theirs == device).then_some(found)
    }
}

impl UploadDevice for Device {
    fn owns(&self, target: &dyn UploadTarget) -> bool {
        Target::of(target, self).is_some()
    }

    fn open(&self, slots: usize, len: usize) -> Result<Box<dyn UploadQueue>, UploadError> {
        Ok(Box::new(self.uploads(slots, len).map_err(failed(self))?))
    }
}

/// Any byte of a buffer may follow any other.
impl UploadTarget for Arc<Buffer> {
    fn len(&self) -> usize {
        Buffer::len(self)
    }

    fn granule(&self) -> usize {
        1
    }

    fn has_end(&self) -> bool {
        self.holding().is_some_and(Holding::has_end)
    }

    fn owner(&self) -> Box<dyn UploadDevice> {
        Box::new(self.device().clone())
    }
}

impl UploadTarget for Arc<ImageRegion> {
    fn len(&self) -> usize {
        ImageRegion::len(self)
    }

    fn granule(&self) -> usize {
        ImageRegion::granule(self)
    }

    fn has_end(&self) -> bool {
        self.holding.has_end()
    }

    fn owner(&self) -> Box<dyn UploadDevice> {
        Box::new(self.device().clone())
    }
}

fn failed(device: &Device) -> impl Fn(VulkanError) -> UploadError + use<> {
    let name = device.info().name.clone();
    move |error| UploadError::new(&name, error)
}
