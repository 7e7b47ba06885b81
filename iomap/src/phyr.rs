//! Physical ranges: what lies behind a buffer.
//!
//! A [`Phyr`] is one physically contiguous range, the kernel's `struct phys_vec` with one bit more:
//! whether the range is the machine's memory or a peer device's. A [`PhyrList`] is the ranges of
//! one buffer in order. It coalesces neighbours as they are pushed, so a 1 GiB huge page is one
//! range of 16 bytes and not 262,144 page numbers.
//!
//! Physical addresses are for hardware and the kernel. To turn a list into what a device may be
//! given (an IOVA or a bus address) is the business of a higher layer; this one only answers in
//! which pieces a device could take it ([`PhyrList::pieces`]).

use std::fmt;
use std::ops::{Bound, RangeBounds};

use crate::PhysAddr;

/// Whose memory a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PhyrKind {
    /// The machine's own memory.
    System,
    /// A PCI device's memory, seen through a BAR. A transfer to it is peer-to-peer.
    Peer,
}

impl fmt::Display for PhyrKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "system",
            Self::Peer => "peer",
        })
    }
}

/// Why a range, a list of them or limits upon one were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PhyrError {
    /// No such range: empty, 2^63 bytes or more, or past the end of the address space.
    #[error(
        "no physical range of {len:#x} bytes begins at {addr}: 1 to 2^63 - 1 bytes that end below 2^64 do"
    )]
    Range {
        /// The first byte.
        addr: PhysAddr,
        /// The length in bytes.
        len: u64,
    },
    /// A sub-range that is reversed or reaches past the end of the list.
    #[error("bytes {start:#x} to {end:#x} reach past the end of a range list of {total:#x} bytes")]
    OutOfBounds {
        /// The first byte of the sub-range.
        start: u64,
        /// One past its last byte.
        end: u64,
        /// The list's length in bytes.
        total: u64,
    },
    /// Limits that no piece could satisfy.
    #[error(
        "limits of {max_len} bytes a piece, boundary {boundary:?}, alignment {alignment}: the boundary and \
         the alignment must be powers of two, and neither the boundary nor the length below the alignment"
    )]
    Limits {
        /// The longest piece in bytes.
        max_len: u64,
        /// What no piece crosses a multiple of, in bytes.
        boundary: Option<u64>,
        /// What pieces begin and end at multiples of, in bytes.
        alignment: u64,
    },
    /// A range that does not begin and end at multiples of the alignment a device asks for. Give
    /// the device an aligned bounce buffer, or a sub-range that is aligned.
    #[error(
        "the range of {len:#x} bytes at {addr} does not begin and end at a multiple of {alignment} bytes"
    )]
    Misaligned {
        /// The range's first byte.
        addr: PhysAddr,
        /// Its length in bytes.
        len: u64,
        /// The alignment asked for, in bytes.
        alignment: u64,
    },
    /// A compact range with flags that mean nothing here.
    #[error("the compact range at {addr} has unknown flags {flags:#x}")]
    Flags {
        /// The range's first byte.
        addr: PhysAddr,
        /// All its flags.
        flags: u32,
    },
}

/// A physically contiguous range: 16 bytes, never empty, up to 2^63 - 1 bytes long.
///
/// ```
/// use iomap::{PhysAddr, Phyr, PhyrKind};
///
/// let vram = Phyr::new(PhyrKind::Peer, PhysAddr::new(0x38_0000_0000), 16 << 30)?;
/// assert_eq!(vram.end(), PhysAddr::new(0x3c_0000_0000));
/// assert_eq!(size_of::<Phyr>(), 16);
/// # Ok::<(), iomap::PhyrError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Phyr {
    addr: PhysAddr,
    /// The length, and in the top bit the kind.
    word: u64,
}

const _: () = assert!(size_of::<Phyr>() == 16);

const PEER: u64 = 1 << 63;

