//! Bytes without a structure: the whole file is one item, named like the file.

use super::contents::Contents;
use super::item::Item;
use super::kind::Format;
use super::source::Source;

/// The file as one item.
pub(super) fn contents(source: &Source<'_>) -> Contents {
    let path = source.path();
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let item = Item { name, offset: 0, len: source.len(), checksum: None };
    Contents { format: Format::Raw, items: vec![item], refused: Vec::new(), note: None }
}
