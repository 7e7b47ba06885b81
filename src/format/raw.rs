//! Bytes without a structure: the whole file is one item, named like the file.

use super::contents::Contents;
use super::description::Description;
use super::item::Item;
use super::kind::Format;
use super::source::Source;

/// The file as one item.
pub(super) fn contents(source: &Source<'_>) -> Contents {
    let path = source.path();
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let item = Item {
        name,
        offset: 0,
        len: source.len(),
        checksum: None,
        description: Description::Bytes,
    };
    Contents { format: Format::Raw, items: vec![item], refused: Vec::new(), note: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_is_bytes() {
        let bytes = [7; 10];
        let contents = contents(&Source::in_memory("a/b.bin".as_ref(), Format::Raw, &bytes));
        let [item] = &contents.items[..] else { panic!("one item: {contents:?}") };
        assert_eq!(
            (item.name.as_str(), item.len, &item.description),
            ("b.bin", 10, &Description::Bytes)
        );
    }
}
