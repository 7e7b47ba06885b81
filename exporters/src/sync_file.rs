//! Sync files: fences as file descriptors, to wait for or to pass on.
//!
//! [`DmaBuf::export_sync_file`](crate::DmaBuf::export_sync_file) gives the fences that are on a buffer,
//! [`Syncobj::export_sync_file`](crate::drm::Syncobj::export_sync_file) the one in a box, and either
//! takes one in. A descriptor that came from elsewhere is made a [`SyncFile`] first, which tells whether
//! it is one. The interface is `linux/sync_file.h`; see
//! `Documentation/driver-api/sync_file.rst`.
//!
//! # Safety
//!
//! The law of this module: the ioctl's number is built from the very type that it passes, which has the
//! kernel's layout.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::ioctl::{Updater, ioctl, opcode};

use crate::apart::Apart;
use crate::foreign::{describe, link};
use crate::ready::ready;

/// `struct sync_file_info`, since Linux 4.7.
#[repr(C)]
#[derive(Default)]
struct Info {
    name: [u8; 32],
    status: i32,
    flags: u32,
    num_fences: u32,
    pad: u32,
    sync_fence_info: u64,
}

const _: () = assert!(size_of::<Info>() == 56 && std::mem::offset_of!(Info, status) == 32);

/// Why a fence could not be waited for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncFileError {
    /// The file descriptor is something else.
    #[error("file descriptor {fd} is no sync file but {is}; export one of a dma-buf or a syncobj")]
    NotASyncFile {
        /// The descriptor's number.
        fd: RawFd,
        /// What `/proc/self/fd` says it is.
        is: String,
    },
    /// There is no telling what the file descriptor is.
    #[error("/proc does not tell what file descriptor {fd} is: {source}; mount it")]
    Unknown {
        /// The descriptor's number.
        fd: RawFd,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A wait that ended before the fence was signalled.
    #[error("no signal within {limit:?}; wait longer, or ask what holds up the device")]
    TimedOut {
        /// How long was waited.
        limit: Duration,
    },
    /// The work behind the fence went wrong: what it should have written may not be there.
    #[error("the work behind the fence failed: {source}; do not use what it should have written")]
    Failed {
        /// What its driver says.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{step} of a sync file: {source}")]
    Kernel {
        /// What was being done.
        step: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

/// An owned sync file: one fence, or several that all have to be signalled.
///
/// ```no_run
/// use std::time::Duration;
/// use exporters::{DmaBuf, Intent, SyncFile};
///
/// /// Waits until nobody writes into a buffer any more.
/// fn settled(dma_buf: &DmaBuf) -> Result<(), Box<dyn std::error::Error>> {
///     let writers = SyncFile::new(dma_buf.export_sync_file(Intent::Read)?)?;
///     Ok(writers.wait(Duration::from_secs(1))?)
/// }
/// ```
#[derive(Debug)]
pub struct SyncFile(OwnedFd);

impl SyncFile {
    /// Takes a file descriptor that is a sync file, such as one received from another process. It waits for
    /// nobody, whatever file it is.
    ///
    /// # Errors
    /// [`SyncFileError::NotASyncFile`] for any other kind of file, [`SyncFileError::Unknown`] where `/proc` is
    /// not mounted. The descriptor is closed by a thread of its own then, as by
    /// [`DmaBuf::new`](crate::DmaBuf::new).
    pub fn new(fd: OwnedFd) -> Result<Self, SyncFileError> {
        let fd = Apart::new(fd);
        let number = fd.as_raw_fd();
        match link(fd.as_fd()) {
            Ok(link) if link == "anon_inode:sync_file" => Ok(Self(fd.known())),
            Ok(_) => Err(SyncFileError::NotASyncFile { fd: number, is: describe(fd.as_fd()) }),
            Err(source) => Err(SyncFileError::Unknown { fd: number, source }),
        }
    }

    /// Waits until all of it is signalled; with a limit of zero it only looks.
    ///
    /// # Errors
    /// [`SyncFileError::TimedOut`] after `limit`; [`SyncFileError::Failed`] if the work ended with an
    /// error.
    pub fn wait(&self, limit: Duration) -> Result<(), SyncFileError> {
        let done = ready(self.as_fd(), PollFlags::IN, limit)
            .map_err(|e| SyncFileError::Kernel { step: "poll", source: e.into() })?;
        if !done {
            return Err(SyncFileError::TimedOut { limit });
        }
        match self.status()? {
            error if error < 0 => {
                Err(SyncFileError::Failed { source: io::Error::from_raw_os_error(-error) })
            }
            _ => Ok(()),
        }
    }

    /// One if it is signalled, zero if it is not, or the negative number of an error.
    fn status(&self) -> Result<i32, SyncFileError> {
        const FILE_INFO: u32 = opcode::read_write::<Info>(b'>', 4);
        let mut info = Info::default();
        // SAFETY: the module's law; with a count of zero no fences are asked for.
        unsafe { ioctl(&self.0, Updater::<FILE_INFO, _>::new(&mut info)) }
            .map_err(|e| SyncFileError::Kernel { step: "SYNC_IOC_FILE_INFO", source: e.into() })?;
        Ok(info.status)
    }
}

impl AsFd for SyncFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<SyncFile> for OwnedFd {
    fn from(file: SyncFile) -> Self {
        file.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_refused() {
        let null = std::fs::File::open("/dev/null").expect("it is always there");
        let (read, _write) = io::pipe().expect("a pipe");
        for (file, named) in [(OwnedFd::from(null), "/dev/null"), (read.into(), "pipe:")] {
            let error = SyncFile::new(file).expect_err("it is no sync file");
            assert!(matches!(error, SyncFileError::NotASyncFile { .. }), "{error}");
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
