//! What is asked of a transfer: what the planner decides by.

use std::sync::atomic::{AtomicBool, Ordering};

use iomap::MemoryError;

use exporters::Destination;

use super::place::{Place, place_of};
use super::run;
use crate::storage::file::LONGEST_FILE;
use crate::transfer::{Around, Options, Request, Source, TransferError, Valid};

/// A transfer as the planner sees it.
pub(crate) struct Asked<'a, S> {
    pub files: &'a [S],
    pub requests: &'a [Request],
    pub around: Around,
    pub options: &'a Options,
    pub buffer: Buffer,
    /// Set by who does not want the answer any more.
    pub stop: &'a AtomicBool,
}

/// A buffer as the planner sees it.
#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    pub place: Place,
    /// In bytes.
    pub len: u64,
    /// Where it begins in this process's address space, if it does: drives ask for alignment.
    pub base: u64,
    /// Why drives may not be given its pages, where the CPU reaches it.
    pub no_pages: Option<String>,
}

impl Buffer {
    pub fn of(buffer: &dyn Destination) -> Result<Self, TransferError> {
        let (place, no_pages) = place_of(buffer)?;
        let base = buffer.cpu_map().map_or(0, |map| map.as_ptr() as u64);
        let no_pages = no_pages.map(|why| why.to_string());
        Ok(Self { place, len: buffer.len() as u64, base, no_pages })
    }

    /// One that nobody has made yet. It will begin with a page.
    pub fn planned(place: Place, len: u64) -> Self {
        let no_pages = (place == Place::Cpu).then(|| {
            "the kernel pins no pages of such a buffer, so no drive may be given it".into()
        });
        Self { place, len, base: 0, no_pages }
    }
}

impl<S: Source> Asked<'_, S> {
    /// Whether it is still asked.
    pub fn go_on(&self) -> Result<(), TransferError> {
        if !self.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let wanted = self.requests.iter().map(|request| request.len).sum();
        Err(TransferError::Stopped { valid: Valid::none_of(wanted) })
    }

    /// Whether it makes sense: requests inside their files and the buffer, none over another.
    pub fn validate(&self) -> Result<(), TransferError> {
        self.options.validate()?;
        let len = self.buffer.len;
        if len > LONGEST_FILE {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            return Err(MemoryError::Length { len }.into());
        }
        let mut places = Vec::with_capacity(self.requests.len());
        for request in self.requests {
            let Some(file) = self.files.get(request.file) else {
                return Err(TransferError::NoSuchFile {
                    file: request.file,
                    files: self.files.len(),
                });
            };
            let last = file.len().min(LONGEST_FILE);
            if request.offset.checked_add(request.len).is_none_or(|end| end > last) {
                return Err(TransferError::PastEnd {
                    path: file.path().into(),
                    offset: request.offset,
                    len: request.len,
                    file_len: file.len(),
                });
            }
            // Of a sum that is cut off, the rest is past the end too: no buffer is longer than `LONGEST_FILE`.
            let needed = request.buffer_offset.saturating_add(request.len);
            if needed > len {
                return Err(TransferError::TooSmall { needed, len });
            }
            places.push(request.buffer());
        }
        match run::overlap(places) {
            Some(at) => Err(TransferError::Overlap { at }),
            None => Ok(()),
        }
    }
}
