//! What is asked of a load: what the planner decides by.

use std::sync::atomic::{AtomicBool, Ordering};

use iomap::MemoryError;

use super::plan::LONGEST_FILE;
use super::{Around, LoadError, Options, Request, Source, Valid};

/// A load as the planner sees it.
pub(crate) struct Asked<'a, S> {
    pub files: &'a [S],
    pub requests: &'a [Request],
    pub around: Around,
    pub options: &'a Options,
    pub place: Place,
    pub buffer_len: u64,
    /// Set by who does not want the answer any more.
    pub stop: &'a AtomicBool,
}

/// Where a buffer lies, as far as roads go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In system memory, which every drive reaches; a GPU may have imported it.
    System,
    /// In a GPU's own memory, which its driver keeps to itself.
    Gpu,
    /// In memory that a PCI function has for peers.
    Peer,
    /// In a BAR: of a device that vfio-pci has, or a GPU's buffer that the CPU sees through it.
    Bar,
}

impl<S: Source> Asked<'_, S> {
    /// Whether it is still asked.
    pub fn go_on(&self) -> Result<(), LoadError> {
        if !self.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let wanted = self.requests.iter().map(|request| request.len).sum();
        Err(LoadError::Stopped { valid: Valid::none_of(wanted) })
    }

    /// Whether it makes sense: requests inside their files and the buffer, none over another.
    pub fn validate(&self) -> Result<(), LoadError> {
        let &Options { depth, block, .. } = self.options;
        if !(1..=4096).contains(&depth) {
            return Err(LoadError::Options("the depth is 1 to 4096 reads in flight"));
        }
        if !block.is_power_of_two() || !(4 << 10..=1 << 30).contains(&block) {
            return Err(LoadError::Options("the block is a power of two from 4 KiB to 1 GiB"));
        }
        let len = self.buffer_len;
        if len > LONGEST_FILE {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            return Err(MemoryError::Length { len }.into());
        }
        let mut places = Vec::with_capacity(self.requests.len());
        for request in self.requests {
            let Some(file) = self.files.get(request.file) else {
                return Err(LoadError::NoSuchFile { file: request.file, files: self.files.len() });
            };
            let last = file.len().min(LONGEST_FILE);
            if request.offset.checked_add(request.len).is_none_or(|end| end > last) {
                return Err(LoadError::PastEnd {
                    path: file.path().into(),
                    offset: request.offset,
                    len: request.len,
                    file_len: file.len(),
                });
            }
            // Of a sum that is cut off, the rest is past the end too: no buffer is longer than `LONGEST_FILE`.
            let needed = request.buffer_offset.saturating_add(request.len);
            if needed > len {
                return Err(LoadError::TooSmall { needed, len });
            }
            places.push(request.buffer());
        }
        places.retain(|place| !place.is_empty());
        places.sort_unstable_by_key(|place| place.start);
        match places.windows(2).find(|pair| pair[0].end > pair[1].start) {
            Some(pair) => Err(LoadError::Overlap { at: pair[1].start }),
            None => Ok(()),
        }
    }
}
