//! Reads that may come in parts.
//!
//! A read can return fewer bytes than asked; then the rest is asked for again. It can be put off; then it
//! is asked for again after a pause. [`Reads`] keeps, for each read, how far it got, and tells a part
//! from the end of the file.

use std::io;
use std::time::Duration;

use iomap::BufMap;

use crate::plan::job::Job;
use crate::storage::file::partial::{Came, Partial};
use crate::storage::file::put_off::{First, PutOff};
use crate::storage::work::{Failure, Read};
use crate::transfer::Source;

/// A job being read into a map.
#[derive(Debug)]
struct Reading<'m, F> {
    job: &'m Job,
    file: F,
    slot: Option<usize>,
    into: BufMap<'m>,
    partial: Partial,
}

/// What is to be asked for again.
#[derive(Debug)]
pub(super) enum Rest<'m, F> {
    /// Nothing.
    Nothing,
    /// This read.
    Due(Read<'m, F>),
    /// Something, after so long.
    Later(Duration),
}

/// The reads of one engine; a read's tag is its index.
pub(super) struct Reads<'m, S: Source> {
    files: &'m [S],
    /// Kept, so that the next read of the same file finds it open.
    last: Option<S::Handle<'m>>,
    reading: Vec<Option<Reading<'m, S::Handle<'m>>>>,
    unfinished: PutOff,
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
        Self { files, last: None, reading: Vec::new(), unfinished: PutOff::default() }
    }

    /// Whether nothing is in flight, nor to be asked for again.
    pub(super) fn is_empty(&self) -> bool {
        self.reading.iter().all(Option::is_none)
    }

    /// Whether the engine has none of them.
    pub(super) fn none_in_flight(&self) -> bool {
        self.reading.iter().flatten().count() == self.unfinished.len()
    }

    /// Gives up what would have to be asked for again. Returns the jobs, each with its slot.
    pub(super) fn abandon(&mut self) -> Vec<(&'m Job, Option<usize>)> {
        let tags = self.unfinished.abandon();
        tags.filter_map(|tag| self.reading[tag].take())
            .map(|reading| (reading.job, reading.slot))
            .collect()
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
        let partial = Partial::default();
        self.reading[tag] = Some(Reading { job, file: file.clone(), slot, into, partial });
        Ok(Read { file, offset: job.piece.offset, into, tag })
    }

    /// The rest of a read that came in part, or was put off.
    pub(super) fn rest(&mut self) -> Rest<'m, S::Handle<'m>> {
        let tag = match self.unfinished.first() {
            First::Nothing => return Rest::Nothing,
            First::Later(wait) => return Rest::Later(wait),
            First::Due(tag) => tag,
        };
        let Some(reading) = &self.reading[tag] else { return Rest::Nothing };
        // A read that came in part left room for the rest.
        let Ok(into) = reading.into.subrange(reading.partial.got() as usize..) else {
            return Rest::Nothing;
        };
        let offset = reading.job.piece.offset + reading.partial.got();
        Rest::Due(Read { file: reading.file.clone(), offset, into, tag })
    }

    pub(super) fn finish(&mut self, tag: usize, result: io::Result<usize>) -> Outcome<'m> {
        let Some(reading) = self.reading[tag].as_mut() else { return Outcome::Partial };
        let (job, slot) = (reading.job, reading.slot);
        let asked = (job.piece.offset, job.piece.need);
        let failure = match reading.partial.came(result, asked, job.granule(self.files)) {
            Came::Whole => None,
            Came::Rest(pause) => {
                self.unfinished.push(tag, pause);
                return Outcome::Partial;
            }
            Came::Failed(failure) => Some(failure),
        };
        self.reading[tag] = None;
        match failure {
            None => Outcome::Complete(job, slot),
            Some(failure) => Outcome::Failed(job, slot, failure),
        }
    }
}
