//! Queues that copy into a device's memory, whichever device and library it is.
//!
//! What a drive cannot reach, a buffer or a texture of a GPU, is filled in two steps: bytes are put into a *slot*,
//! memory that the CPU reaches and, where that can be, the drive too; and a queue of the device copies them out to where
//! they belong. Who fills it knows no device, but four traits:
//!
//! * [`UploadTarget`]: what is filled. It says what its bytes are cut at, and of which device it is.
//! * [`UploadDevice`]: opens queues.
//! * [`UploadQueue`]: has slots, copies out of them, and tells what is done. One fills every target of its device.
//! * [`Slot`]: belongs to who fills it until it is handed in with the copy, so that no map of it lives while the device
//!   reads it.
//!
//! | queue | slots | copies |
//! |---|---|---|
//! | [`vulkan::Uploads`](crate::vulkan::Uploads) | pages that the device imported, or memory of its own | by the device, from any offset |
//! | `wgpu::Uploads` | pages of this process | by the CPU into wgpu's staging, from there by the device |
//!
//! ```no_run
//! use exporters::vulkan::Device;
//! use exporters::upload::{CopyRegion, UploadError, UploadTarget};
//!
//! /// Fills a target, slot by slot.
//! fn fill(target: &dyn UploadTarget, bytes: &[u8]) -> Result<(), UploadError> {
//!     let mut queue = target.owner().open(4, 1 << 20)?;
//!     let piece = queue.slot_len() / target.granule() * target.granule();
//!     assert!(piece > 0, "a granule is longer than a slot");
//!     for (index, piece) in bytes.chunks(piece).enumerate() {
//!         let slot = queue.wait_for_slot()?;
//!         slot.map().copy_from_slice(0, piece).expect("no longer than a slot");
//!         let dst_offset = index * piece.len();
//!         queue.copy(slot, target, &[CopyRegion { src_offset: 0, dst_offset, len: piece.len() }])?;
//!     }
//!     let done = queue.finish(target)?;
//!     queue.wait(done)
//! }
//! # let buffer = std::sync::Arc::new(Device::open(None)?.allocate(1 << 20, false)?);
//! # fill(&buffer, &[0; 1 << 20])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::os::fd::OwnedFd;

use iomap::{BufMap, Memory};

use crate::Absent;
use crate::outside::outside;

/// A part of one buffer to be copied to a part of another. Offsets and lengths are in bytes and
/// need no alignment, but for what a target's bytes are cut at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CopyRegion {
    /// Where it begins in the source.
    pub src_offset: usize,
    /// Where it begins in the destination.
    pub dst_offset: usize,
    /// How long it is. Zero copies nothing.
    pub len: usize,
}

/// Something of a device's that a queue copies into: a run of bytes.
pub trait UploadTarget: Any + fmt::Debug + Send + Sync {
    /// How many bytes fill it: of a texture, its texels as a file packs them.
    fn len(&self) -> usize;

    /// Whether no bytes fill it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that belong together: copies into it begin and end at multiples of so many, or at its end.
    fn granule(&self) -> usize;

    /// Whether [`UploadQueue::finish`] does anything: gives it another layout or to another queue family, or signals.
    fn has_end(&self) -> bool {
        false
    }

    /// Its device: another handle on it.
    fn owner(&self) -> Box<dyn UploadDevice>;
}

/// A device whose queues copy.
pub trait UploadDevice: fmt::Debug + Send + Sync {
    /// Whether this is a target of its own.
    fn owns(&self, target: &dyn UploadTarget) -> bool;

    /// A queue with `slots` slots of at least `len` bytes, one at least.
    ///
    /// # Errors
    /// [`UploadError::Device`] with the device's own: too little memory, a device that is lost.
    fn open(&self, slots: usize, len: usize) -> Result<Box<dyn UploadQueue>, UploadError>;
}

/// Memory to be filled and copied from. A slot that is dropped instead of handed in is free again.
pub trait Slot: Any + fmt::Debug + Send + Sync {
    /// All of it. It may be slow to read: of a device's own memory it is not cached.
    fn map(&self) -> BufMap<'_>;

    /// Whether the kernel's drivers may be given it: pages that the kernel pins for a read past the page cache
    /// (`O_DIRECT`). If not, each byte is read into the page cache first and copied from it by the CPU.
    ///
    /// # Errors
    /// Absent, with the reason.
    fn pages(&self) -> Result<(), Absent>;
}

