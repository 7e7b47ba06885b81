//! Many reads in flight on one io_uring.
//!
//! A [`Ring`] runs a piece of [`Work`]: it asks for the next read while it has room, hands every
//! completion back, and returns when the work is done and nothing is in flight.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. A read is pushed only inside [`Ring::run`], with a map and a file that live for `'m`, which
//!    outlasts the call.
//! 2. `run` does not return, nor unwind, before the kernel has completed every read it was given:
//!    [`InFlight`] waits for them when it is dropped.
//! 3. The kernel writes only inside the map of a read, which is writable.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, squeue, types};
use iomap::{Access, BufMap};

/// The longest run of memory that the kernel takes as one registered buffer.
const REGISTERED_MAX: usize = 1 << 30;

/// A read for the kernel to do.
#[derive(Debug)]
pub struct Read<'m> {
    /// The file to read.
    pub file: BorrowedFd<'m>,
    /// Where in it, in bytes.
    pub offset: u64,
    /// Where to put the bytes; its length is how many are asked for, at most `u32::MAX`.
    pub into: BufMap<'m>,
    /// What [`Work::completed`] gets back.
    pub tag: usize,
}

/// What a piece of work wants next.
#[derive(Debug)]
pub enum Next<'m> {
    /// Do this read.
    Read(Read<'m>),
    /// Nothing before a read that is in flight completes.
    Wait,
    /// Nothing more.
    Done,
}

/// A source of reads, and the place where their completions go.
pub trait Work<'m> {
    /// The next read. Asked whenever the ring has room; [`Next::Wait`] is answered only while a
    /// read is in flight.
    fn next(&mut self) -> Next<'m>;

    /// A read was completed: the number of bytes read, or the kernel's error.
    fn completed(&mut self, tag: usize, result: io::Result<usize>);
}

/// An io_uring and the memory registered with it.
pub struct Ring<'m> {
    uring: IoUring,
    registered: Vec<BufMap<'m>>,
}

impl<'m> Ring<'m> {
    /// Sets up a ring for `depth` reads in flight (1 to 32,768).
    ///
    /// # Errors
    /// The kernel's answer: `ENOSYS` without io_uring (before Linux 5.1), `EPERM` where a sandbox
    /// or the sysctl `kernel.io_uring_disabled` forbids it, `ENOMEM`.
    pub fn new(depth: u32) -> io::Result<Self> {
        let uring =
            IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(depth).or_else(
                |error| match error.raw_os_error() {
                    // The flags are newer than io_uring itself (Linux 6.0 and 6.1).
                    Some(libc::EINVAL) => IoUring::new(depth),
                    _ => Err(error),
                },
            )?;
        Ok(Self { uring, registered: Vec::new() })
    }

    /// Registers memory, so that the kernel pins its pages once and not at every read. Reads into
    /// other memory stay possible. One call a ring.
    ///
    /// # Errors
    /// The kernel's answer: `ENOMEM` beyond `RLIMIT_MEMLOCK`, `EFAULT` for memory that cannot be
    /// pinned. The ring works on without.
    pub fn register(&mut self, maps: &[BufMap<'m>]) -> io::Result<()> {
        let mut parts = Vec::new();
        for &map in maps {
            let mut rest = map;
            while rest.len() > REGISTERED_MAX {
                let Ok((part, after)) = rest.split_at(REGISTERED_MAX) else { break };
                parts.push(part);
                rest = after;
            }
            parts.push(rest);
        }
        let iovecs: Vec<_> = parts
            .iter()
            .map(|part| libc::iovec { iov_base: part.as_ptr().cast(), iov_len: part.len() })
            .collect();
        // SAFETY: the maps are valid for `'m`; from here on the kernel's own pin keeps the pages.
        unsafe { self.uring.submitter().register_buffers(&iovecs)? };
        self.registered = parts;
        Ok(())
    }

    /// Runs `work` to its end, with no more reads in flight than the ring's depth.
    ///
    /// # Errors
    /// When the ring itself fails. Errors of single reads go to [`Work::completed`].
    pub fn run(&mut self, work: &mut impl Work<'m>) -> io::Result<()> {
        let depth = self.uring.params().sq_entries();
        let registered = &self.registered;
        let mut flight = InFlight { uring: &mut self.uring, reads: 0 };
        loop {
            let mut done = false;
            while flight.reads < depth {
                match work.next() {
                    Next::Read(read) => flight.push(registered, &read)?,
                    Next::Wait => break,
                    Next::Done => {
                        done = true;
                        break;
                    }
                }
            }
            if done && flight.reads == 0 {
                return Ok(());
            }
            flight.wait()?;
            while let Some(entry) = flight.completion() {
                let result = match entry.result() {
                    negative if negative < 0 => Err(io::Error::from_raw_os_error(-negative)),
                    bytes => Ok(bytes as usize),
                };
                work.completed(entry.user_data() as usize, result);
            }
        }
    }
}

/// The reads that the kernel has not completed. Dropping it waits for them.
struct InFlight<'r> {
    uring: &'r mut IoUring,
    reads: u32,
}

impl InFlight<'_> {
    fn push(&mut self, registered: &[BufMap<'_>], read: &Read<'_>) -> io::Result<()> {
        let entry = entry(registered, read)?;
        // SAFETY: laws 1 and 2: file and memory outlive the read's completion. The queue has room,
        // because no more reads are ever in flight than it has entries.
        unsafe { self.uring.submission().push(&entry) }
            .map_err(|full| io::Error::other(full.to_string()))?;
        self.reads += 1;
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        let want = usize::from(self.reads > 0);
        loop {
            match self.uring.submit_and_wait(want) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel is short of memory for the moment: the reads in flight will free some.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    std::thread::yield_now();
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn completion(&mut self) -> Option<io_uring::cqueue::Entry> {
        let entry = self.uring.completion().next()?;
        self.reads -= 1;
        Some(entry)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        while self.reads > 0 {
            if self.wait().is_err() {
                // Memory under a read in flight must not be given back (law 2), and nothing is left
                // to ask the kernel with.
                std::process::abort();
            }
            while self.completion().is_some() {}
        }
    }
}

fn entry(registered: &[BufMap<'_>], read: &Read<'_>) -> io::Result<squeue::Entry> {
    let into = &read.into;
    let len = u32::try_from(into.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    if into.access() == Access::ReadOnly {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the map is read-only"));
    }
    let fd = types::Fd(read.file.as_raw_fd());
    let start = into.as_ptr() as usize;
    let inside = |part: &BufMap<'_>| {
        let base = part.as_ptr() as usize;
        start >= base && start + into.len() <= base + part.len()
    };
    let entry = match registered.iter().position(inside) {
        Some(index) => {
            opcode::ReadFixed::new(fd, into.as_ptr(), len, index as u16).offset(read.offset).build()
        }
        None => opcode::Read::new(fd, into.as_ptr(), len).offset(read.offset).build(),
    };
    Ok(entry.user_data(read.tag as u64))
}
