//! Physical Region Pages: memory described page by page.
//!
//! NVM Express Base Specification 2.0c, section 4.1.1. A PRP entry is the address of a page of the
//! controller's size. The first may begin inside its page, at a multiple of 4; all others begin
//! with theirs. A command has room for two entries. If the data lies in more pages, the second is the
//! address of a *PRP list*, a page of entries, whose last one, if there are still more, is the
//! address of the next list.
//!
//! So PRPs describe memory whose ranges all begin and end with pages, but for where the first one
//! begins and the last one ends. Other memory takes an [SGL](super::sgl).

use iomap::MapError;

use super::list::ListMemory;
use crate::dma::{DmaRange, Part};

/// The size of an entry in bytes.
const ENTRY: usize = 8;

/// Why PRPs cannot describe memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrpError {
    /// Nothing cannot be described.
    #[error("there is no memory to describe")]
    Empty,
    /// No page size of a controller.
    #[error("a page of {page} bytes: a controller's is a power of two from 4096 up (CC.MPS)")]
    Page {
        /// What was given, in bytes.
        page: u64,
    },
    /// A range that begins or ends inside a page, where it may not.
    #[error(
        "{range}: of the ranges of a PRP list only the first may begin inside a page of {page} \
         bytes, at a multiple of 4, and only the last may end inside one; describe it by an SGL"
    )]
    Shape {
        /// The range.
        range: DmaRange,
        /// The controller's page in bytes.
        page: u64,
    },
    /// The memory for lists is too short, or does not begin with a page.
    #[error(
        "a list of {entries} PRP entries takes {needed} bytes that begin with a page, and there are {len}"
    )]
    Room {
        /// How many entries there are.
        entries: u64,
        /// What they take, in bytes.
        needed: u64,
        /// What there is, in bytes.
        len: usize,
    },
    /// The memory for lists cannot be written.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// The two PRP entries of a command (its words 6 and 7, and 8 and 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prps {
    /// PRP Entry 1: where the data begins.
    pub first: u64,
    /// PRP Entry 2: where its second page begins, or the list of the others; zero if there is none.
    pub second: u64,
}

/// How much memory for lists data of up to `len` bytes takes, wherever it begins in its page: whole
/// pages, so that chained lists each fill one.
pub const fn list_len(len: u64, page: u64) -> u64 {
    // One page is named by the command, and data that begins inside a page lies in one more.
    pages_of(len.div_ceil(page), page) * page
}

/// How many pages a chain of lists with `entries` takes: all but the last give an entry to the next.
const fn pages_of(entries: u64, page: u64) -> u64 {
    let room = page / ENTRY as u64;
    if entries <= room { 1 } else { (entries - 1).div_ceil(room - 1) }
}

/// Describes memory by PRPs for a controller whose page has `page` bytes, with lists in `list`.
///
/// ```
/// use bufmap::dma::{DmaKind, DmaList, DmaRange};
/// use bufmap::storage::nvme::{ListMemory, prp};
/// use iomap::{DmaAddr, Memory, PageSize};
///
/// let data = DmaRange::new(DmaKind::Iova, DmaAddr::new(0x10_0200), 12 << 10)?;
/// let data = DmaList::from_iter([data]);
/// let memory = Memory::anonymous(4096, PageSize::Base)?;
/// let lists = ListMemory::new(memory.map(), DmaAddr::new(0x20_0000));
///
/// let prps = prp::build(data.whole(), 4096, &lists)?;
/// assert_eq!((prps.first, prps.second), (0x10_0200, 0x20_0000));
/// assert_eq!(memory.map().read::<u64>(0)?, 0x10_1000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`PrpError`]; what the lists hold then means nothing.
pub fn build(data: Part<'_>, page: u64, list: &ListMemory<'_>) -> Result<Prps, PrpError> {
    if !page.is_power_of_two() || page < 4096 {
        return Err(PrpError::Page { page });
    }
    let pages = count(data.clone(), page)?;
    let mut ranges = data;
    let first = ranges.next().ok_or(PrpError::Empty)?;
    let mut entries = Entries { page, at: 0, end: 0, ranges };
    entries.enter(first);
    let prp1 = first.addr().get();
    entries.at = (prp1 & !(page - 1)).saturating_add(page);
    let second = match pages {
        1 => 0,
        2 => entries.next().unwrap_or(0),
        _ => write(&mut entries, pages - 1, page, list)?,
    };
    Ok(Prps { first: prp1, second })
}

/// Writes a chain of lists and returns where it begins.
#[inline]
fn write(
    entries: &mut Entries<'_>,
    count: u64,
    page: u64,
    list: &ListMemory<'_>,
) -> Result<u64, PrpError> {
    let needed = pages_of(count, page) * page;
    if needed > list.len() as u64 || !list.at(0).is_multiple_of(page) {
        return Err(PrpError::Room { entries: count, needed, len: list.len() });
    }
    let room = page / ENTRY as u64;
    let mut left = count;
    let mut begin = 0;
    while left > room {
        let end = list.write(begin, entries.take(room as usize - 1))?;
        list.write(end, [list.at(end + ENTRY)])?;
        left -= room - 1;
        begin = end + ENTRY;
    }
    list.write(begin, entries.take(left as usize))?;
    Ok(list.at(0))
}

/// How many pages the memory touches, if PRPs can describe it.
#[inline]
fn count(data: Part<'_>, page: u64) -> Result<u64, PrpError> {
    let mut pages = 0;
    let mut left = data.total();
    let whole = data.total();
    for range in data {
        let offset = range.addr().get() & (page - 1);
        let is_first = left == whole;
        left -= range.len();
        let begins = offset == 0 || is_first && offset.is_multiple_of(4);
        let ends = left == 0 || range.end().get() & (page - 1) == 0;
        if !begins || !ends {
            return Err(PrpError::Shape { range, page });
        }
        pages += (range.end().get() - 1) / page - range.addr().get() / page + 1;
    }
    Ok(pages)
}

/// Where each page but the first begins.
struct Entries<'a> {
    page: u64,
    at: u64,
    end: u64,
    ranges: Part<'a>,
}

impl Entries<'_> {
    #[inline]
    fn enter(&mut self, range: DmaRange) {
        (self.at, self.end) = (range.addr().get(), range.end().get());
    }
}

impl Iterator for Entries<'_> {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        if self.at >= self.end {
            let range = self.ranges.next()?;
            self.enter(range);
        }
        let entry = self.at;
        self.at = entry.saturating_add(self.page);
        Some(entry)
    }
}
