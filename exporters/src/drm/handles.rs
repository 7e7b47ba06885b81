//! The owners of a card's GEM handles.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The owners of a card's handles, counted. The lock is held across the ioctls that make and close
/// handles: between the two, another thread could be given a handle that is about to be closed.
#[derive(Debug, Default)]
pub(super) struct Handles(Mutex<BTreeMap<NonZeroU32, usize>>);

impl Handles {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<NonZeroU32, usize>> {
        // The counts are whole after each step, whatever became of the thread that made it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
