//! How a read's memory is described to the drive: by PRPs, or by an SGL where those do not fit.
//!
//! NVM Express Base Specification 2.0c, section 4.1.1 (Physical Region Pages) and 4.1.2 (Scatter
//! Gather Lists). Lists are written into memory that each command of a queue has of its own.

use iomap::{BufMap, DmaAddr, MapError};

use super::PAGE;
use super::command::DataPointer;

/// Which lists describe memory to a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lists {
    /// PRPs where they fit, an SGL where they do not and the drive takes them.
    #[default]
    Fitting,
    /// PRPs only.
    Prp,
    /// SGLs only.
    Sgl,
}

/// Memory for one command's list.
pub(super) struct ListMemory<'a> {
    pub map: BufMap<'a>,
    pub addr: DmaAddr,
}

/// Entries of a PRP list in a page.
const PER_PAGE: u64 = PAGE / 8;

/// The length of a descriptor of an SGL.
const DESCRIPTOR: usize = 16;

/// How much list memory a command needs that reads `max_read` bytes by PRPs, in whole pages.
pub(super) const fn list_len(max_read: u64) -> usize {
    // The first page is named in the command; and memory that begins inside a page has one more.
    let entries = max_read.div_ceil(PAGE);
    let pages = if entries <= PER_PAGE { 1 } else { (entries - 1).div_ceil(PER_PAGE - 1) };
    (pages * PAGE) as usize
}

/// Why memory cannot be described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// PRPs are whole pages but for the first one's beginning and the last one's end.
    #[error(
        "PRPs cannot describe {len} bytes at {addr}: only the first range may begin inside a page of 4096 bytes, at a multiple of 4, and only the last may end inside one"
    )]
    Prp {
        /// Where the range begins.
        addr: DmaAddr,
        /// How long it is, in bytes.
        len: u64,
    },
    /// There are more ranges than there is room for in the memory set aside.
    #[error("the memory is in {ranges} ranges, and the queue's lists have room for {room}")]
    TooMany {
        /// How many there are.
        ranges: usize,
        /// How many there can be.
        room: usize,
    },
    /// SGLs of this drive want multiples.
    #[error("this drive wants ranges at multiples of {alignment} bytes, not {len} bytes at {addr}")]
    Sgl {
        /// Where the range begins.
        addr: DmaAddr,
        /// How long it is, in bytes.
        len: u64,
        /// Of what they must be multiples.
        alignment: u32,
    },
    /// The list memory is not as long as it should be.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// Describes ranges by PRPs, with a list in `list` if they are more than two pages.
#[inline]
pub(super) fn prps(
    ranges: &[(DmaAddr, u64)],
    list: &ListMemory<'_>,
) -> Result<DataPointer, ListError> {
    let pages = count_pages(ranges)?;
    let mut entries = ranges.iter().flat_map(|&(addr, len)| {
        let first = addr.get();
        let last = first + (len - 1);
        std::iter::once(first).chain(((first & !(PAGE - 1)) + PAGE..=last).step_by(PAGE as usize))
    });
    let first = entries.next().unwrap_or_default();
    match pages {
        0 | 1 => return Ok(DataPointer::Prp(first, 0)),
        2 => return Ok(DataPointer::Prp(first, entries.next().unwrap_or_default())),
        _ => {}
    }
    let mut left = pages - 1;
    let mut at = 0;
    for entry in entries {
        // The last entry of a page points to the next page, unless it is the last of all.
        if at % PAGE == PAGE - 8 && left > 1 {
            list.map.write(at as usize, (list.addr.get() + at + 8).to_le())?;
            at += 8;
        }
        list.map.write(at as usize, entry.to_le())?;
        at += 8;
        left -= 1;
    }
    Ok(DataPointer::Prp(first, list.addr.get()))
}

/// How many pages the ranges touch, if PRPs can describe them.
fn count_pages(ranges: &[(DmaAddr, u64)]) -> Result<u64, ListError> {
    let last = ranges.len().saturating_sub(1);
    let mut pages = 0;
    for (i, &(addr, len)) in ranges.iter().enumerate() {
        let offset = addr.get() % PAGE;
        let begins = offset == 0 || (i == 0 && offset.is_multiple_of(4));
        let ends = i == last || (offset + len).is_multiple_of(PAGE);
        if !begins || !ends {
            return Err(ListError::Prp { addr, len });
        }
        pages += (offset + len).div_ceil(PAGE);
    }
    Ok(pages)
}

/// Describes ranges by an SGL, with a segment in `list` if they are more than one.
pub(super) fn sgl(
    ranges: &[(DmaAddr, u64)],
    alignment: u32,
    list: &ListMemory<'_>,
) -> Result<DataPointer, ListError> {
    /// The types of descriptors, in the upper half of the last byte.
    const DATA_BLOCK: u64 = 0x0 << 60;
    const LAST_SEGMENT: u64 = 0x3 << 60;
    let aligned = |value: u64| value.is_multiple_of(alignment.into());
    if let Some(&(addr, len)) = ranges.iter().find(|(addr, len)| !aligned(addr.get() | len)) {
        return Err(ListError::Sgl { addr, len, alignment });
    }
    if let [(addr, len)] = ranges {
        return Ok(DataPointer::Sgl(addr.get(), len | DATA_BLOCK));
    }
    let room = list.map.len() / DESCRIPTOR;
    if ranges.len() > room {
        return Err(ListError::TooMany { ranges: ranges.len(), room });
    }
    for (i, (addr, len)) in ranges.iter().enumerate() {
        list.map.write(i * DESCRIPTOR, addr.get().to_le())?;
        list.map.write(i * DESCRIPTOR + 8, (len | DATA_BLOCK).to_le())?;
    }
    let len = (ranges.len() * DESCRIPTOR) as u64;
    Ok(DataPointer::Sgl(list.addr.get(), len | LAST_SEGMENT))
}
