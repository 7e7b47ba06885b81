//! What can go wrong with a save.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;

use exporters::outside::outside;

use super::data_path::DataPath;
use super::error::TransferError;
use super::valid::Valid;
use crate::remedy::{Call, remedy};
use crate::storage::file::{NotAFile, Uncommitted};

/// Why a save failed. Every variant says what failed, where, and what to do; those that end a save in the middle say what
/// is left of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The file that is written in place could not be opened.
    #[error(
        "{}: cannot be opened for writing: {source}; {}",
        outside(path),
        fix(Call::OpenToWrite, source)
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No new file could be made for it.
    #[error(
        "{}: no new file can be made beside it: {source}; {}",
        outside(path),
        fix(Call::Create, source)
    )]
    Create {
        /// The file that the new one was to become.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is not the space for the new file.
    #[error(
        "{}: there is no space for {len} bytes: {source}; {}; {left}",
        outside(path),
        remedy(Call::Write, source)
    )]
    Space {
        /// The file.
        path: PathBuf,
        /// How many bytes it was to have.
        len: u64,
        /// The kernel's answer.
        source: io::Error,
        /// What is left of the file.
        left: Left,
    },
    /// A request names a file that the save does not have.
    #[error("a request names file {file}, and a save has one, which is 0")]
    NoSuchFile {
        /// The index named.
        file: usize,
    },
    /// A request reaches past the end of the buffer.
    #[error(
        "{len} bytes at offset {offset} reach past the end of the buffer, which has {buffer_len}: save fewer of them"
    )]
    PastBuffer {
        /// Where the request begins in the buffer, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        len: u64,
        /// The length of the buffer in bytes.
        buffer_len: u64,
    },
    /// A request reaches past the end of a file that is written in place, or past the longest that there can be.
    #[error(
        "{}: {len} bytes at offset {offset} reach past the end of the file at {file_len}, and in place no file gets longer: lengthen it first (truncate -s), or have it replaced by a new one",
        outside(path)
    )]
    PastEnd {
        /// The file.
        path: PathBuf,
        /// Where the request begins in the file, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        len: u64,
        /// The length of the file in bytes.
        file_len: u64,
    },
    /// Two requests write the same bytes of the file.
    #[error("two requests write the same bytes of the file, at offset {at}")]
    Overlap {
        /// The first such byte.
        at: u64,
    },
    /// The path that the caller requires cannot be had.
    #[error("{}: the path {data_path} is required and cannot be had: {why}", outside(path))]
    DataPath {
        /// The file.
        path: PathBuf,
        /// The path required.
        data_path: DataPath,
        /// Why not.
        why: String,
    },
    /// The file could not be written.
    #[error(
        "{}: writing at offset {offset} failed: {source}; {}; {left}",
        outside(path),
        remedy(Call::Write, source)
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// The kernel's answer.
        source: io::Error,
        /// What is left of the file.
        left: Left,
    },
    /// What was written could not be put in the drive.
    #[error(
        "{}: writing it out to the drive failed: {source}; {}; {left}",
        outside(path),
        remedy(Call::Write, source)
    )]
    Sync {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
        /// What is left of the file.
        left: Left,
    },
    /// The new file could not be put in the old one's place.
    #[error(
        "{}: {source}; {}; {}",
        outside(path),
        fix(Call::Create, &source.source),
        if source.named { "the new file is there, and a loss of power may take it away" } else { "the old file is as it was" }
    )]
    Commit {
        /// The file.
        path: PathBuf,
        /// What failed, and the kernel's answer.
        source: Uncommitted,
    },
    /// What was written could not be read back to be checked.
    #[error(
        "{}: reading back at offset {offset} failed: {source}; {}; {left}",
        outside(path),
        remedy(Call::Read, source)
    )]
    ReadBack {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// The kernel's answer.
        source: io::Error,
        /// What is left of the file.
        left: Left,
    },
    /// The bytes are not those that they should be.
    #[error(
        "{}: the {len} bytes for offset {offset} are others than they should be: {what}; {left}",
        outside(path)
    )]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Where in it the request begins, in bytes.
        offset: u64,
        /// How long the request is, in bytes.
        len: u64,
        /// What differs.
        what: String,
        /// What is left of the file.
        left: Left,
    },
    /// The caller stopped the save.
    #[error("the save was stopped; {left}")]
    Stopped {
        /// What is left of the file.
        left: Left,
    },
    /// The memory of a device that was saved has gone away.
    #[error(
        "the memory of {} was lost while it was saved: the device was unplugged, its memory was switched off, or its driver was unbound: bring the device back, and what it held; {left}",
        outside(device)
    )]
    SourceLost {
        /// The PCI address of the device; its name, for a GPU that does not tell one.
        device: String,
        /// What is left of the file.
        left: Left,
    },
    /// The save's own threads or rings failed.
    #[error("{step} failed: {source}; {}; {left}", remedy(Call::Ring, source))]
    Engine {
        /// What failed.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
        /// What is left of the file.
        left: Left,
    },
    /// The buffer cannot be used, or the options not be met, for a reason that has nothing to do with the file.
    #[error(transparent)]
    Buffer(#[from] TransferError),
}

