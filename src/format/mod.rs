//! What a file holds, as runs of bytes that can be loaded one by one.
//!
//! A loader moves bytes; it does not know what a tensor, a mip level or a pack's member is. The
//! readers here do: each turns the table of contents of one format into [`Item`]s, a name with an
//! offset and a length in the file. They never touch the payload, and they never decode anything: a
//! member that is compressed or encrypted cannot be moved by DMA into its final form, so it is
//! [`Refused`] by name. Nothing is left out in silence: what a reader does not give as an item is in
//! [`Contents::refused`], and what must be known of the items' bytes in [`Contents::note`].
//!
//! | format | an item is | checksum |
//! |---|---|---|
//! | [`Raw`](Format::Raw) | the whole file | none |
//! | [`Safetensors`](Format::Safetensors) | a tensor | none |
//! | [`SafetensorsIndex`](Format::SafetensorsIndex) | a tensor in one of several files | none |
//! | [`Ktx2`](Format::Ktx2) | a mip level | none |
//! | [`Zip`](Format::Zip) | a stored member | CRC-32 |
//!
//! # What every reader keeps to
//!
//! - **The file is not trusted.** Every offset and length is checked against the file's real size
//!   before it is used, and before memory is taken for it. Every [`Item`] lies inside the file, and
//!   no two items of a file share a byte. Nothing that a file holds can cause a panic.
//! - **The file is not mapped.** A mapping of a file that shrinks raises `SIGBUS`; a positioned
//!   read of such a file returns fewer bytes, and that is an error with a name
//!   ([`FormatError::Shrank`]).
//! - **An error says where.** Each [`FormatError`] names the file, the offset in it where one is
//!   meaningful, what is wrong there and what to do about it.
//!
//! # Example
//!
//! ```no_run
//! use bufmap::exporters::outside::outside;
//! use bufmap::format;
//! use std::path::Path;
//!
//! # fn main() -> Result<(), format::FormatError> {
//! for opened in format::read(Path::new("model.safetensors.index.json"), None)? {
//!     let path = outside(opened.file.path());
//!     for item in &opened.contents.items {
//!         println!("{}: {} bytes at {} of {path}", item.name, item.len, item.offset);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod detect;
mod error;
mod extent_map;
mod ktx2;
mod layout;
mod manifest;
mod path_json;
pub mod placement;
mod raw;
mod safetensors;
mod shards;
mod source;
mod zip;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

pub use error::FormatError;
pub use extent_map::{Drive, ExtentMap, ExtentMapError, MappedFile, MappedItem};
pub use manifest::{Manifest, Placed, Selection};
pub use shards::ShardIndex;

use crate::storage::file::SourceFile;
use detect::Told;
use exporters::outside::outside;
use serde::{Deserialize, Serialize};
use source::Source;

/// One named run of bytes in a file that a user wants in a buffer: a tensor, a mip level, a zip
/// member, or the whole file.
///
/// It lies inside the file as the file was when it was read. It may be empty (a tensor of shape
/// `[0]`, a zip member of no bytes) and it is aligned to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The name the format gives it, unique in its file.
    pub name: String,
    /// Where it starts in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
    /// The checksum of its bytes, where the format records one.
    pub checksum: Option<Checksum>,
}

impl Item {
    /// Where it ends in the file: the offset of the first byte that is not part of it.
    ///
    /// No overflow: a reader makes an item only of bytes that lie inside a file.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// A checksum of an item's bytes, as its format records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-32 as in zip, gzip and PNG (ISO 3309, reflected polynomial `0xEDB88320`).
    Crc32(u32),
}

/// A member of a file that is there and cannot be loaded, because its bytes in the file are not its
/// content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its name.
    pub name: String,
    /// Where it is in the file, in bytes: a zip member's local header, a tensor.
    pub offset: u64,
    /// How many bytes it has in the file.
    pub len: u64,
    /// Why it cannot be loaded.
    pub why: Refusal,
}

