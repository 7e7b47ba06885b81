//! Memory for reads that cannot land where their bytes belong.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use iomap::{BufMap, Memory};

use crate::storage::file::wake::WakeFd;

/// Slots of one length, in one memory, each used by one read at a time.
pub(super) struct Slots {
    memory: Arc<Memory>,
    /// Of one slot, in bytes.
    len: usize,
    state: Mutex<State>,
    /// A slot is free, or nobody is to wait any more.
    changed: Condvar,
    /// Wakes the ring.
    wake: Arc<WakeFd>,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<usize>,
    /// The ring has found no slot, and is woken when there is one.
    ring_waits: bool,
    closing: bool,
}

impl Slots {
    /// As many slots of `len` bytes as fit into a memory.
    pub(super) fn in_memory(memory: Arc<Memory>, len: usize, wake: Arc<WakeFd>) -> Arc<Self> {
        let free = (0..memory.len() / len).rev().collect();
        let state = Mutex::new(State { free, ..State::default() });
        Arc::new(Self { memory, len, state, changed: Condvar::new(), wake })
    }

    /// A slot, if one is free; if none is, the ring is woken when one becomes so.
    pub(super) fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut state = self.state();
        let index = state.free.pop();
        state.ring_waits |= index.is_none();
        drop(state);
        Some(Slot { of: Arc::clone(self), index: index? })
    }

    /// Whether a slot is free; if none is, the ring is woken when one becomes so.
    pub(super) fn has_free(&self) -> bool {
        let mut state = self.state();
        state.ring_waits |= state.free.is_empty();
        !state.free.is_empty()
    }

    /// Waits for a slot. Nothing, when the loader closes.
    pub(super) fn wait(self: &Arc<Self>) -> Option<Slot> {
        let mut state = self.state();
        while !state.closing {
            if let Some(index) = state.free.pop() {
                return Some(Slot { of: Arc::clone(self), index });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// Nobody waits for a slot any more.
    pub(super) fn close(&self) {
        self.state().closing = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Slots that a GPU has imported, and copies out of.
#[derive(Clone, Debug)]
pub(super) struct Staging {
    pub(super) slots: Arc<Slots>,
    /// The number of the thread that has the GPU copy.
    pub(super) copier: usize,
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("len", &self.len).finish_non_exhaustive()
    }
}

/// A slot that one read has. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    of: Arc<Slots>,
    index: usize,
}

impl Slot {
    /// Where it begins in the memory of all slots, in bytes.
    pub(super) fn start(&self) -> usize {
        self.index * self.of.len
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.of.memory
    }

    pub(super) fn map(&self) -> BufMap<'_> {
        let range = self.start()..self.start() + self.of.len;
        self.of.memory.map().subrange(range).unwrap_or(BufMap::null())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.of.state();
        state.free.push(self.index);
        let wake = std::mem::take(&mut state.ring_waits);
        drop(state);
        self.of.changed.notify_one();
        if wake {
            self.of.wake.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use iomap::PageSize;

    use super::*;

    fn slots(count: usize) -> Arc<Slots> {
        let memory = Memory::anonymous(count * 4096, PageSize::Base).expect("memory");
        Slots::in_memory(Arc::new(memory), 4096, Arc::new(WakeFd::new().expect("an eventfd")))
    }

    #[test]
    fn each_slot_is_one_reads_until_it_is_dropped() {
        let slots = slots(3);
        let taken: Vec<_> = (0..3).filter_map(|_| slots.take()).collect();
        let mut starts: Vec<_> = taken.iter().map(Slot::start).collect();
        starts.sort_unstable();
        assert_eq!(starts, [0, 4096, 8192]);
        assert!(slots.take().is_none());
        drop(taken);
        assert_eq!(slots.take().map(|slot| slot.map().len()), Some(4096));
    }

    #[test]
    fn who_waits_is_woken_by_a_slot_and_by_the_end() {
        let slots = slots(1);
        let taken = slots.take();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| slots.wait().is_some());
            drop(taken);
            assert!(waiting.join().expect("no panic"));
            let _taken = slots.wait();
            let waiting = scope.spawn(|| slots.wait().is_some());
            slots.close();
            assert!(!waiting.join().expect("no panic"));
        });
    }
}
