//! From requests to reads.
//!
//! Requests come in any number and any alignment; drives read whole blocks. The planner joins what
//! lies side by side and cuts the result into [`Piece`]s, each one read of the file. A piece lands
//! straight in the buffer wherever file and buffer offsets agree modulo the drive's alignment; what
//! that leaves over (heads, tails, and runs whose offsets do not agree) lands in a slot of the
//! load's own and is copied from there.
//!
//! Everything here is arithmetic: no file is touched.

use std::ops::Range;

use super::request::Request;
use crate::storage::file::Alignment;

/// The most that is read between two runs to make one read of them, in bytes. Reading this much
/// costs a drive less than another command.
const READ_THROUGH: u64 = 16 << 10;

/// A run of one file that goes to one run of the buffer: requests that touch, joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub file: usize,
    pub offset: u64,
    pub len: u64,
    pub buffer_offset: u64,
}

impl Run {
    fn end(&self) -> u64 {
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

/// How to cut runs into pieces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// The most bytes of one read; a multiple of the alignment.
    pub block: u64,
    /// What reads of the file must be aligned to.
    pub alignment: Alignment,
    /// The length of the file in bytes.
    pub file_len: u64,
    /// Whether every piece lands in a slot, because no drive can reach the buffer.
    pub slots_only: bool,
}

/// Cuts the runs of one file into pieces for aligned reads.
pub(crate) fn direct(runs: &[Run], cut: &Cut) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut leftovers = Vec::new();
    for run in runs {
        cut_run(run, cut, &mut pieces, &mut leftovers);
    }
    pieces.extend(slots(leftovers, cut));
    pieces
}

