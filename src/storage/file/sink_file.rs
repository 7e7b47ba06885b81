//! A file that bytes are written to.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::direct::{Direct, Use};
use super::{Alignment, NotAFile};

/// A regular file or block device to write to: through the page cache always, and past it (`O_DIRECT`) where the
/// file system can. What it holds beside what is written stays as it is, and so does its length.
///
/// ```no_run
/// use bufmap::storage::file::{SinkFile, pread};
/// use iomap::BufMap;
///
/// let sink = SinkFile::in_place("state.bin")?;
/// pread::write_at(&sink, 100, &BufMap::from_slice(b"anew"))?;
/// sink.sync()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct SinkFile {
    path: PathBuf,
    drive: bool,
    buffered: File,
    direct: Direct,
}

impl SinkFile {
    /// Opens what `path` names, to write into what is there: nothing is made, and nothing made shorter.
    /// A block device is opened exclusively (`O_EXCL`), which fails while it is mounted or part of a volume.
    ///
    /// # Errors
    /// The kernel's answer to opening it: `EBUSY` for a block device in use. For what is neither a regular file
    /// nor a block device, an error that holds [`NotAFile`], of the kind [`io::ErrorKind::IsADirectory`] or
    /// [`io::ErrorKind::InvalidInput`].
    pub fn in_place(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let kind = std::fs::metadata(&path)?.file_type();
        if let Some(error) = NotAFile::error(kind) {
            return Err(error);
        }
        let exclusive = if kind.is_block_device() { OFlags::EXCL } else { OFlags::empty() };
        let flags = (OFlags::NONBLOCK | exclusive).bits() as i32;
        let buffered = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path)?;
        let opened = buffered.metadata()?.file_type();
        match NotAFile::error(opened) {
            // Another thing has got the name since.
            Some(error) => Err(error),
            None => Ok(Self::of(buffered, path)),
        }
    }

    /// One that is open for reading and writing, and is called so in what is said of it.
    pub(super) fn of(buffered: File, path: PathBuf) -> Self {
        let drive = buffered.metadata().is_ok_and(|data| data.file_type().is_block_device());
        let direct = Direct::of(&buffered, &path, Use::Writes);
        Self { path, drive, buffered, direct }
    }

    /// What it is called.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes at this moment.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn current_len(&self) -> io::Result<u64> {
        (&self.buffered).seek(SeekFrom::End(0))
    }

    /// Whether it is a block device.
    pub fn is_block_device(&self) -> bool {
        self.drive
    }

    /// Whether a program serves its file system (FUSE).
    pub(crate) fn is_of_a_program(&self) -> bool {
        /// `FUSE_SUPER_MAGIC` of `linux/magic.h`.
        const FUSE: u64 = 0x6573_5546;
        rustix::fs::fstatfs(&self.buffered).is_ok_and(|stat| stat.f_type as u64 == FUSE)
    }

    /// What writes past the page cache must be aligned to, or why there can be none.
    pub fn direct(&self) -> Result<Alignment, &str> {
        self.direct.alignment.as_ref().copied().map_err(String::as_str)
    }

    /// The file opened past the page cache, for writes and reads. The descriptor is shared by all who ask for it
    /// at a time.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where [`direct`](Self::direct) has a reason; the kernel's answer to opening
    /// it.
    pub fn open_direct(&self) -> io::Result<Arc<File>> {
        self.direct().map_err(|why| io::Error::new(io::ErrorKind::Unsupported, why.to_owned()))?;
        self.direct.open(&self.buffered, &self.path)
    }

    /// Has all that was written put where a loss of power does not touch it: in the drive, past its cache.
    ///
    /// # Errors
    /// The kernel's answer: `EIO`, `ENOSPC` or `EDQUOT` for bytes of the page cache that could not be written.
    pub fn sync(&self) -> io::Result<()> {
        self.buffered.sync_data()
    }

    /// Its length from now on. What is beyond is gone.
    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.buffered.set_len(len)
    }

    pub(super) const fn file(&self) -> &File {
        &self.buffered
    }
}

/// The file opened through the page cache.
impl AsFd for SinkFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.buffered.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::file::pread;
    use iomap::BufMap;

    #[test]
    fn what_is_there_stays_but_for_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; 100]).unwrap();
        let sink = SinkFile::in_place(&path).unwrap();
        assert_eq!(sink.current_len().unwrap(), 100);
        pread::write_at(&sink, 10, &BufMap::from_slice(&[9; 5])).unwrap();
        sink.sync().unwrap();
        let mut expected = [7; 100];
        expected[10..15].fill(9);
        assert_eq!(std::fs::read(&path).unwrap(), expected);
    }

    #[test]
    fn what_is_no_file_is_refused_and_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent");
        assert_eq!(SinkFile::in_place(&absent).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!absent.exists());
        let directory = SinkFile::in_place(dir.path()).unwrap_err();
        assert_eq!(directory.kind(), io::ErrorKind::IsADirectory);
        let device = SinkFile::in_place("/dev/null").unwrap_err();
        assert_eq!(device.kind(), io::ErrorKind::InvalidInput);
    }
}
