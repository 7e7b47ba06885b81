//! A file that is open, by a path.

use std::os::fd::{AsFd, AsRawFd};

/// A path by which the file of a descriptor is opened once more, or is named, whatever became of its own.
pub(crate) fn own_path(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}
