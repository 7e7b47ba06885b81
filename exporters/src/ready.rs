//! Waiting for a file descriptor, for so long and no longer.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Waits until `fd` is ready for one of `flags`, or has an error or a hang-up to tell. False once
/// `limit` is over; a limit of zero only looks.
pub(crate) fn ready(
    fd: BorrowedFd<'_>,
    flags: PollFlags,
    limit: Duration,
) -> rustix::io::Result<bool> {
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        // Without a limit where there are more seconds than the kernel counts.
        let left = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], left.as_ref()) {
            Err(Errno::INTR) => continue,
            answer => return answer.map(|count| count > 0),
        }
    }
}
