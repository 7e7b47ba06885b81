//! Carrying a plan out.
//!
//! The planner's pieces become [`Job`]s in a [`Queue`]. An engine of `storage` (one io_uring, threads
//! that each read one piece at a time, or a queue of a drive's own) runs a piece of work that takes jobs from the
//! queue: [`direct`] fills memory that the CPU can reach, [`staged`] fills device memory through a ring of
//! slots.
//! Whoever completes a piece sends an [`Event`] to the load's own thread, which keeps the accounts.

pub(crate) mod direct;
mod flight;
mod intake;
mod reads;
pub(crate) mod staged;

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

pub(crate) use flight::Flight;
pub use flight::Pending;

use super::LoadError;
use super::check::Part;
use super::plan::{Landing, Piece};
use super::road::Road;
use super::source::Source;
use super::valid::Valid;

/// A piece and the road it takes.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub road: Road,
    pub piece: Piece,
}

impl Job {
    /// The ranges of the buffer that it fills, in bytes.
    pub(crate) fn landed(&self) -> impl Iterator<Item = Range<u64>> {
        let (place, copies) = match &self.piece.landing {
            Landing::Buffer(at) => (Some(*at..*at + self.piece.need), [].as_slice()),
            Landing::Slot(copies) => (None, copies.as_slice()),
        };
        let copied = copies.iter().map(|copy| copy.buffer_offset..copy.buffer_offset + copy.len);
        place.into_iter().chain(copied)
    }

    fn file<'f, S: Source>(&self, files: &'f [S]) -> io::Result<S::Handle<'f>> {
        files[self.piece.file].handle(self.road)
    }

    /// What the length of each read must be a multiple of.
    fn granule<S: Source>(&self, files: &[S]) -> u64 {
        files[self.piece.file].alignment(self.road).offset.into()
    }
}

/// What became of jobs.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// Jobs whose bytes are in the buffer.
    Landed(Vec<Landed<'a>>),
    /// A job's file could not be read.
    Failed(&'a Job, Failure),
    /// The buffer is not there any more.
    Lost,
    /// The GPU could not copy one.
    Gpu(exporters::vulkan::VulkanError),
    /// The engine itself failed.
    Engine(io::Error),
}

/// A job whose bytes are in the buffer.
#[derive(Debug)]
pub(crate) struct Landed<'a> {
    pub job: &'a Job,
    /// Fingerprints from an engine that had the bytes at hand: in the CPU's cache, or in a slot that
    /// is free again by now.
    pub parts: Option<Vec<Part>>,
}

/// What an engine has to tell. Landed jobs are told together, because waking the load's own thread
/// for each would cost more than copying a small one.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    events: Sender<Event<'a>>,
    landed: Vec<Landed<'a>>,
    bytes: u64,
    told: Instant,
}

impl<'a> Report<'a> {
    /// As many bytes as are told together.
    const TOGETHER: u64 = 2 << 20;

    /// So long is nobody kept waiting who shows the progress of a slow drive.
    const SOON: Duration = Duration::from_millis(100);

    pub(crate) fn new(events: Sender<Event<'a>>) -> Self {
        Self { events, landed: Vec::new(), bytes: 0, told: Instant::now() }
    }

    fn landed(&mut self, job: &'a Job, parts: Option<Vec<Part>>) {
        self.bytes += job.piece.need;
        self.landed.push(Landed { job, parts });
        if self.bytes >= Self::TOGETHER || self.told.elapsed() >= Self::SOON {
            self.flush();
        }
    }

    /// Tells what landed so far.
    fn flush(&mut self) {
        if !self.landed.is_empty() {
            self.bytes = 0;
            self.told = Instant::now();
            let landed = std::mem::take(&mut self.landed);
            self.tell(Event::Landed(landed));
        }
    }

    fn failed(&mut self, event: Event<'a>) {
        self.flush();
        self.tell(event);
    }

    fn tell(&self, event: Event<'a>) {
        // The load's own thread listens until every sender is gone.
        let _ = self.events.send(event);
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Why a read failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The kernel's error, and where in the file.
    Io { offset: u64, source: io::Error },
    /// The file ends here, before the end of the piece.
    Ended { at: u64 },
}

impl Failure {
    /// The end of a load that has filled what is `valid`.
    pub(crate) fn explain<S: Source>(self, file: &S, valid: Valid) -> LoadError {
        match self {
            Self::Io { offset, source } => {
                LoadError::Read { path: file.path().into(), offset, source, valid }
            }
            Self::Ended { at } => file.ended(at, valid),
        }
    }
}

/// The jobs of a load, taken one by one by any thread until none is left or the load is stopped.
#[derive(Debug)]
pub(crate) struct Queue<'a> {
    jobs: &'a [Job],
    next: AtomicUsize,
    flight: &'a Flight<'a>,
}

impl<'a> Queue<'a> {
    pub(crate) const fn new(jobs: &'a [Job], flight: &'a Flight<'a>) -> Self {
        Self { jobs, next: AtomicUsize::new(0), flight }
    }

    fn take(&self) -> Option<&'a Job> {
        if self.flight.is_ended() {
            return None;
        }
        self.jobs.get(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether it never had a job.
    pub(crate) const fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(crate) const fn flight(&self) -> &'a Flight<'a> {
        self.flight
    }
}
