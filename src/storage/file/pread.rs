//! One positioned read at a time.
//!
//! The plain road: works on every file system and in every sandbox.
//!
//! # Safety
//!
//! The kernel writes at most the length of a writable [`BufMap`], whose own laws keep that memory
//! valid while the call lasts.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use iomap::{Access, BufMap};

use crate::storage::work::{Next, Work};

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

/// Runs `work` to its end, one read at a time on this thread.
pub fn run<'m>(work: &mut impl Work<'m, File: AsFd>) {
    while let Next::Read(read) = work.next() {
        work.completed(read.tag, read_at(read.file, read.offset, &read.into));
    }
}
