//! The writes of a save that nobody has begun, those that the kernel has not answered, and whether the work is to end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::engine::flight::Flight;
use crate::plan::out::{Piece, Pieces, Stretches};
use crate::transfer::Pending;

/// Writes, taken by several threads.
pub(super) struct Queue<'m> {
    pieces: Mutex<Pieces<'m>>,
    /// Those that are begun, by their place in the file.
    flight: Flight<'m>,
    taken: AtomicU64,
}

impl<'m> Queue<'m> {
    pub(super) fn new(stretches: &'m Stretches, stop: &'m AtomicBool) -> Self {
        Self {
            pieces: Mutex::new(stretches.pieces()),
            flight: Flight::new(stop),
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
        self.flight.end();
    }

    pub(super) fn is_ended(&self) -> bool {
        self.flight.is_ended()
    }

    pub(super) fn begun(&self, offset: u64) {
        self.flight.begun(offset, (0, offset));
    }

    pub(super) fn answered(&self, offset: u64) {
        self.flight.done(offset);
    }

    /// The write that has been waited for longest.
    pub(super) fn oldest(&self) -> Option<Pending> {
        self.flight.oldest()
    }
}
