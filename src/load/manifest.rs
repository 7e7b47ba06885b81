//! Which items to load, and where each goes.
//!
//! A [`Manifest`] opens files, reads what they hold, picks the items asked for and lays them out:
//! what a [`Load`](super::Load) needs but the buffer.

use std::path::{Path, PathBuf};

use super::LoadError;
use super::format::{self, Checksum, Contents, Format, FormatError};
use super::layout::{self, Layout};
use super::request::Request;
use super::road::Road;
use super::source::Source;
use crate::storage::file::SourceFile;

/// Files opened, their items named and placed.
///
/// ```no_run
/// use bufmap::load::Manifest;
///
/// let manifest = Manifest::open(&["model.safetensors".into()], None, &["embeddings.weight".into()])?;
/// for item in manifest.items() {
///     println!("{} lies at byte {} of the buffer", item.name, item.request.buffer_offset);
/// }
/// # Ok::<(), bufmap::load::LoadError>(())
/// ```
#[derive(Debug)]
pub struct Manifest<S = SourceFile> {
    files: Vec<S>,
    formats: Vec<Format>,
    names: Vec<String>,
    layout: Layout,
}

/// An item and its place.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'m> {
    /// The name that its format gives it.
    pub name: &'m str,
    /// Where it lies in its file and in the buffer.
    pub request: &'m Request,
}

impl Manifest {
    /// Opens `paths` and places the items called `names`, or all if there are none. A `format` is
    /// taken as given; without one it is found out for each file. A sharded model's index stands
    /// for all its shards.
    ///
    /// # Errors
    /// [`LoadError::Open`], [`LoadError::Format`], and [`LoadError::Empty`] when there is not one
    /// byte to load.
    pub fn open(
        paths: &[PathBuf],
        format: Option<Format>,
        names: &[String],
    ) -> Result<Self, LoadError> {
        let mut contents = Vec::new();
        for path in paths {
            contents.extend(format::read(path, format)?);
        }
        let mut files = Vec::new();
        let mut items = Vec::new();
        let mut requests = Vec::new();
        for (path, contents) in &contents {
            for item in select(path, contents, names)? {
                let crc32 = item.checksum.map(|Checksum::Crc32(crc)| crc);
                let request = Request::new(files.len(), item.offset, item.len, 0);
                requests.push(Request { crc32, ..request });
                items.push(item.name.clone());
            }
            let opened = SourceFile::open(path)
                .map_err(|source| LoadError::Open { path: path.clone(), source })?;
            files.push(opened);
        }
        all_found(&contents, names)?;
        let formats = contents.iter().map(|(_, contents)| contents.format).collect();
        Self::of(files, formats, items, requests)
    }
}

impl<S: Source> Manifest<S> {
    /// Of items that are known, in files that are open.
    pub(super) fn of(
        files: Vec<S>,
        formats: Vec<Format>,
        names: Vec<String>,
        requests: Vec<Request>,
    ) -> Result<Self, LoadError> {
        if requests.iter().all(|request| request.len == 0) {
            let path = files.first().map(|file| file.path().to_owned()).unwrap_or_default();
            return Err(LoadError::Empty { path });
        }
        let alignments = files.iter().map(|file| file.alignment(Road::Direct).offset);
        let alignment = alignments.max().unwrap_or(1);
        Ok(Self { files, formats, names, layout: layout::place(requests, alignment) })
    }

    /// The files, in the order in which requests name them.
    pub fn files(&self) -> &[S] {
        &self.files
    }

    /// What each file was read as.
    pub fn formats(&self) -> &[Format] {
        &self.formats
    }

    /// The requests, one an item.
    pub fn requests(&self) -> &[Request] {
        &self.layout.requests
    }

    /// The length of the buffer that the items need, in bytes, a multiple of 4096.
    pub fn buffer_len(&self) -> u64 {
        self.layout.len
    }

    /// The items with their names.
    pub fn items(&self) -> impl ExactSizeIterator<Item = Placed<'_>> {
        let requests = self.layout.requests.iter();
        self.names.iter().zip(requests).map(|(name, request)| Placed { name, request })
    }
}

/// The items of one file among those asked for.
fn select<'c>(
    path: &Path,
    contents: &'c Contents,
    names: &[String],
) -> Result<Vec<&'c format::Item>, FormatError> {
    if names.is_empty() {
        return contents.select::<String>(path, &[]);
    }
    let here: Vec<&String> = names.iter().filter(|name| holds(contents, name)).collect();
    match here.is_empty() {
        true => Ok(Vec::new()),
        false => contents.select(path, &here),
    }
}

fn holds(contents: &Contents, name: &str) -> bool {
    contents.items.iter().any(|item| item.name == name)
        || contents.refused.iter().any(|refused| refused.name == name)
}

/// Fails for the first name that no file holds.
fn all_found(contents: &[(PathBuf, Contents)], names: &[String]) -> Result<(), FormatError> {
    let missing = names.iter().find(|name| !contents.iter().any(|(_, c)| holds(c, name)));
    match (missing, contents.last()) {
        (Some(name), Some((path, last))) => last.select(path, &[name]).map(drop),
        _ => Ok(()),
    }
}
