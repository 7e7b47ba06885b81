//! From requests to reads.
//!
//! Requests come in any number and any alignment; drives read whole blocks. The planner joins what
//! lies side by side into [`Run`]s; a [`Batch`](super::cut::Batch) cuts these into [`Piece`]s, each one read
//! of the file. A piece lands straight in the buffer wherever file and buffer offsets agree modulo the
//! drive's alignment; what that leaves over (heads, tails, and runs whose offsets do not agree) lands in
//! a slot of the load's own and is copied from there.
//!
//! Everything here is arithmetic: no file is touched. No sum overflows, because no byte of a file or a
//! buffer lies past [`LONGEST_FILE`](crate::storage::file::LONGEST_FILE) (`Asked::validate` sees to it) and alignments and blocks are of 32 bits.

use std::ops::Range;

use crate::transfer::Request;

/// The most that is read between two runs to make one read of them, in bytes. Reading this much
/// costs a drive less than another command.
pub(crate) const READ_THROUGH: u64 = 16 << 10;

/// A run of one file that goes to one run of the buffer: requests that touch, joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub file: usize,
    pub offset: u64,
    pub len: u64,
    pub buffer_offset: u64,
}

impl Run {
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// The part of the run that lies in `file` bytes `range`.
    pub(crate) fn part(&self, range: Range<u64>) -> Self {
        Self {
            file: self.file,
            offset: range.start,
            len: range.end - range.start,
            buffer_offset: self.buffer_offset + (range.start - self.offset),
        }
    }
}

/// A copy out of a slot into the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotCopy {
    pub slot_offset: u64,
    pub buffer_offset: u64,
    pub len: u64,
}

/// Where a piece lands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Landing {
    /// At this offset of the buffer.
    Buffer(u64),
    /// In a slot, to be copied from there.
    Slot(Vec<SlotCopy>),
}

/// One read of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub file: usize,
    pub offset: u64,
    /// How many bytes to ask for.
    pub len: u64,
    /// How many of them must come: fewer than `len` where the read reaches past the end of file.
    pub need: u64,
    pub landing: Landing,
}

/// Joins requests that follow each other both in their file and in the buffer.
pub(crate) fn join(requests: &[Request]) -> Vec<Run> {
    let mut sorted: Vec<_> = requests.iter().filter(|request| request.len > 0).collect();
    sorted.sort_unstable_by_key(|request| (request.file, request.offset, request.buffer_offset));
    let mut runs: Vec<Run> = Vec::new();
    for request in sorted {
        match runs.last_mut() {
            Some(run)
                if run.file == request.file
                    && run.end() == request.offset
                    && run.buffer_offset + run.len == request.buffer_offset =>
            {
                run.len += request.len;
            }
            _ => runs.push(Run {
                file: request.file,
                offset: request.offset,
                len: request.len,
                buffer_offset: request.buffer_offset,
            }),
        }
    }
    runs
}

/// The first byte that two of some places both have, if any do.
pub(crate) fn overlap(mut places: Vec<Range<u64>>) -> Option<u64> {
    places.retain(|place| !place.is_empty());
    places.sort_unstable_by_key(|place| place.start);
    let twice = places.windows(2).find(|pair| pair[0].end > pair[1].start);
    twice.map(|pair| pair[1].start)
}

/// Widens runs to whole blocks of `align` bytes and joins them across small gaps, for a buffer of
/// `buffer_len` bytes whose bytes around the runs may be overwritten. Where that would overwrite
/// what another run wants, or reach past the buffer, the runs stay as they are.
pub(crate) fn widen(runs: &[Run], align: u64, buffer_len: u64) -> Vec<Run> {
    let mut wide: Vec<Run> = Vec::new();
    for run in runs {
        let Some(next) = widened(run, align, buffer_len) else { return runs.to_vec() };
        match wide.last_mut() {
            Some(last) if joins(last, &next) => last.len = last.len.max(next.end() - last.offset),
            _ => wide.push(next),
        }
    }
    let mut places: Vec<_> =
        wide.iter().map(|run| run.buffer_offset..run.buffer_offset + run.len).collect();
    places.sort_unstable_by_key(|place| place.start);
    match places.windows(2).any(|pair| pair[0].end > pair[1].start) {
        true => runs.to_vec(),
        false => wide,
    }
}

fn widened(run: &Run, align: u64, buffer_len: u64) -> Option<Run> {
    let lead = run.offset % align;
    let wide = Run {
        file: run.file,
        offset: run.offset - lead,
        len: (lead + run.len).next_multiple_of(align),
        buffer_offset: run.buffer_offset.checked_sub(lead)?,
    };
    (wide.buffer_offset + wide.len <= buffer_len).then_some(wide)
}

fn joins(last: &Run, next: &Run) -> bool {
    let same_shift = last.buffer_offset.wrapping_sub(last.offset)
        == next.buffer_offset.wrapping_sub(next.offset);
    last.file == next.file && same_shift && next.offset <= last.end() + READ_THROUGH
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) const BUFFER: u64 = 1 << 22;

    /// Runs of one file in order, apart from each other in the buffer.
    pub(crate) fn runs() -> impl Strategy<Value = Vec<Run>> {
        prop::collection::vec((0u64..40_000, 1u64..90_000, 0u64..9_000, any::<bool>()), 1..20)
            .prop_map(|parts| {
                let (mut offset, mut buffer_offset) = (0, 0);
                let mut runs = Vec::new();
                for (gap, len, buffer_gap, agrees) in parts {
                    offset += gap;
                    buffer_offset += buffer_gap;
                    if agrees {
                        buffer_offset = (buffer_offset / 4096 + 1) * 4096 + offset % 4096;
                    }
                    runs.push(Run { file: 0, offset, len, buffer_offset });
                    offset += len;
                    buffer_offset += len;
                }
                runs
            })
    }

    proptest! {
        #[test]
        fn widened_runs_hold_the_runs_and_stay_apart(runs in runs()) {
            let wide = widen(&runs, 512, BUFFER);
            let mut places: Vec<_> = wide.iter().map(|w| (w.buffer_offset, w.buffer_offset + w.len)).collect();
            places.sort_unstable();
            prop_assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            for run in &runs {
                let shift = |r: &Run| r.buffer_offset.wrapping_sub(r.offset);
                prop_assert!(wide.iter().any(|w| w.offset <= run.offset && w.end() >= run.end() && shift(w) == shift(run)));
            }
        }
    }
}
