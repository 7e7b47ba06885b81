//! Which items to load, and where each goes.
//!
//! A [`Manifest`] opens files, reads what they hold, picks the items asked for and lays them out:
//! what a [`Load`](super::Load) needs but the buffer.

use std::path::{Path, PathBuf};

use super::LoadError;
use super::format::{self, Checksum, Contents, Format, FormatError, Opened};
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
    /// for all its shards. Each path is opened once: what a load reads is of the files whose contents
    /// were read here, whatever their paths name by then.
    ///
    /// # Errors
    /// [`LoadError::Format`], and [`LoadError::Empty`] when there is not one
    /// byte to load.
    pub fn open(
        paths: &[PathBuf],
        format: Option<Format>,
        names: &[String],
    ) -> Result<Self, LoadError> {
        let mut opened = Vec::new();
        for path in paths {
            opened.extend(format::read(path, format)?);
        }
        let mut items = Vec::new();
        let mut requests = Vec::new();
        for (index, Opened { file, contents }) in opened.iter().enumerate() {
            for item in select(file.path(), contents, names)? {
                let crc32 = item.checksum.map(|Checksum::Crc32(crc)| crc);
                let request = Request::new(index, item.offset, item.len, 0);
                requests.push(Request { crc32, ..request });
                items.push(item.name.clone());
            }
        }
        all_found(&opened, names)?;
        let (files, formats) =
            opened.into_iter().map(|opened| (opened.file, opened.contents.format)).unzip();
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
fn all_found(opened: &[Opened], names: &[String]) -> Result<(), FormatError> {
    let missing = names.iter().find(|name| !opened.iter().any(|o| holds(&o.contents, name)));
    match (missing, opened.last()) {
        (Some(name), Some(Opened { file, contents })) => {
            contents.select(file.path(), &[name]).map(drop)
        }
        _ => Ok(()),
    }
}
