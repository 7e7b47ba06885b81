//! wgpu's queue as one that fills buffers and textures of a program's own device, out of slots.
//!
//! A slot is pages of this process, into which a drive reads past the page cache whatever the backend. From there the CPU
//! copies them into staging memory of wgpu's (`Queue::write_buffer`, `Queue::write_texture`), which pads rows as the
//! backend wants them, and the device to where they belong. A buffer of wgpu's that is mapped for writing would save
//! nothing: the kernel cannot read past the page cache into what most drivers map, so that the CPU copies there too,
//! and wgpu frees such memory under whoever fills it when the device is lost.

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use iomap::{BufMap, Memory, PageSize};

use super::caught::caught;
use super::error::{WgpuError, lacks};
use super::target::{BufferRange, OwnDevice, Target, TextureLevel};
use crate::upload::{
    self, CopyRegion, Filled, Ticket, UploadDevice, UploadError, UploadQueue, UploadTarget,
};
use crate::vfio::Mappable;
use crate::{Absent, Destination};

/// The queue of a program's device of wgpu, with slots: fills [`BufferRange`]s and [`TextureLevel`]s.
#[derive(Debug)]
pub struct Uploads {
    owner: OwnDevice,
    free: Arc<Free>,
    slot_len: usize,
    slots: usize,
    in_flight: VecDeque<InFlight>,
    /// The number of the last copy.
    last: u64,
    /// The number of the last that is done.
    done: Arc<AtomicU64>,
}

/// The slots' memory that nobody has.
type Free = Mutex<Vec<Memory>>;

/// A copy that wgpu has, and the slots that are free again when it is done: what wgpu holds of staging memory is no more
/// than the slots are.
#[derive(Debug)]
struct InFlight {
    number: u64,
    submission: wgpu::SubmissionIndex,
    _slots: Vec<Slot>,
}

/// Pages of this process, which are there until it is dropped.
#[derive(Debug)]
struct Slot {
    memory: Option<Memory>,
    free: Arc<Free>,
}

impl upload::Slot for Slot {
    fn map(&self) -> BufMap<'_> {
        self.memory.as_ref().map_or(BufMap::null(), Memory::map)
    }

    fn pages(&self) -> Result<(), Absent> {
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.extend(self.memory.take());
    }
}

impl OwnDevice {
    /// A queue with `slots` slots of `len` bytes, rounded up to whole pages; of either one at least.
    ///
    /// # Errors
    /// [`WgpuError::Unavailable`] if there is not so much memory.
    pub fn uploads(&self, slots: usize, len: usize) -> Result<Uploads, WgpuError> {
        let slots = slots.max(1);
        let memory = |_| Memory::anonymous(len.max(1), PageSize::Base);
        let free = (0..slots).map(memory).collect::<Result<Vec<_>, _>>();
        let free = free.map_err(|error| lacks(error.to_string(), "take fewer or shorter slots"))?;
        Ok(Uploads {
            owner: self.clone(),
            slot_len: free.first().map_or(0, Memory::len),
            free: Arc::new(Mutex::new(free)),
            slots,
            in_flight: VecDeque::new(),
            last: 0,
            done: Arc::new(AtomicU64::new(0)),
        })
    }
}

impl Uploads {
    fn failed(&self) -> impl Fn(WgpuError) -> UploadError + use<> {
        let name = self.owner.name();
        move |error| UploadError::new(&name, error)
    }

    /// Submits what was written out of slots.
    fn submit(&mut self, slots: Vec<Slot>) -> Ticket {
        self.last += 1;
        let (number, done) = (self.last, self.done.clone());
        let submission = self.owner.queue().submit([]);
        self.owner.queue().on_submitted_work_done(move || {
            done.fetch_max(number, Ordering::AcqRel);
        });
        self.in_flight.push_back(InFlight { number, submission, _slots: slots });
        Ticket(number)
    }

    /// Has wgpu see what is done, and frees the slots of that.
    fn poll(&mut self, how: wgpu::PollType) -> Result<u64, UploadError> {
        let polled = self.owner.device().poll(how);
        polled.map_err(|error| UploadError::new(&self.owner.name(), error))?;
        let done = self.done.load(Ordering::Acquire);
        while self.in_flight.front().is_some_and(|oldest| oldest.number <= done) {
            self.in_flight.pop_front();
        }
        Ok(done)
    }

