//! What became of jobs, as engines tell the load's own thread.

use std::io;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::check::Part;
use crate::plan::job::Job;
use crate::storage::work::Failure;

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

    pub(super) fn landed(&mut self, job: &'a Job, parts: Option<Vec<Part>>) {
        self.bytes += job.piece.need;
        self.landed.push(Landed { job, parts });
        if self.bytes >= Self::TOGETHER || self.told.elapsed() >= Self::SOON {
            self.flush();
        }
    }

    /// Tells what landed so far.
    pub(super) fn flush(&mut self) {
        if !self.landed.is_empty() {
            self.bytes = 0;
            self.told = Instant::now();
            let landed = std::mem::take(&mut self.landed);
            self.tell(Event::Landed(landed));
        }
    }

    pub(super) fn failed(&mut self, event: Event<'a>) {
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
