//! What can be wrong with a file: one variant a kind of fault, each with the file, the place and
//! the remedy.

use super::kind::Format;
use super::refused::{Refusal, Refused};
use crate::remedy::{Call, remedy};
use crate::storage::file::Changed;
use exporters::outside::outside;
use std::io;
use std::path::{Path, PathBuf};

/// A file that cannot be read as its format. The message names the file, the offset in it where one
/// is meaningful, what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The file cannot be opened, or its size cannot be learned.
    #[error("{}: cannot open: {source}; {}", outside(path), remedy(Call::Open, source))]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The path names something that has no fixed run of bytes.
    #[error("{}: is {what}, not a file or block device; {fix}", outside(path))]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
        /// What to give instead.
        fix: &'static str,
    },

    /// The system failed to read.
    #[error(
        "{}: cannot read {len} bytes at offset {offset}: {source}; {}",
        outside(path),
        remedy(Call::Read, source)
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// How many bytes were wanted.
        len: u64,
        /// What the system said.
        source: io::Error,
    },

    /// The file became shorter while it was read.
    #[error(
        "{}: the file ended at offset {offset}, though it was {len} bytes long when it was \
         opened; wait until its writer is done, then load it again",
        outside(path)
    )]
    Shrank {
        /// The file.
        path: PathBuf,
        /// Where it ended, in bytes.
        offset: u64,
        /// Its length when it was opened.
        len: u64,
    },

    /// Something may have changed the file while its table of contents was read.
    #[error("{}: {why}; load it again when nothing writes to it", outside(path))]
    Changed {
        /// The file.
        path: PathBuf,
        /// What is not as it was.
        why: Changed,
    },

    /// Something that the file describes runs past its end.
    #[error(
        "{}: {format}: {what} at offset {offset} needs {need} bytes, but the file ends at {len}; \
         the file is cut short or its header is wrong: fetch or write it again",
        outside(path)
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The format it is read as.
        format: Format,
        /// What runs past the end.
        what: String,
        /// Where that starts, in bytes.
        offset: u64,
        /// How many bytes it needs.
        need: u64,
        /// The file's length.
        len: u64,
    },

    /// The bytes at an offset break a rule of the format.
    #[error("{}: {format}: at offset {offset}: {problem}; {fix}", outside(path))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format it is read as.
        format: Format,
        /// Where the rule is broken, in bytes.
        offset: u64,
        /// The rule and how it is broken.
        problem: String,
        /// What to do.
        fix: &'static str,
    },

    /// The file uses a part of its format that this reader does not have.
    #[error("{}: {format}: at offset {offset}: {what}; {fix}", outside(path))]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The format it is read as.
        format: Format,
        /// Where it is used, in bytes.
        offset: u64,
        /// What is used.
        what: String,
        /// What to do.
        fix: &'static str,
    },

    /// A sharded model's index names a file that is not beside it.
    #[error(
        "{}: names the shard {}, which is not there (for tensor `{tensor}` and perhaps others); \
         fetch that file into the index's own directory, or give the index by the path that stands \
         beside its shards (in a Hugging Face cache under `snapshots`, not `blobs`)",
        outside(path), outside(shard), tensor = outside(tensor))]
    MissingShard {
        /// The index.
        path: PathBuf,
        /// The file that is missing.
        shard: PathBuf,
        /// A tensor that should be in it.
        tensor: String,
    },

    /// A sharded model's index puts a tensor in a file that does not hold it.
    #[error(
        "{}: the index says that this shard holds the tensor `{tensor}`, but its header (offset \
         8) does not name it; index and shards are of different versions of the model: fetch all \
         of them again",
        outside(shard), tensor = outside(tensor))]
    NotInShard {
        /// The file that lacks the tensor.
        shard: PathBuf,
        /// The tensor.
        tensor: String,
    },

    /// A member was asked for that cannot be loaded.
    #[error(
        "{}: the member `{}` (at offset {offset}) is {why}, so it cannot be loaded as it lies; {}",
        outside(path), outside(name), why.remedy()
    )]
    Refused {
        /// The file.
        path: PathBuf,
        /// The member.
        name: String,
        /// Where the file describes it, in bytes.
        offset: u64,
        /// Why it cannot be loaded.
        why: Refusal,
    },

    /// A file was to be loaded whole, and some of its members cannot be.
    #[error(
        "{}: {refused} of its members cannot be loaded as they lie; the first is `{}` (header at offset \
         {offset}), which is {why}; name the members that you want (--item), leave these out \
         (--skip-compressed), or pack the file again without compression and encryption (`zip -0`)",
        outside(path),
        outside(name)
    )]
    Incomplete {
        /// The file.
        path: PathBuf,
        /// The first such member.
        name: String,
        /// Where the file describes it, in bytes.
        offset: u64,
        /// Why it cannot be loaded.
        why: Refusal,
        /// How many such members there are.
        refused: usize,
        /// How many can be loaded.
        items: usize,
    },

    /// A file's bytes are of another format than its name says.
    #[error(
        "{}: its name is that of a {named} file, and its bytes at offset 0 are those of a {found} file; \
         rename it, or say what it is to be read as: give --format {found}",
        outside(path)
    )]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// What the name says.
        named: Format,
        /// What the bytes say.
        found: Format,
    },

    /// A file whose name says no format cannot be read as what its first bytes say.
    #[error(
        "{source}. Its name says no format and its first bytes say {format}; give --format if it is \
         another (--format raw for its bytes as they are)"
    )]
    Guessed {
        /// What is wrong with it in that format.
        source: Box<FormatError>,
        /// The format that it was read as.
        format: Format,
    },

    /// An item was asked for that the file does not hold.
    #[error(
        "{}: {format}: no item is named `{name}` among the {items} there; list the file's items \
         and give a name as it is written there",
        outside(path), name = outside(name))]
    NoSuchItem {
        /// The file.
        path: PathBuf,
        /// The format it is read as.
        format: Format,
        /// The name asked for.
        name: String,
        /// How many items the file holds.
        items: usize,
    },

    /// There is no memory for a table of contents.
    #[error(
        "{}: no memory for {len} bytes of its table of contents at offset {offset}; free some \
         memory, or raise the process's limit",
        outside(path)
    )]
    NoMemory {
        /// The file.
        path: PathBuf,
        /// Where the table starts, in bytes.
        offset: u64,
        /// How many bytes it has.
        len: u64,
    },
}

