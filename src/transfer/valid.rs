//! Which bytes of a buffer hold what was asked for.
//!
//! Nothing partial passes as whole: a load keeps this account as pieces land, and an error carries
//! it out.

use std::fmt;
use std::ops::Range;

/// The bytes of a buffer that a load has filled, out of those it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Valid {
    ranges: Vec<Range<u64>>,
    bytes: u64,
    wanted: u64,
}

impl Valid {
    /// Nothing yet, of `wanted` bytes.
    pub(crate) const fn none_of(wanted: u64) -> Self {
        Self { ranges: Vec::new(), bytes: 0, wanted }
    }

    /// Adds a range that overlaps none that is there.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.bytes += range.end - range.start;
        let at = self.ranges.partition_point(|there| there.start < range.start);
        let joins_next = self.ranges.get(at).is_some_and(|next| next.start == range.end);
        let joins_last = at > 0 && self.ranges[at - 1].end == range.start;
        match (joins_last, joins_next) {
            (true, true) => self.ranges[at - 1].end = self.ranges.remove(at).end,
            (true, false) => self.ranges[at - 1].end = range.end,
            (false, true) => self.ranges[at].start = range.start,
            (false, false) => self.ranges.insert(at, range),
        }
    }

    /// Whether all of a range is filled.
    pub(crate) fn contains(&self, range: &Range<u64>) -> bool {
        let after = self.ranges.partition_point(|there| there.start <= range.start);
        let holds = |there: &Range<u64>| range.end <= there.end;
        range.is_empty() || after > 0 && holds(&self.ranges[after - 1])
    }

    /// The filled ranges of the buffer, in order, in bytes.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// How many bytes are filled.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes were asked for.
    pub const fn wanted(&self) -> u64 {
        self.wanted
    }
}

/// At most four ranges are spelt out.
impl fmt::Display for Valid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        write!(f, "{} of {} bytes are valid", self.bytes, self.wanted)?;
        for (i, range) in self.ranges.iter().take(SHOWN).enumerate() {
            let lead = if i == 0 { ": buffer bytes " } else { ", " };
            write!(f, "{lead}{}..{}", range.start, range.end)?;
        }
        match self.ranges.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more ranges"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_in_any_order_become_the_fewest(cuts in prop::collection::btree_set(0u64..200, 2..40), seed in any::<u64>()) {
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let mut parts: Vec<_> = cuts.windows(2).map(|w| w[0]..w[1]).collect();
            let left_out = parts.remove(seed as usize % parts.len());
            let mut expected = vec![cuts[0]..left_out.start, left_out.end..cuts[cuts.len() - 1]];
            expected.retain(|range| !range.is_empty());
            let mut valid = Valid::none_of(200);
            while !parts.is_empty() {
                valid.insert(parts.remove(seed as usize % parts.len()));
            }
            prop_assert_eq!(valid.ranges(), expected.as_slice());
        }
    }

    #[test]
    fn says_how_much_and_where() {
        let mut valid = Valid::none_of(100);
        valid.insert(10..20);
        valid.insert(0..5);
        assert_eq!(valid.to_string(), "15 of 100 bytes are valid: buffer bytes 0..5, 10..20");
    }
}
