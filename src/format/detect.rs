//! What a file is, by its content and by its name.
//!
//! The first bytes of a KTX2 texture and of a zip archive are signatures. Safetensors has none: what
//! stands first is a length of at most 100 MB in eight bytes, then the `{` of its JSON. An index of
//! shards is JSON whose first member is `weight_map` or `metadata`, as its writers order it, and which
//! is read whole to see whether it maps names to names.
//!
//! Where the content says nothing the name does, so that a damaged file is refused as what it should
//! be. Where the two say different things, nobody is believed.

use super::error::FormatError;
use super::kind::Format;
use super::safetensors::{self, MAX_JSON_LEN, Tensors, Text};
use super::source::Source;
use super::zip;
use serde::Deserialize;
use std::path::Path;

/// How many bytes of a file's start are looked at.
const HEAD_LEN: u64 = 64;

/// The endings of names that tell a format.
const ENDINGS: [(&str, Format); 4] = [
    (".safetensors.index.json", Format::SafetensorsIndex),
    (".safetensors", Format::Safetensors),
    (".ktx2", Format::Ktx2),
    (".zip", Format::Zip),
];

/// A format, and what it was told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub format: Format,
    /// By the content alone: the name says nothing.
    pub by_content_alone: bool,
}

/// Tells the format of a file whose bytes are in memory as [`read`](super::read()) does; `path` only names it.
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
    Ok(tell(&Source::in_memory(path, Format::Raw, bytes))?.format)
}

/// Tells the format of a file.
pub(super) fn tell(source: &Source<'_>) -> Result<Told, FormatError> {
    match (by_name(source.path()), by_content(source)?) {
        (Some(named), Some(found)) if named != found => {
            Err(FormatError::Contradiction { path: source.path().to_owned(), named, found })
        }
        (None, Some(format)) => Ok(Told { format, by_content_alone: true }),
        (named, _) => Ok(Told { format: named.unwrap_or(Format::Raw), by_content_alone: false }),
    }
}

fn by_name(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    ENDINGS.into_iter().find_map(|(ending, format)| name.ends_with(ending).then_some(format))
}

fn by_content(source: &Source<'_>) -> Result<Option<Format>, FormatError> {
    let head = source.bytes(0, source.len().min(HEAD_LEN), "the start")?;
    if head.starts_with(&::ktx2::MAGIC) {
        return Ok(Some(Format::Ktx2));
    }
    // Before zip: a header of one certain length begins with the bytes of its signature.
    if safetensors::is_begun(&head) {
        return Ok(Some(Format::Safetensors));
    }
    if zip::SIGNATURES.iter().any(|signature| head.starts_with(signature)) {
        return Ok(Some(Format::Zip));
    }
    let is_index = begins_like_an_index(&head) && is_index(source)?;
    Ok(is_index.then_some(Format::SafetensorsIndex))
}

/// Whether the first member of a JSON object is one of an index's.
fn begins_like_an_index(head: &[u8]) -> bool {
    let Some(inside) = head.trim_ascii_start().strip_prefix(b"{") else { return false };
    let inside = inside.trim_ascii_start();
    [&b"\"weight_map\""[..], b"\"metadata\""].iter().any(|member| inside.starts_with(member))
}

/// Whether the whole file is JSON that says of tensors which file each is in.
fn is_index(source: &Source<'_>) -> Result<bool, FormatError> {
    #[derive(Deserialize)]
    struct Json {
        #[serde(rename = "weight_map")]
        _weight_map: Tensors<Text>,
    }
    if source.len() > MAX_JSON_LEN {
        return Ok(false);
    }
    let json = source.bytes(0, source.len(), "the index")?;
    Ok(serde_json::from_slice::<Json>(&json).is_ok())
}
