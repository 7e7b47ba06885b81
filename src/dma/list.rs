//! The ranges of a buffer as a device sees them, and parts of them.

use std::ops::Range;

use super::{DmaError, DmaLimits, DmaRange};

/// What a device is given for a buffer: ranges in the buffer's order, neighbours made one. IOVAs and
/// bus addresses may stand side by side.
///
/// ```
/// use bufmap::dma::{DmaKind, DmaList, DmaRange};
/// use iomap::DmaAddr;
///
/// let mut list = DmaList::default();
/// list.push(DmaRange::new(DmaKind::Iova, DmaAddr::new(0x10_0000), 0x3000)?);
/// list.push(DmaRange::new(DmaKind::Bus, DmaAddr::new(0xc000_0000), 0x5000)?);
/// let part: Vec<_> = list.part(0x2000..0x4000)?.collect();
/// assert_eq!(part[0].addr(), DmaAddr::new(0x10_2000));
/// assert_eq!(part[1].len(), 0x1000);
/// # Ok::<(), bufmap::dma::DmaError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DmaList {
    ranges: Vec<DmaRange>,
    /// Where in the buffer each range ends, so that a part is found without a walk.
    ends: Vec<u64>,
}

impl DmaList {
    /// Adds a range behind what there is.
    #[inline]
    pub fn push(&mut self, range: DmaRange) {
        let end = self.total().saturating_add(range.len());
        if let (Some(last), Some(last_end)) = (self.ranges.last_mut(), self.ends.last_mut())
            && let Some(both) = last.joined(range)
        {
            (*last, *last_end) = (both, end);
            return;
        }
        self.ranges.push(range);
        self.ends.push(end);
    }

    /// Takes all ranges out, and keeps the room for others.
    pub fn clear(&mut self) {
        self.ranges.clear();
        self.ends.clear();
    }

    /// The ranges.
    pub fn ranges(&self) -> &[DmaRange] {
        &self.ranges
    }

    /// The length of the buffer in bytes.
    #[inline]
    pub fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The ranges behind the bytes `part` of the buffer.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`] if it is reversed or reaches past the end.
    #[inline]
    pub fn part(&self, part: Range<u64>) -> Result<Part<'_>, DmaError> {
        let Range { start, end } = part;
        if start > end || end > self.total() {
            return Err(DmaError::OutOfBounds { start, end, total: self.total() });
        }
        let first = self.ends.partition_point(|&range_end| range_end <= start);
        let begin = if first == 0 { 0 } else { self.ends[first - 1] };
        Ok(Part { ranges: &self.ranges[first..], skip: start - begin, left: end - start })
    }

    /// All of it, as a part.
    #[inline]
    pub fn whole(&self) -> Part<'_> {
        Part { ranges: &self.ranges, skip: 0, left: self.total() }
    }
}

impl Extend<DmaRange> for DmaList {
    fn extend<I: IntoIterator<Item = DmaRange>>(&mut self, ranges: I) {
        ranges.into_iter().for_each(|range| self.push(range));
    }
}

impl FromIterator<DmaRange> for DmaList {
    fn from_iter<I: IntoIterator<Item = DmaRange>>(ranges: I) -> Self {
        let mut list = Self::default();
        list.extend(ranges);
        list
    }
}

/// The ranges of a part of a buffer, in order.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    ranges: &'a [DmaRange],
    /// Where in the first range the part goes on.
    skip: u64,
    left: u64,
}

impl Part<'_> {
    /// How many bytes there are.
    #[inline]
    pub const fn total(&self) -> u64 {
        self.left
    }

    /// The ranges cut to what a device takes.
    ///
    /// # Errors
    /// [`DmaError::TooHigh`] for an address that the device does not have, [`DmaError::Misaligned`]
    /// for a range that does not begin and end where it must, [`DmaError::TooMany`] if it takes more
    /// segments than the device does.
    pub fn segments(self, limits: &DmaLimits) -> Result<Vec<DmaRange>, DmaError> {
        let mut segments = Vec::new();
        for range in self {
            limits.check(range)?;
            let mut at = 0;
            while at < range.len() {
                let len = limits.first(range.part(at, range.len() - at));
                segments.push(range.part(at, len));
                at += len;
            }
        }
        match segments.len() > limits.max_segments() {
            true => {
                Err(DmaError::TooMany { segments: segments.len(), limit: limits.max_segments() })
            }
            false => Ok(segments),
        }
    }
}

impl Iterator for Part<'_> {
    type Item = DmaRange;

    #[inline]
    fn next(&mut self) -> Option<DmaRange> {
        if self.left == 0 {
            return None;
        }
        let (first, rest) = self.ranges.split_first()?;
        let len = (first.len() - self.skip).min(self.left);
        let range = first.part(self.skip, len);
        (self.ranges, self.skip, self.left) = (rest, 0, self.left - len);
        Some(range)
    }
}