impl Phyr {
    /// The range of `len` bytes at `addr`.
    ///
    /// # Errors
    /// [`PhyrError::Range`] if `len` is 0 or at least 2^63, or if the range ends past 2^64 - 1.
    #[inline]
    pub const fn new(kind: PhyrKind, addr: PhysAddr, len: u64) -> Result<Self, PhyrError> {
        if len == 0 || len >= PEER || addr.checked_add(len).is_none() {
            return Err(PhyrError::Range { addr, len });
        }
        let word = match kind {
            PhyrKind::System => len,
            PhyrKind::Peer => len | PEER,
        };
        Ok(Self { addr, word })
    }

    /// The first byte.
    #[inline]
    pub const fn addr(self) -> PhysAddr {
        self.addr
    }

    /// The length in bytes, at least 1.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(self) -> u64 {
        self.word & !PEER
    }

    /// One past the last byte.
    #[inline]
    pub const fn end(self) -> PhysAddr {
        PhysAddr::new(self.addr.get() + self.len())
    }

    /// Whose memory it is.
    #[inline]
    pub const fn kind(self) -> PhyrKind {
        if self.word & PEER == 0 { PhyrKind::System } else { PhyrKind::Peer }
    }

    /// The part of `len` bytes at `offset`; both lie inside and `len` is not 0.
    const fn part(self, offset: u64, len: u64) -> Self {
        debug_assert!(len > 0 && offset + len <= self.len());
        Self { addr: PhysAddr::new(self.addr.get() + offset), word: len | self.word & PEER }
    }

    /// This range with `next` behind it, if that is where `next` begins.
    #[inline]
    fn joined(self, next: Self) -> Option<Self> {
        let adjacent = self.end() == next.addr && (self.word ^ next.word) & PEER == 0;
        // The ranges end below 2^64, yet their sum may need the bit that holds the kind.
        let fits = self.len() + next.len() < PEER;
        (adjacent && fits).then_some(Self { addr: self.addr, word: self.word + next.len() })
    }
}

impl fmt::Debug for Phyr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Phyr({} {}..{})", self.kind(), self.addr, self.end())
    }
}

impl fmt::Display for Phyr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{} ({})", self.addr, self.end(), self.kind())
    }
}

/// The physical ranges of one buffer, in the buffer's order.
///
/// ```
/// use iomap::{PhysAddr, Phyr, PhyrKind, PhyrList};
///
/// // A gigabyte of contiguous pages is one range.
/// let mut list = PhyrList::new();
/// for page in 0..262_144 {
///     list.push(Phyr::new(PhyrKind::System, PhysAddr::new(0x1_0000_0000 + page * 4096), 4096)?);
/// }
/// assert_eq!(list.ranges().len(), 1);
/// assert_eq!(list.total(), 1 << 30);
///
/// // Its middle, as a device that takes 1 MiB at a time would have it.
/// let limits = iomap::Limits::new(1 << 20, None, 4096)?;
/// assert_eq!(list.subrange(1 << 29..)?.pieces(&limits)?.count(), 512);
/// # Ok::<(), iomap::PhyrError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PhyrList {
    ranges: Vec<Phyr>,
    /// The length of all ranges but the last, which may still grow.
    before_last: u64,
}

impl PhyrList {
    /// A list of nothing.
    pub const fn new() -> Self {
        Self { ranges: Vec::new(), before_last: 0 }
    }

    /// Appends a range. It becomes one with the last if it begins where that ends and is of the
    /// same kind.
    #[inline]
    pub fn push(&mut self, range: Phyr) {
        if let Some(last) = self.ranges.last_mut() {
            if let Some(joined) = last.joined(range) {
                *last = joined;
                return;
            }
            self.before_last = self.before_last.saturating_add(last.len());
        }
        self.ranges.push(range);
    }

    /// The ranges, coalesced.
    pub fn ranges(&self) -> &[Phyr] {
        &self.ranges
    }

