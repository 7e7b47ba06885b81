//! A sample of what was loaded, which nobody can foretell, compared with a second read.
//!
//! The CPU reads a peer's memory slowly, so not all of it is looked at: of each [`ONE_IN`] blocks of a file's part one, picked
//! by the kernel's random numbers, and the first and the last. So half a MiB in a row cannot go astray unnoticed, and a device that
//! spoils single blocks is found out after some loads, because each picks others.

use std::io;

use iomap::BufMap;
use rustix::rand::{GetRandomFlags, getrandom};

use super::compare::{Comparison, LONGEST};
use super::fingerprints::{Fingerprints, Parts};
use crate::nofault::Fault;
use crate::plan::cut::{Batch, append};
use crate::plan::requested::Requested;
use crate::plan::run::Run;
use crate::transfer::{Request, Source, TransferError};

/// What is looked at or not, in bytes: a page, the least that goes astray in a list for a drive.
pub(crate) const BLOCK: u64 = 4096;

/// Of so many blocks in a row one is looked at.
pub(crate) const ONE_IN: u64 = 64;

/// How much of a file's part is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// A sample.
    Sample,
    /// All of it.
    All,
}

/// The part of a file that a batch loads, as far as it was asked for, in runs.
pub(crate) fn asked_of(batch: &Batch, requested: &Requested<'_>) -> Vec<Run> {
    let mut runs = Vec::new();
    for (index, place) in batch.landed().flat_map(|landed| requested.filled(landed)) {
        let request = &requested.all()[index];
        let offset = request.offset + (place.start - request.buffer_offset);
        let len = place.end - place.start;
        append(&mut runs, Run { file: request.file, offset, len, buffer_offset: place.start });
    }
    runs
}

/// Compares the blocks of a file's part that are picked with a second read, and adds the fingerprints of what was looked at
/// to `parts`.
///
/// # Errors
/// [`TransferError::Mismatch`] for a byte that differs; what ends a comparison.
pub(crate) fn compare_some<S: Source>(
    runs: &[Run],
    extent: Extent,
    (fingerprints, parts): (&Fingerprints<'_>, &mut Parts),
    comparison: &mut Comparison<'_, '_, S>,
) -> Result<(), TransferError> {
    let valid = comparison.valid;
    let mut look = |block: Run| {
        let Run { file, offset, len, buffer_offset } = block;
        let found = comparison.part(&Request::new(file, offset, len, buffer_offset))?;
        match fingerprints.of(buffer_offset..buffer_offset + len, &BufMap::from_slice(found)) {
            Ok(found) => parts.extend(found),
            // Memory of this process's own, as long as the block.
            Err(Fault::Gone | Fault::Map(_)) => {}
        }
        Ok(())
    };
    let random = match extent {
        Extent::Sample => Random::new(),
        Extent::All => None,
    };
    // Where no random numbers are to be had, a sample could be foretold.
    let Some(mut random) = random else {
        return runs.iter().flat_map(chunks).try_for_each(look);
    };
    let mut below = |n| {
        let step = "the kernel's random numbers";
        random.below(n).map_err(|source| TransferError::Engine {
            step,
            source,
            valid: valid.clone(),
        })
    };
    let mut blocks = Blocks::of(runs);
    pick(blocks.count(), &mut below, &mut |number| blocks.nth(number).map_or(Ok(()), &mut look))
}

/// A run in pieces that are compared at once.
fn chunks(run: &Run) -> impl Iterator<Item = Run> {
    let first = run.offset / LONGEST;
    (first..run.end().div_ceil(LONGEST)).map(|number| cut(run, number, LONGEST))
}

/// A block of a run, by its number in the file.
fn cut(run: &Run, number: u64, block: u64) -> Run {
    run.part((number * block).max(run.offset)..((number + 1) * block).min(run.end()))
}

/// The blocks of a file's part, in its own order.
struct Blocks<'r> {
    runs: &'r [Run],
    /// How many blocks the runs before these had.
    before: u64,
}

