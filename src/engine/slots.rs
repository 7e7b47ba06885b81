//! Memory for reads that cannot land where their bytes belong.

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use exporters::Absent;
use exporters::upload;
use iomap::BufMap;

use crate::storage::file::wake::WakeFd;

/// Slots, each used by one read at a time.
pub(super) struct Slots {
    state: Mutex<State>,
    /// A slot is free, or nobody is to wait any more.
    changed: Condvar,
    /// Wakes the ring.
    wake: Arc<WakeFd>,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Box<dyn upload::Slot>>,
    /// The ring has found no slot, and is woken when there is one.
    ring_waits: bool,
    closing: bool,
    /// Why no slot will be free any more, of a device that has failed.
    lost: Option<String>,
}

impl State {
    /// A slot, if one is free.
    fn take(&mut self) -> io::Result<Option<Box<dyn upload::Slot>>> {
        match (self.free.pop(), &self.lost) {
            (None, Some(why)) => Err(io::Error::other(why.clone())),
            (slot, _) => Ok(slot),
        }
    }
}

impl Slots {
    /// No slot yet.
    pub(super) fn new(wake: Arc<WakeFd>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), wake })
    }

    /// One more slot is free.
    pub(super) fn add(&self, slot: Box<dyn upload::Slot>) {
        let mut state = self.state();
        state.free.push(slot);
        let wake = std::mem::take(&mut state.ring_waits);
        drop(state);
        self.changed.notify_one();
        if wake {
            self.wake.wake();
        }
    }

    /// A slot, if one is free; if none is, the ring is woken when one becomes so.
    ///
    /// # Errors
    /// None will be, because the device has failed.
    pub(super) fn take(self: &Arc<Self>) -> io::Result<Option<Slot>> {
        let mut state = self.state();
        let taken = state.take()?;
        state.ring_waits |= taken.is_none();
        Ok(taken.map(|slot| Slot { of: Arc::clone(self), slot: Some(slot) }))
    }

    /// Whether a slot is free, or none will be; if neither, the ring is woken when one becomes so.
    pub(super) fn has_answer(&self) -> bool {
        let mut state = self.state();
        let has_answer = !state.free.is_empty() || state.lost.is_some();
        state.ring_waits |= !has_answer;
        has_answer
    }

    /// Waits for a slot. Nothing, when the loader closes.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub(super) fn wait(self: &Arc<Self>) -> io::Result<Option<Slot>> {
        let mut state = self.state();
        while !state.closing {
            if let Some(slot) = state.take()? {
                return Ok(Some(Slot { of: Arc::clone(self), slot: Some(slot) }));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(None)
    }

    /// Nobody waits for a slot any more.
    pub(super) fn close(&self) {
        self.state().closing = true;
        self.changed.notify_all();
    }

    /// No slot will be free any more.
    pub(super) fn lose(&self, why: String) {
        self.state().lost = Some(why);
        self.changed.notify_all();
        self.wake.wake();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").finish_non_exhaustive()
    }
}

/// Slots out of which a device's queue copies, and what is known of it.
#[derive(Debug)]
pub(super) struct Staging {
    pub(super) slots: Arc<Slots>,
    /// The number of the thread that has the device copy.
    pub(super) copier: usize,
    /// Why drives may not be given the slots, if they may not.
    pub(super) no_pages: Option<String>,
    /// Why the CPU copies out of them, if it does.
    pub(super) no_dma: Option<String>,
    /// Why its copies cost more than they could.
    pub(super) step_downs: Vec<Absent>,
}

/// A slot that one read has. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    of: Arc<Slots>,
    /// Until it is handed in.
    slot: Option<Box<dyn upload::Slot>>,
}

impl Slot {
    pub(super) fn map(&self) -> BufMap<'_> {
        self.slot.as_ref().map_or(BufMap::null(), |slot| slot.map())
    }

    /// The slot itself, for the queue that it is of; nothing, while somebody else has it too.
    pub(super) fn hand_in(self: Arc<Self>) -> Option<Box<dyn upload::Slot>> {
        Arc::into_inner(self)?.slot.take()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.of.add(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use iomap::{Memory, PageSize};

    use super::*;

    fn slots(count: usize) -> Arc<Slots> {
        let slots = Slots::new(Arc::new(WakeFd::new().expect("an eventfd")));
        for _ in 0..count {
            slots.add(Box::new(Memory::anonymous(4096, PageSize::Base).expect("memory")));
        }
        slots
    }

    fn take(slots: &Arc<Slots>) -> Option<Slot> {
        slots.take().expect("nothing has failed")
    }

    #[test]
    fn each_slot_is_one_reads_until_it_is_dropped() {
        let slots = slots(3);
        let taken: Vec<_> = (0..3).filter_map(|_| take(&slots)).collect();
        let mut starts: Vec<_> = taken.iter().map(|slot| slot.map().as_ptr()).collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts.len(), 3);
        assert!(take(&slots).is_none());
        drop(taken);
        assert_eq!(take(&slots).map(|slot| slot.map().len()), Some(4096));
    }

    #[test]
    fn who_waits_is_woken_by_a_slot_and_by_the_end() {
        let slots = slots(1);
        let waited = |slots: &Arc<Slots>| slots.wait().expect("nothing has failed").is_some();
        let taken = take(&slots);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| waited(&slots));
            drop(taken);
            assert!(waiting.join().expect("no panic"));
            let _taken = take(&slots);
            let waiting = scope.spawn(|| waited(&slots));
            slots.close();
            assert!(!waiting.join().expect("no panic"));
        });
    }

    #[test]
    fn a_slot_is_handed_in_by_its_last_user() {
        let slots = slots(1);
        let slot = Arc::new(take(&slots).expect("one is free"));
        let other = Arc::clone(&slot);
        assert!(slot.hand_in().is_none());
        assert!(take(&slots).is_none());
        let handed_in = other.hand_in().expect("the last");
        assert!(take(&slots).is_none());
        slots.add(handed_in);
        assert!(take(&slots).is_some());
    }

    #[test]
    fn who_waits_is_told_that_the_device_has_failed() {
        let slots = slots(1);
        let taken = take(&slots);
        assert!(!slots.has_answer());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| slots.wait().map(drop));
            slots.lose("gone".into());
            let told = waiting.join().expect("no panic").expect_err("no slot");
            assert_eq!(told.to_string(), "gone");
        });
        assert!(slots.has_answer() && slots.take().is_err());
        drop(taken);
        assert!(take(&slots).is_some());
    }
}
