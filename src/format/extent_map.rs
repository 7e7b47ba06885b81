//! Where files lie on their drive, written down while the kernel has it.
//!
//! The driver in user space knows blocks and no file systems. So before a drive is taken from the
//! kernel, an [`ExtentMap`] is recorded of the files that shall be loaded: their extents, what they
//! hold, and a fingerprint of every item. It is JSON, and may as well be written by hand for a file
//! system image whose extents somebody else knows. Whatever it says wrong shows in a load: each item
//! must meet its fingerprint.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crc32fast::Hasher;
use rustix::fs::fsync;
use serde::{Deserialize, Serialize};

use super::description::Description;
use super::error::FormatError;
use super::kind::Format;
use super::manifest::{Manifest, Named, Selection};
use super::path_json;
use exporters::outside::outside;

use crate::pci::PciError;
use crate::storage::file::{LONGEST_FILE, SourceFile, pread};
use crate::storage::nvme::{BadExtent, Controller, DriveFile, Extent, ExtentError, extents};
use crate::storage::stack::Stack;
use crate::transfer::{LeftOut, Readable, Recorded, Request, Source, TransferError, Valid};

/// A longer map is none, in bytes.
const LONGEST: u64 = 256 << 20;

/// How much is read at once for a fingerprint, in bytes.
const CHUNK: usize = 1 << 20;

/// Files on one drive.
///
/// ```no_run
/// use std::sync::Arc;
/// use std::sync::atomic::AtomicBool;
/// use bufmap::format::{ExtentMap, Selection};
/// use bufmap::storage::nvme::Controller;
/// use exporters::vfio::Container;
///
/// // While the file system is mounted:
/// let (selection, stop) = (Selection::default(), AtomicBool::new(false));
/// let map = ExtentMap::record(&["model.safetensors".into()], &selection, &stop, &mut |_| ())?;
/// map.write("model.extents.json".as_ref())?;
///
/// // When it is unmounted, and the drive is bound to vfio-pci:
/// let map = ExtentMap::read("model.extents.json".as_ref())?;
/// let container = Arc::new(Container::new()?);
/// let drive = Controller::open(container.open(&map.drive.address)?, 1)?;
/// let manifest = map.manifest(&drive, &[])?;
/// println!("{} bytes", manifest.buffer_len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtentMap {
    /// The drive they are on.
    pub drive: Drive,
    /// The files.
    pub files: Vec<MappedFile>,
    /// What was left out of them when they were recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// A drive and a disk on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// Its PCI address.
    pub address: String,
    /// Its serial number, without blanks at the ends.
    pub serial: String,
    /// The number of the namespace.
    pub namespace: u32,
}

/// A file, where it lies and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MappedFile {
    /// What it was called while the kernel had the drive. In JSON it is text, or a list of its bytes where it
    /// is none.
    #[serde(with = "path_json")]
    pub path: PathBuf,
    /// What it was read as.
    pub format: Format,
    /// What must be known of its bytes, if anything ([`Contents::note`](super::Contents::note)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Where its bytes lie on the namespace, in order and without gaps.
    pub extents: Vec<Extent>,
    /// What can be loaded of it.
    pub items: Vec<MappedItem>,
}

/// An item of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MappedItem {
    /// The name that its format gives it.
    pub name: String,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
    /// The CRC-32 (IEEE) of its bytes, which a load must meet; not checked if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32: Option<u32>,
    /// What it is. Maps that do not say it, as older ones do not, are read: their items are bytes.
    #[serde(default)]
    pub description: Description,
}

impl MappedItem {
    /// Bytes of a file, without a fingerprint.
    pub fn new(name: impl Into<String>, offset: u64, len: u64) -> Self {
        Self { name: name.into(), offset, len, crc32: None, description: Description::Bytes }
    }
}

