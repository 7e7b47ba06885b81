//! Whether the kernel has told of a change since something was found out.
//!
//! What a loader found out about the drive below a file and a peer's memory depends on devices, their drivers and what is
//! mounted. It is remembered with the [`epoch`] in which it was found out. Each change that the kernel tells of begins another
//! epoch, and what is of an older one is found out anew. So no request reads sysfs again for what has not changed.
//!
//! Where the kernel tells nothing, in a sandbox without netlink or in a container with a user namespace of its own, there is
//! one epoch.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use smallvec::SmallVec;

use crate::pci::{Uevent, Uevents};

/// The number of the present epoch of this process. It costs one system call.
pub(super) fn epoch() -> u64 {
    static CHANGES: OnceLock<Mutex<Changes>> = OnceLock::new();
    let changes = CHANGES.get_or_init(|| Mutex::new(Changes::listen()));
    changes.lock().unwrap_or_else(PoisonError::into_inner).epoch()
}

/// Who tells of changes, and how many there were.
struct Changes {
    devices: Option<Uevents>,
    /// It is readable out of the ordinary when something was mounted or unmounted (`proc_pid_mountinfo(5)`).
    mounts: Option<File>,
    epoch: u64,
}

impl Changes {
    fn listen() -> Self {
        let mounts = File::open("/proc/self/mountinfo").ok();
        Self { devices: Uevents::listen().ok(), mounts, epoch: 0 }
    }

    fn epoch(&mut self) -> u64 {
        self.epoch += u64::from(self.is_told());
        self.epoch
    }

    fn is_told(&self) -> bool {
        let devices = self.devices.iter().map(|events| (events.as_fd(), PollFlags::IN));
        let mounts = self.mounts.iter().map(|mounts| (mounts.as_fd(), PollFlags::PRI));
        let polled = devices.chain(mounts).map(|(fd, what)| PollFd::from_borrowed_fd(fd, what));
        let mut polled: SmallVec<[_; 2]> = polled.collect();
        if !matches!(poll(&mut polled, Some(&Timespec::default())), Ok(1..)) {
            return false;
        }
        let remounted = polled.iter().any(|fd| fd.revents().contains(PollFlags::PRI));
        remounted | self.devices.as_ref().is_some_and(has_changed)
    }
}

/// Takes all events. Whether one of them is of a device that a path depends on.
fn has_changed(events: &Uevents) -> bool {
    let matters = |event: &Uevent| matches!(&*event.subsystem, "pci" | "block" | "nvme");
    let mut changed = false;
    loop {
        match events.next() {
            Ok(Some(event)) => changed |= matters(&event),
            Ok(None) => return changed,
            // Some are lost, and nobody knows which.
            Err(_) => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_tells_there_is_one_epoch() {
        let mut changes = Changes { devices: None, mounts: None, epoch: 7 };
        assert_eq!([changes.epoch(), changes.epoch()], [7, 7]);
    }
}
