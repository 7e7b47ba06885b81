//! The writes of a save that nobody has begun, those that the kernel has not answered, and whether the work is to end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::plan::out::{Piece, Pieces, Stretches};
use crate::transfer::Pending;

/// Writes, taken by several threads.
pub(super) struct Queue<'m> {
    pieces: Mutex<Pieces<'m>>,
    /// The caller's wish.
    stop: &'m AtomicBool,
    /// Something failed.
    failed: AtomicBool,
    /// When each was begun, by its place in the file.
    begun: Mutex<BTreeMap<u64, Instant>>,
    taken: AtomicU64,
}

impl<'m> Queue<'m> {
    pub(super) fn new(stretches: &'m Stretches, stop: &'m AtomicBool) -> Self {
        Self {
            pieces: Mutex::new(stretches.pieces()),
            stop,
            failed: AtomicBool::new(false),
            begun: Mutex::default(),
            taken: AtomicU64::new(0),
        }
    }

    /// The next write, unless the work is to end.
    pub(super) fn take(&self) -> Option<Piece> {
        if self.is_ended() {
            return None;
        }
        let piece = self.pieces.lock().unwrap_or_else(PoisonError::into_inner).next()?;
        self.taken.fetch_add(1, Ordering::Relaxed);
        Some(piece)
    }

    /// How many were taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Ends the work: nothing more is begun.
    pub(super) fn end(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_ended(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn begun(&self, offset: u64) {
        self.lock_begun().insert(offset, Instant::now());
    }

    pub(super) fn answered(&self, offset: u64) {
        self.lock_begun().remove(&offset);
    }

    /// The write that has been waited for longest.
    pub(super) fn oldest(&self) -> Option<Pending> {
        let begun = self.lock_begun();
        let (&offset, &since) = begun.iter().min_by_key(|(_, since)| **since)?;
        Some(Pending { file: 0, offset, since })
    }

    fn lock_begun(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
