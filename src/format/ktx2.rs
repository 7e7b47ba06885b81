//! KTX 2.0: a header, an index of mip levels, descriptions, then the levels, smallest first.
//!
//! The [`ktx2`](::ktx2) crate decodes the header and the index's entries without the payload; the
//! rules between them (KTX File Format Specification 2.0, sections 3 and 4) are checked here.

use super::contents::Contents;
use super::error::FormatError;
use super::item::Item;
use super::kind::Format;
use super::layout::{self, Part};
use super::source::Source;
use ::ktx2::{Header, LevelIndex, ParseError, SupercompressionScheme};

const FIX: &str = "fetch or write the texture again";

/// The item of what a texture's levels share, without which some schemes' levels cannot be decoded.
const GLOBAL_DATA: &str = "supercompression global data";

/// Each mip level as an item named `level N`, of which `level 0` is the largest image, and the
/// supercompression global data if there are any (section 3.12).
pub(super) fn contents(source: &Source<'_>) -> Result<Contents, FormatError> {
    let header = Header::from_bytes(&source.array(0, "the header")?)
        .map_err(|error| header_fault(source, &error))?;
    let levels = levels(source, &header)?;

    let index_end = (Header::LENGTH + levels.len() * LevelIndex::LENGTH) as u64;
    let mut parts =
        vec![Part { what: "the header and level index".into(), offset: 0, len: index_end }];
    let index = &header.index;
    for (what, offset, len) in [
        ("the data format descriptor", index.dfd_byte_offset.into(), index.dfd_byte_length.into()),
        ("the key/value data", index.kvd_byte_offset.into(), index.kvd_byte_length.into()),
        ("the supercompression global data", index.sgd_byte_offset, index.sgd_byte_length),
    ] {
        if len > 0 {
            parts.push(Part { what: what.into(), offset, len });
        }
    }
    parts.extend(levels.iter().map(|item| Part {
        what: item.name.clone(),
        offset: item.offset,
        len: item.len,
    }));
    layout::check(source, &mut parts, FIX)?;

    let mut items = levels;
    if index.sgd_byte_length > 0 {
        let (offset, len) = (index.sgd_byte_offset, index.sgd_byte_length);
        items.push(Item { name: GLOBAL_DATA.into(), offset, len, checksum: None });
    }
    items.sort_by_key(|item| item.offset);
    let note = header.supercompression_scheme.map(|scheme| note(scheme, index.sgd_byte_length));
    Ok(Contents { format: Format::Ktx2, items, refused: Vec::new(), note })
}

/// What the levels' bytes are.
fn note(scheme: SupercompressionScheme, global_data: u64) -> String {
    let name = match scheme {
        SupercompressionScheme::BasisLZ => "BasisLZ".to_owned(),
        SupercompressionScheme::Zstandard => "Zstandard".to_owned(),
        SupercompressionScheme::ZLIB => "zlib".to_owned(),
        other => format!("{other:?}"),
    };
    let with =
        if global_data > 0 { ", to be decoded with the supercompression global data" } else { "" };
    format!("the levels are supercompressed with {name} and loaded as they are stored{with}")
}

/// The levels of the index, as yet unchecked against the file, level 0 first.
fn levels(source: &Source<'_>, header: &Header) -> Result<Vec<Item>, FormatError> {
    // A count of 0 means: one level, from which the reader may make the others.
    let count = header.level_count.max(1);
    let longest = header.pixel_width.max(header.pixel_height).max(header.pixel_depth);
    let most = longest.ilog2() + 1;
    if count > most {
        let problem = format!(
            "{count} levels are given, but an image {longest} pixels long has at most {most}"
        );
        return Err(source.malformed(40, problem, FIX));
    }
    let mut items = Vec::with_capacity(count as usize);
    for level in 0..count {
        let offset = Header::LENGTH as u64 + u64::from(level) * LevelIndex::LENGTH as u64;
        let name = format!("level {level}");
        let entry = source.array(offset, &format!("the index entry of {name}"))?;
        let entry = LevelIndex::from_bytes(&entry);
        if entry.byte_length == 0 {
            return Err(source.malformed(offset + 8, format!("{name} is given no bytes"), FIX));
        }
        items.push(Item {
            name,
            offset: entry.byte_offset,
            len: entry.byte_length,
            checksum: None,
        });
    }
    Ok(items)
}

fn header_fault(source: &Source<'_>, error: &ParseError) -> FormatError {
    match error {
        ParseError::BadMagic => source.malformed(
            0,
            "the identifier of a KTX 2.0 file is not there",
            "fetch or write it again if it is one, or load it as raw",
        ),
        ParseError::ZeroWidth => source.malformed(20, "the image is 0 pixels wide", FIX),
        ParseError::ZeroFaceCount => source.malformed(36, "the image has 0 faces", FIX),
        other => source.malformed(0, format!("the header cannot be decoded: {other}"), FIX),
    }
}
