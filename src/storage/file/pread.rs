//! One positioned read or write at a time.
//!
//! The plain path: works on every file system and in every sandbox.
//!
//! # Safety
//!
//! The kernel writes at most the length of a writable [`BufMap`], or reads at most the length of any, whose own
//! laws keep that memory valid while the call lasts.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use iomap::{Access, BufMap};

use super::partial::{Came, Partial};
use crate::storage::work::{Failure, Next, Work};

/// Reads at `offset` into `map` with one `pread(2)`. Returns how many bytes were read: fewer than
/// asked near the end of the file.
///
/// # Errors
/// The kernel's answer; [`io::ErrorKind::PermissionDenied`] if the map is read-only.
pub fn read_at(file: impl AsFd, offset: u64, map: &BufMap<'_>) -> io::Result<usize> {
    if map.access() == Access::ReadOnly {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the map is read-only"));
    }
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the map is writable over `len` bytes for as long as it is borrowed.
    let got =
        unsafe { libc::pread(file.as_fd().as_raw_fd(), map.as_ptr().cast(), map.len(), offset) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Writes all of `map` at `offset` with one `pwrite(2)`. Returns how many bytes were written: fewer where the
/// file system is full, or the file as long as it may be.
///
/// # Errors
/// The kernel's answer.
pub fn write_at(file: impl AsFd, offset: u64, map: &BufMap<'_>) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the map is readable over `len` bytes for as long as it is borrowed.
    let put =
        unsafe { libc::pwrite(file.as_fd().as_raw_fd(), map.as_ptr().cast(), map.len(), offset) };
    usize::try_from(put).map_err(|_| io::Error::last_os_error())
}

/// Reads all of `out`, from `offset` on. A read that the kernel puts off is tried again for a while; once
/// `stop` is set, no more.
///
/// # Errors
/// [`Failure`]: where in the file it ended, and why.
pub fn read_exact(
    file: impl AsFd,
    offset: u64,
    out: &mut [u8],
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let need = out.len() as u64;
    read_whole(file, offset, &BufMap::from_mut_slice(out), (need, 1), stop)
}

/// Reads into the beginning of `into`, in as many parts as it comes in, until `need` bytes have come, from `offset` on. What
/// comes in part comes in multiples of `granule`. A read that the kernel puts off is tried again for a while; once `stop` is
/// set, no more.
///
/// # Errors
/// [`Failure`]: where in the file it ended, and why.
pub(crate) fn read_whole(
    file: impl AsFd,
    offset: u64,
    into: &BufMap<'_>,
    (need, granule): (u64, u64),
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let mut partial = Partial::default();
    loop {
        let at = offset + partial.got();
        let rest = into.subrange(partial.got() as usize..).unwrap_or(BufMap::null());
        match partial.came(read_at(&file, at, &rest), (offset, need), granule) {
            Came::Whole => return Ok(()),
            Came::Rest(pause) if pause.is_zero() => {}
            Came::Rest(_) if stop.load(Ordering::Relaxed) => {
                let source = io::ErrorKind::Interrupted.into();
                return Err(Failure::Io { offset: at, source });
            }
            Came::Rest(pause) => thread::sleep(pause),
            Came::Failed(failure) => return Err(failure),
        }
    }
}

/// How many threads it takes at most to copy so many pieces out of the page cache.
pub fn copiers(pieces: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    pieces.min(cores).min(4)
}

/// Runs `work` to its end, one read or write at a time on this thread.
pub fn run<'m>(work: &mut impl Work<'m, File: AsFd>) {
    loop {
        match work.next() {
            Next::Read(read) => {
                work.completed(read.tag, read_at(read.file, read.offset, &read.into));
            }
            Next::Write(write) => {
                work.completed(write.tag, write_at(write.file, write.offset, &write.from));
            }
            Next::Wait | Next::Done => return,
        }
    }
}
