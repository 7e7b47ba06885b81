//! Bytes that have been read, on their way to where they belong.

use iomap::BufMap;

use super::order::{Ended, Payload};
use super::shared::Taken;
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

/// The end of a request whose file could not be read.
pub(super) fn unreadable(payload: &Payload, failure: Failure, valid: Valid) -> TransferError {
    payload.file.source().failed(failure, valid)
}

/// The end of a request whose memory cannot be touched. If it reaches past its end, the plan was wrong.
pub(super) fn untouchable(
    payload: &Payload,
    job: &Job,
    fault: Fault,
    valid: Valid,
) -> TransferError {
    match fault {
        Fault::Gone => check::lost(&**payload.buffer.destination()),
        Fault::Map(error) => {
            let source = std::io::Error::other(error);
            unreadable(payload, Failure::Io { offset: job.piece.offset, source }, valid)
        }
    }
}

/// What became of a read whose bytes were touched by the CPU.
pub(super) fn touched(taken: Taken, parts: Result<Vec<Part>, Fault>) -> Option<Ended> {
    let Taken { order, payload, job, .. } = taken;
    match parts {
        Ok(parts) => order.landed(&job, payload, parts),
        Err(fault) => {
            order.failed(payload, |payload, valid| untouchable(payload, &job, fault, valid))
        }
    }
}
