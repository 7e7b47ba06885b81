//! What a file holds: its items and what is no item, and which of them a caller asks for.

use std::collections::HashMap;
use std::path::Path;

use super::error::FormatError;
use super::item::Item;
use super::kind::Format;
use super::refused::Refused;
use crate::storage::file::SourceFile;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The format it was read as.
    pub format: Format,
    /// What can be loaded, in file order.
    pub items: Vec<Item>,
    /// What is there and is no item, in file order: members of a zip pack that are compressed or
    /// encrypted, and tensors of a shard that the index does not name.
    pub refused: Vec<Refused>,
    /// What must be known of the items' bytes, if they are not plainly what the format is about: the
    /// levels of a texture that is supercompressed.
    pub note: Option<String>,
}

impl Contents {
    /// The items with these names, in the order asked for; with no names, every item in file order.
    ///
    /// `path` is the file the contents were read from; it is only used to name it in an error.
    ///
    /// # Errors
    ///
    /// [`FormatError::Refused`] for a name whose member cannot be loaded.
    /// [`FormatError::Incomplete`], when no name is given, for a file that holds members which cannot be
    /// loaded. [`FormatError::NoSuchItem`] for a name that is not there.
    pub fn select<S: AsRef<str>>(
        &self,
        path: &Path,
        names: &[S],
    ) -> Result<Vec<&Item>, FormatError> {
        if names.is_empty() {
            self.check_complete(path)?;
            return Ok(self.items.iter().collect());
        }
        let items: HashMap<&str, &Item> =
            self.items.iter().map(|item| (item.name.as_str(), item)).collect();
        names.iter().map(|name| self.find(path, &items, name.as_ref())).collect()
    }

    /// Fails if a load of all items would lack a part of what the file is.
    ///
    /// # Errors
    /// [`FormatError::Incomplete`].
    pub fn check_complete(&self, path: &Path) -> Result<(), FormatError> {
        let mut missing = self.refused.iter().filter(|refused| !refused.why.is_expected());
        match missing.next() {
            None => Ok(()),
            Some(first) => Err(FormatError::Incomplete {
                path: path.to_owned(),
                name: first.name.clone(),
                offset: first.offset,
                why: first.why,
                refused: missing.count() + 1,
                items: self.items.len(),
            }),
        }
    }

    fn find<'a>(
        &self,
        path: &Path,
        items: &HashMap<&str, &'a Item>,
        name: &str,
    ) -> Result<&'a Item, FormatError> {
        if let Some(item) = items.get(name) {
            return Ok(item);
        }
        Err(match self.refused.iter().find(|refused| refused.name == name) {
            Some(refused) => FormatError::refused(path, refused),
            None => FormatError::NoSuchItem {
                path: path.to_owned(),
                format: self.format,
                name: name.to_owned(),
                items: self.items.len(),
            },
        })
    }
}

/// A file that is open, and what it holds. The bytes that an item names are those of this very file,
/// whatever its path names by now.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub file: SourceFile,
    /// What it holds.
    pub contents: Contents,
}