/// What is wrong with a map, or keeps one from being made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtentMapError {
    /// The map's file cannot be read or written.
    #[error("{}: {source}; check the path, and whether it is yours", outside(path))]
    File {
        /// The map.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It is not the JSON that it should be.
    #[error(
        "{}: is no map of extents: {}; record it again with bufmap extents",
        outside(path),
        outside(&source.to_string())
    )]
    Json {
        /// The map.
        path: PathBuf,
        /// What is wrong, and in which line.
        source: serde_json::Error,
    },
    /// It says something that cannot be.
    #[error("{}: {what}; record it again with bufmap extents", outside(path))]
    Wrong {
        /// The file it speaks of.
        path: PathBuf,
        /// What cannot be.
        what: String,
    },
    /// No drive of this machine has the file to itself.
    #[error("{}: {why}", outside(path))]
    NotOnADrive {
        /// The file.
        path: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
    /// A file on another drive than the first.
    #[error(
        "{}: lies on another drive than the first file; record a map for each drive",
        outside(path)
    )]
    OtherDrive {
        /// The file.
        path: PathBuf,
    },
    /// A file whose bytes are not on the drive as they are read.
    #[error("{}: {source}", outside(path))]
    Extents {
        /// The file.
        path: PathBuf,
        /// What is with its bytes.
        source: ExtentError,
    },
    /// The extents fit no file on this namespace.
    #[error(transparent)]
    BadExtent(#[from] BadExtent),
    /// The drive at the address is another one.
    #[error(
        "the drive at {address} has the serial number {found} and not {expected}: find the one that has, and correct the address in the map", address = outside(address), found = outside(found), expected = outside(expected))]
    OtherSerial {
        /// The PCI address.
        address: String,
        /// Its serial number.
        found: String,
        /// That of the map.
        expected: String,
    },
    /// The drive has no such namespace.
    #[error("the drive at {address} has no namespace {namespace}; record the map again", address = outside(address))]
    NoNamespace {
        /// The PCI address.
        address: String,
        /// The namespace's number.
        namespace: u32,
    },
    /// There is no file to record.
    #[error("there is no file to record")]
    NoFile,
    /// A file's table of contents could not be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A file could not be read, was changed, or the caller stopped it.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// What it calls a drive's address is none.
    #[error(transparent)]
    Address(#[from] PciError),
    /// The map does not hold what was asked for.
    #[error("the map holds no item `{name}`; record it with that item, or load without naming one", name = outside(name))]
    NoSuchItem {
        /// The item.
        name: String,
    },
}

