//! Files, read through the kernel.
//!
//! A [`SourceFile`] is a file opened for every way the kernel can read it: through the page cache
//! always, and past it (`O_DIRECT`) where the file system can. Which way carries a byte is decided
//! above, in `load`; here are the facts to decide by ([`SourceFile::direct`],
//! [`cache::resident`]) and the two engines that move bytes: [`ring`], with many reads in flight on
//! one io_uring, and [`pread`], one read at a time.

pub mod cache;
pub mod pread;
pub mod ring;
mod stamps;

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};

use stamps::Stamps;
pub use stamps::{Changed, Difference};

/// What the kernel asks of a direct read, in bytes. Both are powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Of the file offset and the length.
    pub offset: u32,
    /// Of the memory address.
    pub memory: u32,
}

/// The alignment that suits every drive, used where the kernel does not say.
const CAUTIOUS: Alignment = Alignment { offset: 4096, memory: 4096 };

/// A file opened past the page cache.
#[derive(Debug)]
pub struct Direct {
    file: File,
    /// What its reads must be aligned to.
    pub alignment: Alignment,
}

impl AsFd for Direct {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

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
    direct: Result<Direct, String>,
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
        if !kind.is_file() && !kind.is_block_device() {
            let error = match kind.is_dir() {
                true => io::ErrorKind::IsADirectory,
                false => io::ErrorKind::InvalidInput,
            };
            return Err(io::Error::new(error, NotAFile::of(kind)));
        }
        let stamps = match kind.is_file() {
            true => Stamps::settled(&buffered)?,
            false => None,
        };
        let len = buffered.seek(SeekFrom::End(0))?;
        let direct = open_direct(&buffered, &path);
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

    /// The file opened past the page cache, or why it cannot be.
    pub fn direct(&self) -> Result<&Direct, &str> {
        self.direct.as_ref().map_err(String::as_str)
    }
}

/// The file opened through the page cache.
impl AsFd for SourceFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.buffered.as_fd()
    }
}

const NO_PROC: &str =
    "there is no /proc to open it again by, and its path names another file by now: mount /proc";

/// Opens the file of a descriptor once more, past the page cache. A path is another file's by now if
/// somebody renamed one to it: it is taken only where there is no `/proc`, and only if it is not.
fn open_direct(opened: &File, path: &Path) -> Result<Direct, String> {
    let open = |path: &Path| {
        let flags = (OFlags::DIRECT | OFlags::NONBLOCK).bits() as i32;
        OpenOptions::new().read(true).custom_flags(flags).open(path)
    };
    let refused = |error| format!("the file system does not open it with O_DIRECT ({error})");
    let own = format!("/proc/self/fd/{}", opened.as_raw_fd());
    let file = match open(own.as_ref()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let found = open(path).map_err(refused)?;
            match (Identity::of(opened), Identity::of(&found)) {
                (Ok(own), Ok(other)) if own == other => found,
                _ => return Err(NO_PROC.into()),
            }
        }
        answer => answer.map_err(refused)?,
    };
    let alignment = ask_alignment(&file)?;
    Ok(Direct { file, alignment })
}

/// What tells a file from every other, by statx(2). Its birth and its length are compared too, because
/// a file that was removed gives its number to the next one.
#[derive(PartialEq, Eq)]
struct Identity {
    device: (u32, u32),
    inode: u64,
    mount: u64,
    born: (i64, u32),
    len: u64,
}

impl Identity {
    fn of(file: &File) -> io::Result<Self> {
        let asked = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
        let stat = statx(file, "", AtFlags::EMPTY_PATH, asked)?;
        Ok(Self {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            mount: stat.stx_mnt_id,
            born: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
            len: stat.stx_size,
        })
    }
}

/// Asks the kernel by `STATX_DIOALIGN` (since Linux 6.1, statx(2)).
fn ask_alignment(file: &File) -> Result<Alignment, String> {
    let Ok(stat) = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else {
        return Ok(CAUTIOUS);
    };
    if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return Ok(CAUTIOUS);
    }
    // A file system that supports relaxed reads says so separately (since Linux 6.16).
    let offset = match stat.stx_dio_read_offset_align {
        0 => stat.stx_dio_offset_align,
        read => read,
    };
    let memory = stat.stx_dio_mem_align;
    if offset == 0 || memory == 0 {
        return Err("the file system says that this file cannot be read directly".into());
    }
    if !offset.is_power_of_two() || !memory.is_power_of_two() {
        return Ok(CAUTIOUS);
    }
    Ok(Alignment { offset, memory })
}
