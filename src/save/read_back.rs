//! What was written, read back from the drive and compared by its fingerprints.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crc32fast::Hasher;
use iomap::{BufMap, Memory, MemoryError, PageSize};
use rustix::fs::{Advice, fadvise};

use crate::storage::file::{Descriptor, SinkFile, pread};
use crate::storage::work::Failure;
use crate::transfer::{Pending, Request};

/// How much is read at once, in bytes.
const CHUNK: u64 = 1 << 20;

/// Why what was written is not known to be right.
pub(super) enum Unproved {
    /// It could not be read.
    Failed(Failure),
    /// There is no memory to read it into.
    Memory(MemoryError),
    /// A request has another fingerprint.
    Differs {
        request: usize,
        found: u32,
    },
    Stopped,
}

/// Reads what requests wrote: past the page cache, or where the file system cannot, after having it forget the file.
/// `progress` is told what is read.
pub(super) fn read_back(
    sink: &SinkFile,
    requests: &[Request],
    prints: &[u32],
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Pending),
) -> Result<u64, Unproved> {
    let page = rustix::param::page_size() as u64;
    let (file, align) = match (sink.open_direct(), sink.direct()) {
        (Ok(direct), Ok(alignment)) => {
            (Descriptor::Direct(direct), u64::from(alignment.offset).max(page))
        }
        _ => (Descriptor::Cached(sink.as_fd()), 1),
    };
    // The kernel may keep pages all the same, which are then what is compared.
    let _ = fadvise(sink, 0, None, Advice::DontNeed);
    let len = (CHUNK + 2 * align) as usize;
    let mut memory = Memory::anonymous(len, PageSize::Base).map_err(Unproved::Memory)?;
    let bytes = memory.as_mut_slice().map_err(Unproved::Memory)?;
    let mut compared = 0;
    for (index, request) in requests.iter().enumerate() {
        let mut hasher = Hasher::new();
        let mut at = request.offset;
        let end = request.offset + request.len;
        while at < end {
            if stop.load(Ordering::Relaxed) {
                return Err(Unproved::Stopped);
            }
            progress(Pending { file: 0, offset: at, since: Instant::now() });
            let until = ((at / CHUNK + 1) * CHUNK).min(end);
            let first = at / align * align;
            let whole = (until.next_multiple_of(align) - first) as usize;
            let needed = (until - first) as usize;
            // The file may end before the rest.
            let into = BufMap::from_mut_slice(&mut bytes[..whole]);
            pread::read_whole(&file, first, &into, (needed as u64, align), stop)
                .map_err(Unproved::Failed)?;
            hasher.update(&bytes[(at - first) as usize..needed]);
            compared += until - at;
            at = until;
        }
        let found = hasher.finalize();
        if prints.get(index) != Some(&found) {
            return Err(Unproved::Differs { request: index, found });
        }
    }
    Ok(compared)
}
