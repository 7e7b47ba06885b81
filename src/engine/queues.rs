//! Whose read is next: four queues, one for each priority.
//!
//! `Realtime` goes first. The others share what it leaves by the bytes of their reads: of 21 bytes, `High` gets
//! 16, `Normal` 4 and `Low` 1, while all three have something waiting; what one does not need goes to the
//! others. So that nothing starves, of 65 bytes the others get one while `Realtime` has something waiting
//! too. Whatever else is asked for meanwhile, a read of at most 1 MiB that is the first of its queue goes before
//! 2 GiB of others have gone.
//!
//! Nothing here knows what a read is.

use std::collections::VecDeque;

use crate::transfer::Priority;

/// So many bytes of `Realtime` reads go for one of the others'.
const URGENT: u64 = 64;

/// So many bytes of `Realtime` reads go at once before others get their share.
const AT_ONCE: u64 = 64 << 20;

/// The most bytes that go before the first read of a queue, if no read is longer than 1 MiB.
#[cfg(test)]
const LATEST: u64 = 2 << 30;

/// What a byte costs a queue, by priority: the queue that has paid least is next.
const COSTS: [u64; 4] = [0, 1, 4, 16];

/// What waits, by priority.
#[derive(Debug)]
pub(super) struct Queues<T> {
    waiting: [VecDeque<T>; 4],
    /// What each queue has paid; the first pays nothing.
    paid: [u64; 4],
    /// The bytes of `Realtime` reads that went while others waited, for which these had no share yet.
    ahead: u64,
}

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self { waiting: Default::default(), paid: [0; 4], ahead: 0 }
    }
}

impl<T> Queues<T> {
    /// Puts something at the end of its queue.
    pub(super) fn push(&mut self, priority: Priority, item: T) {
        let own = priority.index();
        if self.waiting[own].is_empty() {
            // A queue that had nothing to do has saved nothing.
            let others = (1..4).filter(|&other| !self.waiting[other].is_empty());
            let least = others.map(|other| self.paid[other]).min();
            self.paid[own] = self.paid[own].max(least.unwrap_or(0));
        }
        self.waiting[own].push_back(item);
    }

    /// The priority whose first is next, among those that `may` go.
    pub(super) fn next(&self, may: impl Fn(Priority) -> bool) -> Option<Priority> {
        let goes =
            |priority: &Priority| !self.waiting[priority.index()].is_empty() && may(*priority);
        let [realtime, others @ ..] = Priority::ALL;
        let other = others.into_iter().filter(goes).min_by_key(|other| self.paid[other.index()]);
        match Some(realtime).filter(goes) {
            Some(realtime) if other.is_none() || self.ahead < AT_ONCE => Some(realtime),
            _ => other,
        }
    }

    /// The first that waits of a priority.
    pub(super) fn first(&mut self, priority: Priority) -> Option<&mut T> {
        self.waiting[priority.index()].front_mut()
    }

    /// Takes the first that waits of a priority out of its queue.
    pub(super) fn pop(&mut self, priority: Priority) -> Option<T> {
        self.waiting[priority.index()].pop_front()
    }

    /// A read of so many bytes of the first of a priority goes.
    pub(super) fn charge(&mut self, priority: Priority, bytes: u64) {
        let own = priority.index();
        self.paid[own] = self.paid[own].saturating_add(bytes.max(1).saturating_mul(COSTS[own]));
        let others_wait = self.waiting[1..].iter().any(|queue| !queue.is_empty());
        self.ahead = match priority {
            Priority::Realtime if others_wait => self.ahead.saturating_add(bytes),
            Priority::Realtime => 0,
            _ => self.ahead.saturating_sub(bytes.saturating_mul(URGENT)),
        };
    }

    /// Takes out what is not to `keep`.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for queue in &mut self.waiting {
            queue.retain(&mut keep);
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Priority::{High, Low, Normal, Realtime};

    const MIB: u64 = 1 << 20;

