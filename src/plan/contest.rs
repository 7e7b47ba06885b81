//! The page cache or the drive: which is faster here.
//!
//! A copy out of the page cache beats nearly every drive, and a few drives beat it. For a load so
//! long that the question costs next to nothing, both are tried on the caller's own file.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use iomap::{BufMap, Memory, PageSize};

use super::cut::COPY_BLOCK;
use super::run::Run;
use crate::storage::file::ring::Ring;
use crate::storage::file::{Descriptor, SourceFile, pread};
use crate::storage::work::{Next, Read, Work};

/// The shortest cached run for which the question is asked, in bytes.
const WORTH_ASKING: u64 = 4 << 30;

/// How much is read by each path to answer it, in bytes.
const SAMPLE: u64 = 8 << 20;

const BLOCK: u64 = 1 << 20;

/// Bytes a second by each path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub drive: f64,
    pub cache: f64,
}

/// Reads a sample of a file that the page cache holds by both paths. `None` if it is too short to
/// ask, or one of the paths does not work.
pub(super) fn measure(file: &SourceFile, cached: &[Run], stop: &AtomicBool) -> Option<Rates> {
    let bytes: u64 = cached.iter().map(|run| run.len).sum();
    if bytes < WORTH_ASKING {
        return None;
    }
    let longest = cached.iter().max_by_key(|run| run.len)?;
    let direct = Descriptor::Direct(file.open_direct().ok()?);
    let offset = longest.offset.next_multiple_of(BLOCK);
    if offset + SAMPLE > longest.offset + longest.len {
        return None;
    }
    let memory = Memory::anonymous(SAMPLE as usize, PageSize::Base).ok()?;
    memory.populate().ok()?;

    let sample =
        |file, block| Sample { file, offset, into: memory.map(), block, at: 0, got: 0, stop };
    let drive = time(sample(direct, BLOCK), |work| {
        Ring::new(8).and_then(|mut ring| ring.run(work)).is_ok()
    })?;
    let copy = time(sample(Descriptor::Cached(file.as_fd()), COPY_BLOCK), |work| {
        pread::run(work);
        true
    })?;
    Some(Rates { drive, cache: copy * pread::copiers(usize::MAX) as f64 })
}

/// How many bytes a second an engine reads.
fn time<'m>(mut sample: Sample<'m>, engine: impl FnOnce(&mut Sample<'m>) -> bool) -> Option<f64> {
    let started = Instant::now();
    let ran = engine(&mut sample);
    let elapsed = started.elapsed().as_secs_f64();
    (ran && sample.got == SAMPLE && elapsed > 0.0).then(|| SAMPLE as f64 / elapsed)
}

/// Reads of a part of a file, block by block.
struct Sample<'m> {
    file: Descriptor<'m>,
    /// Where it begins in the file, in bytes.
    offset: u64,
    into: BufMap<'m>,
    block: u64,
    /// How far it was asked for, in bytes.
    at: u64,
    /// How many bytes came.
    got: u64,
    stop: &'m AtomicBool,
}

impl<'m> Work<'m> for Sample<'m> {
    type File = Descriptor<'m>;

    fn next(&mut self) -> Next<'m, Descriptor<'m>> {
        let at = self.at;
        let Ok(into) = self.into.subrange(at as usize..(at + self.block) as usize) else {
            return Next::Done;
        };
        if self.stop.load(Ordering::Relaxed) {
            return Next::Done;
        }
        self.at += self.block;
        Next::Read(Read { file: self.file.clone(), offset: self.offset + at, into, tag: 0 })
    }

    fn completed(&mut self, _: usize, result: io::Result<usize>) {
        self.got += result.unwrap_or(0) as u64;
    }
}
