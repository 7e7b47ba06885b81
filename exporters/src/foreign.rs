//! What a file descriptor of another process's is, asked in ways that never wait for that process.
//!
//! Its file may lie in a file system that is a program of the peer's own (FUSE). `fstat`, `fstatfs`, `lseek` and every ioctl are
//! requests to that program then, and end when it answers. Two things are not: both are told by the kernel alone.
//!
//! * `/proc/thread-self/fdinfo/N`. The kernel writes what it knows of every file, then asks the file's own driver
//!   (`show_fdinfo`). FUSE and other file systems have none, so that the line `exp_name` is not of them. A dma-buf has it
//!   (`drivers/dma-buf/dma-buf.c`, since Linux 5.3). If another driver can be made to write it, the file is of the kernel's all
//!   the same, and `fstatfs` may be asked next.
//! * The link `/proc/thread-self/fd/N`. For a file that has a path it begins with `/`, or `(unreachable)`, whatever its name is.
//!   `anon_inode:sync_file` (since Linux 4.7) does not. A dma-buf's link, `/dmabuf:NAME`, is a path that anybody can have.
//!
//! `thread-self` (since Linux 3.17) and not `self`: a thread may have file descriptors of its own.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};

use crate::outside::outside;

/// What the kernel and the file's driver tell of a file.
pub(crate) struct FdInfo(String);

impl FdInfo {
    /// Asks for it.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let path = format!("/proc/thread-self/fdinfo/{}", fd.as_raw_fd());
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // The kernel writes all of it, some two hundred bytes, into the first read.
        let mut info = [0; 1024];
        let len = rustix::io::read(file, &mut info)?;
        Ok(Self(String::from_utf8_lossy(&info[..len]).into_owned()))
    }

    /// The first line of so a name. A dma-buf's own name, which a user chooses, comes after all else.
    pub(crate) fn line(&self, key: &str) -> Option<&str> {
        let value = self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some(value.trim())
    }
}

/// Where a descriptor's link in `/proc` leads.
pub(crate) fn link(fd: BorrowedFd<'_>) -> io::Result<OsString> {
    let link = std::fs::read_link(format!("/proc/thread-self/fd/{}", fd.as_raw_fd()))?;
    Ok(link.into_os_string())
}

/// What a descriptor is, in the words of `/proc`.
pub(crate) fn describe(fd: BorrowedFd<'_>) -> String {
    match link(fd) {
        Ok(path) => outside(&path).to_string(),
        Err(_) => "some other kind of file".to_owned(),
    }
}