impl ExtentMap {
    /// Whether a file is a map, by its name: it ends with `.extents.json`.
    pub fn is_named(path: &Path) -> bool {
        path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".extents.json"))
    }

    /// Records where files lie, all of them on one drive of the kernel's, and what they hold of
    /// what is selected. Every byte is read once, through the page cache, for the
    /// fingerprints; `progress` is told how many have been.
    ///
    /// The map is true until the files are written to or moved: unmount their file system before the
    /// drive is taken from the kernel.
    ///
    /// # Errors
    /// [`ExtentMapError`]: a file cannot be read, was changed meanwhile, or lies where no drive has it as it
    /// is.
    pub fn record(
        paths: &[PathBuf],
        selection: &Selection<'_>,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, ExtentMapError> {
        let manifest = Manifest::open(paths, selection)?;
        let mut placed = manifest.items().peekable();
        let mut on: Option<Drive> = None;
        let mut files = Vec::new();
        let mut done = 0;
        for (index, (file, format)) in manifest.files().iter().zip(manifest.formats()).enumerate() {
            let path = file.path().to_owned();
            // What is still in memory has no place yet.
            fsync(file).map_err(|error| TransferError::Open {
                path: path.clone(),
                source: error.into(),
            })?;
            let (drive, start) = drive_below(file)?;
            if *on.get_or_insert_with(|| drive.clone()) != drive {
                return Err(ExtentMapError::OtherDrive { path });
            }
            let mut items = Vec::new();
            while let Some(item) = placed.next_if(|item| item.request.file == index) {
                let Request { offset, len, .. } = *item.request;
                let crc32 = fingerprint(file, item.request, stop, &mut |bytes| {
                    done += bytes;
                    progress(done);
                })?;
                items.push(MappedItem {
                    name: item.name.to_owned(),
                    offset,
                    len,
                    crc32: Some(crc32),
                    description: item.description.clone(),
                });
            }
            let extents = extents(file, start)
                .map_err(|source| ExtentMapError::Extents { path: path.clone(), source })?;
            let note = manifest.notes()[index].clone();
            files.push(MappedFile { path, format: *format, note, extents, items });
        }
        manifest.files().iter().try_for_each(Readable::check_unchanged)?;
        let drive = on.ok_or(ExtentMapError::NoFile)?;
        Ok(Self { drive, files, left_out: manifest.left_out().to_vec() })
    }

    /// Reads a map.
    ///
    /// # Errors
    /// [`ExtentMapError::File`], and those of [`parse`](Self::parse).
    pub fn read(path: &Path) -> Result<Self, ExtentMapError> {
        let failed = |source| ExtentMapError::File { path: path.into(), source };
        let file = File::open(path).map_err(failed)?;
        let mut json = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, LONGEST), &mut json).map_err(failed)?;
        Self::parse(path, &json)
    }

    /// Reads a map that is in memory; `path` only names it.
    ///
    /// # Errors
    /// [`ExtentMapError::Json`]; [`ExtentMapError::Wrong`] for extents that leave gaps, for items
    /// outside their file, and for items of another length than what they are said to be has.
    pub fn parse(path: &Path, json: &[u8]) -> Result<Self, ExtentMapError> {
        let map: Self = serde_json::from_slice(json)
            .map_err(|source| ExtentMapError::Json { path: path.into(), source })?;
        for file in &map.files {
            file.check()?;
        }
        if map.left_out.iter().any(|part| part.file >= map.files.len()) {
            let what = "something is said to be left out of a file that it does not have".into();
            return Err(ExtentMapError::Wrong { path: path.into(), what });
        }
        Ok(map)
    }

    /// Writes the map.
    ///
    /// # Errors
    /// [`ExtentMapError::File`].
    pub fn write(&self, path: &Path) -> Result<(), ExtentMapError> {
        let failed = |source| ExtentMapError::File { path: path.into(), source };
        let json = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        fs::write(path, json).map_err(failed)
    }

    /// The files and their items on the drive that they were recorded on, as `controller` has it: the
    /// items called `names`, or all, placed in a buffer.
    ///
    /// # Errors
    /// [`ExtentMapError`]: it is another drive, lacks the namespace, or the extents do not fit it.
    pub fn manifest(
        &self,
        controller: &Arc<Controller>,
        names: &[String],
    ) -> Result<Manifest<DriveFile>, ExtentMapError> {
        let Drive { address, serial, namespace } = &self.drive;
        let found = controller.identity().serial.trim();
        if found != serial {
            let (address, found, expected) = (address.clone(), found.into(), serial.clone());
            return Err(ExtentMapError::OtherSerial { address, found, expected });
        }
        let all = controller.namespaces().map_err(TransferError::from)?;
        let on = all.into_iter().find(|one| one.id() == *namespace).ok_or_else(|| {
            ExtentMapError::NoNamespace { address: address.clone(), namespace: *namespace }
        })?;
        self.manifest_of(names, |MappedFile { path, extents, .. }| {
            let file = DriveFile::new(controller, on, path.clone(), extents.clone());
            file.map_err(ExtentMapError::from)
        })
    }

    /// The same with files on a drive that is not there: for a question.
    pub(crate) fn outline(&self, names: &[String]) -> Result<Manifest<Recorded>, ExtentMapError> {
        self.manifest_of(names, |MappedFile { path, extents, .. }| {
            let len = extents.iter().map(|extent| extent.len).sum();
            Ok(Recorded { path: path.clone(), len })
        })
    }

    /// What is left out where the items with these names are asked for, or all: nothing, where somebody
    /// chose.
    pub fn left_out_of(&self, names: &[String]) -> &[LeftOut] {
        if names.is_empty() { &self.left_out } else { &[] }
    }

    fn manifest_of<S: Source>(
        &self,
        names: &[String],
        mut open: impl FnMut(&MappedFile) -> Result<S, ExtentMapError>,
    ) -> Result<Manifest<S>, ExtentMapError> {
        let wanted: HashSet<&str> = names.iter().map(String::as_str).collect();
        let (mut files, mut formats) = (Vec::new(), Vec::new());
        let (mut named, mut requests) = (Vec::new(), Vec::new());
        for file in &self.files {
            file.check()?;
            for item in &file.items {
                if names.is_empty() || wanted.contains(item.name.as_str()) {
                    let request = Request::new(files.len(), item.offset, item.len, 0);
                    requests.push(Request { crc32: item.crc32, ..request });
                    let (name, description) = (item.name.clone(), item.description.clone());
                    named.push(Named { name, description });
                }
            }
            files.push(open(file)?);
            formats.push(file.format);
        }
        let all: HashSet<&str> = named.iter().map(|item| item.name.as_str()).collect();
        if let Some(name) = names.iter().find(|name| !all.contains(name.as_str())) {
            return Err(ExtentMapError::NoSuchItem { name: name.clone() });
        }
        let notes = self.files.iter().map(|file| file.note.clone()).collect();
        let left_out = self.left_out_of(names).to_vec();
        Ok(Manifest::of(files, formats, named, requests).knowing(notes, left_out))
    }
}