impl<'r> Blocks<'r> {
    const fn of(runs: &'r [Run]) -> Self {
        Self { runs, before: 0 }
    }

    fn count(&self) -> u64 {
        self.runs.iter().map(Self::in_run).sum()
    }

    const fn in_run(run: &Run) -> u64 {
        (run.offset + run.len).div_ceil(BLOCK) - run.offset / BLOCK
    }

    /// The block of a number, which is not less than the last one's.
    fn nth(&mut self, number: u64) -> Option<Run> {
        loop {
            let (run, rest) = self.runs.split_first()?;
            match number - self.before {
                within if within < Self::in_run(run) => {
                    return Some(cut(run, run.offset / BLOCK + within, BLOCK));
                }
                _ => {
                    self.before += Self::in_run(run);
                    self.runs = rest;
                }
            }
        }
    }
}

/// Picks among `count` blocks, and has a look at `each`, in order: the first, the last, and one out of each [`ONE_IN`].
fn pick(
    count: u64,
    below: &mut dyn FnMut(u64) -> Result<u64, TransferError>,
    each: &mut dyn FnMut(u64) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    let mut from = 0;
    while from < count {
        let len = ONE_IN.min(count - from);
        let chosen = from + below(len)?;
        if from == 0 && chosen != 0 {
            each(0)?;
        }
        each(chosen)?;
        from += len;
        if from == count && chosen != count - 1 {
            each(count - 1)?;
        }
    }
    Ok(())
}

/// Random numbers of the kernel's.
struct Random {
    bytes: [u8; 512],
    used: usize,
}

impl Random {
    /// None if the kernel gives none.
    fn new() -> Option<Self> {
        let mut random = Self { bytes: [0; 512], used: 0 };
        random.fill().ok()?;
        Some(random)
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut got = 0;
        while got < self.bytes.len() {
            match getrandom(&mut self.bytes[got..], GetRandomFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                answer => got += answer?,
            }
        }
        self.used = 0;
        Ok(())
    }

