//! From pinned pages to physical ranges, through `/proc/self/pagemap`.
//!
//! The file holds one 64-bit word for each virtual page (`Documentation/admin-guide/mm/pagemap.rst`):
//! bit 63 says that the page is present, bits 0 to 54 are its page frame number. Frame numbers are a
//! privileged matter: a reader without `CAP_SYS_ADMIN` in the initial user namespace sees zeros
//! (since Linux 4.2), which here is an error that says so.
//!
//! The pages must be pinned, or the answer is stale as soon as it is given; hence [`phyrs`] takes a
//! [`Pinned`] and nothing else.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::{Phyr, PhyrError, PhyrKind, PhyrList, PhysAddr, Pinned};

const PATH: &str = "/proc/self/pagemap";
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

/// How many words one read fetches: 32 KiB, the frames of 16 MiB in pages of 4 KiB.
const BATCH: usize = 4096;

/// Why the physical ranges behind a map could not be learned.
#[derive(Debug, thiserror::Error)]
pub enum PagemapError {
    /// The kernel hides frame numbers from this process.
    #[error(
        "{PATH} hides page frame numbers from this process: it needs CAP_SYS_ADMIN in the initial user \
         namespace (run as root, outside a container); without it, share the memory as a dma-buf or by file"
    )]
    Unprivileged,
    /// The file could not be opened or read.
    #[error(
        "{step} {PATH}: {source}; is /proc mounted, and the process allowed to read its own files there?"
    )]
    File {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A page is not present though it is pinned: its memory was unmapped or discarded under the pin.
    #[error(
        "the page at offset {offset:#x} of the map is not present: it was unmapped while pinned"
    )]
    Absent {
        /// Where the page begins in the map, in bytes.
        offset: usize,
    },
    /// A frame number that is no address.
    #[error("{PATH}: {0}")]
    Frame(#[from] PhyrError),
}

/// The physical ranges behind a pinned map, in its order.
///
/// The ranges are as long as the map: one that begins or ends inside a page yields a range that
/// does. Frames that follow one another become one range, so a huge page is one range too. All are
/// [`PhyrKind::System`], since a long-term pin is refused for a peer device's pages.
///
/// # Errors
/// [`PagemapError::Unprivileged`] without `CAP_SYS_ADMIN`; [`PagemapError::File`] without `/proc`.
pub fn phyrs(pinned: &Pinned<'_>) -> Result<PhyrList, PagemapError> {
    let map = pinned.map();
    let mut list = PhyrList::new();
    if map.is_empty() {
        return Ok(list);
    }
    let failed = |step| move |source| PagemapError::File { step, source };
    let file = File::open(PATH).map_err(failed("opening"))?;
    let page = rustix::param::page_size();
    let start = map.as_ptr() as usize;
    let end = start + map.len();
    let pages = start / page..end.div_ceil(page);

    let mut words = [0u64; BATCH];
    for first in pages.clone().step_by(BATCH) {
        let batch = &mut words[..BATCH.min(pages.end - first)];
        let position = first as u64 * size_of::<u64>() as u64;
        file.read_exact_at(bytemuck::cast_slice_mut(batch), position).map_err(failed("reading"))?;
        for (index, &word) in batch.iter().enumerate() {
            let at = (first + index) * page;
            let (from, to) = (start.max(at), end.min(at + page));
            let frame = frame(word, from - start)?;
            let addr = PhysAddr::new(frame * page as u64 + (from - at) as u64);
            list.push(Phyr::new(PhyrKind::System, addr, (to - from) as u64)?);
        }
    }
    Ok(list)
}

/// The frame number in one word, for the page at `offset` of the map.
fn frame(word: u64, offset: usize) -> Result<u64, PagemapError> {
    match (word & PRESENT != 0, word & FRAME) {
        (false, _) => Err(PagemapError::Absent { offset }),
        (true, 0) => Err(PagemapError::Unprivileged),
        (true, frame) => Ok(frame),
    }
}