impl FormatError {
    /// The file that is at fault.
    pub fn path(&self) -> &Path {
        match self {
            Self::Open { path, .. }
            | Self::NotAFile { path, .. }
            | Self::Read { path, .. }
            | Self::Shrank { path, .. }
            | Self::Changed { path, .. }
            | Self::Truncated { path, .. }
            | Self::Malformed { path, .. }
            | Self::Unsupported { path, .. }
            | Self::Refused { path, .. }
            | Self::Incomplete { path, .. }
            | Self::Contradiction { path, .. }
            | Self::NoSuchItem { path, .. }
            | Self::NoMemory { path, .. } => path,
            Self::MissingShard { shard, .. } | Self::NotInShard { shard, .. } => shard,
            Self::Guessed { source, .. } => source.path(),
        }
    }

    /// The offset in that file, in bytes, where one is meaningful.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Read { offset, .. }
            | Self::Shrank { offset, .. }
            | Self::Truncated { offset, .. }
            | Self::Malformed { offset, .. }
            | Self::Unsupported { offset, .. }
            | Self::Refused { offset, .. }
            | Self::NoMemory { offset, .. } => Some(*offset),
            Self::Incomplete { offset, .. } => Some(*offset),
            Self::Contradiction { .. } => Some(0),
            Self::Guessed { source, .. } => source.offset(),
            Self::Open { .. }
            | Self::NotAFile { .. }
            | Self::Changed { .. }
            | Self::MissingShard { .. }
            | Self::NotInShard { .. }
            | Self::NoSuchItem { .. } => None,
        }
    }

    pub(crate) fn refused(path: &Path, refused: &Refused) -> Self {
        Self::Refused {
            path: path.to_owned(),
            name: refused.name.clone(),
            offset: refused.offset,
            why: refused.why,
        }
    }
}