    /// The ranges, one by one.
    pub fn iter(&self) -> std::iter::Copied<std::slice::Iter<'_, Phyr>> {
        self.ranges.iter().copied()
    }

    /// The length of all ranges together in bytes. (A list that names some memory again and again
    /// may hold more than 2^64 - 1 bytes; then that is the answer.)
    pub fn total(&self) -> u64 {
        self.before_last.saturating_add(self.ranges.last().map_or(0, |last| last.len()))
    }

    /// Whether the list has no ranges.
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Gives back memory that was set aside for ranges to come.
    pub fn shrink_to_fit(&mut self) {
        self.ranges.shrink_to_fit();
    }

    /// The ranges behind a part of the buffer, given in bytes.
    ///
    /// # Errors
    /// [`PhyrError::OutOfBounds`] if the part is reversed or reaches past [`total`](Self::total).
    pub fn subrange(&self, part: impl RangeBounds<u64>) -> Result<Self, PhyrError> {
        let total = self.total();
        let (start, end) = resolve(&part, total);
        if start > end || end > total {
            return Err(PhyrError::OutOfBounds { start, end, total });
        }
        let mut list = Self::new();
        let (mut skip, mut left) = (start, end - start);
        for range in self.iter() {
            if left == 0 {
                break;
            }
            if skip >= range.len() {
                skip -= range.len();
                continue;
            }
            let len = left.min(range.len() - skip);
            list.push(range.part(skip, len));
            skip = 0;
            left -= len;
        }
        Ok(list)
    }

    /// The list in pieces that a device under `limits` can take, in order and none longer than it
    /// must be shorter: each piece reaches as far as its range and the limits let it.
    ///
    /// # Errors
    /// [`PhyrError::Misaligned`] for the first range that does not begin and end at multiples of
    /// the alignment: no cutting can mend that.
    pub fn pieces(&self, limits: &Limits) -> Result<Pieces<'_>, PhyrError> {
        let alignment = limits.alignment;
        let misaligned =
            |range: &Phyr| !((range.addr.get() | range.len()).is_multiple_of(alignment));
        if let Some(range) = self.iter().find(misaligned) {
            return Err(PhyrError::Misaligned { addr: range.addr, len: range.len(), alignment });
        }
        Ok(Pieces { ranges: self.ranges.iter(), rest: None, limits: *limits })
    }

    /// The list in compact form; ranges beyond [`CompactPhyr::MAX_LEN`] bytes are split.
    pub fn to_compact(&self) -> Vec<CompactPhyr> {
        let whole = Limits { max_len: CompactPhyr::MAX_LEN as u64, boundary: None, alignment: 1 };
        let pieces = Pieces { ranges: self.ranges.iter(), rest: None, limits: whole };
        pieces
            .map(|piece| CompactPhyr {
                addr: piece.addr,
                len: piece.len() as u32,
                flags: match piece.kind() {
                    PhyrKind::System => 0,
                    PhyrKind::Peer => CompactPhyr::PEER,
                },
            })
            .collect()
    }

    /// The list that `compact` stands for, coalesced again.
    ///
    /// # Errors
    /// [`PhyrError::Range`] for an empty or wrapping range, [`PhyrError::Flags`] for unknown flags.
    pub fn from_compact(compact: &[CompactPhyr]) -> Result<Self, PhyrError> {
        compact.iter().map(|&range| Phyr::try_from(range)).collect()
    }
}

impl Extend<Phyr> for PhyrList {
    fn extend<I: IntoIterator<Item = Phyr>>(&mut self, ranges: I) {
        // The growing range is held here, not in the vector: a page costs an addition.
        let mut ranges = ranges.into_iter();
        let Some(mut last) = self.ranges.pop().or_else(|| ranges.next()) else {
            return;
        };
        for range in ranges {
            last = last.joined(range).unwrap_or_else(|| {
                self.before_last = self.before_last.saturating_add(last.len());
                self.ranges.push(last);
                range
            });
        }
        self.ranges.push(last);
    }
}

impl FromIterator<Phyr> for PhyrList {
    fn from_iter<I: IntoIterator<Item = Phyr>>(ranges: I) -> Self {
        let mut list = Self::new();
        list.extend(ranges);
        list
    }
}

impl<'a> IntoIterator for &'a PhyrList {
    type Item = Phyr;
    type IntoIter = std::iter::Copied<std::slice::Iter<'a, Phyr>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What a device demands of each piece of a transfer.
///
/// ```
/// // A device with 32-bit lengths whose transfers must not cross a 4 GiB line.
/// let limits = iomap::Limits::new(u32::MAX as u64, Some(1 << 32), 512)?;
/// # Ok::<(), iomap::PhyrError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    max_len: u64,
    boundary: Option<u64>,
    alignment: u64,
}

