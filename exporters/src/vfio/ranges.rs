//! Free ranges of an address space, handed out and taken back.
//!
//! A container hands out IOVAs of the ranges that its IOMMU translates; a BAR hands out its bytes.

use std::collections::BTreeMap;
use std::ops::Range;

/// The free ranges of a space of 64-bit numbers. Neighbours are one range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FreeRanges {
    /// The end of each range, by its start.
    ends: BTreeMap<u64, u64>,
}

impl FreeRanges {
    /// Adds a range, which overlaps no free one.
    pub(super) fn add(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        if let Some((&before, &until)) = self.ends.range(..start).next_back()
            && until == start
        {
            start = before;
        }
        if let Some(after) = self.ends.remove(&end) {
            end = after;
        }
        self.ends.insert(start, end);
    }

    /// Takes the lowest `len` bytes that begin at a multiple of `align`, a power of two.
    pub(super) fn take(&mut self, len: u64, align: u64) -> Option<Range<u64>> {
        let fit = |(&start, &end): (&u64, &u64)| {
            let first = start.checked_next_multiple_of(align)?;
            let last = first.checked_add(len)?;
            (last <= end).then_some((start..end, first..last))
        };
        let (free, taken) = self.ends.iter().find_map(fit)?;
        self.ends.remove(&free.start);
        self.add(free.start..taken.start);
        self.add(taken.end..free.end);
        Some(taken)
    }

    /// The length of the longest free range.
    pub(super) fn longest(&self) -> u64 {
        self.ends.iter().map(|(start, end)| end - start).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_taken_is_nobody_elses_and_all_of_it_comes_back(
            steps in proptest::collection::vec((1u64..5000, 0u32..14, any::<bool>()), 1..200)
        ) {
            let mut whole = FreeRanges::default();
            whole.add(100..60_000);
            whole.add(70_000..1 << 20);
            let mut free = whole.clone();
            let mut taken: Vec<Range<u64>> = Vec::new();
            for (len, align, give_back) in steps {
                if give_back && !taken.is_empty() {
                    free.add(taken.swap_remove(len as usize % taken.len()));
                } else if let Some(range) = free.take(len, 1 << align) {
                    prop_assert_eq!(range.end - range.start, len);
                    prop_assert!(range.start.is_multiple_of(1 << align));
                    let inside = |space: &Range<u64>| space.start <= range.start && range.end <= space.end;
                    prop_assert!([100..60_000, 70_000..1 << 20].iter().any(inside));
                    prop_assert!(taken.iter().all(|t| t.end <= range.start || range.end <= t.start));
                    taken.push(range);
                }
            }
            for range in taken {
                free.add(range);
            }
            prop_assert_eq!(free, whole);
        }
    }

    #[test]
    fn the_end_of_the_space_is_no_overflow() {
        let mut free = FreeRanges::default();
        free.add(u64::MAX - 10..u64::MAX);
        assert_eq!(free.take(u64::MAX, 1), None);
        assert_eq!(free.take(8, 1 << 63), None);
        assert_eq!(free.longest(), 10);
        assert_eq!(free.take(10, 1), Some(u64::MAX - 10..u64::MAX));
        assert_eq!(free.longest(), 0);
    }
}
