//! Filling device memory, which no drive can reach.
//!
//! A ring of slots, in pages that the GPU imports, stands between: the drive fills a slot by DMA,
//! the GPU's transfer queue copies it out to wherever it belongs, at any alignment, and the slot is
//! free again. Reads and copies overlap, and memory stays bounded by the ring.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use exporters::vulkan::{Buffer, CopyRegion, Ticket, Transfer, VulkanError};
use iomap::{BufMap, MapError};

use super::events::{Event, Report};
use super::intake::Intake;
use super::queue::Queue;
use crate::check::{Fingerprints, Part};
use crate::nofault::Fault;
use crate::plan::job::Job;
use crate::plan::run::Landing;
use crate::storage::file::{Descriptor, SourceFile};
use crate::storage::work::{Next, Work};

/// The slots, as the CPU and as the GPU see them.
pub(crate) struct Slots<'m> {
    pub(crate) map: BufMap<'m>,
    pub(crate) imported: &'m Arc<Buffer>,
    pub(crate) slot_len: usize,
}

impl<'m> Slots<'m> {
    fn count(&self) -> usize {
        self.map.len() / self.slot_len
    }

    fn slot(&self, slot: usize) -> Result<BufMap<'m>, MapError> {
        let start = slot * self.slot_len;
        self.map.subrange(start..start + self.slot_len)
    }
}

/// A copy that the GPU has not finished.
struct Copying<'m> {
    ticket: Ticket,
    slot: usize,
    job: &'m Job,
    parts: Option<Vec<Part>>,
}

/// Takes jobs from a queue and fills a device buffer.
pub(crate) struct Staged<'m> {
    intake: Intake<'m, SourceFile>,
    slots: Slots<'m>,
    copying: VecDeque<Copying<'m>>,
    transfer: Transfer,
    buffer: &'m Arc<Buffer>,
    fingerprints: Option<&'m Fingerprints<'m>>,
}

impl<'m> Staged<'m> {
    /// Work whose every job lands in a slot and fits in one.
    pub(crate) fn new(
        queue: &'m Queue<'m>,
        files: &'m [SourceFile],
        slots: Slots<'m>,
        (transfer, buffer): (Transfer, &'m Arc<Buffer>),
        fingerprints: Option<&'m Fingerprints<'m>>,
        report: Report<'m>,
    ) -> Self {
        let intake = Intake::new(queue, files, slots.count(), report);
        Self { intake, slots, copying: VecDeque::new(), transfer, buffer, fingerprints }
    }

    fn begin(&mut self, job: &'m Job) -> Next<'m, Descriptor<'m>> {
        match self.intake.free.pop() {
            Some(slot) => self.intake.start(job, Some(slot), self.slots.slot(slot)),
            None => self.intake.hold(job),
        }
    }

    /// Frees the slots that the GPU is done with; waits for the oldest copy if `wait`.
    fn reap(&mut self, mut wait: bool) -> Result<(), VulkanError> {
        while let Some(Copying { ticket, .. }) = self.copying.front() {
            if wait {
                self.transfer.wait(*ticket)?;
                wait = false;
            } else if !self.transfer.is_done(*ticket)? {
                break;
            }
            if let Some(done) = self.copying.pop_front() {
                self.intake.free.push(done.slot);
                self.intake.report.landed(done.job, done.parts);
            }
        }
        Ok(())
    }

    /// [`reap`](Self::reap), the GPU's failure ending the work. Returns whether it went well.
    fn reaped(&mut self, wait: bool) -> bool {
        let Err(error) = self.reap(wait) else { return true };
        self.copying.clear();
        self.intake.fail(Event::Gpu(error));
        false
    }

    /// Fingerprints what a slot holds for a job.
    fn fingerprint(&self, job: &Job, slot: usize) -> Result<Option<Vec<Part>>, Fault> {
        let (Some(prints), Landing::Slot(copies)) = (self.fingerprints, &job.piece.landing) else {
            return Ok(None);
        };
        let map = self.slots.slot(slot)?;
        let mut parts = Vec::new();
        for copy in copies {
            let from = copy.slot_offset as usize..(copy.slot_offset + copy.len) as usize;
            let landed = copy.buffer_offset..copy.buffer_offset + copy.len;
            parts.extend(prints.of(landed, &map.subrange(from)?)?);
        }
        Ok(Some(parts))
    }

    /// Has the GPU copy a slot out to where its bytes belong.
    fn ship(&mut self, job: &Job, slot: usize) -> Result<Ticket, VulkanError> {
        let copies = match &job.piece.landing {
            Landing::Slot(copies) => copies.as_slice(),
            Landing::Buffer(_) => &[],
        };
        let start = slot * self.slots.slot_len;
        let regions: Vec<_> = copies
            .iter()
            .map(|copy| CopyRegion {
                src_offset: start + copy.slot_offset as usize,
                dst_offset: copy.buffer_offset as usize,
                len: copy.len as usize,
            })
            .collect();
        self.transfer.copy(self.slots.imported, self.buffer, &regions)
    }
}

impl<'m> Work<'m> for Staged<'m> {
    type File = Descriptor<'m>;

    fn next(&mut self) -> Next<'m, Descriptor<'m>> {
        if let Some(rest) = self.intake.rest() {
            return rest;
        }
        let stuck = self.intake.free.is_empty() && self.intake.reads.is_empty();
        if !self.reaped(stuck) {
            return Next::Done;
        }
        if let Some(job) = self.intake.take() {
            return self.begin(job);
        }
        // Nothing is left to begin: where nothing is read either, only the GPU is at work.
        while self.intake.reads.is_empty() && !self.copying.is_empty() {
            self.reaped(true);
        }
        Next::Done
    }

    fn completed(&mut self, tag: usize, result: io::Result<usize>) {
        let Some((job, Some(slot))) = self.intake.finish(tag, result) else { return };
        let parts = match self.fingerprint(job, slot) {
            Ok(parts) => parts,
            Err(error) => return self.intake.misplaced(job, error),
        };
        match self.ship(job, slot) {
            Ok(ticket) => self.copying.push_back(Copying { ticket, slot, job, parts }),
            Err(error) => self.intake.fail(Event::Gpu(error)),
        }
    }
}
