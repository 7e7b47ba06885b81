//! Reads past the page cache into memory of any alignment, for who reads again what was read already.
//!
//! They leave nothing in the page cache, and have nothing from it: so they cost the drive a read, and say what it holds.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use iomap::{Memory, PageSize};

use super::{SourceFile, pread};
use crate::storage::work::Failure;

/// The most that is read at once, with the blocks that it begins and ends in.
const LONGEST: usize = 1 << 20;

/// Memory to read into, and the file that was read last.
#[derive(Debug, Default)]
pub(crate) struct Again {
    memory: Option<Memory>,
    /// Kept, so that the next read of the same file finds it open.
    open: Option<Arc<File>>,
}

impl Again {
    /// Reads all of `out`, from `offset` on: through the page cache where a file cannot be read past it. Once `stop` is set,
    /// no read is tried again.
    ///
    /// # Errors
    /// [`Failure`]: where in the file it ended, and why.
    pub(crate) fn read_exact(
        &mut self,
        file: &SourceFile,
        offset: u64,
        out: &mut [u8],
        stop: &AtomicBool,
    ) -> Result<(), Failure> {
        let (Ok(alignment), Ok(open)) = (file.direct(), file.open_direct()) else {
            return pread::read_exact(file, offset, out, stop);
        };
        let align = u64::from(alignment.offset.max(alignment.memory));
        self.open = Some(Arc::clone(&open));
        let longest = LONGEST + 2 * align as usize;
        let memory = match self.memory.take().filter(|memory| memory.len() >= longest) {
            Some(memory) => self.memory.insert(memory),
            None => {
                let new = Memory::anonymous(longest, PageSize::Base);
                self.memory.insert(new.map_err(|error| failed(offset, error))?)
            }
        };
        let mut at = 0;
        while at < out.len() {
            let from = offset + at as u64;
            let start = from / align * align;
            let head = (from - start) as usize;
            let len = (out.len() - at).min(LONGEST);
            let whole = (head + len).next_multiple_of(align as usize);
            let into = memory.map().subrange(..whole).map_err(|error| failed(from, error))?;
            let need = ((head + len) as u64, alignment.offset.into());
            pread::read_whole(&open, start, &into, need, stop)?;
            into.copy_to_slice(head, &mut out[at..at + len])
                .map_err(|error| failed(from, error))?;
            at += len;
        }
        Ok(())
    }
}

fn failed(offset: u64, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Io { offset, source: io::Error::other(error) }
}
