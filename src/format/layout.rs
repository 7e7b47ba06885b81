//! How the parts of a file lie: each inside it, no two of them sharing a byte.
//!
//! A file whose parts overlap lies about at least one of them, and loading both would give bytes
//! that nobody wrote there. Formats forbid it; their readers ask here.

use super::error::FormatError;
use super::source::Source;

/// A part of a file, with the words an error calls it by.
pub(super) struct Part {
    pub what: String,
    pub offset: u64,
    pub len: u64,
}

/// Checks that every part lies inside the file and none on another. Parts of no bytes lie anywhere
/// inside.
///
/// The order of the parts is lost: they are left sorted by offset.
pub(super) fn check(
    source: &Source<'_>,
    parts: &mut [Part],
    fix: &'static str,
) -> Result<(), FormatError> {
    for part in &*parts {
        source.holds(part.offset, part.len, &part.what)?;
    }
    parts.sort_by_key(|part| (part.offset, part.len));
    let mut last: Option<&Part> = None;
    for part in parts.iter().filter(|part| part.len > 0) {
        if let Some(last) = last
            && last.offset + last.len > part.offset
        {
            let end = last.offset + last.len;
            let problem = format!("{} begins inside {}, which ends at {end}", part.what, last.what);
            return Err(source.malformed(part.offset, problem, fix));
        }
        last = Some(part);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::kind::Format;
    use proptest::prelude::*;
    use std::path::Path;

    proptest! {
        /// By the definition: no byte belongs to two parts, and none lies outside the file.
        #[test]
        fn parts_are_apart_and_inside(
            spans in prop::collection::vec((0_u64..40, 0_u64..12), 0..6)
        ) {
            let source = Source::in_memory(Path::new("f"), Format::Zip, &[0; 32]);
            let mut owners = [0; 64];
            for (offset, len) in &spans {
                for byte in *offset..offset + len {
                    owners[byte as usize] += 1;
                }
            }
            let inside = spans.iter().all(|(offset, len)| offset + len <= 32);
            let good = inside && owners.iter().all(|&owners| owners <= 1);
            let mut parts: Vec<_> = spans
                .iter()
                .map(|&(offset, len)| Part { what: "a part".into(), offset, len })
                .collect();
            prop_assert_eq!(check(&source, &mut parts, "do nothing").is_ok(), good);
        }
    }
}
