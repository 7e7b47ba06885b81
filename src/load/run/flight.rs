//! What a load's own thread and its engines tell each other: that the work is to end, and which reads
//! the kernel has not answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::plan::job::Job;
use crate::transfer::Pending;

/// The reads of a load, and whether it is to end.
#[derive(Debug)]
pub(crate) struct Flight<'a> {
    /// The caller's wish.
    stop: &'a AtomicBool,
    /// Something failed.
    failed: AtomicBool,
    reads: Mutex<BTreeMap<usize, Pending>>,
}

impl<'a> Flight<'a> {
    pub(crate) const fn new(stop: &'a AtomicBool) -> Self {
        Self { stop, failed: AtomicBool::new(false), reads: Mutex::new(BTreeMap::new()) }
    }

    /// Ends the work: nothing more is begun.
    pub(crate) fn end(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.stop.load(Ordering::Relaxed)
    }

    /// The read that has been waited for longest.
    pub(crate) fn oldest(&self) -> Option<Pending> {
        self.reads().values().min_by_key(|read| read.since).copied()
    }

    /// A job is read from now on.
    pub(super) fn begun(&self, job: &Job) {
        let (file, offset) = (job.piece.file, job.piece.offset);
        let read = Pending { file, offset, since: Instant::now() };
        self.reads().insert(key(job), read);
    }

    /// A job is not read any more.
    pub(super) fn done(&self, job: &Job) {
        self.reads().remove(&key(job));
    }

    fn reads(&self) -> MutexGuard<'_, BTreeMap<usize, Pending>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Jobs stay where they are while they are done.
fn key(job: &Job) -> usize {
    std::ptr::from_ref(job) as usize
}
