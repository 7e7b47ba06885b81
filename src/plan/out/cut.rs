//! From requests to writes.
//!
//! Requests that follow each other in the file are one stretch of it, wherever their bytes lie in the buffer. A drive
//! writes whole blocks: of each stretch the whole blocks are [`Stretches`] for the drive, and what is left at its two ends
//! is for the page cache, which knows the neighbours. Blocks are cut one by one as they are asked for: straight out of the
//! buffer where a run of bytes is aligned there as it is in the file, and else gathered in a slot.
//!
//! Everything here is arithmetic: no file is touched.

use std::ops::Range;

use crate::plan::run::{Run, SlotCopy};
use crate::transfer::DataPath;

/// Where the bytes of a write come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// From this offset of the buffer.
    Buffer(u64),
    /// From a slot, after these copies into it.
    Slot(Vec<SlotCopy>),
}

/// One write of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub path: DataPath,
    /// Where in the file, in bytes.
    pub offset: u64,
    pub len: u64,
    pub from: Taken,
}

/// How to cut stretches into writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grain {
    /// What offsets and lengths in the file are multiples of, in bytes.
    pub file: u64,
    /// What addresses in the buffer are multiples of, in bytes.
    pub memory: u64,
    /// The most bytes of one write, a multiple of `file`.
    pub block: u64,
    /// Where the buffer begins in memory, as far as alignment goes.
    pub base: u64,
    /// Whether no drive, nor the kernel, is given the buffer itself.
    pub slots_only: bool,
}

/// Parts of the file to be written in the same way, each a stretch without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stretches {
    /// The bytes that they are made of, by their place in the file.
    runs: Vec<Run>,
    ranges: Vec<Range<u64>>,
    grain: Grain,
    /// The path of what comes straight out of the buffer, and of what is gathered in slots.
    paths: [DataPath; 2],
}

impl Stretches {
    /// All that runs fill of the file: they are in its order and do not overlap.
    pub(crate) fn new(runs: Vec<Run>, grain: Grain, paths: [DataPath; 2]) -> Self {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for run in &runs {
            match ranges.last_mut() {
                Some(last) if last.end == run.offset => last.end = run.end(),
                _ => ranges.push(run.offset..run.end()),
            }
        }
        Self { runs, ranges, grain, paths }
    }

    /// Parts them into their whole blocks, and what is left at their ends, which is cut as `ends` says.
    pub(crate) fn apart(self, ends: Grain, path: DataPath) -> (Self, Self) {
        let grain = self.grain.file;
        let (mut whole, mut rest) = (Vec::new(), Vec::new());
        for range in &self.ranges {
            let middle = range.start.next_multiple_of(grain)..range.end / grain * grain;
            if middle.is_empty() {
                rest.push(range.clone());
                continue;
            }
            for end in [range.start..middle.start, middle.end..range.end] {
                if !end.is_empty() {
                    rest.push(end);
                }
            }
            whole.push(middle);
        }
        let rest = Self { runs: self.runs.clone(), ranges: rest, grain: ends, paths: [path; 2] };
        (Self { ranges: whole, ..self }, rest)
    }

    /// The same, all of it gathered in slots.
    pub(crate) fn in_slots(self, path: DataPath) -> Self {
        Self { grain: Grain { slots_only: true, ..self.grain }, paths: [path; 2], ..self }
    }

    /// The path of what comes straight out of the buffer, and of what is gathered in slots.
    pub(crate) const fn paths(&self) -> [DataPath; 2] {
        self.paths
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The longest write that they can take, in bytes.
    pub(crate) fn longest(&self) -> u64 {
        let lens = self.ranges.iter().map(|range| range.end - range.start);
        lens.max().unwrap_or(0).min(self.grain.block)
    }

    /// What each part but the last of a write must be a multiple of.
    pub(crate) const fn granule(&self) -> u64 {
        self.grain.file
    }

    /// Their writes, in the order of the file.
    pub(crate) fn pieces(&self) -> Pieces<'_> {
        Pieces { of: self, range: 0, at: 0, run: 0 }
    }

    /// Where the whole blocks of a run at `at` end that come straight out of the buffer, none of them past `limit`.
    fn straight(&self, run: &Run, at: u64, limit: u64) -> Option<u64> {
        let Grain { file, memory, base, slots_only, .. } = self.grain;
        let place = base.wrapping_add(run.buffer_offset + (at - run.offset));
        let end = run.end().min(limit) / file * file;
        (!slots_only && end > at && place.is_multiple_of(memory)).then_some(end)
    }
}

/// The writes of stretches, cut one by one.
#[derive(Clone, Debug)]
pub(crate) struct Pieces<'s> {
    of: &'s Stretches,
    range: usize,
    /// How far the file is written, in bytes.
    at: u64,
    /// The first run that ends behind that.
    run: usize,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let range = self.of.ranges.get(self.range)?;
        let at = self.at.max(range.start);
        let block = self.of.grain.block;
        let limit = ((at / block + 1) * block).min(range.end);
        self.run += self.of.runs[self.run..].iter().take_while(|run| run.end() <= at).count();
        let run = self.of.runs.get(self.run)?;
        let (end, from) = match self.of.straight(run, at, limit) {
            Some(end) => (end, Taken::Buffer(run.buffer_offset + (at - run.offset))),
            None => self.gathered(at, limit),
        };
        self.at = end;
        if end == range.end {
            self.range += 1;
        }
        let path = self.of.paths[usize::from(matches!(from, Taken::Slot(_)))];
        Some(Piece { path, offset: at, len: end - at, from })
    }
}

