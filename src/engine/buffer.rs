//! A buffer that a loader fills.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use exporters::dmabuf::{CpuAccess, DmaBufError};
use exporters::upload::UploadTarget;
use exporters::{Destination, Intent};
use iomap::BufMap;

use super::changes;
use super::file::{File, Remembered};
use crate::check::map_of;
use crate::plan::Place;
use crate::plan::asked;
use crate::plan::cut::Batch;
use crate::plan::peer::Pairs;
use crate::transfer::TransferError;

/// A buffer that a [`Loader`](super::Loader) fills, and what it found out about it once. Clones are the same buffer.
///
/// While a clone, or a request into the buffer, is left, the [`Destination`] is kept. A request has given it back when
/// its outcome is known.
#[derive(Clone, Debug)]
pub struct Buffer(Arc<Known>);

#[derive(Debug)]
struct Known {
    destination: Arc<dyn Destination>,
    facts: asked::Buffer,
    /// Whether some of its pages were only promised when it was first seen.
    is_new: bool,
    /// Whether its caches must be told of each access of the CPU.
    is_told: bool,
    /// Taken for such an access: the beginning of one may discard what another has written and not ended.
    access: Mutex<()>,
    /// For a buffer that is a device's own memory: what is known of the drives below files.
    verdicts: Mutex<Vec<Verdict>>,
}

/// Whether the drive below a file may write into the buffer, or why not.
#[derive(Debug)]
struct Verdict {
    file: Remembered,
    may_write: Result<(), String>,
    found: Instant,
    /// What the kernel had told by then.
    epoch: u64,
}

impl Verdict {
    /// How long a refusal is believed: its cause may be gone then, and not all causes are such that the kernel tells (no memory
    /// for a proof, a descriptor too many).
    const REFUSED: Duration = Duration::from_secs(10);

    /// Whether it is of a file and still believed in an epoch.
    fn is_of(&self, file: &File, epoch: u64) -> bool {
        let is_recent = self.may_write.is_ok() || self.found.elapsed() < Self::REFUSED;
        self.file.is(file) && self.epoch == epoch && is_recent
    }
}

impl Buffer {
    /// A destination to be filled by loaders.
    ///
    /// # Errors
    /// [`TransferError::Unreachable`] if neither the CPU nor a GPU reaches it; [`TransferError::Memory`] if the kernel does not
    /// tell which of its pages are present; [`TransferError::Access`] if it cannot be accessed.
    pub fn new(destination: Arc<dyn Destination>) -> Result<Self, TransferError> {
        let facts = asked::Buffer::of(&*destination)?;
        let is_told = destination.access(Intent::Read)?.is_some();
        let is_new = destination.promised()? > 0;
        let (access, verdicts) = (Mutex::default(), Mutex::default());
        Ok(Self(Arc::new(Known { destination, facts, is_new, is_told, access, verdicts })))
    }

    /// The length in bytes.
    pub fn len(&self) -> u64 {
        self.0.facts.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it is a buffer of.
    pub fn destination(&self) -> &Arc<dyn Destination> {
        &self.0.destination
    }

    pub(super) fn facts(&self) -> &asked::Buffer {
        &self.0.facts
    }

    /// Whether it is a device's own memory, into which drives may write.
    pub(super) fn is_peer(&self) -> bool {
        matches!(self.0.facts.place, Place::Peer | Place::Bar)
    }

    /// Whether the drive below a file may write into it, or why not. It is found out, and proved by some of `reads`, when
    /// it is first asked for the two, and again when the kernel has told of a change.
    pub(super) fn may_be_written_from(&self, file: &File, reads: &Batch) -> Result<(), String> {
        let mut verdicts = self.0.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked for first: what changes from here on makes the verdict an old one.
        let epoch = changes::epoch();
        if let Some(known) = verdicts.iter().find(|verdict| verdict.is_of(file, epoch)) {
            return known.may_write.clone();
        }
        let Some(mut pairs) = Pairs::of(&*self.0.destination) else { return Ok(()) };
        let may_write = pairs.may_write(file.source(), reads);
        verdicts.retain(|verdict| verdict.file.get().is_some_and(|other| !other.is(file)));
        let (file, found) = (file.downgrade(), Instant::now());
        verdicts.push(Verdict { file, may_write: may_write.clone(), found, epoch });
        may_write
    }

    /// Whether a part of it has pages still to be made ready.
    pub(super) fn lacks_pages(&self, part: Range<u64>) -> bool {
        let range = part.start as usize..part.end as usize;
        let absent = || self.map().subrange(range).ok()?.absent().ok();
        self.0.is_new && absent().is_some_and(|absent| absent > 0)
    }

    /// Whether its caches must be told of each access of the CPU, so that each read is a worker's, inside an
    /// [`access`](Self::access).
    pub(super) fn is_told(&self) -> bool {
        self.0.is_told
    }

    /// Begins an access of the CPU, after those of others. Costs nothing for memory that need not be told.
    pub(super) fn access(&self) -> Result<Access<'_>, DmaBufError> {
        if !self.0.is_told {
            return Ok(Access { told: None, _alone: None });
        }
        let alone = self.0.access.lock().unwrap_or_else(PoisonError::into_inner);
        let told = self.0.destination.access(Intent::ReadWrite)?;
        Ok(Access { told, _alone: Some(alone) })
    }

    /// What a device's queue has to copy into, if no drive and no CPU reaches it.
    pub(super) fn upload(&self) -> Option<&dyn UploadTarget> {
        match self.0.facts.place {
            Place::Gpu => self.0.destination.upload().ok(),
            _ => None,
        }
    }

    /// Whether both are one.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn map(&self) -> BufMap<'_> {
        map_of(&*self.0.destination)
    }
}

/// An access of the CPU to a buffer, which ends when this is dropped.
#[derive(Debug)]
#[must_use = "the bytes may be touched only while this lives"]
pub(super) struct Access<'a> {
    told: Option<CpuAccess<'a>>,
    /// Dropped after the access has ended.
    _alone: Option<MutexGuard<'a, ()>>,
}

impl Access<'_> {
    /// Ends it, and says whether what was written has reached the memory.
    pub(super) fn finish(self) -> Result<(), DmaBufError> {
        self.told.map_or(Ok(()), CpuAccess::finish)
    }
}