    /// A number below another, which is not zero.
    fn below(&mut self, n: u64) -> io::Result<u64> {
        const LEN: usize = size_of::<u32>();
        if self.used == self.bytes.len() {
            self.fill()?;
        }
        let bytes = &self.bytes[self.used..self.used + LEN];
        self.used += LEN;
        let number = bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Ok((number * n) >> 32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Write;
    use std::sync::atomic::AtomicBool;

    use iomap::{Memory, PageSize};
    use proptest::prelude::*;

    use super::*;
    use crate::check::Filled;
    use crate::storage::file::{SourceFile, again::Again};
    use crate::transfer::{Progress, Valid};

    fn picked(count: u64, mut below: impl FnMut(u64) -> u64) -> Vec<u64> {
        let mut picked = Vec::new();
        pick(count, &mut |n| Ok(below(n)), &mut |number| {
            picked.push(number);
            Ok(())
        })
        .expect("nothing fails");
        picked
    }

    /// Runs of one file, of any length, where each begins after the last.
    fn runs() -> impl Strategy<Value = Vec<Run>> {
        prop::collection::vec((0u64..9_000, 1u64..700_000), 1..6).prop_map(|parts| {
            let mut end = 0;
            let run = |(gap, len)| {
                let offset = end + gap;
                end = offset + len;
                Run { file: 0, offset, len, buffer_offset: offset + 77 }
            };
            parts.into_iter().map(run).collect()
        })
    }

    proptest! {
        #[test]
        fn one_in_each_row_and_the_first_and_the_last_are_picked(
            count in 1u64..5000,
            numbers in prop::collection::vec(any::<u64>(), 1..20),
        ) {
            let mut numbers = numbers.into_iter().cycle();
            let picked = picked(count, |n| numbers.next().unwrap_or(0) % n);
            prop_assert!(picked.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", picked);
            prop_assert_eq!((picked[0], picked[picked.len() - 1]), (0, count - 1));
            let rows: BTreeSet<_> = picked.iter().map(|number| number / ONE_IN).collect();
            prop_assert_eq!(rows.len() as u64, count.div_ceil(ONE_IN));
            prop_assert!(picked.len() <= rows.len() + 2);
        }

        #[test]
        fn blocks_are_the_runs_each_byte_once(runs in runs()) {
            let mut blocks = Blocks::of(&runs);
            let mut glued: Vec<Run> = Vec::new();
            for number in 0..blocks.count() {
                let block = blocks.nth(number).expect("a block");
                prop_assert!(block.len > 0 && block.offset / BLOCK == (block.end() - 1) / BLOCK);
                append(&mut glued, block);
            }
            prop_assert!(blocks.nth(Blocks::of(&runs).count()).is_none());
            let mut joined = Vec::new();
            runs.into_iter().for_each(|run| append(&mut joined, run));
            prop_assert_eq!(glued, joined);
        }

        #[test]
        fn a_random_number_is_below_its_bound(bounds in prop::collection::vec(1u64..=ONE_IN, 1..400)) {
            let mut random = Random::new().expect("the kernel gives some");
            for n in bounds {
                prop_assert!(random.below(n).expect("a number") < n);
            }
        }
    }

    #[test]
    fn nobody_foretells_which() {
        let sample = || {
            let mut random = Random::new().expect("the kernel gives some");
            picked(64 * ONE_IN, |n| random.below(n).expect("a number"))
        };
        // That two are equal by chance is one in 64 to the 64th.
        assert_ne!(sample(), sample());
        // Every block of a row is picked sooner or later.
        let seen: BTreeSet<_> = (0..100).flat_map(|_| sample()).map(|n| n % ONE_IN).collect();
        assert_eq!(seen.len() as u64, ONE_IN);
    }

    const LEN: u64 = (20 * ONE_IN + 30) * BLOCK + 99;

    /// A file, a buffer that holds it, and what was asked for: all but its first bytes.
    struct Loaded {
        file: SourceFile,
        memory: Memory,
        requests: [Request; 2],
    }

    impl Loaded {
        fn new() -> Self {
            let bytes: Vec<u8> = (0..LEN).map(|i| (i * 7 + i / 251) as u8).collect();
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            file.write_all(&bytes).expect("room");
            let memory = Memory::anonymous(LEN as usize, PageSize::Base).expect("memory");
            memory.map().copy_from_slice(0, &bytes).expect("it fits");
            let file = SourceFile::open(file.path()).expect("the file");
            let middle = 1_000_000;
            let requests = [
                Request::new(0, 100, middle - 100, 100),
                Request::new(0, middle, LEN - middle, middle),
            ];
            Self { file, memory, requests }
        }

        fn spoil(&self, at: u64) {
            let byte: u8 = self.memory.map().read(at as usize).expect("inside");
            self.memory.map().write(at as usize, !byte).expect("inside");
        }

        /// What comes of a comparison, which blocks it looked at, how many bytes, and which fingerprints it knows.
        fn compare(&self, extent: Extent) -> Looked {
            let requested = Requested::new(&self.requests);
            let fingerprints = Fingerprints::new(&self.requests);
            let stop = AtomicBool::new(false);
            let files = std::slice::from_ref(&self.file);
            let filled =
                Filled { files, requests: &self.requests, destination: &self.memory, stop: &stop };
            let valid = Valid::none_of(LEN);
            let (mut reads, mut past_the_cache) = (Vec::new(), Again::default());
            let mut again = |file: &SourceFile, offset, out: &mut [u8]| {
                reads.push(offset..offset + out.len() as u64);
                past_the_cache.read_exact(file, offset, out, &stop)
            };
            let progress: &mut dyn FnMut(Progress) = &mut |_| {};
            let mut comparison =
                Comparison::new(&filled, &valid, &mut again, progress).expect("a buffer");
            let mut runs = Vec::new();
            for (index, place) in requested.filled(0..LEN) {
                let Request { file, offset, buffer_offset, .. } = self.requests[index];
                let offset = offset + place.start - buffer_offset;
                let len = place.end - place.start;
                append(&mut runs, Run { file, offset, len, buffer_offset: place.start });
            }
            let mut parts = Parts::default();
            let outcome = compare_some(&runs, extent, (&fingerprints, &mut parts), &mut comparison);
            let compared = comparison.compared;
            Looked { outcome, reads, compared, fingerprints: fingerprints.known(parts) }
        }
    }

    struct Looked {
        outcome: Result<(), TransferError>,
        reads: Vec<std::ops::Range<u64>>,
        compared: u64,
        fingerprints: Vec<Option<u32>>,
    }

    impl Looked {
        fn has(&self, at: u64) -> bool {
            self.reads.iter().any(|read| read.contains(&at))
        }

        /// Where it found a wrong byte.
        fn wrong(&self) -> Option<u64> {
            match &self.outcome {
                Ok(()) => None,
                Err(TransferError::Mismatch { offset, .. }) => Some(*offset),
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn a_sample_is_at_least_one_in_64_with_both_ends_and_all_is_all() {
        let loaded = Loaded::new();
        let sample = loaded.compare(Extent::Sample);
        sample.outcome.as_ref().expect("equal bytes");
        assert!(sample.has(100) && sample.has(LEN - 1));
        assert!(
            sample.compared * ONE_IN >= LEN - 100 && sample.compared < LEN / 50,
            "{}",
            sample.compared
        );
        assert_eq!(sample.fingerprints, [None, None]);
        let other = loaded.compare(Extent::Sample);
        assert_ne!(sample.reads, other.reads);

        let all = loaded.compare(Extent::All);
        all.outcome.as_ref().expect("equal bytes");
        assert_eq!(all.compared, LEN - 100);
        let print = |request: &Request| {
            let range = request.buffer().start as usize..request.buffer().end as usize;
            let mut bytes = vec![0; range.len()];
            loaded.memory.map().copy_to_slice(range.start, &mut bytes).expect("inside");
            Some(crc32fast::hash(&bytes))
        };
        assert_eq!(all.fingerprints, [0, 1].map(|i| print(&loaded.requests[i])));
    }

    #[test]
    fn wrong_bytes_in_every_block_are_noticed_and_so_are_those_at_the_ends() {
        let loaded = Loaded::new();
        for at in [100, LEN - 1] {
            loaded.spoil(at);
            for _ in 0..20 {
                assert_eq!(loaded.compare(Extent::Sample).wrong(), Some(at));
            }
            loaded.spoil(at);
        }
        // Half a MiB in a row.
        let from = 3_000_000;
        (from..from + (2 * ONE_IN - 1) * BLOCK)
            .step_by(BLOCK as usize)
            .for_each(|at| loaded.spoil(at));
        for _ in 0..50 {
            assert!(loaded.compare(Extent::Sample).wrong().is_some());
        }
    }

    /// What is outside the sample is not noticed, and not said to be.
    #[test]
    fn one_wrong_byte_is_noticed_if_its_block_is_in_the_sample() {
        let loaded = Loaded::new();
        let at = 2_345_678;
        loaded.spoil(at);
        let mut noticed = 0;
        for _ in 0..300 {
            let looked = loaded.compare(Extent::Sample);
            assert_eq!(looked.wrong(), looked.has(at).then_some(at));
            noticed += u32::from(looked.wrong().is_some());
        }
        // Of 300 loads 5 notice it; that 40 do is as likely as nothing.
        assert!(noticed < 40, "{noticed}");
        assert_eq!(loaded.compare(Extent::All).wrong(), Some(at));
    }
}
