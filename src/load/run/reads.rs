//! Reads that may come in parts.
//!
//! A read can return fewer bytes than asked; then the rest is asked for again. [`Reads`] keeps, for
//! each read in flight, how far it got, and tells a part from the end of the file.

use std::io;

use iomap::BufMap;

use super::{Failure, Job};
use crate::load::source::Source;
use crate::storage::work::Read;

/// A job being read into a map.
#[derive(Debug)]
struct Reading<'m, F> {
    job: &'m Job,
    file: F,
    slot: Option<usize>,
    into: BufMap<'m>,
    got: u64,
}

/// The reads in flight of one engine; a read's tag is its index.
pub(super) struct Reads<'m, S: Source> {
    files: &'m [S],
    /// Kept, so that the next read of the same file finds it open.
    last: Option<S::Handle<'m>>,
    reading: Vec<Option<Reading<'m, S::Handle<'m>>>>,
    unfinished: Vec<usize>,
}

/// What a completion means.
pub(super) enum Outcome<'m> {
    /// All bytes are there, in the slot if it has one.
    Complete(&'m Job, Option<usize>),
    /// The rest is to be asked for.
    Partial,
    /// The read failed, and gives its slot back.
    Failed(&'m Job, Option<usize>, Failure),
}

impl<'m, S: Source> Reads<'m, S> {
    pub(super) fn new(files: &'m [S]) -> Self {
        Self { files, last: None, reading: Vec::new(), unfinished: Vec::new() }
    }

    /// Whether nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.reading.iter().all(Option::is_none)
    }

    /// Begins to read a job into `into`, if its file can be opened for it.
    pub(super) fn start(
        &mut self,
        job: &'m Job,
        slot: Option<usize>,
        into: BufMap<'m>,
    ) -> io::Result<Read<'m, S::Handle<'m>>> {
        let file = job.file(self.files)?;
        self.last = Some(file.clone());
        let tag = self.reading.iter().position(Option::is_none).unwrap_or_else(|| {
            self.reading.push(None);
            self.reading.len() - 1
        });
        self.reading[tag] = Some(Reading { job, file: file.clone(), slot, into, got: 0 });
        Ok(Read { file, offset: job.piece.offset, into, tag })
    }

    /// The rest of a read that came in part.
    pub(super) fn rest(&mut self) -> Option<Read<'m, S::Handle<'m>>> {
        let tag = self.unfinished.pop()?;
        let reading = self.reading[tag].as_ref()?;
        let into = reading.into.subrange(reading.got as usize..).ok()?;
        let offset = reading.job.piece.offset + reading.got;
        Some(Read { file: reading.file.clone(), offset, into, tag })
    }

    pub(super) fn finish(&mut self, tag: usize, result: io::Result<usize>) -> Outcome<'m> {
        let Some(reading) = self.reading[tag].as_mut() else { return Outcome::Partial };
        let (job, slot, offset) = (reading.job, reading.slot, reading.job.piece.offset);
        let failure = match result {
            Ok(bytes) => {
                reading.got += bytes as u64;
                let ended = bytes == 0 || reading.got % job.granule(self.files) != 0;
                if reading.got >= job.piece.need {
                    None
                } else if ended {
                    Some(Failure::Ended { at: offset + reading.got })
                } else {
                    self.unfinished.push(tag);
                    return Outcome::Partial;
                }
            }
            Err(source) => match source.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => {
                    self.unfinished.push(tag);
                    return Outcome::Partial;
                }
                _ => Some(Failure::Io { offset: offset + reading.got, source }),
            },
        };
        self.reading[tag] = None;
        match failure {
            None => Outcome::Complete(job, slot),
            Some(failure) => Outcome::Failed(job, slot, failure),
        }
    }
}
