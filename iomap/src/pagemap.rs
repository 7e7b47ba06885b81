//! From a map to the physical ranges behind it, through `/proc/self/pagemap`.
//!
//! The file holds one 64-bit word for each virtual page (`Documentation/admin-guide/mm/pagemap.rst`):
//! bit 63 says that the page is present, bits 0 to 54 are its page frame number. Frame numbers are a
//! privileged matter: a reader without `CAP_SYS_ADMIN` in the initial user namespace sees zeros
//! (since Linux 4.2), which here is an error that says so.
//!
//! The pages must stay where they are, or the answer is stale as soon as it is given. System memory
//! stays while it is pinned, hence [`phyrs`] takes a [`Pinned`] and nothing else. Memory of a PCI
//! device stays by itself, and cannot be pinned for long: [`peer_phyrs`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::{BufMap, Phyr, PhyrError, PhyrKind, PhyrList, PhysAddr, Pinned};

const PATH: &str = "/proc/self/pagemap";
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

/// How many words one read fetches: 32 KiB, the frames of 16 MiB in pages of 4 KiB.
const BATCH: usize = 4096;

/// Why the physical ranges behind a map could not be learned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// A page is not present: its memory was unmapped or discarded under the pin, or it is a
    /// device's whose driver let go of it.
    #[error(
        "the page at offset {offset:#x} of the map is not present: it was unmapped, or its device went away"
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
    ranges(pinned.map(), PhyrKind::System)
}

/// The physical ranges behind a map of a PCI device's memory, which the kernel gave as pages
/// (`p2pmem/allocate` in sysfs). Such pages neither move nor are swapped: the ranges hold until the
/// memory is unmapped or the device's driver lets go of it. All are [`PhyrKind::Peer`], which is
/// what the caller says of the map; nothing here looks at what really lies at those addresses.
///
/// # Errors
/// Those of [`phyrs`].
pub fn peer_phyrs(map: BufMap<'_>) -> Result<PhyrList, PagemapError> {
    ranges(map, PhyrKind::Peer)
}

fn ranges(map: BufMap<'_>, kind: PhyrKind) -> Result<PhyrList, PagemapError> {
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
            list.push(Phyr::new(kind, addr, (to - from) as u64)?);
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
