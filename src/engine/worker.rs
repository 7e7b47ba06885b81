//! A worker: it reads what the kernel copies, one piece at a time, and takes fingerprints.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use iomap::{BufMap, Memory, PageSize};

use super::landing::{Unlanded, copy_out, done, fingerprint, land, stopped, without_slot};
use super::order::{Ended, Payload};
use super::outcome::{Landed, Outcome};
use super::request::Request;
use super::shared::{Shared, Taken, Task};
use super::slots::Staging;
use crate::check::{Part, Parts};
use crate::plan::job::Job;
use crate::plan::run::{Landing, Piece, SlotCopy};
use crate::storage::file::pread;
use crate::storage::work::Failure;
use crate::transfer::{DataPath, Readable, StepDown, Valid};

/// Works until the loader closes.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut slot = None;
    while let Some(task) = shared.take_task() {
        let ended = match task {
            Task::Check(taken) => {
                let parts = fingerprint(&taken.payload, &taken.job);
                done(taken, parts)
            }
            Task::Read(taken) => match taken.payload.staging.clone() {
                Some(staging) => read_to_copier(shared, taken, &staging),
                None => read(taken, &mut slot),
            },
            Task::Prepare(taken) => {
                populate(&taken);
                shared.prepared(taken);
                None
            }
        };
        shared.conclude_elsewhere(ended);
    }
}

/// Makes ready the pages that a read fills. Where the kernel does not, the read itself does.
fn populate(Taken { payload, job, .. }: &Taken) {
    for landed in job.landed() {
        let pages = payload.buffer.map().subrange(landed.start as usize..landed.end as usize);
        let _ = pages.map(|pages| pages.populate());
    }
}

/// Reads a piece to where it belongs, through a slot if it must.
fn read(mut taken: Taken, slot: &mut Option<Memory>) -> Option<Ended> {
    let mut parts = read_to_its_place(&taken.payload, &taken.job, slot);
    if let Err(Unlanded::Read(Failure::Io { offset, source })) = &parts
        && let Some((bounced, step)) = bounced(&taken, *offset, source)
    {
        taken.order.step_down(step);
        taken.job = bounced;
        parts = read_to_its_place(&taken.payload, &taken.job, slot);
    }
    done(taken, parts)
}

/// Reads a piece into a slot, which a device's queue copies out of.
fn read_to_copier(shared: &Arc<Shared>, taken: Taken, staging: &Staging) -> Option<Ended> {
    let slot = match staging.slots.wait() {
        Ok(Some(slot)) => slot,
        Ok(None) => return stopped(taken),
        Err(source) => return without_slot(taken, source),
    };
    let len = taken.job.piece.len as usize;
    let into = slot.map().subrange(..len).unwrap_or(BufMap::null());
    match read_all(&taken.payload, &taken.job, &into) {
        Ok(()) => copy_out(shared, staging.copier, taken, Arc::new(slot)),
        Err(failure) => done(taken, Err(failure)),
    }
}

/// A read that failed on its way into a peer's memory, through a slot, if another path may stand in for it.
fn bounced(taken: &Taken, offset: u64, error: &io::Error) -> Option<(Job, StepDown)> {
    let Taken { payload, job, .. } = taken;
    let Landing::Buffer(buffer_offset) = job.piece.landing else { return None };
    let may = job.path == DataPath::Peer && !payload.required;
    if !may || !payload.buffer.destination().is_present() {
        return None;
    }
    let len = job.piece.need;
    let copies = vec![SlotCopy { slot_offset: 0, buffer_offset, len }];
    let piece = Piece { landing: Landing::Slot(copies), ..job.piece.clone() };
    let why = format!("reading at offset {offset} failed in flight ({error})");
    Some((
        Job { path: DataPath::Bounce, piece },
        StepDown { path: DataPath::Peer, why, bytes: len },
    ))
}

/// Reads a piece to where it belongs, and takes the fingerprints that are asked for.
fn read_to_its_place(
    payload: &Payload,
    job: &Job,
    slot: &mut Option<Memory>,
) -> Result<Vec<Part>, Unlanded> {
    let into = match &job.piece.landing {
        Landing::Buffer(at) => {
            let range = *at as usize..(*at + job.piece.len) as usize;
            payload.buffer.map().subrange(range).map_err(io::Error::other)
        }
        Landing::Slot(_) => slot_for(slot, job.piece.len as usize),
    };
    let into = into.map_err(|source| Failure::Io { offset: job.piece.offset, source })?;
    let access = payload.buffer.access()?;
    read_all(payload, job, &into)?;
    let parts = match land(payload, job, Some(&into))? {
        None => fingerprint(payload, job)?,
        Some(parts) => parts,
    };
    access.finish()?;
    Ok(parts)
}

/// Does a request that is one read, on this thread.
pub(super) fn read_at_once(request: Request, job: &Job) -> Outcome {
    let bytes = request.bytes();
    let payload = Payload::of(request);
    let none = || Valid::none_of(bytes);
    let parts = read_to_its_place(&payload, job, &mut None)
        .map_err(|why| why.explain(&payload, job, none()))?;
    Readable::check_unchanged(payload.file.source())?;
    let mut together = Parts::default();
    together.extend(parts);
    let fingerprints = payload.check(together)?;
    let mut landed = Landed { bytes, fingerprints, ..Landed::default() };
    landed.paths.add(job.path, bytes);
    Ok(landed)
}

/// A slot of at least `len` bytes, which is kept for the next.
fn slot_for(slot: &mut Option<Memory>, len: usize) -> io::Result<BufMap<'_>> {
    if slot.as_ref().is_none_or(|memory| memory.len() < len) {
        *slot = Some(Memory::anonymous(len, PageSize::Base).map_err(io::Error::other)?);
    }
    let memory = slot.as_ref().map_or(BufMap::null(), Memory::map);
    memory.subrange(..len).map_err(io::Error::other)
}

/// Reads a piece, in as many parts as it comes in.
fn read_all(payload: &Payload, job: &Job, into: &BufMap<'_>) -> Result<(), Failure> {
    let piece = &job.piece;
    let granule = payload.file.source().alignment(job.path).offset.into();
    let never = AtomicBool::new(false);
    let descriptor = payload.file.descriptor(job.path);
    pread::read_whole(descriptor, piece.offset, into, (piece.need, granule), &never)
}
