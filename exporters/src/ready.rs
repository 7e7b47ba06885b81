//! Waiting for a file descriptor, for so long and no longer.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::Intent;

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

/// Waits until a dma-buf's writers are done for one who reads, and all its users for one who writes.
/// False once `limit` is over (`Documentation/driver-api/dma-buf.rst`, "Implicit Fence Poll Support";
/// since Linux 3.17).
pub(crate) fn settled(
    dma_buf: BorrowedFd<'_>,
    intent: Intent,
    limit: Duration,
) -> rustix::io::Result<bool> {
    let event = match intent {
        Intent::Read => PollFlags::IN,
        Intent::Write | Intent::ReadWrite => PollFlags::OUT,
    };
    ready(dma_buf, event, limit)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::thread;

    use super::*;

    /// `poll` of a pipe is that of a dma-buf: it returns when it is ready.
    #[test]
    fn one_waits_until_a_file_is_ready() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let begun = Instant::now();
        let done = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            writer.write_all(b".").map(|()| writer)
        });
        let late = settled(reader.as_fd(), Intent::Read, Duration::from_millis(1));
        assert_eq!(late, Ok(false));
        assert_eq!(settled(reader.as_fd(), Intent::Read, Duration::MAX), Ok(true));
        assert!(begun.elapsed() >= Duration::from_millis(50));
        let writer = done.join().expect("no panic").expect("written");
        assert_eq!(settled(writer.as_fd(), Intent::Write, Duration::ZERO), Ok(true));
    }
}
