//! What a call's own thread and its engines tell each other: that the work is to end, and which reads or writes the kernel
//! has not answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::transfer::Pending;

/// The reads of a load or the writes of a save, and whether it is to end.
#[derive(Debug)]
pub(crate) struct Flight<'a> {
    /// The caller's wish.
    stop: &'a AtomicBool,
    /// Something failed.
    failed: AtomicBool,
    /// What is not answered, each by a key of its own.
    pending: Mutex<BTreeMap<u64, Pending>>,
}

impl<'a> Flight<'a> {
    pub(crate) const fn new(stop: &'a AtomicBool) -> Self {
        Self { stop, failed: AtomicBool::new(false), pending: Mutex::new(BTreeMap::new()) }
    }

    /// Ends the work: nothing more is begun.
    pub(crate) fn end(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.stop.load(Ordering::Relaxed)
    }

    /// What has been waited for longest.
    pub(crate) fn oldest(&self) -> Option<Pending> {
        self.pending().values().min_by_key(|pending| pending.since).copied()
    }

    /// From now on the kernel is asked for this, at an offset of a file.
    pub(crate) fn begun(&self, key: u64, (file, offset): (usize, u64)) {
        self.pending().insert(key, Pending { file, offset, since: Instant::now() });
    }

    /// It is answered.
    pub(crate) fn done(&self, key: u64) {
        self.pending().remove(&key);
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<u64, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
