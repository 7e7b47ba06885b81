//! Scatter Gather Lists: memory described range by range.
//!
//! NVM Express Base Specification 2.0c, section 4.1.2. A descriptor has 16 bytes: an address, a
//! length of 32 bits, and a type. A *data block* is memory; a *bit bucket* is a length that a read
//! discards. A command has room for one descriptor. If there are more, it is a *segment*, which names
//! memory with descriptors, the last of which may be the next segment; a *last segment* names one
//! that has none.
//!
//! Ranges may begin and end anywhere, or at multiples of 4 for drives that say so. With bit buckets
//! a read of whole blocks lands in memory of any length: head and tail are discarded by the drive.

use iomap::MapError;

use super::list::ListMemory;
use crate::dma::{DmaRange, Part};

/// The size of a descriptor in bytes.
const DESCRIPTOR: usize = 16;

/// The longest range of one descriptor that leaves the next one at a page's edge.
const LONGEST: u64 = 0xffff_f000;

/// A descriptor's type, in the upper half of its last byte.
const DATA_BLOCK: u64 = 0x0 << 60;
const BIT_BUCKET: u64 = 0x1 << 60;
const SEGMENT: u64 = 0x2 << 60;
const LAST_SEGMENT: u64 = 0x3 << 60;

/// Why an SGL cannot describe memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SglError {
    /// Nothing cannot be described.
    #[error("there is no memory to describe")]
    Empty,
    /// The drive takes multiples only.
    #[error(
        "{range}: this drive takes ranges that begin and end at multiples of {alignment} bytes (SGLS)"
    )]
    Alignment {
        /// The range.
        range: DmaRange,
        /// What it must be a multiple of, in bytes.
        alignment: u64,
    },
    /// The drive cannot discard.
    #[error("this drive has no bit buckets (SGLS), to discard {len} bytes around what is wanted")]
    BitBucket {
        /// How many bytes were to be discarded.
        len: u64,
    },
    /// There are more descriptors than there is room for.
    #[error("the list takes more than the {room} descriptors that its memory has room for")]
    Room {
        /// How many there is room for.
        room: usize,
    },
    /// The memory for lists cannot be written.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// What a controller takes (the field SGLS of Identify Controller).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SglSupport {
    /// What ranges must begin and end at multiples of, in bytes: 1 or 4.
    pub alignment: u64,
    /// Whether reads may discard.
    pub bit_bucket: bool,
}

impl SglSupport {
    /// What the field says, or `None` if the controller takes no SGLs.
    pub const fn from_field(sgls: u32) -> Option<Self> {
        let alignment = match sgls & 0b11 {
            0b01 => 1,
            0b10 => 4,
            _ => return None,
        };
        Some(Self { alignment, bit_bucket: sgls & 1 << 16 != 0 })
    }
}

/// The memory of one command: what it wants, between bytes that its blocks bring along.
#[derive(Clone, Debug)]
pub struct Data<'a> {
    /// How many bytes before it are discarded.
    pub head: u64,
    /// Where the rest goes.
    pub memory: Part<'a>,
    /// How many bytes behind it are discarded.
    pub tail: u64,
}

/// The descriptor of a command (its words 6 to 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sgl {
    /// The address.
    pub address: u64,
    /// Length and type.
    pub length_and_type: u64,
}

/// Describes memory by an SGL. Descriptors that the command has no room for go to `segments`, one
/// after another, each of which the drive sees at a place of its own.
///
/// ```
/// use bufmap::dma::{DmaKind, DmaList, DmaRange};
/// use bufmap::storage::nvme::sgl::{self, SglSupport};
/// use iomap::DmaAddr;
///
/// let data = DmaRange::new(DmaKind::Iova, DmaAddr::new(0x10_0200), 12 << 10)?;
/// let data = DmaList::from_iter([data]);
/// let support = SglSupport::from_field(0x1_0001).expect("SGLs, and bit buckets");
/// let data = sgl::Data { head: 0, memory: data.whole(), tail: 0 };
/// let sgl = sgl::build(&data, support, &[])?;
/// assert_eq!((sgl.address, sgl.length_and_type), (0x10_0200, 12 << 10));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`SglError`]; what the segments hold then means nothing.
pub fn build(
    data: &Data<'_>,
    support: SglSupport,
    segments: &[ListMemory<'_>],
) -> Result<Sgl, SglError> {
    let count = check(data, support)?;
    let mut descriptors = descriptors(data);
    if count == 1 {
        return descriptors.next().ok_or(SglError::Empty);
    }
    let room = segments.iter().map(|segment| segment.len() / DESCRIPTOR);
    let too_long = || SglError::Room { room: room.clone().sum() };

    let mut left = count;
    let mut command = None;
    // Where the descriptor of the segment after next is to stand.
    let mut link: Option<(&ListMemory<'_>, usize)> = None;
    for segment in segments {
        let room = segment.len() / DESCRIPTOR;
        let is_last = left <= room;
        let own = if is_last { left } else { room.saturating_sub(1) };
        if own == 0 {
            continue;
        }
        let len = if is_last { own } else { own + 1 } * DESCRIPTOR;
        let kind = if is_last { LAST_SEGMENT } else { SEGMENT };
        let this = Sgl { address: segment.at(0), length_and_type: len as u64 | kind };
        match link.take() {
            Some((before, at)) => _ = before.write(at, this.words())?,
            None => command = Some(this),
        }
        let end = segment.write(0, descriptors.by_ref().take(own).flat_map(Sgl::words))?;
        left -= own;
        if is_last {
            return command.ok_or_else(too_long);
        }
        link = Some((segment, end));
    }
    Err(too_long())
}

impl Sgl {
    const fn words(self) -> [u64; 2] {
        [self.address, self.length_and_type]
    }
}

/// How many descriptors it takes, if the drive takes them.
fn check(data: &Data<'_>, support: SglSupport) -> Result<usize, SglError> {
    let discarded = data.head.saturating_add(data.tail);
    if discarded > 0 && !support.bit_bucket {
        return Err(SglError::BitBucket { len: discarded });
    }
    let alignment = support.alignment;
    let unaligned =
        |range: &DmaRange| !(range.addr().get() | range.len()).is_multiple_of(alignment);
    if let Some(range) = data.memory.clone().find(unaligned) {
        return Err(SglError::Alignment { range, alignment });
    }
    match descriptors(data).count() {
        0 => Err(SglError::Empty),
        count => Ok(count),
    }
}

fn descriptors<'d>(data: &'d Data<'_>) -> impl Iterator<Item = Sgl> + 'd {
    let bucket =
        |len| cut(len).map(|(_, len)| Sgl { address: 0, length_and_type: len | BIT_BUCKET });
    let blocks = data.memory.clone().flat_map(|range| {
        let start = range.addr().get();
        cut(range.len())
            .map(move |(at, len)| Sgl { address: start + at, length_and_type: len | DATA_BLOCK })
    });
    bucket(data.head).chain(blocks).chain(bucket(data.tail))
}

/// `len` bytes in lengths of one descriptor: where each begins, and how long it is.
fn cut(len: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..len.div_ceil(LONGEST)).map(move |i| (i * LONGEST, LONGEST.min(len - i * LONGEST)))
}
