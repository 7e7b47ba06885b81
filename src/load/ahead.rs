//! The pages of a new buffer, made ready ahead of the reads.
//!
//! Memory that is only promised gets its pages, and has them zeroed, at the first touch: for a read past the page
//! cache on the thread that asks for it, which would issue no other read meanwhile. So other threads touch the
//! pages first, in the order of the reads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use exporters::Destination;
use iomap::Location;

use crate::check::map_of;
use crate::engine::flight::Flight;
use crate::plan::job::Job;

/// The most threads that make pages ready. Zeroing is bound by the machine's memory, which a few cores use up; half
/// of the cores are left to the reads and to the program.
const THREADS_MAX: usize = 4;

/// As many jobs a thread takes at once: neighbours share huge pages.
const TOGETHER: usize = 4;

/// The jobs of a load whose pages are to be made ready.
pub(super) struct Ahead<'a> {
    jobs: &'a [Job],
    next: AtomicUsize,
    flight: &'a Flight<'a>,
}

impl<'a> Ahead<'a> {
    pub(super) const fn of(jobs: &'a [Job], flight: &'a Flight<'a>) -> Self {
        Self { jobs, next: AtomicUsize::new(0), flight }
    }

    /// How many threads it takes, for a buffer of which `absent` bytes have no pages yet.
    pub(super) fn threads(&self, absent: usize) -> usize {
        if absent == 0 {
            return 0;
        }
        let cores = thread::available_parallelism().map_or(1, usize::from);
        self.jobs.len().div_ceil(TOGETHER).min((cores / 2).clamp(1, THREADS_MAX))
    }

    /// Makes pages ready until all are, or the load ends. Where the kernel does not (before Linux 5.14, or for
    /// want of memory), the reads do it.
    pub(super) fn run(&self, buffer: &dyn Destination) {
        let map = map_of(buffer);
        if map.location() != Location::System {
            return;
        }
        while !self.flight.is_ended() {
            let first = self.next.fetch_add(TOGETHER, Ordering::Relaxed);
            let Some(jobs) = self.jobs.get(first..).filter(|jobs| !jobs.is_empty()) else { return };
            for landed in jobs.iter().take(TOGETHER).flat_map(Job::landed) {
                let pages = map.subrange(landed.start as usize..landed.end as usize);
                if !pages.is_ok_and(|pages| pages.populate().is_ok()) {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use iomap::{Memory, PageSize};

    use super::*;
    use crate::plan::run::{Landing, Piece, SlotCopy};
    use crate::transfer::DataPath;

    const PAGE: u64 = 4096;

    fn job(landing: Landing) -> Job {
        let piece = Piece { file: 0, offset: 0, len: 2 * PAGE, need: 2 * PAGE, landing };
        Job { path: DataPath::Direct, piece }
    }

    fn memory() -> Memory {
        Memory::anonymous(64 * PAGE as usize, PageSize::Base).expect("memory")
    }

    #[test]
    fn what_jobs_fill_is_made_ready_and_nothing_else() {
        let memory = memory();
        let copies = vec![SlotCopy { slot_offset: 0, buffer_offset: 40 * PAGE, len: PAGE }];
        let mut jobs: Vec<_> = (0..8).map(|i| job(Landing::Buffer(2 * i * PAGE))).collect();
        jobs.push(job(Landing::Slot(copies)));
        let stop = AtomicBool::new(false);
        let flight = Flight::new(&stop);
        let ahead = Ahead::of(&jobs, &flight);
        assert_eq!(ahead.threads(0), 0);
        assert!((1..=3).contains(&ahead.threads(memory.len())));
        ahead.run(&memory);
        let absent = |pages: std::ops::Range<u64>| {
            let range = (pages.start * PAGE) as usize..(pages.end * PAGE) as usize;
            memory.map().subrange(range).expect("inside").absent().expect("an answer") as u64 / PAGE
        };
        assert_eq!((absent(0..16), absent(16..40), absent(40..41), absent(41..64)), (0, 24, 0, 23));
    }

    #[test]
    fn nothing_is_made_ready_for_a_load_that_was_stopped() {
        let memory = memory();
        let jobs = [job(Landing::Buffer(0))];
        let stop = AtomicBool::new(true);
        Ahead::of(&jobs, &Flight::new(&stop)).run(&memory);
        assert_eq!(memory.absent().expect("an answer"), memory.len());
    }
}
