//! The jobs of a load, for its engines to take.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::flight::Flight;
use crate::plan::job::Job;

/// The jobs of a load, taken one by one by any thread until none is left or the load is stopped.
#[derive(Debug)]
pub(crate) struct Queue<'a> {
    jobs: &'a [Job],
    next: AtomicUsize,
    flight: &'a Flight<'a>,
}

impl<'a> Queue<'a> {
    pub(crate) const fn new(jobs: &'a [Job], flight: &'a Flight<'a>) -> Self {
        Self { jobs, next: AtomicUsize::new(0), flight }
    }

    pub(super) fn take(&self) -> Option<&'a Job> {
        if self.flight.is_ended() {
            return None;
        }
        self.jobs.get(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether it never had a job.
    pub(crate) const fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// A job is read from now on.
    pub(super) fn begun(&self, job: &Job) {
        self.flight.begun(key(job), (job.piece.file, job.piece.offset));
    }

    /// A job is not read any more.
    pub(super) fn done(&self, job: &Job) {
        self.flight.done(key(job));
    }

    pub(crate) const fn flight(&self) -> &'a Flight<'a> {
        self.flight
    }
}

/// Jobs stay where they are while they are done.
fn key(job: &Job) -> u64 {
    std::ptr::from_ref(job) as u64
}