impl Limits {
    /// Pieces of at most `max_len` bytes, none across a multiple of `boundary`, all beginning and
    /// ending at multiples of `alignment` (1 for any).
    ///
    /// # Errors
    /// [`PhyrError::Limits`] if `boundary` or `alignment` is no power of two, or if `max_len` or
    /// `boundary` is smaller than `alignment`.
    pub fn new(max_len: u64, boundary: Option<u64>, alignment: u64) -> Result<Self, PhyrError> {
        let boundary_fits = boundary.is_none_or(|b| b.is_power_of_two() && b >= alignment);
        if !alignment.is_power_of_two() || !boundary_fits || max_len < alignment {
            return Err(PhyrError::Limits { max_len, boundary, alignment });
        }
        Ok(Self { max_len: max_len & !(alignment - 1), boundary, alignment })
    }

    /// The longest piece in bytes.
    pub const fn max_len(&self) -> u64 {
        self.max_len
    }

    /// What no piece crosses a multiple of, in bytes.
    pub const fn boundary(&self) -> Option<u64> {
        self.boundary
    }

    /// What pieces begin and end at multiples of, in bytes.
    pub const fn alignment(&self) -> u64 {
        self.alignment
    }

    /// How much of `range` the first piece may hold.
    fn first(&self, range: Phyr) -> u64 {
        let to_boundary = self.boundary.map_or(u64::MAX, |b| b - (range.addr.get() & (b - 1)));
        range.len().min(self.max_len).min(to_boundary)
    }
}

/// The pieces of a list under [`Limits`]; see [`PhyrList::pieces`].
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    ranges: std::slice::Iter<'a, Phyr>,
    rest: Option<Phyr>,
    limits: Limits,
}

impl Iterator for Pieces<'_> {
    type Item = Phyr;

    fn next(&mut self) -> Option<Phyr> {
        let range = self.rest.take().or_else(|| self.ranges.next().copied())?;
        let len = self.limits.first(range);
        if len < range.len() {
            self.rest = Some(range.part(len, range.len() - len));
        }
        Some(range.part(0, len))
    }
}

/// A range with a 32-bit length and flags, for tables that other programs and devices read.
///
/// The layout is fixed: address at byte 0, length at 8, flags at 12, 16 bytes in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct CompactPhyr {
    /// The first byte.
    pub addr: PhysAddr,
    /// The length in bytes, at least 1.
    pub len: u32,
    /// [`CompactPhyr::PEER`] or nothing.
    pub flags: u32,
}

const _: () = {
    assert!(size_of::<CompactPhyr>() == 16);
    assert!(std::mem::offset_of!(CompactPhyr, addr) == 0);
    assert!(std::mem::offset_of!(CompactPhyr, len) == 8);
    assert!(std::mem::offset_of!(CompactPhyr, flags) == 12);
};

impl CompactPhyr {
    /// The flag of peer memory.
    pub const PEER: u32 = 1;

    /// Where longer ranges are split, in bytes: the largest multiple of 64 KiB below 4 GiB, so that
    /// pieces of aligned memory stay aligned to pages of any size that Linux has.
    pub const MAX_LEN: u32 = 0xffff_0000;
}

impl TryFrom<CompactPhyr> for Phyr {
    type Error = PhyrError;

    fn try_from(compact: CompactPhyr) -> Result<Self, PhyrError> {
        let CompactPhyr { addr, len, flags } = compact;
        let kind = match flags {
            0 => PhyrKind::System,
            CompactPhyr::PEER => PhyrKind::Peer,
            _ => return Err(PhyrError::Flags { addr, flags }),
        };
        Self::new(kind, addr, len.into())
    }
}

fn resolve(part: &impl RangeBounds<u64>, total: u64) -> (u64, u64) {
    let start = match part.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match part.end_bound() {
        Bound::Included(&last) => last.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => total.max(start),
    };
    (start, end)
}
