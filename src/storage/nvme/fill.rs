//! Filling memory with a file, by its extents.

use std::ops::Range;
use std::sync::Arc;

use super::{Extent, Finished, Namespace, NvmeError, Queue, Target};

/// A read that failed, and what arrived all the same.
#[derive(Debug, thiserror::Error)]
#[error("{source}; {} of the bytes asked for are in place", .valid.iter().map(|r| r.end - r.start).sum::<u64>())]
pub struct FillError {
    /// What happened.
    pub source: Box<NvmeError>,
    /// Which bytes of the target are the file's, in order.
    pub valid: Vec<Range<u64>>,
}

/// Reads a file by its extents into a target, byte for byte at the file's own offsets, with as many
/// reads in flight as the queue takes. `progress` is told how many bytes are in place. Nothing is in
/// flight when this returns.
///
/// A drive reads whole blocks. Where the target has room for the rest of the last one, it is
/// overwritten; where it has none, the drive discards it, if it can.
///
/// # Errors
/// [`FillError`] with the first read that failed; those in flight are waited for.
pub fn fill(
    queue: &mut Queue,
    namespace: &Namespace,
    extents: &[Extent],
    target: &Arc<Target>,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, FillError> {
    let block = u64::from(namespace.identity().block_size);
    let longest = queue.longest_part(namespace);
    let end = extents.iter().map(|extent| extent.file_offset + extent.len).max().unwrap_or(0);
    let whole_end = end.next_multiple_of(block);
    let widened = if whole_end <= target.len() { whole_end } else { end };
    let mut pieces = extents.iter().flat_map(|extent| cut(*extent, longest));
    let mut flight = Flight { parts: Vec::new(), valid: Vec::new(), done: 0 };
    let mut failed = None;
    loop {
        while failed.is_none() && queue.has_room() {
            let Some(piece) = pieces.next() else { break };
            let part = piece.file_offset..piece.file_offset + piece.len;
            let read = part.start..if part.end == end { widened } else { part.end };
            let id = flight.parts.len() as u64;
            match queue.read(id, namespace, piece.offset, target, read) {
                Ok(()) => flight.parts.push(part),
                Err(error) => failed = Some(error),
            }
        }
        match queue.wait() {
            None => break,
            Some(finished) => match flight.land(finished) {
                Ok(()) => progress(flight.done),
                Err(error) => failed = failed.or(Some(error)),
            },
        }
    }
    match failed {
        None => Ok(flight.done),
        Some(error) => Err(FillError { source: Box::new(error), valid: joined(flight.valid) }),
    }
}

/// The reads that were put in, by number.
struct Flight {
    parts: Vec<Range<u64>>,
    valid: Vec<Range<u64>>,
    done: u64,
}

impl Flight {
    fn land(&mut self, finished: Finished) -> Result<(), NvmeError> {
        finished.result?;
        let part = self.parts.get(finished.id as usize).cloned().unwrap_or_default();
        self.done += part.end - part.start;
        self.valid.push(part);
        Ok(())
    }
}

/// An extent in pieces of at most `longest` bytes.
fn cut(extent: Extent, longest: u64) -> impl Iterator<Item = Extent> {
    (0..extent.len.div_ceil(longest)).map(move |i| Extent {
        file_offset: extent.file_offset + i * longest,
        offset: extent.offset + i * longest,
        len: longest.min(extent.len - i * longest),
    })
}

/// Ranges in order, those that touch made one.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let touches = last.end == next.start;
        if touches {
            last.end = next.end;
        }
        touches
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_their_extent(offset in 0u64..1 << 40, len in 0u64..100_000, longest in 1u64..9000) {
            let extent = Extent { file_offset: 7, offset, len };
            let mut at = 0;
            for piece in cut(extent, longest) {
                prop_assert_eq!((piece.file_offset, piece.offset), (7 + at, offset + at));
                prop_assert!(0 < piece.len && piece.len <= longest);
                at += piece.len;
            }
            prop_assert_eq!(at, len);
        }
    }

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(joined(vec![8..9, 0..4, 4..8, 10..12]), [0..9, 10..12]);
        assert_eq!(joined(Vec::new()), []);
    }
}
