//! A worker: it reads what the kernel copies, one piece at a time, and takes fingerprints.

use std::io;
use std::sync::Arc;
use std::thread;

use iomap::{BufMap, Memory, PageSize};

use super::landing::{fingerprint, land, touched, unreadable};
use super::order::{Ended, Payload};
use super::shared::{Shared, Taken, Task};
use crate::plan::job::Job;
use crate::plan::run::Landing;
use crate::storage::file::patience::Patience;
use crate::storage::file::pread;
use crate::storage::work::Failure;
use crate::transfer::Readable;

/// Works until the loader closes.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut slot = None;
    while let Some(task) = shared.take_task() {
        let ended = match task {
            Task::Check(taken) => {
                let parts = fingerprint(&taken.payload, &taken.job);
                touched(taken, parts)
            }
            Task::Read(taken) => read(taken, &mut slot),
        };
        shared.conclude(ended);
    }
}

/// Reads a piece to where it belongs, through a slot if it must.
pub(super) fn read(taken: Taken, slot: &mut Option<Memory>) -> Option<Ended> {
    let Taken { payload, job, .. } = &taken;
    let into = match &job.piece.landing {
        Landing::Buffer(at) => {
            let range = *at as usize..(*at + job.piece.len) as usize;
            payload.buffer.map().subrange(range).map_err(io::Error::other)
        }
        Landing::Slot(_) => slot_for(slot, job.piece.len as usize),
    };
    let got = into.map_err(|source| Failure::Io { offset: job.piece.offset, source });
    let got = got.and_then(|into| read_all(payload, job, &into).map(|()| into));
    match got {
        Ok(into) => {
            let landed = land(payload, job, Some(&into));
            let parts = match landed {
                Ok(None) => fingerprint(payload, job),
                Ok(Some(parts)) => Ok(parts),
                Err(fault) => Err(fault),
            };
            touched(taken, parts)
        }
        Err(failure) => {
            let Taken { order, payload, .. } = taken;
            order.failed(payload, |payload, valid| unreadable(payload, failure, valid))
        }
    }
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
    let granule: u64 = payload.file.source().alignment(job.path).offset.into();
    let mut patience = Patience::default();
    let mut got = 0;
    while got < piece.need {
        let rest = into.subrange(got as usize..).unwrap_or(BufMap::null());
        match pread::read_at(payload.file.descriptor(job.path), piece.offset + got, &rest) {
            Ok(bytes) => {
                patience = Patience::default();
                got += bytes as u64;
                if got < piece.need && (bytes == 0 || !got.is_multiple_of(granule)) {
                    return Err(Failure::Ended { at: piece.offset + got });
                }
            }
            Err(source) => match patience.after(&source) {
                Some(pause) => thread::sleep(pause),
                None => return Err(Failure::Io { offset: piece.offset + got, source }),
            },
        }
    }
    Ok(())
}
