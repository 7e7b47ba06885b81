//! What a loader has done so far, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::outcome::{Outcome, Shares};
use crate::transfer::{DataPath, TransferError};

/// As many steps the latencies are counted in.
const STEPS: usize = 32;

/// The numbers, as threads count them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    submitted: AtomicU64,
    landed: AtomicU64,
    stopped: AtomicU64,
    failed: AtomicU64,
    bytes: [AtomicU64; DataPath::ALL.len()],
    latencies: [AtomicU64; STEPS],
}

/// What a loader has done so far.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// The requests that were submitted.
    pub submitted: u64,
    /// Those whose bytes are all in their buffers.
    pub landed: u64,
    /// Those that were cancelled, or still under way when the loader was dropped.
    pub stopped: u64,
    /// Those that failed.
    pub failed: u64,
    /// The bytes that were asked for and have landed, by path.
    pub paths: Shares,
    /// How long requests took, from their submission to their outcome.
    pub latencies: Latencies,
}

impl Counts {
    /// The requests that wait or are with the drive.
    pub const fn under_way(&self) -> u64 {
        self.submitted.saturating_sub(self.landed + self.stopped + self.failed)
    }
}

/// How many requests took how long: a histogram in steps of powers of two.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Latencies([u64; STEPS]);

impl Latencies {
    /// The steps in which there are requests: each with the time, in microseconds, that they took less than, and at
    /// least half of which they took.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        (0..).map(|step| 1u64 << step).zip(self.0).filter(|(_, requests)| *requests > 0)
    }

    /// The time in microseconds that a share of the requests, from 0 to 1, took less than, rounded up to a power of two;
    /// nothing before the first request has ended.
    pub fn below(&self, share: f64) -> Option<u64> {
        let all: u64 = self.0.iter().sum();
        let mut seen = 0;
        self.iter().find_map(|(limit, requests)| {
            seen += requests;
            (seen as f64 >= share * all as f64).then_some(limit)
        })
    }
}

fn step(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    ((u64::BITS - micros.leading_zeros()) as usize).min(STEPS - 1)
}

impl Counters {
    pub(super) fn submitted(&self) {
        self.submitted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self, outcome: &Outcome, paths: &Shares, latency: Duration) {
        let ended = match outcome {
            Ok(_) => &self.landed,
            Err(TransferError::Stopped { .. }) => &self.stopped,
            Err(_) => &self.failed,
        };
        ended.fetch_add(1, Ordering::Relaxed);
        for share in paths.iter() {
            self.bytes[share.path as usize].fetch_add(share.bytes, Ordering::Relaxed);
        }
        self.latencies[step(latency)].fetch_add(1, Ordering::Relaxed);
    }

    /// The numbers at this moment. What ends meanwhile may be in some of them.
    pub(super) fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut paths = Shares::default();
        for (path, bytes) in DataPath::ALL.into_iter().zip(&self.bytes) {
            paths.add(path, of(bytes));
        }
        // What has ended is read first: it was submitted before.
        let (landed, stopped, failed) = (of(&self.landed), of(&self.stopped), of(&self.failed));
        Counts {
            submitted: of(&self.submitted),
            landed,
            stopped,
            failed,
            paths,
            latencies: Latencies(std::array::from_fn(|step| of(&self.latencies[step]))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Landed;

    #[test]
    fn latencies_are_counted_by_powers_of_two() {
        let counters = Counters::default();
        let mut paths = Shares::default();
        paths.add(DataPath::Direct, 10);
        for micros in [0, 1, 3, 100, 100, 100, 127, 128, u64::MAX / 2] {
            counters.submitted();
            counters.ended(&Ok(Landed::default()), &paths, Duration::from_micros(micros));
        }
        let counts = counters.counts();
        let steps: Vec<_> = counts.latencies.iter().collect();
        assert_eq!(steps, [(1, 1), (2, 1), (4, 1), (128, 4), (256, 1), (1 << 31, 1)]);
        assert_eq!(counts.latencies.below(0.5), Some(128));
        assert_eq!(counts.latencies.below(0.8), Some(256));
        assert_eq!((counts.under_way(), counts.paths.of(DataPath::Direct)), (0, 90));
    }
}