    /// A slot that nobody has.
    fn take(&self) -> Option<Box<dyn upload::Slot>> {
        let memory = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let slot = memory.map(|memory| Slot { memory: Some(memory), free: self.free.clone() });
        slot.map(|slot| Box::new(slot) as Box<dyn upload::Slot>)
    }

    /// The slot, if it is one of these.
    fn ours(&self, slot: Box<dyn upload::Slot>) -> Option<Slot> {
        let slot = (slot as Box<dyn Any>).downcast::<Slot>().ok()?;
        Arc::ptr_eq(&slot.free, &self.free).then_some(*slot)
    }

    fn copy_from(
        &self,
        slot: &mut Slot,
        target: Target<'_>,
        regions: &[CopyRegion],
    ) -> Result<(), WgpuError> {
        let bytes: &[u8] = match slot.memory.as_mut().map(Memory::as_mut_slice) {
            Some(bytes) => bytes.map_err(|error| lacks(error.to_string(), "take another slot"))?,
            None => &[],
        };
        let write = || self.write(bytes, target, regions);
        caught(self.owner.device(), "writing into a buffer or a texture", write)?
    }

    fn write(
        &self,
        bytes: &[u8],
        target: Target<'_>,
        regions: &[CopyRegion],
    ) -> Result<(), WgpuError> {
        for &CopyRegion { src_offset, dst_offset, len } in regions {
            let of = bytes.len();
            let source = src_offset.checked_add(len).and_then(|end| bytes.get(src_offset..end));
            let outside = WgpuError::Cut { offset: src_offset, len, granule: 1, of };
            let source = source.ok_or(outside)?;
            match target {
                Target::Buffer(range) => write_buffer(&self.owner, range, dst_offset, source)?,
                Target::Level(level) => write_level(&self.owner, level, dst_offset, source)?,
            }
        }
        Ok(())
    }
}

fn write_buffer(
    owner: &OwnDevice,
    range: &BufferRange,
    offset: usize,
    bytes: &[u8],
) -> Result<(), WgpuError> {
    let (len, of, granule) = (bytes.len(), range.bytes(), GRANULE);
    let inside = offset <= of && len <= of - offset;
    if !inside || !offset.is_multiple_of(granule) || !len.is_multiple_of(granule) {
        return Err(WgpuError::Cut { offset, len, granule, of });
    }
    if len > 0 {
        owner.queue().write_buffer(&range.buffer, range.start + offset as u64, bytes);
    }
    Ok(())
}

fn write_level(
    owner: &OwnDevice,
    level: &TextureLevel,
    offset: usize,
    bytes: &[u8],
) -> Result<(), WgpuError> {
    for part in level.parts(offset, bytes.len())? {
        let (origin, extent) = level.texels(&part);
        let (len, row) = level.lens(&part);
        let texture = wgpu::TexelCopyTextureInfo {
            texture: &level.texture,
            mip_level: level.level,
            origin,
            aspect: wgpu::TextureAspect::All,
        };
        let layout = wgpu::TexelCopyBufferLayout {
            offset: 0,
            bytes_per_row: Some(row),
            rows_per_image: Some(part.size[1]),
        };
        let start = part.at - offset;
        owner.queue().write_texture(texture, &bytes[start..start + len], layout, extent);
    }
    Ok(())
}

/// The bytes that belong together in a buffer.
const GRANULE: usize = wgpu::COPY_BUFFER_ALIGNMENT as usize;

impl UploadDevice for OwnDevice {
    fn owns(&self, target: &dyn UploadTarget) -> bool {
        Target::of(target, self).is_some()
    }

    fn open(&self, slots: usize, len: usize) -> Result<Box<dyn UploadQueue>, UploadError> {
        let uploads = self.uploads(slots, len);
        Ok(Box::new(uploads.map_err(|error| UploadError::new(&self.name(), error))?))
    }
}

impl UploadQueue for Uploads {
    fn slot_len(&self) -> usize {
        self.slot_len
    }

    fn slot(&mut self) -> Result<Option<Box<dyn upload::Slot>>, UploadError> {
        if let Some(slot) = self.take() {
            return Ok(Some(slot));
        }
        self.poll(wgpu::PollType::Poll)?;
        Ok(self.take())
    }

