//! Filling memory that the CPU can reach: the system's, or a peer's.
//!
//! Pieces that land in the buffer are read straight into it and touched by nobody. Pieces that land
//! in a slot are copied from there by the CPU: the heads and tails that a drive's alignment leaves,
//! and what a drive may not write into a peer's memory itself.

use std::io;

use iomap::BufMap;

use super::events::Report;
use super::intake::Intake;
use super::queue::Queue;
use crate::check::{Fingerprints, Part};
use crate::nofault::{self, Fault};
use crate::plan::job::Job;
use crate::plan::run::Landing;
use crate::storage::work::{Next, Work};
use crate::transfer::Source;

/// Takes jobs from a queue and fills memory.
pub(crate) struct Direct<'m, S: Source> {
    intake: Intake<'m, S>,
    buffer: BufMap<'m>,
    slots: Vec<BufMap<'m>>,
    fingerprints: Option<&'m Fingerprints<'m>>,
}

impl<'m, S: Source> Direct<'m, S> {
    /// Work that fills `buffer`. Every job that lands in a slot fits in each of `slots`, of which
    /// there is at least one if there is such a job. With `fingerprints`, bytes that a CPU has just
    /// copied are fingerprinted at once, where they are in its cache; those that a drive wrote into
    /// the buffer are left to somebody who has the time.
    pub(crate) fn new(
        queue: &'m Queue<'m>,
        files: &'m [S],
        buffer: BufMap<'m>,
        slots: Vec<BufMap<'m>>,
        fingerprints: Option<&'m Fingerprints<'m>>,
        report: Report<'m>,
    ) -> Self {
        let intake = Intake::new(queue, files, slots.len(), report);
        Self { intake, buffer, slots, fingerprints }
    }

    fn begin(&mut self, job: &'m Job) -> Next<'m, S::Handle<'m>> {
        match job.piece.landing {
            Landing::Buffer(at) => {
                self.intake.start(job, None, self.buffer.subrange(at as usize..))
            }
            Landing::Slot(_) => match self.intake.free.pop() {
                Some(slot) => self.intake.start(job, Some(slot), Ok(self.slots[slot])),
                None => self.intake.hold(job),
            },
        }
    }

    fn copy_out(&self, job: &Job, slot: Option<usize>) -> Result<(), Fault> {
        let (Some(slot), Landing::Slot(copies)) = (slot, &job.piece.landing) else {
            return Ok(());
        };
        for copy in copies {
            let (from, to) = (copy.slot_offset as usize, copy.buffer_offset as usize);
            let len = copy.len as usize;
            let src = self.slots[slot].subrange(from..from + len)?;
            nofault::copy_from(&self.buffer.subrange(to..to + len)?, &src)?;
        }
        Ok(())
    }

    fn fingerprint(&self, job: &Job, slot: Option<usize>) -> Result<Option<Vec<Part>>, Fault> {
        let Some(fingerprints) = self.fingerprints else { return Ok(None) };
        let mut parts = Vec::new();
        match (&job.piece.landing, slot) {
            (Landing::Slot(copies), Some(slot)) => {
                for copy in copies {
                    let from = copy.slot_offset as usize..(copy.slot_offset + copy.len) as usize;
                    let bytes = self.slots[slot].subrange(from)?;
                    let landed = copy.buffer_offset..copy.buffer_offset + copy.len;
                    parts.extend(fingerprints.of(landed, &bytes)?);
                }
            }
            _ if job.path.cpu_copies() => {
                for landed in job.landed() {
                    let bytes = self.buffer.subrange(landed.start as usize..landed.end as usize)?;
                    parts.extend(fingerprints.of(landed, &bytes)?);
                }
            }
            _ => return Ok(None),
        }
        Ok(Some(parts))
    }
}

impl<'m, S: Source> Work<'m> for Direct<'m, S> {
    type File = S::Handle<'m>;

    fn next(&mut self) -> Next<'m, S::Handle<'m>> {
        if let Some(rest) = self.intake.rest() {
            return rest;
        }
        match self.intake.take() {
            Some(job) => self.begin(job),
            None => Next::Done,
        }
    }

    fn completed(&mut self, tag: usize, result: io::Result<usize>) {
        let Some((job, slot)) = self.intake.finish(tag, result) else { return };
        let parts = self.copy_out(job, slot).and_then(|()| self.fingerprint(job, slot));
        self.intake.free.extend(slot);
        match parts {
            Ok(parts) => self.intake.report.landed(job, parts),
            Err(error) => self.intake.misplaced(job, error),
        }
    }
}
