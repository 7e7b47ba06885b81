//! KTX 2.0: a header, an index of mip levels, descriptions, then the levels, smallest first.
//!
//! The [`ktx2`](::ktx2) crate decodes the header and the index's entries without the payload; the
//! rules between them (KTX File Format Specification 2.0, sections 3 and 4) are checked here.

use super::contents::Contents;
use super::description::Description;
use super::error::FormatError;
use super::item::Item;
use super::kind::Format;
use super::layout::{self, Part};
use super::source::Source;
use super::texture::{Supercompression, Texture, VkFormat};
use ::ktx2::{Header, LevelIndex, ParseError};

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
        let (name, description) = (GLOBAL_DATA.into(), Description::Bytes);
        items.push(Item { name, offset, len, checksum: None, description });
    }
    items.sort_by_key(|item| item.offset);
    let note = supercompression(&header).map(|scheme| note(scheme, index.sgd_byte_length));
    Ok(Contents { format: Format::Ktx2, items, refused: Vec::new(), note })
}

/// What the levels' bytes are.
fn note(scheme: Supercompression, global_data: u64) -> String {
    let with =
        if global_data > 0 { ", to be decoded with the supercompression global data" } else { "" };
    format!("the levels are supercompressed with {scheme} and loaded as they are stored{with}")
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
            description: Description::Texture(texture(header, level, entry)),
        });
    }
    Ok(items)
}

/// What a level of a texture is. The level is one of the at most 32 that an image can have.
fn texture(header: &Header, level: u32, entry: LevelIndex) -> Texture {
    let dimensions = match (header.pixel_height, header.pixel_depth) {
        (0, 0) => 1,
        (_, 0) => 2,
        _ => 3,
    };
    let of_level = |pixels: u32| (pixels >> level).max(1);
    Texture {
        format: VkFormat(header.format.map_or(0, |format| format.value())),
        supercompression: supercompression(header),
        dimensions,
        level,
        width: of_level(header.pixel_width),
        height: of_level(header.pixel_height),
        depth: of_level(header.pixel_depth),
        layers: header.layer_count.max(1),
        is_array: header.layer_count > 0,
        faces: header.face_count,
        uncompressed_len: entry.uncompressed_byte_length,
    }
}

fn supercompression(header: &Header) -> Option<Supercompression> {
    header.supercompression_scheme.map(|scheme| Supercompression::of(scheme.value()))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A texture of which the header says this: format, the size of its type, width, height, depth, layers,
    /// faces, levels, scheme. Its levels have the lengths given, the largest image first.
    fn texture_of(fields: [u32; 9], global_data: &[u8], lens: &[u64]) -> Contents {
        let mut bytes = ::ktx2::MAGIC.to_vec();
        bytes.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        bytes.extend([0; 16]);
        let index_end = (Header::LENGTH + LevelIndex::LENGTH * lens.len()) as u64;
        for field in [index_end, global_data.len() as u64] {
            bytes.extend(field.to_le_bytes());
        }
        let mut offset = index_end + global_data.len() as u64 + lens.iter().sum::<u64>();
        for &len in lens {
            offset -= len;
            bytes.extend([offset, len, 3 * len].iter().flat_map(|field| field.to_le_bytes()));
        }
        bytes.extend(global_data);
        bytes.resize(bytes.len() + lens.iter().sum::<u64>() as usize, 0);
        contents(&Source::in_memory("f".as_ref(), Format::Ktx2, &bytes)).expect("contents")
    }

    fn levels_of(contents: &Contents) -> Vec<&Texture> {
        let textures = contents.items.iter().rev().filter_map(|item| match &item.description {
            Description::Texture(texture) => Some(texture),
            _ => None,
        });
        textures.collect()
    }

    #[test]
    fn a_level_has_the_extent_of_its_own_image() {
        let read = texture_of([43, 1, 9, 5, 0, 2, 6, 4, 0], &[], &[2160, 384, 96, 48]);
        let levels = levels_of(&read);
        let extents: Vec<_> =
            levels.iter().map(|t| (t.level, t.width, t.height, t.depth)).collect();
        assert_eq!(extents, [(0, 9, 5, 1), (1, 4, 2, 1), (2, 2, 1, 1), (3, 1, 1, 1)]);
        for texture in levels {
            assert_eq!(texture.format.name().unwrap(), "VK_FORMAT_R8G8B8A8_SRGB");
            assert_eq!((texture.dimensions, texture.supercompression), (2, None));
            assert_eq!((texture.layers, texture.is_array, texture.faces), (2, true, 6));
        }
        let item = read.items.iter().find(|item| item.name == "level 1").expect("level 1");
        let Description::Texture(texture) = &item.description else { panic!("{item:?}") };
        assert_eq!(texture.image(item.len, 1, 2).unwrap(), 8 * 32..9 * 32);
    }

    #[test]
    fn dimensions_and_arrays_are_told_apart() {
        for (height, depth, layers, expected) in [
            (0, 0, 0, (1, 1, 1, 1, false)),
            (1, 0, 1, (2, 1, 1, 1, true)),
            (1, 1, 0, (3, 1, 1, 1, false)),
            (4, 6, 0, (3, 4, 6, 1, false)),
        ] {
            let read = texture_of([9, 1, 8, height, depth, layers, 1, 1, 0], &[], &[192]);
            let [t] = levels_of(&read)[..] else { panic!("one level: {read:?}") };
            assert_eq!((t.dimensions, t.height, t.depth, t.layers, t.is_array), expected);
        }
    }

    #[test]
    fn a_supercompressed_level_says_with_what() {
        for (number, scheme, words) in [
            (1, Supercompression::BasisLz, "BasisLZ"),
            (2, Supercompression::Zstandard, "Zstandard"),
            (3, Supercompression::Zlib, "zlib"),
            (70_000, Supercompression::Other(70_000), "scheme 70000"),
        ] {
            let read = texture_of([0, 1, 4, 4, 0, 0, 1, 1, number], b"shared", &[11]);
            let [texture] = levels_of(&read)[..] else { panic!("one level: {read:?}") };
            assert_eq!(texture.supercompression, Some(scheme));
            assert_eq!((texture.format, texture.uncompressed_len), (VkFormat(0), 33));
            assert!(texture.image(11, 0, 0).is_err());
            assert!(read.note.as_ref().expect("a note").contains(&format!("with {words} and")));
            assert_eq!(read.items[0].description, Description::Bytes, "{:?}", read.items[0]);
        }
    }
}
