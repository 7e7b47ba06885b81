//! A file read as its format: which reader it is given to, and what comes back.

use std::path::Path;

use super::contents::{Contents, Opened};
use super::detect::{Told, tell};
use super::error::FormatError;
use super::kind::Format;
use super::readers::contents;
use super::shards::ShardIndex;
use super::source::{self, Source};
use crate::storage::file::SourceFile;

/// Opens a file and reads its table of contents.
///
/// Without a `format`, [`detect`](super::detect()) tells it. A file is opened once, and given back with its contents; an
/// index gives its shards, in the order of their names.
///
/// Only a regular file or a block device can be read; a block device's size is asked of the device.
///
/// # Errors
///
/// Any [`FormatError`] but [`Refused`](FormatError::Refused) and
/// [`NoSuchItem`](FormatError::NoSuchItem): a file that holds refused members is read, and says so
/// in [`Contents::refused`].
pub fn read(path: &Path, format: Option<Format>) -> Result<Vec<Opened>, FormatError> {
    let file = source::open(path)?;
    let told = match format {
        Some(format) => Ok(Told { format, by_content_alone: false }),
        None => tell(&Source::of(&file, Format::Raw)),
    };
    let read = told.and_then(|told| {
        read_as(&file, told.format).map_err(|error| match told.by_content_alone {
            true => FormatError::Guessed { source: Box::new(error), format: told.format },
            false => error,
        })
    });
    source::check_unchanged(&file)?;
    match read? {
        Read::Index(index) => index.read_shards(path),
        Read::Contents(contents) => Ok(vec![Opened { file, contents }]),
    }
}

/// What a file is read to.
enum Read {
    Contents(Contents),
    Index(ShardIndex),
}

fn read_as(file: &SourceFile, format: Format) -> Result<Read, FormatError> {
    let source = Source::of(file, format);
    match format {
        Format::SafetensorsIndex => ShardIndex::from_source(&source).map(Read::Index),
        _ => contents(&source).map(Read::Contents),
    }
}

/// Reads the table of contents of a file whose bytes are in memory; `path` only names it.
///
/// # Errors
///
/// As [`read`]. An index names other files and so has no contents of its own: see
/// [`ShardIndex::parse`].
pub fn parse(path: &Path, format: Format, bytes: &[u8]) -> Result<Contents, FormatError> {
    contents(&Source::in_memory(path, format, bytes))
}
