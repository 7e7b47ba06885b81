//! What of a file sits in the page cache.
//!
//! # Safety
//!
//! One system call, which reads and writes the two structures given to it and nothing else.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

/// `struct cachestat_range` of `linux/mman.h`.
#[repr(C)]
struct CachestatRange {
    off: u64,
    len: u64,
}

/// `struct cachestat` of `linux/mman.h`: counts of pages.
#[repr(C)]
#[derive(Default)]
struct Cachestat {
    nr_cache: u64,
    nr_dirty: u64,
    nr_writeback: u64,
    nr_evicted: u64,
    nr_recently_evicted: u64,
}

const _: () = assert!(size_of::<CachestatRange>() == 16 && size_of::<Cachestat>() == 40);

/// The number of `cachestat(2)`, the same on every architecture (since Linux 6.5).
const SYS_CACHESTAT: libc::c_long = 451;

/// How many bytes of `range` lie in the page cache, in whole pages: never less than is there, and
/// up to two pages more than the range is long.
///
/// # Errors
/// The kernel's answer: `ENOSYS` before Linux 6.5, `EPERM` under some sandboxes, `EOPNOTSUPP` for
/// hugetlbfs.
pub fn resident(file: impl AsFd, range: Range<u64>) -> io::Result<u64> {
    let range = CachestatRange { off: range.start, len: range.end.saturating_sub(range.start) };
    let mut stat = Cachestat::default();
    if range.len == 0 {
        return Ok(0); // To the kernel, a length of zero means up to the end of the file.
    }
    // SAFETY: both pointers are to live structures of the kernel's own layout.
    let answer = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_fd().as_raw_fd(), &raw const range, &raw mut stat, 0)
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat.nr_cache.saturating_mul(rustix::param::page_size() as u64))
}