impl MappedFile {
    /// Whether the extents are in a row and every item lies in them, as long as what it is said to be.
    fn check(&self) -> Result<(), ExtentMapError> {
        let wrong = |what| Err(ExtentMapError::Wrong { path: self.path.clone(), what });
        let mut len = 0u64;
        for extent in &self.extents {
            if extent.file_offset != len {
                return wrong(format!("no extent has the bytes from offset {len} on"));
            }
            len = match len.checked_add(extent.len) {
                Some(end) if extent.offset.checked_add(extent.len).is_some() => end,
                _ => return wrong(format!("the extent at offset {len} has no end")),
            };
        }
        let past =
            |item: &&MappedItem| item.offset.checked_add(item.len).is_none_or(|end| end > len);
        if len > LONGEST_FILE {
            return wrong(format!("its extents have {len} bytes, more than any file can have"));
        }
        if let Some(item) = self.items.iter().find(past) {
            let name = outside(&item.name);
            return wrong(format!("`{name}` is not inside the {len} bytes of the file"));
        }
        match self.items.iter().find(|item| !item.description.fits(item.len)) {
            Some(item) => wrong(format!(
                "`{}` has {} bytes, which is not the length of what it is said to be",
                outside(&item.name),
                item.len
            )),
            None => Ok(()),
        }
    }
}

/// The drive that a file lies on, and where on the namespace its device begins, in bytes.
fn drive_below(file: &SourceFile) -> Result<(Drive, u64), ExtentMapError> {
    let not = |why: String| ExtentMapError::NotOnADrive { path: file.path().into(), why };
    let stack = Stack::below(file);
    let address = stack.drive().map_err(|why| not(why.to_string()))?;
    let (disk, start) = Stack::disk(file).map_err(|why| not(why.to_string()))?;
    let told = |name: &str| {
        let path = Path::new("/sys/block").join(&disk).join(name);
        fs::read_to_string(&path).map(|text| text.trim().to_owned()).map_err(|error| {
            not(format!("{} does not tell what the drive is: {error}", outside(&path)))
        })
    };
    let (serial, namespace) = (told("device/serial")?, told("nsid")?);
    let namespace = namespace.parse().map_err(|_| not(format!("{disk} is no namespace")))?;
    Ok((Drive { address: address.to_string(), serial, namespace }, start))
}

