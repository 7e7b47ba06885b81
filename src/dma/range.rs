//! One range as a device sees it.

use std::fmt;

use iomap::DmaAddr;

/// No such range: empty, or past the end of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no range of {len:#x} bytes begins at {addr}: at least 1 byte, and its end below 2^64")]
pub struct RangeError {
    /// The first byte.
    pub addr: DmaAddr,
    /// The length in bytes.
    pub len: u64,
}

/// What kind of address a range has. One transfer may need several kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DmaKind {
    /// An IOVA, which the IOMMU translates for this device.
    Iova,
    /// A physical address, for a device with no IOMMU before it.
    Direct,
    /// A bus address of a peer: the switch above both devices forwards it, and nothing translates it.
    Bus,
}

impl fmt::Display for DmaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iova => "iova",
            Self::Direct => "direct",
            Self::Bus => "bus",
        })
    }
}

/// Bytes that one device sees in a row: never empty, 24 bytes long.
///
/// ```
/// use bufmap::dma::{DmaKind, DmaRange};
/// use iomap::DmaAddr;
///
/// let range = DmaRange::new(DmaKind::Iova, DmaAddr::new(0x10_0000), 1 << 20)?;
/// assert_eq!(range.to_string(), "iova 0x100000 + 0x100000");
/// # Ok::<(), bufmap::dma::RangeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DmaRange {
    addr: DmaAddr,
    len: u64,
    kind: DmaKind,
}

const _: () = assert!(size_of::<DmaRange>() == 24);

impl DmaRange {
    /// The `len` bytes at `addr`.
    ///
    /// # Errors
    /// [`RangeError`] if `len` is 0 or the range ends past 2^64 - 1.
    #[inline]
    pub const fn new(kind: DmaKind, addr: DmaAddr, len: u64) -> Result<Self, RangeError> {
        if len == 0 || addr.checked_add(len).is_none() {
            return Err(RangeError { addr, len });
        }
        Ok(Self { addr, len, kind })
    }

    /// The first byte.
    #[inline]
    pub const fn addr(self) -> DmaAddr {
        self.addr
    }

    /// The length in bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // None is.
    pub const fn len(self) -> u64 {
        self.len
    }

    /// One past the last byte.
    #[inline]
    pub const fn end(self) -> DmaAddr {
        DmaAddr::new(self.addr.get() + self.len)
    }

    /// What kind of address it is.
    #[inline]
    pub const fn kind(self) -> DmaKind {
        self.kind
    }

    /// `len` bytes from `skip` on, which lie inside and are not none.
    #[inline]
    pub(super) const fn part(self, skip: u64, len: u64) -> Self {
        Self { addr: DmaAddr::new(self.addr.get() + skip), len, kind: self.kind }
    }

    /// Both as one, if `next` follows at once.
    #[inline]
    pub(super) fn joined(self, next: Self) -> Option<Self> {
        let follows = self.kind == next.kind && self.end() == next.addr;
        let len = self.len.checked_add(next.len).filter(|_| follows)?;
        Some(Self { len, ..self })
    }
}

impl fmt::Display for DmaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} + {:#x}", self.kind, self.addr, self.len)
    }
}
