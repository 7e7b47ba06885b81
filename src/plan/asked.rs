//! What is asked of a transfer: what the planner decides by.

use std::sync::atomic::{AtomicBool, Ordering};

use iomap::MemoryError;

use exporters::Destination;

use super::place::{Place, place_of};
use super::run::{self, Run};
use crate::storage::file::LONGEST_FILE;
use crate::transfer::{Around, DataPath, Options, Request, Source, TransferError, Valid};

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
    /// Why drives may not be given its pages, where the CPU reaches it; or those of the slots out of which a device's queue
    /// fills it.
    pub no_pages: Option<String>,
    /// Why the CPU copies out of those slots too, where a device's queue fills it.
    pub no_dma: Option<String>,
    /// What a device's queue fills it by: parts begin and end at multiples of so many bytes, or at its end.
    pub granule: u64,
}

impl Buffer {
    pub fn of(buffer: &dyn Destination) -> Result<Self, TransferError> {
        let (place, no_pages) = place_of(buffer)?;
        let base = buffer.cpu_map().map_or(0, |map| map.as_ptr() as u64);
        let no_pages = no_pages.map(|why| why.to_string());
        let granule = match (place, buffer.upload()) {
            (Place::Gpu, Ok(target)) => target.granule().max(1) as u64,
            _ => 1,
        };
        Ok(Self { place, len: buffer.len() as u64, base, no_pages, no_dma: None, granule })
    }

    /// One that is bytes in a row for the CPU or for a GPU. What a device's queue alone fills, a [`Loader`](crate::engine::Loader) does.
    pub fn of_bytes(buffer: &dyn Destination) -> Result<Self, TransferError> {
        match (Self::of(buffer)?, buffer.gpu()) {
            (Self { place: Place::Gpu, .. }, Err(absent)) => {
                let why = format!("{absent}; or fill it by a Loader (bufmap::engine)");
                Err(TransferError::Unreachable { holder: buffer.holder(), why })
            }
            (known, _) => Ok(known),
        }
    }

    /// One that nobody has made yet. It will begin with a page.
    pub fn planned(place: Place, len: u64) -> Self {
        let no_pages = (place == Place::Cpu).then(|| {
            "the kernel pins no pages of such a buffer, so no drive may be given it".into()
        });
        Self { place, len, base: 0, no_pages, no_dma: None, granule: 1 }
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
            None => self.validate_granule(),
        }
    }

    /// Whether each run begins and ends where a device's queue can.
    fn validate_granule(&self) -> Result<(), TransferError> {
        let Buffer { len, granule, .. } = self.buffer;
        if granule == 1 {
            return Ok(());
        }
        let fits = |at: &u64| at.is_multiple_of(granule) || *at == len;
        let ends = |run: &Run| [run.buffer_offset, run.buffer_offset + run.len];
        let alignments = self.files.iter().map(|file| file.alignment(DataPath::Staged).offset);
        let longest = granule.saturating_add(alignments.max().unwrap_or(1).into());
        if longest > self.options.block {
            return Err(TransferError::Block { granule, block: self.options.block });
        }
        let divided = run::join(self.requests).iter().flat_map(ends).find(|at| !fits(at));
        match divided {
            Some(at) => Err(TransferError::Granule { at, granule }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::Recorded;

    #[test]
    fn what_a_queue_copies_begins_and_ends_with_a_granule_that_a_read_holds() {
        let files = [Recorded { path: "file".into(), len: 1 << 30 }];
        let validate = |requests: &[Request], granule, block| {
            let options = Options { block, ..Options::default() };
            let buffer = Buffer { granule, ..Buffer::planned(Place::Gpu, 10_001) };
            let stop = &AtomicBool::new(false);
            let around = Around::default();
            Asked { files: &files, requests, around, options: &options, buffer, stop }.validate()
        };
        let one = |offset, len, at| [Request::new(0, offset, len, at)];
        assert!(validate(&one(3, 10_000, 0), 1000, 8192).is_ok());
        assert!(validate(&one(3, 1001, 9000), 1000, 8192).is_ok(), "it ends with the buffer");
        for (requests, divided) in [(one(3, 500, 0), 500), (one(3, 1000, 500), 500)] {
            let told = validate(&requests, 1000, 8192);
            let at =
                matches!(told, Err(TransferError::Granule { at, granule: 1000 }) if at == divided);
            assert!(at, "{told:?}");
        }
        let touching = [Request::new(0, 3, 500, 0), Request::new(0, 503, 500, 500)];
        assert!(validate(&touching, 1000, 8192).is_ok());
        let apart = [Request::new(0, 3, 500, 0), Request::new(0, 504, 500, 500)];
        assert!(matches!(validate(&apart, 1000, 8192), Err(TransferError::Granule { .. })));
        let long = validate(&one(0, 8000, 0), 8000, 8192);
        assert!(
            matches!(long, Err(TransferError::Block { granule: 8000, block: 8192 })),
            "{long:?}"
        );
    }
}
