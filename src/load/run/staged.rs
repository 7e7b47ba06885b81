//! Filling device memory, which no drive can reach.
//!
//! A ring of slots, in pages that the GPU imports, stands between: the drive fills a slot by DMA,
//! the GPU's transfer queue copies it out to wherever it belongs, at any alignment, and the slot is
//! free again. Reads and copies overlap, and memory stays bounded by the ring.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use exporters::vulkan::{Buffer, CopyRegion, Ticket, Transfer, VulkanError};
use iomap::BufMap;

use super::reads::{Outcome, Reads};
use super::{Event, Failure, Job, Queue, Report};
use crate::load::check::{Fingerprints, Part};
use crate::load::plan::Landing;
use crate::storage::file::SourceFile;
use crate::storage::file::ring::{Next, Work};

/// The slots, as the CPU and as the GPU see them.
pub(crate) struct Slots<'m> {
    pub(crate) map: BufMap<'m>,
    pub(crate) imported: &'m Arc<Buffer>,
    pub(crate) slot_len: usize,
}

/// Takes jobs from a queue and fills a device buffer.
pub(crate) struct Staged<'m> {
    queue: &'m Queue<'m>,
    slots: Slots<'m>,
    free: Vec<usize>,
    held: Option<&'m Job>,
    reads: Reads<'m>,
    copying: VecDeque<(Ticket, usize, &'m Job, Option<Vec<Part>>)>,
    transfer: Transfer,
    buffer: &'m Arc<Buffer>,
    fingerprints: Option<&'m Fingerprints<'m>>,
    report: Report<'m>,
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
        let free = (0..slots.map.len() / slots.slot_len).collect();
        Self {
            queue,
            slots,
            free,
            held: None,
            reads: Reads::new(files),
            copying: VecDeque::new(),
            transfer,
            buffer,
            fingerprints,
            report,
        }
    }

    fn slot(&self, slot: usize) -> BufMap<'m> {
        let start = slot * self.slots.slot_len;
        self.slots.map.subrange(start..start + self.slots.slot_len).unwrap_or(BufMap::null())
    }

    /// Frees the slots that the GPU is done with; waits for the oldest copy if `wait`.
    fn reap(&mut self, mut wait: bool) -> Result<(), VulkanError> {
        while let Some((ticket, ..)) = self.copying.front() {
            if wait {
                self.transfer.wait(*ticket)?;
                wait = false;
            } else if !self.transfer.is_done(*ticket)? {
                break;
            }
            if let Some((_, slot, job, parts)) = self.copying.pop_front() {
                self.free.push(slot);
                self.report.landed(job, parts);
            }
        }
        Ok(())
    }

    fn begin(&mut self, job: &'m Job) -> Next<'m> {
        let Some(slot) = self.free.pop() else {
            self.held = Some(job);
            return Next::Wait;
        };
        match self.slot(slot).subrange(..job.piece.len as usize) {
            Ok(into) => Next::Read(self.reads.start(job, Some(slot), into)),
            Err(error) => {
                self.fail(
                    job,
                    Failure::Io { offset: job.piece.offset, source: io::Error::other(error) },
                );
                Next::Done
            }
        }
    }

    /// Fingerprints a slot and has the GPU copy it out.
    fn ship(&mut self, job: &'m Job, slot: usize) -> Result<(), VulkanError> {
        let Landing::Slot(copies) = &job.piece.landing else { return Ok(()) };
        let map = self.slot(slot);
        let mut parts = self.fingerprints.map(|_| Vec::new());
        let mut regions = Vec::with_capacity(copies.len());
        for copy in copies {
            let from = copy.slot_offset as usize..(copy.slot_offset + copy.len) as usize;
            let landed = copy.buffer_offset..copy.buffer_offset + copy.len;
            if let (Some(prints), Some(parts)) = (self.fingerprints, &mut parts) {
                let bytes = map.subrange(from.clone()).unwrap_or(BufMap::null());
                parts.extend(prints.of(landed, &bytes).unwrap_or_default());
            }
            regions.push(CopyRegion {
                src_offset: slot * self.slots.slot_len + from.start,
                dst_offset: copy.buffer_offset as usize,
                len: copy.len as usize,
            });
        }
        let ticket = self.transfer.copy(self.slots.imported, self.buffer, &regions)?;
        self.copying.push_back((ticket, slot, job, parts));
        Ok(())
    }

    fn fail(&mut self, job: &'m Job, failure: Failure) {
        self.queue.stop();
        self.report.failed(Event::Failed(job, failure));
    }

    fn gpu_failed(&mut self, error: VulkanError) {
        self.queue.stop();
        self.held = None;
        self.report.failed(Event::Gpu(error));
    }

    /// What to do when there is no job to begin: let the GPU catch up, if nothing else moves.
    fn drain(&mut self) -> Next<'m> {
        while self.reads.is_empty() && !self.copying.is_empty() {
            if let Err(error) = self.reap(true) {
                self.copying.clear();
                self.gpu_failed(error);
            }
        }
        Next::Done
    }
}

impl<'m> Work<'m> for Staged<'m> {
    fn next(&mut self) -> Next<'m> {
        if let Some(rest) = self.reads.rest() {
            return Next::Read(rest);
        }
        let stuck = self.free.is_empty() && self.reads.is_empty();
        if let Err(error) = self.reap(stuck) {
            self.copying.clear();
            self.gpu_failed(error);
            return Next::Done;
        }
        match self.held.take().or_else(|| self.queue.take()) {
            Some(job) => self.begin(job),
            None => {
                self.report.flush();
                self.drain()
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
                let Some(slot) = slot else { return };
                if let Err(error) = self.ship(job, slot) {
                    self.gpu_failed(error);
                }
            }
        }
    }
}
