//! What a device takes.

use super::{DmaError, DmaRange};

/// What a device demands of the segments of one transfer.
///
/// ```
/// use bufmap::dma::DmaLimits;
///
/// // 32-bit addresses, 17 segments of up to 64 KiB that cross no line of 64 KiB, words of 4 bytes.
/// let limits = DmaLimits::new(32, 17, iomap::Limits::new(64 << 10, Some(64 << 10), 4)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaLimits {
    /// The highest address.
    last: u64,
    max_segments: usize,
    segment: iomap::Limits,
}

impl DmaLimits {
    /// Addresses of `bits` bits, at most `max_segments` of them, each under the limits of `segment`.
    ///
    /// # Errors
    /// [`DmaError::Width`] if `bits` is not 1 to 64.
    pub fn new(bits: u32, max_segments: usize, segment: iomap::Limits) -> Result<Self, DmaError> {
        match bits {
            1..=64 => Ok(Self { last: u64::MAX >> (64 - bits), max_segments, segment }),
            _ => Err(DmaError::Width { bits }),
        }
    }

    /// The most segments of one transfer.
    pub const fn max_segments(&self) -> usize {
        self.max_segments
    }

    pub(super) fn check(&self, range: DmaRange) -> Result<(), DmaError> {
        if range.end().get() - 1 > self.last {
            return Err(DmaError::TooHigh { range, last: self.last });
        }
        let alignment = self.segment.alignment();
        match (range.addr().get() | range.len()).is_multiple_of(alignment) {
            true => Ok(()),
            false => Err(DmaError::Misaligned { range, alignment }),
        }
    }

    /// How long the first segment of a range may be.
    pub(super) fn first(&self, range: DmaRange) -> u64 {
        let boundary = self.segment.boundary();
        let to_boundary = boundary.map_or(u64::MAX, |b| b - (range.addr().get() & (b - 1)));
        range.len().min(self.segment.max_len()).min(to_boundary)
    }
}