/// Memory of the system's, for who needs a slot and no queue.
impl Slot for Memory {
    fn map(&self) -> BufMap<'_> {
        Self::map(self)
    }

    fn pages(&self) -> Result<(), Absent> {
        Ok(())
    }
}

/// A slot that is filled, and what is to be copied out of it.
#[derive(Debug)]
pub struct Filled {
    /// The slot.
    pub slot: Box<dyn Slot>,
    /// The parts of it, and where they go.
    pub regions: Vec<CopyRegion>,
}

/// A queue that copies from its slots into targets of its device. Copies take effect in the order in which they are
/// made.
pub trait UploadQueue: fmt::Debug + Send {
    /// How long a slot is, in bytes.
    fn slot_len(&self) -> usize;

    /// A slot that nothing is copied from, if there is one.
    ///
    /// # Errors
    /// The device's answer.
    fn slot(&mut self) -> Result<Option<Box<dyn Slot>>, UploadError>;

    /// A slot, when there is one; for who has handed in all others.
    ///
    /// # Errors
    /// The device's answer; [`UploadError::AllTaken`] if all slots are with those who fill them.
    fn wait_for_slot(&mut self) -> Result<Box<dyn Slot>, UploadError>;

    /// Copies `regions` of a slot, which is free again when that is done, or failed.
    ///
    /// # Errors
    /// [`UploadError::OtherQueue`] for a slot or a target that is not of this queue; the device's answer: a region
    /// outside, or one that divides a granule.
    fn copy(
        &mut self,
        slot: Box<dyn Slot>,
        target: &dyn UploadTarget,
        regions: &[CopyRegion],
    ) -> Result<Ticket, UploadError> {
        self.copy_together(vec![Filled { slot, regions: regions.to_vec() }], target)
    }

    /// Copies out of several slots by one submission, which costs less than one for each.
    ///
    /// # Errors
    /// As [`copy`](Self::copy): all slots are free again then.
    fn copy_together(
        &mut self,
        filled: Vec<Filled>,
        target: &dyn UploadTarget,
    ) -> Result<Ticket, UploadError>;

    /// Ends the copies into a target: it is as its user expects it then, in its layout and with its queue family, and
    /// what is to be signalled is signalled when the ticket is done.
    ///
    /// # Errors
    /// As [`copy`](Self::copy).
    fn finish(&mut self, target: &dyn UploadTarget) -> Result<Ticket, UploadError>;

    /// Whether a copy is done, without waiting.
    ///
    /// # Errors
    /// The device's answer: it is lost.
    fn is_done(&mut self, ticket: Ticket) -> Result<bool, UploadError>;

    /// Waits until a copy is done.
    ///
    /// # Errors
    /// As [`is_done`](Self::is_done).
    fn wait(&mut self, ticket: Ticket) -> Result<(), UploadError>;

    /// A sync file that is signalled when all copies so far are done; none if they are done already and the driver has
    /// no fence for that.
    ///
    /// # Errors
    /// [`UploadError::Device`], of a device without sync files with an [`Absent`].
    fn sync_file(&mut self) -> Result<Option<OwnedFd>, UploadError>;

    /// Whether the device copies out of the slots by itself. If not, the CPU copies each byte to where the device can.
    ///
    /// # Errors
    /// Absent, with the reason.
    fn copies_by_device(&self) -> Result<(), Absent> {
        Ok(())
    }

    /// Why the copies cost more than they could, one reason each: what the device was opened without.
    fn step_downs(&self) -> Vec<Absent>;
}

/// Which copy of a queue: each is numbered, and all before it are done when it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use = "the copy is done only when its ticket has been waited for"]
pub struct Ticket(pub u64);

/// Why a queue did not copy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// A slot or a target that is another queue's.
    #[error(
        "the slot is another queue's, or what is to be filled another device's; open a queue for it"
    )]
    OtherQueue,
    /// Every slot is taken and not handed in, so that none will be free.
    #[error(
        "all {slots} slots are taken and none is handed in; fill one, or open a queue with more"
    )]
    AllTaken {
        /// How many there are.
        slots: usize,
    },
    /// The device refused or failed.
    #[error("{}: {source}", outside(device))]
    Device {
        /// What the device is called.
        device: String,
        /// Its library's own error.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl UploadError {
    /// The error of a device of this name.
    pub fn new(device: &str, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Device { device: device.to_owned(), source: error.into() }
    }

    /// The library's own error, if it is of this type.
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::Device { source, .. } => source.downcast_ref(),
            _ => None,
        }
    }
}