/// Why a member cannot be loaded as it lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is compressed, by this method of the zip specification (APPNOTE 4.4.5).
    Compressed {
        /// The method's number: 8 is deflate.
        method: u16,
    },
    /// It is encrypted.
    Encrypted,
    /// It is a tensor of a shard, and the index of the model does not name it.
    NotInIndex,
}

impl Refusal {
    /// Whether a load of the whole file goes on without it. What the index of a model does not name is no
    /// part of the model; what is compressed or encrypted is a part that would be missing.
    pub const fn is_expected(self) -> bool {
        matches!(self, Self::NotInIndex)
    }

    /// What to do to load it all the same.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Compressed { .. } | Self::Encrypted => {
                "pack it again without compression and encryption (`zip -0`)"
            }
            Self::NotInIndex => "give its shard by itself to load it",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compressed { method } => match zip::method_name(*method) {
                Some(name) => write!(f, "compressed with {name}"),
                None => write!(f, "compressed with method {method}"),
            },
            Self::Encrypted => f.write_str("encrypted"),
            Self::NotInIndex => f.write_str("not named by the model's index"),
        }
    }
}

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

/// A file format that can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Bytes without a structure: one item, the whole file.
    Raw,
    /// A safetensors file.
    Safetensors,
    /// The index of a model that is spread over several safetensors files.
    SafetensorsIndex,
    /// A KTX 2.0 texture.
    Ktx2,
    /// A zip archive.
    Zip,
}

impl Format {
    const ALL: [Self; 5] =
        [Self::Raw, Self::Safetensors, Self::SafetensorsIndex, Self::Ktx2, Self::Zip];
}

/// The format as people write it: `raw`, `safetensors`, `safetensors-index`, `KTX2`, `zip`.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Raw => "raw",
            Self::Safetensors => "safetensors",
            Self::SafetensorsIndex => "safetensors-index",
            Self::Ktx2 => "KTX2",
            Self::Zip => "zip",
        })
    }
}

/// The name given is no format's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a format: give raw, safetensors, safetensors-index, ktx2 or zip", outside(.0))]
pub struct UnknownFormat(String);

/// Reads what [`Display`](fmt::Display) writes, in upper or lower case.
impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Self::ALL
            .into_iter()
            .find(|format| format.to_string().eq_ignore_ascii_case(name))
            .ok_or_else(|| UnknownFormat(name.to_owned()))
    }
}

/// Tells the format of a file whose bytes are in memory as [`read`] does; `path` only names it.
///
/// Content and name are both looked at. A KTX2 texture and a zip archive begin with a signature, a
/// safetensors file with the length of its JSON header and the beginning of that JSON; an index of
/// shards is JSON with a `weight_map` from tensors to files. Where the name says nothing the content
/// decides, as in a cache that names files by their hash. Where the content says nothing the name does,
/// by its ending: `x.ktx2` without its identifier is still a KTX2 file, to be refused as such and not
/// loaded as something else. Where neither does, it is [`Format::Raw`].
///
/// # Errors
/// [`FormatError::Contradiction`] if the bytes are of one format and the name says another.
pub fn detect(path: &Path, bytes: &[u8]) -> Result<Format, FormatError> {
    Ok(detect::tell(&Source::in_memory(path, Format::Raw, bytes))?.format)
}

/// Opens a file and reads its table of contents.
///
/// Without a `format`, [`detect`] tells it. A file is opened once, and given back with its contents; an
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
        None => detect::tell(&Source::of(&file, Format::Raw)),
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

fn contents(source: &Source<'_>) -> Result<Contents, FormatError> {
    match source.format() {
        Format::Raw => Ok(raw::contents(source)),
        Format::Safetensors => safetensors::contents(source),
        Format::Ktx2 => ktx2::contents(source),
        Format::Zip => zip::contents(source),
        Format::SafetensorsIndex => Err(FormatError::Unsupported {
            path: source.path().to_owned(),
            format: source.format(),
            offset: 0,
            what: "it names other files and holds no tensors itself".into(),
            fix: "give the index by its path, beside its shards",
        }),
    }
}