impl Pieces<'_> {
    /// What is gathered from `at` on: up to `limit`, or to where a later run comes straight out of the buffer.
    fn gathered(&self, at: u64, limit: u64) -> (u64, Taken) {
        let mut copies = Vec::new();
        let mut to = at;
        for (i, run) in self.of.runs[self.run..].iter().enumerate() {
            let first = to.next_multiple_of(self.of.grain.file);
            let by_itself = i > 0 && first < limit && self.of.straight(run, first, limit).is_some();
            let end = if by_itself { first } else { run.end().min(limit) };
            if end > to {
                let part = run.part(to..end);
                copies.push(SlotCopy {
                    slot_offset: to - at,
                    buffer_offset: part.buffer_offset,
                    len: part.len,
                });
            }
            to = end;
            if by_itself || to == limit {
                break;
            }
        }
        (to, Taken::Slot(copies))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::run;

    const BUFFER: usize = 1 << 20;

    fn grain(file: u64) -> Grain {
        Grain { file, memory: 512, block: 16 << 10, base: 0, slots_only: false }
    }

    /// Carries writes out on a file of memory, and checks that none touches what another wrote.
    fn write(file: &mut [Option<u8>], stretches: &Stretches, buffer: &[u8]) {
        for piece in stretches.pieces() {
            let Grain { file: align, memory, block, .. } = stretches.grain;
            assert!(piece.len > 0 && piece.len <= block, "{piece:?}");
            assert!((piece.offset | piece.len).is_multiple_of(align), "{piece:?}");
            let mut bytes = vec![None; piece.len as usize];
            match &piece.from {
                Taken::Buffer(at) => {
                    assert!(at.is_multiple_of(memory), "{piece:?}");
                    let from = &buffer[*at as usize..][..bytes.len()];
                    bytes.iter_mut().zip(from).for_each(|(to, from)| *to = Some(*from));
                }
                Taken::Slot(copies) => {
                    for copy in copies {
                        let to = &mut bytes[copy.slot_offset as usize..][..copy.len as usize];
                        let from = &buffer[copy.buffer_offset as usize..];
                        to.iter_mut().zip(from).for_each(|(to, from)| {
                            assert_eq!(to.replace(*from), None, "a byte is copied twice");
                        });
                    }
                }
            }
            for (i, byte) in bytes.into_iter().enumerate() {
                assert!(byte.is_some(), "{piece:?} has a hole at {i}");
                let place = &mut file[piece.offset as usize + i];
                assert_eq!(*place, None, "{piece:?} writes what was written");
                *place = byte;
            }
        }
    }

    /// Runs of the file in order, touching or apart, from anywhere in the buffer.
    fn runs() -> impl Strategy<Value = Vec<Run>> {
        prop::collection::vec(
            (prop_oneof![Just(0u64), 1u64..9000], 1u64..40_000, 0u64..900_000, 0..3),
            1..12,
        )
        .prop_map(|parts| {
            let mut offset = 0;
            let mut runs = Vec::new();
            for (gap, len, from, kind) in parts {
                offset += gap;
                let buffer_offset = match kind {
                    0 => from,
                    _ => from / 4096 * 4096 + offset % 4096,
                };
                runs.push(Run { file: 0, offset, len, buffer_offset });
                offset += len;
            }
            runs
        })
    }

    proptest! {
        #[test]
        fn each_byte_is_written_once_and_no_neighbour_is(runs in runs(), slots_only: bool) {
            let buffer: Vec<u8> = (0..BUFFER).map(|i| (i % 251) as u8).collect();
            let len = runs.last().map_or(0, Run::end) as usize;
            let mut expected = vec![None; len];
            for run in &runs {
                for i in 0..run.len as usize {
                    expected[run.offset as usize + i] = Some(buffer[run.buffer_offset as usize + i]);
                }
            }
            let ends = Grain { file: 1, memory: 1, ..grain(1) };
            let all = Stretches::new(runs, Grain { slots_only, ..grain(4096) }, [DataPath::Direct, DataPath::Bounce]);
            let (whole, rest) = all.apart(ends, DataPath::Buffered);
            let mut file = vec![None; len];
            write(&mut file, &whole, &buffer);
            write(&mut file, &rest, &buffer);
            prop_assert_eq!(&file, &expected);
            // What is left is less than a block at each end.
            let longest = rest.ranges.iter().map(|range| range.end - range.start).max();
            prop_assert!(longest.unwrap_or(0) < 2 * 4096);
            let mut bounced = vec![None; len];
            write(&mut bounced, &whole.in_slots(DataPath::Bounce), &buffer);
            write(&mut bounced, &rest, &buffer);
            prop_assert_eq!(bounced, expected);
        }
    }

    #[test]
    fn what_is_aligned_in_both_comes_straight_out_of_the_buffer() {
        let request = |offset, len, at| crate::transfer::Request::new(0, offset, len, at);
        let requests = [request(0, 40_000, 8192), request(40_000, 5000, 48_193)];
        let all =
            Stretches::new(run::join(&requests), grain(4096), [DataPath::Direct, DataPath::Bounce]);
        let (whole, rest) = all.apart(grain(1), DataPath::Buffered);
        let pieces: Vec<_> = whole.pieces().collect();
        let shape: Vec<_> =
            pieces.iter().map(|piece| (piece.path, piece.offset, piece.len)).collect();
        assert_eq!(
            shape,
            [
                (DataPath::Direct, 0, 16384),
                (DataPath::Direct, 16384, 16384),
                (DataPath::Direct, 32768, 4096),
                (DataPath::Bounce, 36864, 4096),
            ]
        );
        assert_eq!(rest.ranges, std::slice::from_ref(&(40960..45_000)));
    }
}
