//! Whether pages are behind a map yet, and having the kernel put them there.
//!
//! The kernel promises memory at once and finds a page for it at the first touch. A device's read into memory
//! that is only promised waits for that, page by page, on whichever thread asked for the read; so what fills
//! a buffer has its pages made ready first, by other threads: [`BufMap::populate`].
//!
//! # Safety
//!
//! The law of this module: a map is valid over its length ([`map`](crate::map), law 1), so that every page that
//! it touches is mapped by this process. The two system calls here read and change no byte behind it.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;

use rustix::mm::{Advice, madvise};

use crate::map::{Access, BufMap};

/// The pages that are asked about at once.
const TOGETHER: usize = 1 << 16;

impl BufMap<'_> {
    /// How many bytes of its pages have no page behind them so far, and will cost one when they are
    /// written: whole pages, those at its ends too.
    ///
    /// ```
    /// let memory = iomap::Memory::anonymous(3 * 4096, iomap::PageSize::Base)?;
    /// let tail = memory.map().subrange(4096..)?;
    /// assert_eq!(tail.absent()?, 2 * 4096);
    /// tail.fill(1)?;
    /// assert_eq!(tail.absent()?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The kernel's answer to mincore(2).
    pub fn absent(&self) -> io::Result<usize> {
        let page = rustix::param::page_size();
        let pages = self.pages(page);
        let mut present = [0u8; TOGETHER];
        let mut absent = 0;
        for first in pages.clone().step_by(TOGETHER * page) {
            let len = (pages.end - first).min(TOGETHER * page);
            // SAFETY: the range is mapped (the module's law), and the kernel writes one byte for each of
            // its pages, of which there are at most `TOGETHER`.
            let answer = unsafe { libc::mincore(first as *mut _, len, present.as_mut_ptr()) };
            if answer != 0 {
                return Err(io::Error::last_os_error());
            }
            absent += present[..len / page].iter().filter(|byte| **byte & 1 == 0).count();
        }
        Ok(absent * page)
    }

    /// Makes every page of it present now, rather than one page fault at a time while somebody waits. Its bytes
    /// stay what they are: zero, where nobody has written. Whole pages, those at its ends too. Several threads
    /// may do it in parts of one buffer.
    ///
    /// ```
    /// let memory = iomap::Memory::anonymous(3 * 4096, iomap::PageSize::Base)?;
    /// memory.map().subrange(..100)?.populate()?;
    /// assert_eq!(memory.absent()?, 2 * 4096);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`] if the map is read-only. The kernel's answer to madvise(2) with
    /// `MADV_POPULATE_WRITE`: `EINVAL` before Linux 5.14, `ENOMEM` if there is not so much memory, `EFAULT` if what
    /// was mapped has gone away.
    pub fn populate(&self) -> io::Result<()> {
        if self.access() == Access::ReadOnly {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the map is read-only"));
        }
        let pages = self.pages(rustix::param::page_size());
        if pages.is_empty() {
            return Ok(());
        }
        // SAFETY: the range is mapped (the module's law), and this advice leaves its bytes and its place alone.
        let answer =
            unsafe { madvise(pages.start as *mut _, pages.len(), Advice::LinuxPopulateWrite) };
        Ok(answer?)
    }

    /// The addresses of its pages.
    fn pages(&self, page: usize) -> Range<usize> {
        let start = self.as_ptr() as usize;
        let end = start + self.len();
        if self.is_empty() { 0..0 } else { start / page * page..end.next_multiple_of(page) }
    }
}
