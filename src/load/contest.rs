//! The page cache or the drive: which is faster here.
//!
//! A copy out of the page cache beats nearly every drive, and a few drives beat it. For a load so
//! long that the question costs next to nothing, both are tried on the caller's own file.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::time::Instant;

use iomap::{Memory, PageSize};

use super::cut::{Batch, Cut};
use super::fill::copiers;
use super::plan::Run;
use super::road::Road;
use super::roads::COPY_BLOCK;
use super::run::direct::Direct;
use super::run::{Event, Flight, Job, Queue, Report};
use crate::storage::file::ring::Ring;
use crate::storage::file::{Alignment, SourceFile, pread};

/// The shortest cached run for which the question is asked, in bytes.
const WORTH_ASKING: u64 = 4 << 30;

/// How much is read by each road to answer it, in bytes.
const SAMPLE: u64 = 8 << 20;

const BLOCK: u64 = 1 << 20;

/// Bytes a second by each road.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub drive: f64,
    pub cache: f64,
}

/// Reads a sample of a file that the page cache holds by both roads. `None` if it is too short to
/// ask, or one of the roads does not work.
pub(super) fn measure(file: &SourceFile, cached: &[Run], stop: &AtomicBool) -> Option<Rates> {
    let bytes: u64 = cached.iter().map(|run| run.len).sum();
    if bytes < WORTH_ASKING {
        return None;
    }
    let longest = cached.iter().max_by_key(|run| run.len)?;
    let alignment = file.direct().ok()?;
    let start = longest.offset.next_multiple_of(BLOCK);
    let sample = Run { file: 0, offset: start, len: SAMPLE, buffer_offset: 0 };
    if start + SAMPLE > longest.offset + longest.len {
        return None;
    }
    let memory = Memory::anonymous(SAMPLE as usize, PageSize::Base).ok()?;
    memory.populate().ok()?;

    let cut = Cut { block: BLOCK, alignment, file_len: file.len(), slots_only: false };
    let reads = |road, cut| Batch::new(road, std::slice::from_ref(&sample), cut).jobs().collect();
    let drive = time(file, &memory, reads(Road::Direct, cut), stop, |work| {
        Ring::new(8).and_then(|mut ring| ring.run(work)).is_ok()
    })?;
    let cut = Cut { block: COPY_BLOCK, alignment: Alignment { offset: 1, memory: 1 }, ..cut };
    let copy = time(file, &memory, reads(Road::Cached, cut), stop, |work| {
        pread::run(work);
        true
    })?;
    Some(Rates { drive, cache: copy * copiers(usize::MAX) as f64 })
}

/// How many bytes a second `engine` reads into `memory`.
fn time(
    file: &SourceFile,
    memory: &Memory,
    jobs: Vec<Job>,
    stop: &AtomicBool,
    engine: impl FnOnce(&mut Direct<'_, SourceFile>) -> bool,
) -> Option<f64> {
    let flight = Flight::new(stop);
    let queue = Queue::new(&jobs, &flight);
    let (events, landed) = channel();
    let files = std::slice::from_ref(file);
    let started = Instant::now();
    let mut work = Direct::new(&queue, files, memory.map(), Vec::new(), None, Report::new(events));
    let ran = engine(&mut work);
    let elapsed = started.elapsed().as_secs_f64();
    drop(work);
    let landed = landed.iter().map(|event| match event {
        Event::Landed(landed) => landed.len(),
        _ => 0,
    });
    let whole = landed.sum::<usize>() == jobs.len();
    (ran && whole && elapsed > 0.0).then(|| SAMPLE as f64 / elapsed)
}
