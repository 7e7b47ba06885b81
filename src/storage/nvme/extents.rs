//! Where a file lies on a namespace.
//!
//! The driver in user space knows blocks and no file systems. Before a drive is taken from the
//! kernel, the file system is asked where a file's bytes lie (FIEMAP), and unmounted; then they can
//! be read as a [`DriveFile`](super::DriveFile).

use std::io;
use std::os::fd::AsFd;

use fiemap::{Fiemap, FiemapExtentFlags as Flags};
use rustix::fs::{fstat, fstatfs};
use serde::{Deserialize, Serialize};

/// A run of a file's bytes, and where a namespace has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// Where in the file it begins, in bytes.
    pub file_offset: u64,
    /// Where on the namespace it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
}

/// Why a file cannot be read by its extents.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtentError {
    /// The file system does not tell.
    #[error("the file system does not tell where the file lies: {0}; copy it to ext4 or xfs")]
    Kernel(#[from] io::Error),
    /// What the file system tells are places of its own: btrfs, for one, has chunks of several
    /// devices below them.
    #[error("the file lies on no ext4 or xfs, which tell places on their device; copy it to one")]
    FileSystem,
    /// Bytes that are on the drive in another form, or not yet.
    #[error("the bytes at offset {offset} are not on the drive as they are read: {what}")]
    Unfit {
        /// Where in the file, in bytes.
        offset: u64,
        /// What they are, and what to do.
        what: &'static str,
    },
    /// Bytes that are nowhere on the drive.
    #[error("the file has a hole at offset {offset}; copy it with cp --sparse=never")]
    Hole {
        /// Where it begins, in bytes.
        offset: u64,
    },
}

/// Where the bytes of a file lie, in order. `partition` is where on the namespace the file system's
/// device begins, in bytes: 512 times what `/sys/class/block/NAME/start` says, or 0 for a whole one.
///
/// The file must be on the drive (fsync), and neither move nor change until it is read: unmount its
/// file system before the drive is taken from the kernel.
///
/// # Errors
/// [`ExtentError`], at the first byte that a drive cannot read alone.
pub fn extents(file: impl AsFd, partition: u64) -> Result<Vec<Extent>, ExtentError> {
    let file = file.as_fd();
    let len = fstat(file).map_err(io::Error::from)?.st_size.unsigned_abs();
    if !TELL.contains(&fstatfs(file).map_err(io::Error::from)?.f_type) {
        return Err(ExtentError::FileSystem);
    }
    let mut extents: Vec<Extent> = Vec::new();
    let mut end = 0;
    for found in Fiemap::new(file) {
        let found = found?;
        if found.fe_logical >= len {
            break;
        }
        if let Some(what) = unfit(found.fe_flags) {
            return Err(ExtentError::Unfit { offset: found.fe_logical, what });
        }
        if found.fe_logical > end {
            return Err(ExtentError::Hole { offset: end });
        }
        end = found.fe_logical.saturating_add(found.fe_length);
        let extent = Extent {
            file_offset: found.fe_logical,
            offset: partition.saturating_add(found.fe_physical),
            len: end.min(len) - found.fe_logical,
        };
        match extents.last_mut() {
            Some(last) if last.offset + last.len == extent.offset => last.len += extent.len,
            _ => extents.push(extent),
        }
    }
    if end < len { Err(ExtentError::Hole { offset: end }) } else { Ok(extents) }
}

/// The file systems whose extents are places on their device (`EXT4_SUPER_MAGIC`, which is that of
/// ext2 and ext3 too, and `XFS_SUPER_MAGIC`).
const TELL: [i64; 2] = [0xef53, 0x5846_5342];

fn unfit(flags: Flags) -> Option<&'static str> {
    let forms = [
        (Flags::DELALLOC, "they are still in memory; fsync the file"),
        (Flags::UNKNOWN, "the file system does not say where"),
        (Flags::DATA_INLINE, "they lie among the file system's own"),
        (Flags::DATA_TAIL, "they lie among the file system's own"),
        (Flags::DATA_ENCRYPTED, "they are encrypted"),
        (Flags::ENCODED, "they are compressed"),
        (Flags::UNWRITTEN, "room was set aside and never written"),
    ];
    forms.iter().find(|(flag, _)| flags.contains(*flag)).map(|(_, what)| *what)
}