/// Cuts a run into pieces of at most `block` bytes that the kernel copies into place.
pub(crate) fn copied(run: &Run, file_len: u64, block: u64) -> impl Iterator<Item = Piece> {
    // Cuts at multiples of the block in the file, where the page cache's folios begin too.
    blocks(run.offset..run.end().min(file_len), block).map(|range| {
        let part = run.part(range);
        Piece {
            file: run.file,
            offset: part.offset,
            len: part.len,
            need: part.len,
            landing: Landing::Buffer(part.buffer_offset),
        }
    })
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

fn cut_run(run: &Run, cut: &Cut, pieces: &mut Vec<Piece>, leftovers: &mut Vec<Run>) {
    // Blocks are cut by the file's offsets: each begins where the drive can write only if both agree.
    let align = u64::from(cut.alignment.offset.max(cut.alignment.memory));
    let middle = run.offset.next_multiple_of(align)..run.end() / align * align;
    if middle.is_empty() || cut.slots_only {
        leftovers.push(run.clone());
        return;
    }
    let aligned = run.part(middle.clone());
    if !aligned.buffer_offset.is_multiple_of(u64::from(cut.alignment.memory)) {
        leftovers.push(run.clone());
        return;
    }
    for range in blocks(middle.clone(), cut.block) {
        let part = run.part(range);
        pieces.push(Piece {
            file: run.file,
            offset: part.offset,
            len: part.len,
            need: part.len.min(cut.file_len.saturating_sub(part.offset)),
            landing: Landing::Buffer(part.buffer_offset),
        });
    }
    for rest in [run.offset..middle.start, middle.end..run.end()] {
        if !rest.is_empty() {
            leftovers.push(run.part(rest));
        }
    }
}

/// Reads of whole drive blocks into slots, neighbours sharing one read.
fn slots(mut leftovers: Vec<Run>, cut: &Cut) -> Vec<Piece> {
    let align = u64::from(cut.alignment.offset);
    leftovers.sort_unstable_by_key(|run| (run.file, run.offset));
    let mut pieces: Vec<Piece> = Vec::new();
    for run in &leftovers {
        // A run that was widened may reach past the end of the file.
        for range in blocks(run.offset..run.end().min(cut.file_len), cut.block) {
            let part = run.part(range);
            let start = part.offset / align * align;
            let end = part.end().next_multiple_of(align);
            let piece = match pieces.last_mut() {
                Some(last) if fits(last, run.file, start, end, cut.block) => {
                    last.len = last.len.max(end - last.offset);
                    last
                }
                _ => {
                    let landing = Landing::Slot(Vec::new());
                    pieces.push(Piece {
                        file: run.file,
                        offset: start,
                        len: end - start,
                        need: 0,
                        landing,
                    });
                    let last = pieces.len() - 1;
                    &mut pieces[last]
                }
            };
            piece.need = piece.need.max(part.end() - piece.offset);
            if let Landing::Slot(copies) = &mut piece.landing {
                copies.push(SlotCopy {
                    slot_offset: part.offset - piece.offset,
                    buffer_offset: part.buffer_offset,
                    len: part.len,
                });
            }
        }
    }
    pieces
}

fn fits(last: &Piece, file: usize, start: u64, end: u64, block: u64) -> bool {
    last.file == file
        && start >= last.offset
        && start <= last.offset + last.len + READ_THROUGH
        && end - last.offset <= block
}

/// Cuts a range at multiples of `block`.
fn blocks(range: Range<u64>, block: u64) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let start = at;
        at = ((start / block + 1) * block).min(range.end);
        Some(start..at)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUFFER: u64 = 1 << 22;

    /// Runs of one file in order, apart from each other in the buffer.
    fn runs() -> impl Strategy<Value = Vec<Run>> {
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

    /// Where each piece puts which byte of the file, as (file offset, buffer offset, length).
    fn moves(pieces: &[Piece]) -> Vec<(u64, u64, u64)> {
        let mut moves = Vec::new();
        for piece in pieces {
            match &piece.landing {
                Landing::Buffer(at) => moves.push((piece.offset, *at, piece.need)),
                Landing::Slot(copies) => moves.extend(copies.iter().map(|copy| {
                    assert!(copy.slot_offset + copy.len <= piece.need);
                    (piece.offset + copy.slot_offset, copy.buffer_offset, copy.len)
                })),
            }
        }
        moves.sort_unstable();
        moves
    }

    proptest! {
        #[test]
        fn pieces_move_each_byte_once_and_obey_the_drive(
            runs in runs(),
            offset in prop_oneof![Just(512u32), Just(4096)],
            memory in prop_oneof![Just(4u32), Just(512), Just(4096)],
            block in prop_oneof![Just(4096u64), Just(65536), Just(1 << 20)],
            slots_only in any::<bool>(),
        ) {
            let file_len = runs.last().map_or(0, Run::end);
            let cut = Cut { block, alignment: Alignment { offset, memory }, file_len, slots_only };
            let pieces = direct(&runs, &cut);
            for piece in &pieces {
                prop_assert!(piece.len <= block && piece.need <= piece.len && piece.need > 0);
                prop_assert_eq!(piece.offset % u64::from(offset), 0);
                prop_assert_eq!(piece.len % u64::from(offset), 0);
                prop_assert!(piece.offset + piece.need <= file_len);
                if let Landing::Buffer(at) = piece.landing {
                    prop_assert_eq!(at % u64::from(memory), 0);
                    prop_assert!(!slots_only);
                }
            }
            // Glued together again, the moves are the runs.
            let mut glued: Vec<Run> = Vec::new();
            for (offset, buffer_offset, len) in moves(&pieces) {
                match glued.last_mut() {
                    Some(last) if last.end() == offset && last.buffer_offset + last.len == buffer_offset => last.len += len,
                    _ => glued.push(Run { file: 0, offset, len, buffer_offset }),
                }
            }
            let mut joined: Vec<Run> = Vec::new();
            for run in &runs {
                match joined.last_mut() {
                    Some(last) if last.end() == run.offset && last.buffer_offset + last.len == run.buffer_offset => last.len += run.len,
                    _ => joined.push(run.clone()),
                }
            }
            prop_assert_eq!(glued, joined);
        }

        #[test]
        fn widened_runs_ask_for_nothing_past_the_end_of_the_file(
            runs in runs(),
            slots_only in any::<bool>(),
        ) {
            let file_len = runs.last().map_or(0, Run::end);
            let wide = widen(&runs, 512, BUFFER);
            let alignment = Alignment { offset: 512, memory: 512 };
            for piece in direct(&wide, &Cut { block: 65536, alignment, file_len, slots_only }) {
                prop_assert!(piece.offset + piece.need <= file_len, "{:?}", piece);
            }
        }

        #[test]
        fn runs_that_agree_are_moved_in_the_middle_without_a_slot(runs in runs()) {
            let file_len = runs.last().map_or(0, Run::end);
            let alignment = Alignment { offset: 512, memory: 512 };
            let pieces = direct(&runs, &Cut { block: 1 << 20, alignment, file_len, slots_only: false });
            let in_slots: u64 = pieces.iter().map(|piece| match &piece.landing {
                Landing::Buffer(_) => 0,
                Landing::Slot(copies) => copies.iter().map(|copy| copy.len).sum(),
            }).sum();
            let most: u64 = runs.iter().map(|run| match run.offset % 512 == run.buffer_offset % 512 {
                true => run.len.min(1022),
                false => run.len,
            }).sum();
            prop_assert!(in_slots <= most, "{} of {}", in_slots, most);
        }

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
