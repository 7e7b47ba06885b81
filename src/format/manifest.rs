//! Which items to load, and where each goes.
//!
//! A [`Manifest`] opens files, reads what they hold, picks the items asked for and lays them out:
//! what a transfer needs but the buffer.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::contents::{Contents, Opened};
use super::description::Description;
use super::error::FormatError;
use super::item::{Checksum, Item};
use super::kind::Format;
use super::placement::{self, Layout};
use super::read::read;
use crate::storage::file::SourceFile;
use crate::transfer::{DataPath, LeftOut, Receipt, Request, Source};

/// Files opened, their items named and placed.
///
/// ```no_run
/// use bufmap::format::{Manifest, Selection};
///
/// let items = ["embeddings.weight".into()];
/// let selection = Selection { items: &items, ..Selection::default() };
/// let manifest = Manifest::open(&["model.safetensors".into()], &selection)?;
/// for item in manifest.items() {
///     println!("{} lies at byte {} of the buffer", item.name, item.request.buffer_offset);
/// }
/// # Ok::<(), bufmap::format::FormatError>(())
/// ```
#[derive(Debug)]
pub struct Manifest<S = SourceFile> {
    files: Vec<S>,
    formats: Vec<Format>,
    named: Vec<Named>,
    notes: Vec<Option<String>>,
    left_out: Vec<LeftOut>,
    layout: Layout,
}

/// What of files is to be loaded. By default all of it, as whatever format each is found to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection<'s> {
    /// What the files are read as; found out for each file if absent.
    pub format: Option<Format>,
    /// The names of the items; all, if there are none.
    pub items: &'s [String],
    /// Whether members that are compressed or encrypted may be left out where no items are named.
    pub skip_compressed: bool,
}

/// An item and its place.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Placed<'m> {
    /// The name that its format gives it.
    pub name: &'m str,
    /// What it is.
    pub description: &'m Description,
    /// Where it lies in its file and in the buffer.
    pub request: &'m Request,
}

/// What is known of an item beside its place.
#[derive(Debug)]
pub(super) struct Named {
    pub name: String,
    pub description: Description,
}

impl Manifest {
    /// Opens `paths` and places the items that are selected. A sharded model's index stands
    /// for all its shards. Each path is opened once: what a load reads is of the files whose contents
    /// were read here, whatever their paths name by then. Files without a byte to load are no error.
    ///
    /// # Errors
    /// [`FormatError`]: a file that cannot be read, an item that no file has, and members that
    /// cannot be loaded ([`FormatError::Incomplete`]) unless they may be left out.
    pub fn open(paths: &[PathBuf], selection: &Selection<'_>) -> Result<Self, FormatError> {
        let mut opened = Vec::new();
        for path in paths {
            opened.extend(read(path, selection.format)?);
        }
        let mut wanted = Wanted::new(selection.items);
        let mut named = Vec::new();
        let mut requests = Vec::new();
        let mut left_out = Vec::new();
        for (index, Opened { file, contents }) in opened.iter().enumerate() {
            let selected = match selection.items {
                [] if selection.skip_compressed => contents.items.iter().collect(),
                [] => contents.select::<String>(file.path(), &[])?,
                [..] => wanted.of(file.path(), contents)?,
            };
            for item in selected {
                let crc32 = item.checksum.map(|Checksum::Crc32(crc)| crc);
                let request = Request::new(index, item.offset, item.len, 0);
                requests.push(Request { crc32, ..request });
                let (name, description) = (item.name.clone(), item.description.clone());
                named.push(Named { name, description });
            }
            if selection.items.is_empty() {
                left_out.extend(contents.refused.iter().map(|refused| LeftOut {
                    file: index,
                    name: refused.name.clone(),
                    len: refused.len,
                    why: refused.why.to_string(),
                }));
            }
        }
        wanted.all_found(&opened)?;
        let notes = opened.iter().map(|opened| opened.contents.note.clone()).collect();
        let (files, formats) =
            opened.into_iter().map(|opened| (opened.file, opened.contents.format)).unzip();
        Ok(Self::of(files, formats, named, requests).knowing(notes, left_out))
    }
}