/// What is left of a file when a save ends early.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Left {
    /// It is as it was before: a new file was to take its place, and is gone.
    AsItWas,
    /// It was written in place: these ranges of it hold the new bytes, of those that were to be written. The others hold
    /// the old or the new ones.
    Partly(Valid),
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        let Self::Partly(written) = self else { return f.write_str("the file is as it was") };
        let (bytes, wanted) = (written.bytes(), written.wanted());
        write!(f, "in the file, {bytes} of {wanted} bytes are written anew")?;
        for (i, range) in written.ranges().iter().take(SHOWN).enumerate() {
            let lead = if i == 0 { ": " } else { ", " };
            write!(f, "{lead}{}..{}", range.start, range.end)?;
        }
        match written.ranges().len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more ranges"),
        }
    }
}

/// What to do about an answer to opening or making a file.
fn fix(call: Call, error: &io::Error) -> Cow<'static, str> {
    let no_file = error.get_ref().and_then(|inner| inner.downcast_ref::<NotAFile>());
    no_file.map_or_else(|| remedy(call, error), |no_file| no_file.fix.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said() {
        let mut written = Valid::none_of(100);
        for at in [0, 20, 40, 60, 80] {
            written.insert(at..at + 10);
        }
        let left = Left::Partly(written).to_string();
        assert!(
            left.starts_with("in the file, 50 of 100 bytes are written anew: 0..10,"),
            "{left}"
        );
        assert!(left.ends_with("60..70 and 1 more ranges"), "{left}");
        assert_eq!(Left::AsItWas.to_string(), "the file is as it was");
    }

    /// What open(2), fallocate(2), write(2), fsync(2), linkat(2) and rename(2) list that a user can do something about.
    #[test]
    fn what_a_write_is_answered_has_its_remedy() {
        let error = |code| SaveError::Write {
            path: "file".into(),
            offset: 4096,
            source: io::Error::from_raw_os_error(code),
            left: Left::AsItWas,
        };
        for (code, words) in [
            (libc::ENOSPC, "file system is full"),
            (libc::EDQUOT, "quota"),
            (libc::EFBIG, "ulimit -f"),
            (libc::EROFS, "read-only"),
            (libc::EINVAL, "--require buffered"),
            (libc::EFAULT, "--require bounce"),
            (libc::EIO, "dmesg"),
            (libc::ENODEV, "plug it in"),
            (libc::EAGAIN, "put each try off"),
        ] {
            let said = error(code).to_string();
            assert!(said.starts_with("file: writing at offset 4096 failed"), "{said}");
            assert!(said.contains(words) && said.ends_with("the file is as it was"), "{said}");
        }
    }
}
