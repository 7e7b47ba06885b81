//! Bytes that have been read, on their way to where they belong.

use std::io;
use std::sync::Arc;

use exporters::DmaBufError;
use iomap::BufMap;

use super::order::{Ended, Payload};
use super::shared::{Arrived, Shared, Taken};
use super::slots::Slot;
use crate::check::{self, Part};
use crate::nofault::{self, Fault};
use crate::plan::job::Job;
use crate::plan::run::Landing;
use crate::storage::work::Failure;
use crate::transfer::{Source, TransferError, Valid};

/// Copies out of the slot of a job, if it has one, and takes the fingerprints that are asked for where the bytes are
/// in the CPU's cache. Nothing, if they are still to be taken.
pub(super) fn land(
    payload: &Payload,
    job: &Job,
    slot: Option<&BufMap<'_>>,
) -> Result<Option<Vec<Part>>, Fault> {
    let (Landing::Slot(copies), Some(slot)) = (&job.piece.landing, slot) else {
        return match payload.wanted() {
            Some(_) if job.path.cpu_copies() => fingerprint(payload, job).map(Some),
            Some(_) => Ok(None),
            None => Ok(Some(Vec::new())),
        };
    };
    let buffer = payload.buffer.map();
    for copy in copies {
        let (from, to) = (copy.slot_offset as usize, copy.buffer_offset as usize);
        let len = copy.len as usize;
        let bytes = slot.subrange(from..from + len)?;
        nofault::copy_from(&buffer.subrange(to..to + len)?, &bytes)?;
    }
    fingerprint_slot(payload, job, slot).map(Some)
}

/// Takes the fingerprints of what a job put into a slot.
pub(super) fn fingerprint_slot(
    payload: &Payload,
    job: &Job,
    slot: &BufMap<'_>,
) -> Result<Vec<Part>, Fault> {
    let mut parts = Vec::new();
    let (Some(wanted), Landing::Slot(copies)) = (payload.wanted(), &job.piece.landing) else {
        return Ok(parts);
    };
    for copy in copies {
        let from = copy.slot_offset as usize..(copy.slot_offset + copy.len) as usize;
        let landed = copy.buffer_offset..copy.buffer_offset + copy.len;
        parts.extend(wanted.of(landed, &slot.subrange(from)?)?);
    }
    Ok(parts)
}

/// Takes the fingerprints of what a job put into the buffer.
pub(super) fn fingerprint(payload: &Payload, job: &Job) -> Result<Vec<Part>, Fault> {
    let mut parts = Vec::new();
    let Some(wanted) = payload.wanted() else { return Ok(parts) };
    for landed in job.landed() {
        let place = landed.start as usize..landed.end as usize;
        parts.extend(wanted.of(landed, &payload.buffer.map().subrange(place)?)?);
    }
    Ok(parts)
}

/// Why a read did not land.
#[derive(Debug)]
pub(super) enum Unlanded {
    /// The file could not be read.
    Read(Failure),
    /// The memory cannot be touched.
    Touched(Fault),
    /// The driver does not let the CPU access it, or what was written may not have reached it.
    Access(DmaBufError),
}

impl From<Failure> for Unlanded {
    fn from(failure: Failure) -> Self {
        Self::Read(failure)
    }
}

impl From<Fault> for Unlanded {
    fn from(fault: Fault) -> Self {
        Self::Touched(fault)
    }
}

impl From<DmaBufError> for Unlanded {
    fn from(error: DmaBufError) -> Self {
        Self::Access(error)
    }
}

impl Unlanded {
    /// The end of a request with such a read.
    pub(super) fn explain(self, payload: &Payload, job: &Job, valid: Valid) -> TransferError {
        match self {
            // Into memory that has gone away the kernel reads nothing (EFAULT).
            Self::Read(failure) => match check::present(&**payload.buffer.destination()) {
                Ok(()) => payload.file.source().failed(failure, valid),
                Err(lost) => lost,
            },
            Self::Touched(Fault::Gone) => check::lost(&**payload.buffer.destination()),
            // If it reaches past the end of its memory, the plan was wrong.
            Self::Touched(Fault::Map(error)) => {
                let source = io::Error::other(error);
                let failure = Failure::Io { offset: job.piece.offset, source };
                payload.file.source().failed(failure, valid)
            }
            Self::Access(error) => error.into(),
        }
    }
}

/// What became of a read: its fingerprints, or why it did not land.
pub(super) fn done(taken: Taken, parts: Result<Vec<Part>, impl Into<Unlanded>>) -> Option<Ended> {
    let Taken { order, payload, job, .. } = taken;
    match parts {
        Ok(parts) => order.landed(&job, payload, parts),
        Err(why) => {
            order.failed(payload, |payload, valid| why.into().explain(payload, &job, valid))
        }
    }
}

/// The end of a read that has to be given up, because the loader closes.
pub(super) fn stopped(Taken { order, payload, .. }: Taken) -> Option<Ended> {
    order.failed(payload, |_, valid| TransferError::Stopped { valid })
}

/// The end of a read for which no slot can be had.
pub(super) fn without_slot(
    Taken { order, payload, .. }: Taken,
    source: io::Error,
) -> Option<Ended> {
    let step = "memory for slots";
    order.failed(payload, |_, valid| TransferError::Engine { step, source, valid })
}

/// Leaves it to a copier to have its device copy a read out of its slot. Returns what has ended by it, where copiers do not
/// take more.
pub(super) fn copy_out(
    shared: &Shared,
    copier: usize,
    taken: Taken,
    slot: Arc<Slot>,
) -> Option<Ended> {
    match shared.arrive(copier, Arrived::Read(taken, slot)) {
        Err(Arrived::Read(taken, _)) => stopped(taken),
        _ => None,
    }
}
