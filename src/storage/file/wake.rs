//! What wakes a ring that waits for work: an eventfd, which the ring reads like a file.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

/// Wakes a thread that waits in [`Steps::step`](super::ring::Steps::step).
#[derive(Debug)]
pub struct WakeFd(OwnedFd);

impl WakeFd {
    /// One that wakes nobody yet.
    ///
    /// # Errors
    /// The kernel's answer: `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC)?))
    }

    /// Wakes the ring, at once or as soon as it would wait.
    pub fn wake(&self) {
        // It fails only if the count would overflow, and a count that is not 0 wakes no less.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl AsFd for WakeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