    fn wait_for_slot(&mut self) -> Result<Box<dyn upload::Slot>, UploadError> {
        if let Some(slot) = self.slot()? {
            return Ok(slot);
        }
        let oldest = self.in_flight.front().map(|oldest| Ticket(oldest.number));
        self.wait(oldest.ok_or(UploadError::AllTaken { slots: self.slots })?)?;
        self.slot()?.ok_or(UploadError::AllTaken { slots: self.slots })
    }

    fn copy_together(
        &mut self,
        filled: Vec<Filled>,
        target: &dyn UploadTarget,
    ) -> Result<Ticket, UploadError> {
        let target = Target::of(target, &self.owner).ok_or(UploadError::OtherQueue)?;
        let mut slots = Vec::with_capacity(filled.len());
        for Filled { slot, regions } in filled {
            let mut slot = self.ours(slot).ok_or(UploadError::OtherQueue)?;
            self.copy_from(&mut slot, target, &regions).map_err(self.failed())?;
            slots.push(slot);
        }
        Ok(self.submit(slots))
    }

    /// wgpu knows itself in which state its resources are.
    fn finish(&mut self, target: &dyn UploadTarget) -> Result<Ticket, UploadError> {
        match self.owner.owns(target) {
            true => Ok(Ticket(self.last)),
            false => Err(UploadError::OtherQueue),
        }
    }

    fn is_done(&mut self, ticket: Ticket) -> Result<bool, UploadError> {
        Ok(self.poll(wgpu::PollType::Poll)? >= ticket.0)
    }

    fn wait(&mut self, ticket: Ticket) -> Result<(), UploadError> {
        let mut in_flight = self.in_flight.iter();
        let Some(last) = in_flight.rfind(|copy| copy.number <= ticket.0) else { return Ok(()) };
        let submission_index = Some(last.submission.clone());
        let done = self.poll(wgpu::PollType::Wait { submission_index, timeout: None })?;
        if done >= ticket.0 {
            return Ok(());
        }
        Err(self.failed()(WgpuError::Wgpu {
            doing: "waiting for the copies",
            why: "they are not done; the device may be lost".to_owned(),
        }))
    }

    fn sync_file(&mut self) -> Result<Option<OwnedFd>, UploadError> {
        Err(self.failed()(lacks(
            "wgpu gives no fence of its work away",
            "wait for the ticket, or submit to the same queue, which keeps the order",
        )))
    }

    fn copies_by_device(&self) -> Result<(), Absent> {
        Err(Absent::new(
            "wgpu has no staging memory that a drive can be given, so the CPU copies each byte into it",
            "take the Vulkan device beneath (vulkan::Device::adopt), which imports pages",
        ))
    }

    fn step_downs(&self) -> Vec<Absent> {
        self.copies_by_device().err().into_iter().collect()
    }
}

impl UploadTarget for BufferRange {
    fn len(&self) -> usize {
        self.bytes()
    }

    fn granule(&self) -> usize {
        GRANULE
    }

    fn owner(&self) -> Box<dyn UploadDevice> {
        Box::new(self.owner.clone())
    }
}

impl UploadTarget for TextureLevel {
    fn len(&self) -> usize {
        self.bytes()
    }

    fn granule(&self) -> usize {
        self.block()
    }

    fn owner(&self) -> Box<dyn UploadDevice> {
        Box::new(self.owner.clone())
    }
}

/// Neither the CPU nor a drive reaches what wgpu keeps to itself: its queue fills it.
macro_rules! filled_by_its_queue {
    ($($target:ty),*) => {$(
        impl Destination for $target {
            fn len(&self) -> usize {
                self.bytes()
            }

            fn cpu_map(&self) -> Result<BufMap<'_>, Absent> {
                Err(of_wgpu())
            }

            fn pages(&self) -> Result<(), Absent> {
                Err(of_wgpu())
            }

            fn steady(&self) -> Result<&dyn Mappable, Absent> {
                Err(of_wgpu())
            }

            fn upload(&self) -> Result<&dyn UploadTarget, Absent> {
                Ok(self)
            }

            fn holder(&self) -> String {
                self.owner.name()
            }
        }
    )*};
}

filled_by_its_queue!(BufferRange, TextureLevel);

fn of_wgpu() -> Absent {
    Absent::new(
        "wgpu keeps the memory to itself",
        "have its queue copy into it (Destination::upload)",
    )
}
