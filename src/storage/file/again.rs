//! Reads past the page cache into memory of any alignment, for who reads again what was read already.
//!
//! They leave nothing in the page cache, and have nothing from it: so they cost the drive a read, and say what it holds.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use iomap::{Memory, PageSize};

use super::patience::Patience;
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
        let room = LONGEST + 2 * align as usize;
        let memory = match self.memory.take().filter(|memory| memory.len() >= room) {
            Some(memory) => self.memory.insert(memory),
            None => {
                let new = Memory::anonymous(room, PageSize::Base);
                self.memory.insert(new.map_err(|error| failed(offset, error))?)
            }
        };
        let mut patience = Patience::default();
        let mut at = 0;
        while at < out.len() {
            let from = offset + at as u64;
            let start = from / align * align;
            let head = (from - start) as usize;
            let want = (head + (out.len() - at).min(LONGEST)).next_multiple_of(align as usize);
            let into = memory.map().subrange(..want).map_err(|error| failed(from, error))?;
            match pread::read_at(&open, start, &into) {
                Ok(got) if got <= head => return Err(Failure::Ended { at: start + got as u64 }),
                Ok(got) => {
                    let len = (got - head).min(out.len() - at);
                    into.copy_to_slice(head, &mut out[at..at + len])
                        .map_err(|error| failed(from, error))?;
                    at += len;
                    patience = Patience::default();
                }
                Err(source) => match patience.after(&source) {
                    Some(pause) if !stop.load(Ordering::Relaxed) => thread::sleep(pause),
                    _ => return Err(Failure::Io { offset: from, source }),
                },
            }
        }
        Ok(())
    }
}

fn failed(offset: u64, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Io { offset, source: io::Error::other(error) }
}
