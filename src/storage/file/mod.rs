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

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};

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

/// A regular file or block device to load from.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    len: u64,
    device: u64,
    drive: bool,
    buffered: File,
    direct: Result<Direct, String>,
}

impl SourceFile {
    /// Opens `path` for reading, both through the page cache and past it.
    ///
    /// That a file cannot be read directly is no error: [`direct`](Self::direct) keeps the reason.
    ///
    /// # Errors
    /// The kernel's answer to opening it, or [`io::ErrorKind::InvalidInput`] for what is neither a
    /// regular file nor a block device.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        // O_NONBLOCK keeps a FIFO from hanging the open; regular files ignore it.
        let mut buffered = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(&path)?;
        let metadata = buffered.metadata()?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a regular file nor a block device",
            ));
        }
        let len = buffered.seek(SeekFrom::End(0))?;
        let direct = open_direct(&path);
        let (device, drive) = (metadata.dev(), kind.is_block_device());
        Ok(Self { path, len, device, drive, buffered, direct })
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

fn open_direct(path: &Path) -> Result<Direct, String> {
    let flags = (OFlags::DIRECT | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|e| format!("the file system does not open it with O_DIRECT ({e})"))?;
    let alignment = ask_alignment(&file)?;
    Ok(Direct { file, alignment })
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
