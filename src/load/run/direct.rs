//! Filling system memory.
//!
//! Pieces that land in the buffer are read straight into it and touched by nobody. Pieces that land
//! in a slot are copied from there by the CPU: the heads and tails that a drive's alignment leaves.

use std::io;

use iomap::{BufMap, MapError};

use super::reads::{Outcome, Reads};
use super::{Event, Failure, Job, Queue, Report};
use crate::load::check::{Fingerprints, Part};
use crate::load::plan::Landing;
use crate::storage::file::SourceFile;
use crate::storage::file::ring::{Next, Work};

/// Takes jobs from a queue and fills system memory.
pub(crate) struct Direct<'m> {
    queue: &'m Queue<'m>,
    buffer: BufMap<'m>,
    slots: Vec<BufMap<'m>>,
    free: Vec<usize>,
    held: Option<&'m Job>,
    reads: Reads<'m>,
    fingerprints: Option<&'m Fingerprints<'m>>,
    report: Report<'m>,
}

impl<'m> Direct<'m> {
    /// Work that fills `buffer`. Every job that lands in a slot fits in each of `slots`, of which
    /// there is at least one if there is such a job. With `fingerprints`, bytes are fingerprinted
    /// as soon as they are there, which suits bytes that a CPU has just copied.
    pub(crate) fn new(
        queue: &'m Queue<'m>,
        files: &'m [SourceFile],
        buffer: BufMap<'m>,
        slots: Vec<BufMap<'m>>,
        fingerprints: Option<&'m Fingerprints<'m>>,
        report: Report<'m>,
    ) -> Self {
        let free = (0..slots.len()).collect();
        let reads = Reads::new(files);
        Self { queue, buffer, slots, free, held: None, reads, fingerprints, report }
    }

    fn begin(&mut self, job: &'m Job) -> Next<'m> {
        let len = job.piece.len as usize;
        let place = match job.piece.landing {
            Landing::Buffer(at) => Some((self.buffer, at as usize, None)),
            Landing::Slot(_) => self.free.pop().map(|slot| (self.slots[slot], 0, Some(slot))),
        };
        let Some((map, at, slot)) = place else {
            self.held = Some(job);
            return Next::Wait;
        };
        match map.subrange(at..at.saturating_add(len)) {
            Ok(into) => Next::Read(self.reads.start(job, slot, into)),
            Err(error) => {
                self.fail(
                    job,
                    Failure::Io { offset: job.piece.offset, source: io::Error::other(error) },
                );
                Next::Done
            }
        }
    }

    fn fingerprint(&self, job: &Job) -> Result<Option<Vec<Part>>, MapError> {
        let Some(fingerprints) = self.fingerprints else { return Ok(None) };
        let mut parts = Vec::new();
        for landed in job.landed() {
            let bytes = self.buffer.subrange(landed.start as usize..landed.end as usize)?;
            parts.extend(fingerprints.of(landed, &bytes)?);
        }
        Ok(Some(parts))
    }

    fn copy_out(&self, job: &Job, slot: Option<usize>) -> Result<(), MapError> {
        let (Some(slot), Landing::Slot(copies)) = (slot, &job.piece.landing) else {
            return Ok(());
        };
        for copy in copies {
            let (from, to) = (copy.slot_offset as usize, copy.buffer_offset as usize);
            let len = copy.len as usize;
            let src = self.slots[slot].subrange(from..from + len)?;
            self.buffer.subrange(to..to + len)?.copy_from(&src)?;
        }
        Ok(())
    }

    fn fail(&mut self, job: &'m Job, failure: Failure) {
        self.queue.stop();
        self.report.failed(Event::Failed(job, failure));
    }
}

impl<'m> Work<'m> for Direct<'m> {
    fn next(&mut self) -> Next<'m> {
        if let Some(rest) = self.reads.rest() {
            return Next::Read(rest);
        }
        match self.held.take().or_else(|| self.queue.take()) {
            Some(job) => self.begin(job),
            None => {
                self.report.flush();
                Next::Done
            }
        }
    }

    fn completed(&mut self, tag: usize, result: io::Result<usize>) {
        match self.reads.finish(tag, result) {
            Outcome::Partial => {}
            Outcome::Failed(job, slot, failure) => {
                self.free.extend(slot);
                self.fail(job, failure);
            }
            Outcome::Complete(job, slot) => {
                if let Some(slot) = slot {
                    self.free.push(slot);
                }
                match self.copy_out(job, slot).and_then(|()| self.fingerprint(job)) {
                    Ok(parts) => self.report.landed(job, parts),
                    Err(error) => {
                        let source = io::Error::other(error);
                        self.fail(job, Failure::Io { offset: job.piece.offset, source });
                    }
                }
            }
        }
    }
}
