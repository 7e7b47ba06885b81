//! Whether a fence is signalled, as its sync file tells.

use std::os::fd::AsFd;
use std::time::Duration;

use libtest_mimic::Failed;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Whether a sync file is signalled.
///
/// # Errors
/// Fails the test if it cannot be asked.
pub fn is_done(sync_file: &impl AsFd) -> Result<bool, Failed> {
    is_done_within(sync_file, Duration::ZERO)
}

/// Whether a sync file is signalled, once it is or after so long.
///
/// # Errors
/// Fails the test if it cannot be asked.
pub fn is_done_within(sync_file: &impl AsFd, limit: Duration) -> Result<bool, Failed> {
    let limit = Timespec::try_from(limit)?;
    Ok(poll(&mut [PollFd::new(sync_file, PollFlags::IN)], Some(&limit))? == 1)
}
