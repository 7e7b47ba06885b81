//! Texels as a file packs them, and which boxes of an image a part of the file fills.
//!
//! A region of an image is a run of bytes: row after row without a gap, slice after slice (a slice is a layer, or one
//! step of depth). What does not divide is a *block*: a texel, or the square of texels that a compressed format keeps
//! together. A part of the run that begins and ends at blocks fills at most five boxes: the rest of a row, the rest of
//! a slice's rows, whole slices, and the same at the other end.

use std::ops::Range;

/// How a region's texels lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// The length of a block in bytes.
    pub(crate) bytes: usize,
    /// How many blocks are in a row, rows in a slice, and slices.
    pub(crate) size: [u32; 3],
}

/// A box of blocks, and where it begins in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// In bytes from the run's start.
    pub(crate) at: usize,
    /// Column, row and slice of its first block.
    pub(crate) origin: [u32; 3],
    pub(crate) size: [u32; 3],
}

impl Part {
    /// How many bytes it has of blocks of this length.
    pub(crate) fn len(&self, block: usize) -> usize {
        self.size.iter().fold(block, |len, &count| len * count as usize)
    }
}

impl Blocks {
    /// The length of a row in bytes.
    pub(crate) fn row(&self) -> usize {
        self.bytes * self.size[0] as usize
    }

    /// The length of the run in bytes; none if it is more than an address can count.
    pub(crate) fn len(&self) -> Option<usize> {
        let len = |len: usize, &count: &u32| len.checked_mul(count as usize);
        self.size.iter().try_fold(self.bytes, len).filter(|&len| isize::try_from(len).is_ok())
    }

    /// The boxes that a part of the run fills, in order. None if it reaches past the run, or does not begin and end at
    /// blocks.
    pub(crate) fn split(&self, range: Range<usize>) -> Option<Vec<Part>> {
        let whole = |at: usize| at.is_multiple_of(self.bytes).then(|| at / self.bytes);
        let (mut at, end) = (whole(range.start)?, whole(range.end)?);
        if range.start > range.end || range.end > self.len()? {
            return None;
        }
        let [columns, rows, _] = self.size.map(|count| count as usize);
        let mut parts = Vec::new();
        while at < end {
            let left = end - at;
            let (x, y, z) = (at % columns, at / columns % rows, at / columns / rows);
            let size = match (x, y) {
                (0, 0) if left >= columns * rows => [columns, rows, left / (columns * rows)],
                (0, _) if left >= columns => [columns, (left / columns).min(rows - y), 1],
                _ => [left.min(columns - x), 1, 1],
            };
            // No more than the region's sides, which are of this type.
            let sides = |all: [usize; 3]| all.map(|one| one as u32);
            let origin = sides([x, y, z]);
            parts.push(Part { at: at * self.bytes, origin, size: sides(size) });
            at += size.iter().product::<usize>();
        }
        Some(parts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The parts between the cuts, by block: how often each is filled, and from which byte.
    fn filled(blocks: Blocks, cuts: &[usize]) -> Vec<Vec<usize>> {
        let [columns, rows, slices] = blocks.size.map(|count| count as usize);
        let mut filled = vec![Vec::new(); columns * rows * slices];
        for pair in cuts.windows(2) {
            let parts = blocks.split(pair[0]..pair[1]).expect("cut at blocks");
            assert!(parts.len() <= 5, "{parts:?}");
            for part in parts {
                let mut at = part.at;
                for z in part.origin[2]..part.origin[2] + part.size[2] {
                    for y in part.origin[1]..part.origin[1] + part.size[1] {
                        for x in part.origin[0]..part.origin[0] + part.size[0] {
                            let index = (z as usize * rows + y as usize) * columns + x as usize;
                            filled[index].push(at);
                            at += blocks.bytes;
                        }
                    }
                }
                assert_eq!(at, part.at + part.len(blocks.bytes), "{part:?}");
            }
        }
        filled
    }

    proptest! {
        #[test]
        fn however_it_is_cut_every_block_comes_once_and_from_its_bytes(
            bytes in 1_usize..17,
            size in [1_u32..9, 1_u32..9, 1_u32..5],
            mut cuts in prop::collection::vec(0_usize..8 * 8 * 4, 0..6),
        ) {
            let blocks = Blocks { bytes, size };
            let len = blocks.len().expect("it is small");
            cuts.iter_mut().for_each(|cut| *cut = *cut * bytes % len);
            cuts.extend([0, len]);
            cuts.sort_unstable();
            let expected: Vec<_> = (0..len / bytes).map(|index| vec![index * bytes]).collect();
            prop_assert_eq!(filled(blocks, &cuts), expected);
        }

        #[test]
        fn no_cut_inside_a_block_and_none_past_the_end(
            bytes in 2_usize..17,
            size in [1_u32..9, 1_u32..9, 1_u32..5],
            (block, inside) in (0_usize..100, 1_usize..16),
        ) {
            let blocks = Blocks { bytes, size };
            let len = blocks.len().expect("it is small");
            let cut = block * bytes % len + inside % (bytes - 1) + 1;
            prop_assert_eq!(blocks.split(0..cut), None);
            prop_assert_eq!(blocks.split(cut..len), None);
            prop_assert_eq!(blocks.split(0..len + bytes), None);
            prop_assert_eq!(blocks.split(len..len), Some(vec![]));
        }
    }

    #[test]
    fn a_part_is_two_ends_and_a_middle() {
        let blocks = Blocks { bytes: 4, size: [4, 3, 3] };
        let part = |at, origin, size| Part { at, origin, size };
        assert_eq!(
            blocks.split(4 * 3..4 * 33),
            Some(vec![
                part(12, [3, 0, 0], [1, 1, 1]),
                part(16, [0, 1, 0], [4, 2, 1]),
                part(48, [0, 0, 1], [4, 3, 1]),
                part(96, [0, 0, 2], [4, 2, 1]),
                part(128, [0, 2, 2], [1, 1, 1]),
            ])
        );
        let endless = Blocks { bytes: 16, size: [u32::MAX; 3] };
        assert_eq!((endless.len(), endless.split(0..16)), (None, None));
    }
}
