//! What a file is, by its content and by its name.
//!
//! Where the content says nothing the name does, so that a damaged file is refused as what it should
//! be. Where the two say different things, nobody is believed.

use super::error::FormatError;
use super::kind::Format;
use super::readers::by_content;
use super::source::Source;
use std::path::Path;

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
    Format::ENDINGS
        .into_iter()
        .find_map(|(ending, format)| name.ends_with(ending).then_some(format))
}
