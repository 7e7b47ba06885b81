//! Files, read and written through the kernel.
//!
//! A [`SourceFile`] is a file opened for every way the kernel can read it: through the page cache
//! always, and past it (`O_DIRECT`) where the file system can; a [`SinkFile`] is the same for writes, and a
//! [`NewFile`] one that takes an old one's place when it is whole. Which way carries a byte is decided
//! above, in `plan`; here are the facts to decide by ([`SourceFile::direct`], [`SinkFile::direct`],
//! [`cache::resident`]) and the two engines that move bytes: [`ring`], with many reads and writes in flight on
//! one io_uring, and [`pread`], one at a time.

pub(crate) mod again;
pub mod cache;
mod direct;
mod new_file;
pub mod open_files;
pub(crate) mod own_path;
pub(crate) mod partial;
pub(crate) mod patience;
pub mod pread;
pub(crate) mod put_off;
pub mod ring;
mod sink_file;
mod stamps;
pub mod wake;

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

pub use direct::{Alignment, Descriptor};
use direct::{Direct, Use};
pub use new_file::{NewFile, Uncommitted};
pub use sink_file::SinkFile;
use stamps::Stamps;
pub use stamps::{Changed, Difference};

/// The last offset that a byte of a file or a buffer can have, and the longest length: the kernel's own
/// (`loff_t`).
pub const LONGEST_FILE: u64 = i64::MAX as u64;

/// What a path names that is neither a regular file nor a block device. It is what
/// [`SourceFile::open`] has in its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is {what}")]
pub struct NotAFile {
    /// What it is.
    pub what: &'static str,
    /// What to give instead.
    pub fix: &'static str,
}

impl NotAFile {
    /// In the place of a new file.
    const DIRECTORY: Self = Self { what: "a directory", fix: "name a file in it" };
    /// In the place of a new file.
    const DRIVE: Self =
        Self { what: "a block device", fix: "it can be written in place alone (--in-place)" };
    /// In the place of a new file.
    const OTHER: Self =
        Self { what: "a pipe, a socket or a character device", fix: "name a regular file" };

    fn of(kind: FileType) -> Self {
        let (what, fix) = if kind.is_dir() {
            ("a directory", "name a file in it, for a sharded model its `.safetensors.index.json`")
        } else if kind.is_fifo() {
            ("a pipe", "write its output to a file first")
        } else {
            ("a character device or socket", "copy what it gives to a file first")
        };
        Self { what, fix }
    }

    /// The error of opening what is neither a regular file nor a block device.
    fn error(kind: FileType) -> Option<io::Error> {
        if kind.is_file() || kind.is_block_device() {
            return None;
        }
        let error = match kind.is_dir() {
            true => io::ErrorKind::IsADirectory,
            false => io::ErrorKind::InvalidInput,
        };
        Some(io::Error::new(error, Self::of(kind)))
    }
}

/// A regular file or block device to load from.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    len: u64,
    device: u64,
    drive: bool,
    /// Of a regular file, unless it did not stop changing.
    stamps: Option<Stamps>,
    buffered: File,
    direct: Direct,
}

impl SourceFile {
    /// Opens `path` for reading, both through the page cache and past it.
    ///
    /// That a file cannot be read directly is no error: [`direct`](Self::direct) keeps the reason.
    /// For a file that was written to within the last step of the file system's clock (10 ms at most,
    /// but 2 seconds where it counts whole ones), the end of that step is waited for: see
    /// [`check_unchanged`](Self::check_unchanged).
    ///
    /// # Errors
    /// The kernel's answer to opening it. For what is neither a regular file nor a block device, an
    /// error that holds [`NotAFile`], of the kind [`io::ErrorKind::IsADirectory`] or
    /// [`io::ErrorKind::InvalidInput`].
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        // O_NONBLOCK keeps a FIFO from hanging the open; regular files ignore it.
        let mut buffered = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(&path)?;
        let metadata = buffered.metadata()?;
        let kind = metadata.file_type();
        if let Some(error) = NotAFile::error(kind) {
            return Err(error);
        }
        let stamps = match kind.is_file() {
            true => Stamps::settled(&buffered)?,
            false => None,
        };
        let len = buffered.seek(SeekFrom::End(0))?;
        let direct = Direct::of(&buffered, &path, Use::Reads);
        let (device, drive) = (metadata.dev(), kind.is_block_device());
        Ok(Self { path, len, device, drive, stamps, buffered, direct })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The length in bytes at this moment.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn current_len(&self) -> io::Result<u64> {
        (&self.buffered).seek(SeekFrom::End(0))
    }

    /// Fails if something may have changed the file's bytes since it was opened, by what statx(2) says
    /// of its length and its times. A load asks when it has read the last of its bytes.
    ///
    /// It cannot tell what a program stores in memory that it has mapped, in a page that is dirty
    /// already; nor what a write call stores that began before the file was opened and still goes on;
    /// nor anything of a block device. On a network's file system it is as good as the server's times.
    ///
    /// # Errors
    /// [`Changed`]: what is not as it was.
    pub fn check_unchanged(&self) -> Result<(), Changed> {
        match &self.stamps {
            _ if self.drive => Ok(()),
            Some(stamps) => stamps.check(&self.buffered),
            None => Err(Changed::Restless),
        }
    }

    /// Whether it was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device the file system lies on (`st_dev`).
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Whether it is a block device: a whole drive or a part of one.
    pub fn is_block_device(&self) -> bool {
        self.drive
    }

    /// What reads past the page cache must be aligned to, or why there can be none.
    pub fn direct(&self) -> Result<Alignment, &str> {
        self.direct.alignment.as_ref().copied().map_err(String::as_str)
    }

    /// The file opened past the page cache. The descriptor is shared by all who ask for it at a time, and
    /// closed when the last of them drops it: a file that nobody reads takes one descriptor.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where [`direct`](Self::direct) has a reason; the kernel's answer to
    /// opening it: `EMFILE` at the process's limit on open files, `EACCES` if the process has lost the
    /// right to open it.
    pub fn open_direct(&self) -> io::Result<Arc<File>> {
        self.direct().map_err(|why| io::Error::new(io::ErrorKind::Unsupported, why.to_owned()))?;
        self.direct.open(&self.buffered, &self.path)
    }
}

/// The file opened through the page cache.
impl AsFd for SourceFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.buffered.as_fd()
    }
}
