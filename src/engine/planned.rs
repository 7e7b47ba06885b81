//! The reads that a request takes.

use std::iter::{FlatMap, Peekable};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::vec;

use super::request::Request;
use super::slots::Staging;
use crate::plan::asked::Asked;
use crate::plan::by_kernel::{self, MayWrite};
use crate::plan::cut::{Batch, Jobs};
use crate::plan::job::Job;
use crate::plan::requested::Requested;
use crate::storage::file::SourceFile;
use crate::transfer::{DataPath, Options, StepDown, TransferError};

/// The reads that a request takes, not cut yet, and why not by better paths.
pub(super) struct Planned {
    /// Past the page cache, by the ring.
    pub direct: Option<Reads>,
    /// By the kernel's copy; into a peer's memory, which costs less one by one, because a device's pages cannot be registered
    /// with a ring; and into memory whose caches must be told of each access.
    pub for_workers: Option<Reads>,
    pub step_downs: Vec<StepDown>,
    /// The slots that the reads land in, if a device's queue copies them into the buffer.
    pub staging: Option<Arc<Staging>>,
}

impl Planned {
    /// Decides about a request, whose reads land in the slots of `staging` if a device's queue fills the buffer.
    pub(super) fn of(
        request: &Request,
        staging: Option<Arc<Staging>>,
        (depth, block): (u32, u64),
    ) -> Result<Self, TransferError> {
        let options = Options { require: request.require, depth, block, ..Options::default() };
        let buffer = request.buffer.facts();
        let file = request.file.source();
        if let [range] = request.ranges.as_slice()
            && !request.buffer.is_told()
            && let Some(job) = by_kernel::one_read(file, range, buffer, &options)
        {
            let direct = Some(Reads::One(Some(job)));
            return Ok(Self { direct, for_workers: None, step_downs: Vec::new(), staging: None });
        }
        let mut buffer = buffer.clone();
        if let Some(staging) = &staging {
            buffer.no_pages.clone_from(&staging.no_pages);
            buffer.no_dma.clone_from(&staging.no_dma);
        }
        let asked = Asked {
            files: std::slice::from_ref(file),
            requests: &request.ranges,
            around: request.around,
            options: &options,
            buffer,
            stop: &AtomicBool::new(false),
        };
        asked.validate()?;
        let requested = Requested::new(&request.ranges);
        let mut may_write = |_: &SourceFile, reads: &Batch| {
            request.buffer.may_be_written_from(&request.file, reads)
        };
        let may_write: Option<&mut MayWrite<'_>> =
            if request.buffer.is_peer() { Some(&mut may_write) } else { None };
        let decided = by_kernel::decide_by(&asked, &requested, may_write)?;
        let mut for_workers: Vec<_> = decided.peer.into_iter().chain(decided.copied).collect();
        let mut direct = decided.direct;
        if request.buffer.is_told() {
            for_workers.append(&mut direct);
        }
        let mut step_downs = decided.step_downs;
        for why in staging.iter().flat_map(|staging| &staging.step_downs) {
            let (path, why, bytes) = (DataPath::Staged, why.to_string(), request.bytes());
            if step_downs.iter().all(|known| known.why != why) {
                step_downs.push(StepDown { path, why, bytes });
            }
        }
        Ok(Self {
            direct: Reads::of(direct),
            for_workers: Reads::of(for_workers),
            step_downs,
            staging,
        })
    }

    /// In how many queues it has reads.
    pub(super) fn queues(&self) -> u32 {
        u32::from(self.direct.is_some()) + u32::from(self.for_workers.is_some())
    }
}

type Cut = FlatMap<vec::IntoIter<Batch>, Jobs<Batch>, fn(Batch) -> Jobs<Batch>>;

/// Reads, cut one by one as they are taken. At least one is left.
#[derive(Debug)]
pub(super) enum Reads {
    One(Option<Job>),
    Many(Box<Peekable<Cut>>),
}

impl Reads {
    fn of(batches: Vec<Batch>) -> Option<Self> {
        let cut: Cut = batches.into_iter().flat_map(Batch::into_jobs);
        let mut cut = Box::new(cut.peekable());
        cut.peek().is_some().then_some(Self::Many(cut))
    }

    /// The next, and whether it is the last.
    pub(super) fn take(&mut self) -> Option<(Job, bool)> {
        match self {
            Self::One(job) => Some((job.take()?, true)),
            Self::Many(cut) => {
                let job = cut.next()?;
                Some((job, cut.peek().is_none()))
            }
        }
    }

    /// The only one, if it is known to be that.
    pub(super) const fn take_alone(&mut self) -> Option<Job> {
        match self {
            Self::One(job) => job.take(),
            Self::Many(_) => None,
        }
    }

    /// How long the next is, in bytes.
    pub(super) fn next_len(&mut self) -> u64 {
        match self {
            Self::One(job) => job.as_ref().map_or(0, |job| job.piece.len),
            Self::Many(cut) => cut.peek().map_or(0, |job| job.piece.len),
        }
    }
}
