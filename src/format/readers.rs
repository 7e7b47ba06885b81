//! The readers of formats: by what content each is told, and which reads it.
//!
//! The first bytes of a KTX2 texture and of a zip archive are signatures. Safetensors has none: what
//! stands first is a length of at most 100 MB in eight bytes, then the `{` of its JSON. An index of
//! shards is JSON whose first member is `weight_map` or `metadata`, as its writers order it, and which
//! is read whole to see whether it maps names to names.

use super::contents::Contents;
use super::error::FormatError;
use super::kind::Format;
use super::safetensors::{self, MAX_JSON_LEN, Tensors, Text};
use super::source::Source;
use super::{ktx2, raw, zip};
use serde::Deserialize;

/// How many bytes of a file's start are looked at.
const HEAD_LEN: u64 = 64;

/// Reads the table of contents of a source as its format.
pub(super) fn contents(source: &Source<'_>) -> Result<Contents, FormatError> {
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

/// The format that a source's bytes are of, if they say it.
pub(super) fn by_content(source: &Source<'_>) -> Result<Option<Format>, FormatError> {
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
