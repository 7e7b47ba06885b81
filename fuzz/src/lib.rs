//! What every format reader must hold for any bytes: it comes back, with items that lie inside the
//! file, in file order, none on another, or with an error that can be printed and that names an
//! offset of the file's own range.

use bufmap::format::{self, Contents, Description, Format, FormatError, Item, Texture};
use std::path::Path;

/// The name that the bytes go by.
pub const NAME: &str = "fuzz.file";

/// Reads the bytes as one format and checks what comes back.
pub fn read(format: Format, bytes: &[u8]) -> Result<Contents, FormatError> {
    let contents = format::parse(Path::new(NAME), format, bytes);
    match &contents {
        Ok(contents) => check(contents, bytes),
        Err(error) => check_error(error),
    }
    contents
}

fn check(contents: &Contents, bytes: &[u8]) {
    let mut end = 0;
    for item in &contents.items {
        let item_end = item.offset.checked_add(item.len).expect("an item has an end");
        assert!(item_end <= bytes.len() as u64, "{item:?} in a file of {} bytes", bytes.len());
        if item.len > 0 {
            assert!(item.offset >= end, "{item:?} begins before {end}");
            end = item_end;
        }
        check_description(item);
    }
    for refused in &contents.refused {
        assert!(refused.offset < bytes.len() as u64, "{refused:?}");
        let error = contents.select(Path::new(NAME), &[&refused.name]).expect_err("it is refused");
        check_error(&error);
    }
}

/// What an item is said to be has the item's length.
fn check_description(item: &Item) {
    match &item.description {
        Description::Tensor(tensor) => assert_eq!(tensor.byte_len(), Some(item.len), "{item:?}"),
        Description::Member(member) => assert_eq!(member.size, item.len, "{item:?}"),
        Description::Texture(texture) => check_images(texture, item.len),
        _ => {}
    }
}

/// The images of a level follow one another inside it: the first begins it, and the last ends it.
pub fn check_images(texture: &Texture, len: u64) {
    let last = (texture.layers.saturating_sub(1), texture.faces.saturating_sub(1));
    let images = [(0, 0), last, (last.0, 0), (0, last.1)]
        .map(|(layer, face)| texture.image(len, layer, face));
    for image in images.iter().flatten() {
        assert!(image.start <= image.end && image.end <= len, "{image:?} of {len}: {texture:?}");
    }
    if let [Ok(first), Ok(last), ..] = &images {
        assert_eq!((first.start, last.end), (0, len), "{texture:?}");
    }
    assert!(texture.image(len, texture.layers, 0).is_err());
    assert!(texture.image(len, 0, texture.faces).is_err());
}

/// An error names the file and, after a semicolon, what to do.
pub fn check_error(error: &FormatError) {
    let text = error.to_string();
    assert!(text.starts_with(NAME), "{text}");
    assert!(text.contains("; "), "{text}");
}
