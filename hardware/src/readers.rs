//! Threads that read a file block by block, each into a place of its own: the plain way.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bufmap::storage::file::pread::read_at;
use iomap::{BufMap, Memory};

/// Hands out the blocks of a file to any number of threads, until none is left.
pub struct Blocks {
    len: u64,
    block: u64,
    next: AtomicU64,
}

impl Blocks {
    /// Those of the first `len` bytes.
    pub fn new(len: u64, block: u64) -> Self {
        Self { len, block, next: AtomicU64::new(0) }
    }

    /// The next block: where it begins, and how long it is.
    pub fn take(&self) -> Option<(u64, usize)> {
        let at = self.next.fetch_add(self.block, Ordering::Relaxed);
        (at < self.len).then(|| (at, self.block.min(self.len - at) as usize))
    }
}

/// Fills memory from a file by `threads`, and returns the time that it took.
pub fn fill(
    file: BorrowedFd<'_>,
    memory: &Memory,
    threads: usize,
    block: u64,
) -> io::Result<Duration> {
    let blocks = Blocks::new(memory.len() as u64, block);
    let started = Instant::now();
    each(threads, |_| {
        while let Some((at, len)) = blocks.take() {
            let start = at as usize;
            let place = memory.map().subrange(start..start + len).map_err(io::Error::other)?;
            read_exact(file, at, &place)?;
        }
        Ok::<_, io::Error>(())
    })?;
    Ok(started.elapsed())
}

/// Does the same on several threads, and returns the first error.
pub fn each<E: Send>(
    threads: usize,
    work: impl Fn(usize) -> Result<(), E> + Sync,
) -> Result<(), E> {
    thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = (1..threads)
            // Where no thread can be had, the others do its blocks.
            .filter_map(|number| {
                thread::Builder::new().spawn_scoped(scope, move || work(number)).ok()
            })
            .collect();
        let mut answer = work(0);
        for other in others {
            if let Ok(other) = other.join() {
                answer = answer.and(other);
            }
        }
        answer
    })
}

/// Reads until the map is full.
pub fn read_exact(file: BorrowedFd<'_>, mut at: u64, map: &BufMap<'_>) -> io::Result<()> {
    let mut rest = *map;
    while !rest.is_empty() {
        let got = read_at(file, at, &rest)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at += got as u64;
        rest = rest.offset(got).map_err(io::Error::other)?;
    }
    Ok(())
}
