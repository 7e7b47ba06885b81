//! What every format reader must hold for any bytes: it comes back, with items that lie inside the
//! file, in file order, none on another, or with an error that can be printed and that names an
//! offset of the file's own range.

use bufmap::format::{self, Contents, Format, FormatError};
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
    }
    for refused in &contents.refused {
        assert!(refused.offset < bytes.len() as u64, "{refused:?}");
        let error = contents.select(Path::new(NAME), &[&refused.name]).expect_err("it is refused");
        check_error(&error);
    }
}

/// An error names the file and, after a semicolon, what to do.
pub fn check_error(error: &FormatError) {
    let text = error.to_string();
    assert!(text.starts_with(NAME), "{text}");
    assert!(text.contains("; "), "{text}");
}
