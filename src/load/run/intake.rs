//! What both kinds of work have in common: they take jobs from the queue, hold one back while no
//! slot is free, keep account of reads in flight, and report.

use std::io;
use std::thread;
use std::time::Duration;

use iomap::{BufMap, MapError};

use super::events::{Event, Report};
use super::queue::Queue;
use super::reads::{Outcome, Reads, Rest};
use crate::nofault::Fault;
use crate::plan::job::Job;
use crate::storage::work::{Failure, Next};
use crate::transfer::Source;

pub(super) struct Intake<'m, S: Source> {
    queue: &'m Queue<'m>,
    held: Option<&'m Job>,
    /// The slots that nothing is read into or copied from.
    pub(super) free: Vec<usize>,
    pub(super) reads: Reads<'m, S>,
    pub(super) report: Report<'m>,
}

impl<'m, S: Source> Intake<'m, S> {
    pub(super) fn new(
        queue: &'m Queue<'m>,
        files: &'m [S],
        slots: usize,
        report: Report<'m>,
    ) -> Self {
        let free = (0..slots).collect();
        Self { queue, held: None, free, reads: Reads::new(files), report }
    }

    /// What has to be read again. While the kernel puts reads off, nothing new is begun.
    pub(super) fn rest(&mut self) -> Option<Next<'m, S::Handle<'m>>> {
        /// So soon the end of the load is noticed.
        const LOOK_UP: Duration = Duration::from_millis(50);
        loop {
            if self.queue.flight().is_ended() {
                self.abandon();
                return None;
            }
            match self.reads.rest() {
                Rest::Nothing => return None,
                Rest::Due(read) => return Some(Next::Read(read)),
                Rest::Later(_) if !self.reads.none_in_flight() => return Some(Next::Wait),
                Rest::Later(wait) => thread::sleep(wait.min(LOOK_UP)),
            }
        }
    }

    /// Gives up what is not in flight.
    fn abandon(&mut self) {
        self.held = None;
        for (job, slot) in self.reads.abandon() {
            self.queue.done(job);
            self.free.extend(slot);
        }
    }

    /// The next job, the one held back first.
    pub(super) fn take(&mut self) -> Option<&'m Job> {
        let job = self.held.take().or_else(|| self.queue.take());
        if job.is_none() {
            self.report.flush();
        }
        job
    }

    /// Keeps a job for later, when there is a slot for it.
    pub(super) fn hold(&mut self, job: &'m Job) -> Next<'m, S::Handle<'m>> {
        self.held = Some(job);
        Next::Wait
    }

    /// Begins to read a job into the beginning of `place`.
    pub(super) fn start(
        &mut self,
        job: &'m Job,
        slot: Option<usize>,
        place: Result<BufMap<'m>, MapError>,
    ) -> Next<'m, S::Handle<'m>> {
        self.queue.begun(job);
        let started = match place.and_then(|place| place.subrange(..job.piece.len as usize)) {
            Ok(into) => self.reads.start(job, slot, into),
            Err(error) => {
                self.queue.done(job);
                self.misplaced(job, error.into());
                return Next::Done;
            }
        };
        match started {
            Ok(read) => Next::Read(read),
            Err(source) => {
                self.queue.done(job);
                self.free.extend(slot);
                self.fail(Event::Failed(job, Failure::Io { offset: job.piece.offset, source }));
                Next::Done
            }
        }
    }

    /// A job whose bytes are all there, in its slot if it has one.
    pub(super) fn finish(
        &mut self,
        tag: usize,
        result: io::Result<usize>,
    ) -> Option<(&'m Job, Option<usize>)> {
        match self.reads.finish(tag, result) {
            Outcome::Complete(job, slot) => {
                self.queue.done(job);
                Some((job, slot))
            }
            Outcome::Partial => None,
            Outcome::Failed(job, slot, failure) => {
                self.queue.done(job);
                self.free.extend(slot);
                self.fail(Event::Failed(job, failure));
                None
            }
        }
    }

    /// A job whose memory cannot be touched. If it reaches past its end, the plan was wrong.
    pub(super) fn misplaced(&mut self, job: &'m Job, fault: Fault) {
        self.fail(match fault {
            Fault::Gone => Event::Lost,
            Fault::Map(error) => {
                let source = io::Error::other(error);
                Event::Failed(job, Failure::Io { offset: job.piece.offset, source })
            }
        });
    }

    /// Ends the work: nothing more is begun.
    pub(super) fn fail(&mut self, event: Event<'m>) {
        self.queue.flight().end();
        self.held = None;
        self.report.failed(event);
    }
}