    fn take(queues: &mut Queues<u64>) -> Option<(Priority, u64)> {
        let priority = queues.next(|_| true)?;
        let bytes = queues.pop(priority)?;
        queues.charge(priority, bytes);
        Some((priority, bytes))
    }

    #[test]
    fn what_is_urgent_overtakes_what_waits() {
        let mut queues = Queues::default();
        for priority in [Low, Normal, High] {
            (0..10).for_each(|_| queues.push(priority, MIB));
        }
        take(&mut queues);
        queues.push(Realtime, 1);
        assert_eq!(take(&mut queues), Some((Realtime, 1)));
    }

    #[test]
    fn three_queues_share_by_bytes() {
        let mut queues = Queues::default();
        // Requests of one are longer than those of another: bytes count, not requests.
        for (priority, bytes) in [(High, 64 << 10), (Normal, MIB), (Low, 16 << 10)] {
            (0..100_000).for_each(|_| queues.push(priority, bytes));
        }
        let mut bytes = [0; 4];
        for (priority, len) in std::iter::from_fn(|| take(&mut queues)).take(20_000) {
            bytes[priority.index()] += len;
        }
        let ratio = |a: Priority, b: Priority| bytes[a.index()] as f64 / bytes[b.index()] as f64;
        assert!((3.9..4.1).contains(&ratio(High, Normal)), "{bytes:?}");
        assert!((3.9..4.1).contains(&ratio(Normal, Low)), "{bytes:?}");
    }

    #[test]
    fn whoever_comes_late_has_saved_nothing() {
        let mut queues = Queues::default();
        (0..1000).for_each(|_| queues.push(High, MIB));
        let _ = std::iter::from_fn(|| take(&mut queues)).take(500).count();
        (0..1000).for_each(|_| queues.push(Low, MIB));
        let low = std::iter::from_fn(|| take(&mut queues)).take(170).filter(|(p, _)| *p == Low);
        assert!((9..=11).contains(&low.count()));
    }

    proptest! {
        /// Whatever else is asked for meanwhile, a read that waits goes before so many bytes of others have gone.
        #[test]
        fn nothing_starves(
            waiting in prop_oneof![Just(Low), Just(Normal), Just(High)],
            others in prop::collection::vec((0usize..4, MIB / 64..MIB), 1..50),
        ) {
            let mut queues = Queues::default();
            let others: Vec<_> = others.into_iter().map(|(p, len)| (Priority::ALL[p], len)).filter(|(p, _)| *p != waiting).collect();
            prop_assume!(!others.is_empty());
            let mut feed = others.iter().cycle();
            for _ in 0..100 {
                feed.next().into_iter().for_each(|&(p, len)| queues.push(p, len));
            }
            // The first may have paid nothing yet; the second waits while others pay as much.
            (0..3).for_each(|_| queues.push(waiting, MIB));
            let (mut gone, mut went) = (0, 0);
            while went < 3 {
                let Some((priority, len)) = take(&mut queues) else { break };
                if priority == waiting {
                    (gone, went) = (0, went + 1);
                    continue;
                }
                gone += len;
                prop_assert!(gone <= LATEST, "{gone}");
                feed.next().into_iter().for_each(|&(p, len)| queues.push(p, len));
            }
            prop_assert_eq!(went, 3);
        }

        #[test]
        fn everything_goes_once_and_in_order(items in prop::collection::vec((0usize..4, 0..MIB), 0..200)) {
            let mut queues = Queues::default();
            for (at, (priority, _)) in items.iter().enumerate() {
                queues.push(Priority::ALL[*priority], at as u64);
            }
            let mut seen = [const { Vec::new() }; 4];
            while let Some((priority, at)) = take(&mut queues) {
                seen[priority.index()].push(at);
            }
            for (own, seen) in seen.iter().enumerate() {
                let expected: Vec<_> = (0..items.len() as u64).filter(|&at| items[at as usize].0 == own).collect();
                prop_assert_eq!(seen, &expected);
            }
        }
    }
}