/// The CRC-32 of a request's bytes.
fn fingerprint(
    file: &SourceFile,
    request: &Request,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<u32, TransferError> {
    let mut bytes = vec![0; CHUNK];
    let mut crc = Hasher::new();
    let mut at = 0;
    while at < request.len {
        if stop.load(Ordering::Relaxed) {
            return Err(TransferError::Stopped { valid: Valid::none_of(request.len) });
        }
        let len = (request.len - at).min(CHUNK as u64) as usize;
        match pread::read_exact(file, request.offset + at, &mut bytes[..len], stop) {
            Err(_) if stop.load(Ordering::Relaxed) => continue,
            answer => answer.map_err(|failure| file.failed(failure, Valid::default()))?,
        }
        crc.update(&bytes[..len]);
        at += len as u64;
        progress(len as u64);
    }
    Ok(crc.finalize())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;
    use crate::format::member::{DosTime, Member};
    use crate::format::tensor::{Dtype, Tensor};
    use crate::format::texture::{Supercompression, Texture, VkFormat};

    fn map(extents: &str, items: &str) -> Result<ExtentMap, String> {
        let json = format!(
            r#"{{"drive": {{"address": "0000:02:00.0", "serial": "x", "namespace": 1}},
                "files": [{{"path": "a", "format": "zip", "extents": [{extents}], "items": [{items}]}}]}}"#
        );
        ExtentMap::parse("map".as_ref(), json.as_bytes()).map_err(|error| error.to_string())
    }

    const FIRST: &str = r#"{"file_offset": 0, "offset": 8192, "len": 4096}"#;

    #[test]
    fn a_map_by_hand_is_read() {
        let second = r#"{"file_offset": 4096, "offset": 0, "len": 100}"#;
        let item = r#"{"name": "b", "offset": 4000, "len": 196}"#;
        let map = map(&format!("{FIRST}, {second}"), item).expect("a map");
        assert_eq!(map.files[0].extents[1].len, 100);
        assert_eq!(map.files[0].items[0].crc32, None);
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let gap = r#"{"file_offset": 4097, "offset": 0, "len": 100}"#;
        let words = map(&format!("{FIRST}, {gap}"), "").expect_err("a gap");
        assert!(words.contains("from offset 4096 on"), "{words}");
        let endless = r#"{"file_offset": 0, "offset": 1, "len": 18446744073709551615}"#;
        let words = map(endless, "").expect_err("no end");
        assert!(words.contains("has no end"), "{words}");
        for item in [
            r#"{"name": "b", "offset": 4000, "len": 97}"#,
            r#"{"name": "b", "offset": 18446744073709551615, "len": 2}"#,
        ] {
            let words = map(FIRST, item).expect_err("outside");
            assert!(words.contains("`b` is not inside the 4096 bytes"), "{words}");
        }
        let words = map(FIRST, r#"{"name": "b"}"#).expect_err("no JSON of ours");
        assert!(words.contains("missing field") && words.contains("bufmap extents"), "{words}");
    }

    fn described(len: u64, description: &str) -> Result<Description, String> {
        let item =
            format!(r#"{{"name": "b", "offset": 0, "len": {len}, "description": {description}}}"#);
        Ok(map(FIRST, &item)?.files.remove(0).items.remove(0).description)
    }

    #[test]
    fn what_an_item_is_may_be_said_and_must_be_true() {
        let item = r#"{"name": "b", "offset": 0, "len": 24}"#;
        assert_eq!(
            map(FIRST, item).expect("a map").files[0].items[0].description,
            Description::Bytes
        );
        assert_eq!(described(24, r#"{"kind": "bytes"}"#), Ok(Description::Bytes));
        let tensor = r#"{"kind": "tensor", "dtype": "F32", "shape": [2, 3]}"#;
        let expected = Tensor { dtype: Dtype::F32, shape: vec![2, 3] };
        assert_eq!(described(24, tensor), Ok(Description::Tensor(expected)));
        let words = described(23, tensor).expect_err("another length");
        assert!(words.contains("`b` has 23 bytes") && words.contains("said to be"), "{words}");
        let member =
            r#"{"kind": "member", "size": 24, "modified": "1980-01-01T00:00:00", "crc32": 7}"#;
        assert!(described(24, member).is_ok());
        assert!(described(25, member).is_err());
        for unknown in [
            r#"{"kind": "tensor", "dtype": "F32", "shape": [2, 3], "stride": 1}"#,
            r#"{"kind": "member", "size": 24, "crc32": 7, "mode": 420}"#,
            r#"{"kind": "bytes", "size": 24}"#,
            r#"{"kind": "sound"}"#,
        ] {
            let words = described(24, unknown).expect_err("unknown");
            assert!(words.contains("unknown"), "{unknown}: {words}");
        }
    }

    #[test]
    fn a_path_that_is_no_text_keeps_its_bytes() {
        let mut recorded = map(FIRST, "").expect("a map");
        recorded.files[0].path = OsString::from_vec(b"/x/\xff.bin".to_vec()).into();
        let json = serde_json::to_vec(&recorded).expect("JSON");
        assert_eq!(ExtentMap::parse("map".as_ref(), &json).expect("a map"), recorded);
        recorded.files[0].path = "/x/ä.bin".into();
        assert!(serde_json::to_string(&recorded).expect("JSON").contains("\"/x/ä.bin\""));
    }

    #[test]
    fn a_map_is_known_by_its_name() {
        assert!(ExtentMap::is_named("/x/model.extents.json".as_ref()));
        assert!(!ExtentMap::is_named("model.safetensors.index.json".as_ref()));
    }

    fn times() -> impl Strategy<Value = DosTime> {
        let date = (1980..=2107_u16, 1..=12_u8, 1..=28_u8);
        (date, 0..24_u8, 0..60_u8, 0..30_u8).prop_map(|((year, month, day), hour, minute, half)| {
            let (date, second) = (format!("{year}-{month:02}-{day:02}"), 2 * half);
            format!("{date}T{hour:02}:{minute:02}:{second:02}").parse().expect("a time")
        })
    }

    fn textures() -> impl Strategy<Value = Texture> {
        let supercompression = prop::option::of(prop_oneof![0..5_u32, any::<u32>()]);
        let format = prop_oneof![0..200_u32, any::<u32>()];
        let numbers = any::<([u32; 7], bool, u64)>();
        (format, supercompression, numbers).prop_map(
            |(format, scheme, (numbers, is_array, len))| {
                let [dimensions, level, width, height, depth, layers, faces] = numbers;
                Texture {
                    format: VkFormat(format),
                    supercompression: scheme.map(Supercompression::of),
                    dimensions,
                    level,
                    width,
                    height,
                    depth,
                    layers,
                    is_array,
                    faces,
                    uncompressed_len: len,
                }
            },
        )
    }

    /// Any description, and how many bytes an item of it has.
    fn descriptions() -> impl Strategy<Value = (Description, u64)> {
        let len = 0..1_u64 << 40;
        let shapes = prop::collection::vec(0..300_u64, 0..5);
        prop_oneof![
            len.clone().prop_map(|len| (Description::Bytes, len)),
            (prop::sample::select(Dtype::ALL), shapes).prop_filter_map(
                "whole bytes",
                |(dtype, shape)| {
                    let tensor = Tensor { dtype, shape };
                    let len = tensor.byte_len()?;
                    Some((Description::Tensor(tensor), len))
                }
            ),
            (textures(), len.clone())
                .prop_map(|(texture, len)| (Description::Texture(texture), len)),
            (len, prop::option::of(times()), any::<u32>()).prop_map(|(size, modified, crc32)| {
                (Description::Member(Member { size, modified, crc32 }), size)
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_description_is_read_as_it_was_written((description, len) in descriptions()) {
            let mut map = map("", "").expect("a map");
            map.files[0].extents = vec![Extent { file_offset: 0, offset: 0, len }];
            let item = MappedItem { description: description.clone(), ..MappedItem::new("b", 0, len) };
            map.files[0].items = vec![item];
            let json = serde_json::to_vec(&map).expect("JSON");
            let read = ExtentMap::parse("map".as_ref(), &json).expect("a map");
            prop_assert_eq!(&read.files[0].items[0].description, &description);
            let manifest = read.outline(&[]).expect("a manifest");
            prop_assert_eq!(manifest.items().next().expect("an item").description, &description);
        }

        #[test]
        fn what_is_written_is_read(lens in prop::collection::vec((1u64..1 << 40, 0u64..1 << 40), 1..9), path: Vec<u8>) {
            let mut file_offset = 0;
            let extents: Vec<_> = lens.iter().map(|&(len, offset)| {
                let extent = Extent { file_offset, offset, len };
                file_offset += len;
                extent
            }).collect();
            let item = MappedItem { crc32: Some(7), ..MappedItem::new("ä\"\n", 0, file_offset) };
            let drive = Drive { address: "0000:02:00.0".into(), serial: "S 1".into(), namespace: 2 };
            let note = Some("as they are stored".to_owned());
            let path = PathBuf::from(OsString::from_vec(path));
            let file = MappedFile { path, format: Format::Ktx2, note, extents, items: vec![item] };
            let part = LeftOut { file: 0, name: "x".into(), len: 7, why: "encrypted".into() };
            let map = ExtentMap { drive, files: vec![file], left_out: vec![part] };
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("m.extents.json");
            map.write(&path).expect("written");
            prop_assert_eq!(ExtentMap::read(&path).expect("read"), map);
        }
    }
}