impl<S: Source> Manifest<S> {
    /// Of items that are known, in files that are open.
    pub(super) fn of(
        files: Vec<S>,
        formats: Vec<Format>,
        named: Vec<Named>,
        requests: Vec<Request>,
    ) -> Self {
        let alignments = files.iter().map(|file| file.alignment(DataPath::Direct).offset);
        let alignment = alignments.max().unwrap_or(1);
        let notes = vec![None; files.len()];
        let layout = placement::place(requests, alignment);
        Self { files, formats, named, notes, left_out: Vec::new(), layout }
    }

    /// With what must be known of its files.
    pub(super) fn knowing(self, notes: Vec<Option<String>>, left_out: Vec<LeftOut>) -> Self {
        Self { notes, left_out, ..self }
    }

    /// The files, in the order in which requests name them.
    pub fn files(&self) -> &[S] {
        &self.files
    }

    /// What each file was read as.
    pub fn formats(&self) -> &[Format] {
        &self.formats
    }

    /// What must be known of each file's bytes, if anything ([`Contents::note`]).
    pub fn notes(&self) -> &[Option<String>] {
        &self.notes
    }

    /// What the files hold beside the items, where none were named.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// The requests, one an item.
    pub fn requests(&self) -> &[Request] {
        &self.layout.requests
    }

    /// The length of the buffer that the items need, in bytes, a multiple of 4096.
    pub fn buffer_len(&self) -> u64 {
        self.layout.len
    }

    /// The items with their names, and what they are.
    pub fn items(&self) -> impl ExactSizeIterator<Item = Placed<'_>> {
        let requests = self.layout.requests.iter();
        self.named.iter().zip(requests).map(|(Named { name, description }, request)| Placed {
            name,
            description,
            request,
        })
    }

    /// The receipt of a load of these items, with what was left out of their files: a load knows what was
    /// requested, and not what files hold.
    pub fn complete(&self, receipt: Receipt) -> Receipt {
        Receipt { left_out: self.left_out.clone(), ..receipt }
    }
}

/// The names asked for, and which of them were found.
struct Wanted<'n> {
    names: &'n [String],
    /// Where each name is in the order asked for.
    order: HashMap<&'n str, usize>,
    found: Vec<bool>,
}

impl<'n> Wanted<'n> {
    fn new(names: &'n [String]) -> Self {
        let order = names.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
        Self { names, order, found: vec![false; names.len()] }
    }

    /// The items of one file that are asked for, in the order asked for.
    fn of<'c>(
        &mut self,
        path: &Path,
        contents: &'c Contents,
    ) -> Result<Vec<&'c Item>, FormatError> {
        let place = |name: &String| self.order.get(name.as_str()).copied();
        if let Some(refused) = contents.refused.iter().find(|one| place(&one.name).is_some()) {
            return Err(FormatError::refused(path, refused));
        }
        let mut here: Vec<_> =
            contents.items.iter().filter_map(|item| Some((place(&item.name)?, item))).collect();
        here.sort_by_key(|(place, _)| *place);
        here.iter().for_each(|(place, _)| self.found[*place] = true);
        Ok(here.into_iter().map(|(_, item)| item).collect())
    }

    /// Fails for the first name that no file holds.
    fn all_found(&self, opened: &[Opened]) -> Result<(), FormatError> {
        // Of a name that was given twice, the last place stands for both.
        let is_found = |name: &str| self.order.get(name).is_some_and(|place| self.found[*place]);
        let missing = self.names.iter().find(|name| !is_found(name));
        match (missing, opened.last()) {
            (Some(name), Some(Opened { file, contents })) => {
                contents.select(file.path(), &[name]).map(drop)
            }
            _ => Ok(()),
        }
    }
}
