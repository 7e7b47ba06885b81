//! Pages that stay where they are.
//!
//! A physical address is worth something only while the page behind it cannot move. `mlock` keeps a
//! page in memory but lets the kernel migrate it (see `Documentation/mm/unevictable-lru.rst`,
//! "Migrating MLOCKED pages"). What an ordinary process can have instead is io_uring's registered
//! buffers: the kernel takes a long-term pin on their pages (`FOLL_LONGTERM`, see
//! `Documentation/core-api/pin_user_pages.rst`), first moving them out of memory from which they
//! would later have to be moved again. [`Pinned`] is that pin as a guard.
//!
//! # Safety
//!
//! The one law of this module: pages registered with the ring belong to a map whose lifetime the
//! guard carries, and the ring is never used for I/O.
#![allow(unsafe_code)]

use std::io;

use io_uring::IoUring;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::BufMap;

/// The kernel takes no registered buffer longer than this.
const MAX_BUFFER: usize = 1 << 30;

/// Why pages could not be pinned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// io_uring, by which pages are pinned, cannot be used here.
    #[error("pages cannot be pinned: {why}; {fix}")]
    Unavailable {
        /// What stands in the way.
        why: &'static str,
        /// What to do about it.
        fix: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The process may not pin so much.
    #[error(
        "{len} bytes cannot be pinned: {source}; RLIMIT_MEMLOCK is {limit}: raise it (`ulimit -l`, \
         LimitMEMLOCK= in a systemd unit), run with CAP_IPC_LOCK, or pin less at a time",
        limit = limit.map_or("unlimited, so memory ran out".into(), |bytes| format!("{bytes} bytes"))
    )]
    Limit {
        /// How much was to be pinned, in bytes.
        len: usize,
        /// The soft limit in bytes, absent if there is none.
        limit: Option<u64>,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The memory is of a kind that cannot be pinned: read-only, or a device's (`VM_PFNMAP`), or a
    /// file's on a file system that must know of writes.
    #[error("{len} bytes cannot be pinned: {source}; only writable system memory can be")]
    Kind {
        /// How much was to be pinned, in bytes.
        len: usize,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A map whose pages are pinned: present in memory, at one physical address, until this is dropped.
///
/// Pinning first makes all pages present (a page never touched is allocated and zeroed). The pages
/// count against `RLIMIT_MEMLOCK` unless the process has `CAP_IPC_LOCK`. Available since Linux 5.1.
///
/// ```no_run
/// use iomap::{Memory, PageSize, Pinned, pagemap};
///
/// let memory = Memory::anonymous(1 << 20, PageSize::Base)?;
/// let pinned = Pinned::new(memory.map())?;
/// for range in &pagemap::phyrs(&pinned)? {
///     println!("{range}");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The memory cannot go away under the pin:
///
/// ```compile_fail,E0505
/// let memory = iomap::Memory::anonymous(4096, iomap::PageSize::Base).unwrap();
/// let pinned = iomap::Pinned::new(memory.map()).unwrap();
/// drop(memory);
/// drop(pinned);
/// ```
pub struct Pinned<'a> {
    map: BufMap<'a>,
    /// Absent if there is nothing to pin.
    ring: Option<IoUring>,
}

impl<'a> Pinned<'a> {
    /// Pins the pages of `map`.
    ///
    /// # Errors
    /// [`PinError::Unavailable`] without io_uring, [`PinError::Limit`] if it is too much,
    /// [`PinError::Kind`] if it is no writable system memory. Nothing stays pinned.
    pub fn new(map: BufMap<'a>) -> Result<Self, PinError> {
        if map.is_empty() {
            return Ok(Self { map, ring: None });
        }
        let ring = IoUring::new(1).map_err(|source| refused(map.len(), source))?;
        let buffers: Vec<libc::iovec> = (0..map.len())
            .step_by(MAX_BUFFER)
            .map(|offset| libc::iovec {
                iov_base: map.as_ptr().wrapping_add(offset).cast(),
                iov_len: MAX_BUFFER.min(map.len() - offset),
            })
            .collect();
        // SAFETY: the buffers are `map`'s bytes, valid for `'a`, which outlives the ring; and the
        // ring is used for nothing, so the kernel only holds the pages (the module's law).
        unsafe { ring.submitter().register_buffers(&buffers) }
            .map_err(|source| refused(map.len(), source))?;
        Ok(Self { map, ring: Some(ring) })
    }

    /// The map whose pages are pinned. It may be used after the pin ends; addresses learned through
    /// the pin may not.
    pub const fn map(&self) -> BufMap<'a> {
        self.map
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        // Closing the ring alone would unpin too, but some time later, in a worker of the kernel's.
        if let Some(ring) = &self.ring {
            let _ = ring.submitter().unregister_buffers();
        }
    }
}

impl std::fmt::Debug for Pinned<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pinned").field("map", &self.map).finish_non_exhaustive()
    }
}

fn unavailable(source: io::Error) -> PinError {
    let (why, fix) = match Errno::from_io_error(&source) {
        Some(Errno::NOSYS) => (
            "the kernel has no io_uring",
            "it needs Linux 5.1 built with CONFIG_IO_URING, and a sandbox that passes the call on",
        ),
        Some(Errno::PERM) => (
            "io_uring is forbidden",
            "set /proc/sys/kernel/io_uring_disabled to 0, or let the container's seccomp profile pass \
             io_uring_setup and io_uring_register",
        ),
        Some(Errno::MFILE | Errno::NFILE) => {
            ("no file descriptor is left for an io_uring", "raise RLIMIT_NOFILE (`ulimit -n`)")
        }
        _ => ("no io_uring could be set up", "see io_uring_setup(2) for the kernel's answer"),
    };
    PinError::Unavailable { why, fix, source }
}

fn refused(len: usize, source: io::Error) -> PinError {
    match Errno::from_io_error(&source) {
        Some(Errno::NOMEM) => {
            PinError::Limit { len, limit: getrlimit(Resource::Memlock).current, source }
        }
        Some(Errno::FAULT | Errno::OPNOTSUPP) => PinError::Kind { len, source },
        _ => unavailable(source),
    }
}
