//! The reads that a request takes.

use std::iter::{FlatMap, Peekable};
use std::sync::atomic::AtomicBool;
use std::vec;

use super::request::Request;
use crate::plan::asked::Asked;
use crate::plan::by_kernel;
use crate::plan::cut::{Batch, Jobs};
use crate::plan::job::Job;
use crate::plan::requested::Requested;
use crate::transfer::{Options, StepDown, TransferError};

/// The reads that a request takes, not cut yet, and why not by better paths.
pub(super) struct Planned {
    /// Past the page cache.
    pub direct: Option<Reads>,
    /// By the kernel's copy.
    pub copied: Option<Reads>,
    pub step_downs: Vec<StepDown>,
}

impl Planned {
    /// Decides about a request.
    pub(super) fn of(request: &Request, depth: u32, block: u64) -> Result<Self, TransferError> {
        let options = Options { require: request.require, depth, block, ..Options::default() };
        let buffer = request.buffer.facts();
        let file = request.file.source();
        if let [range] = request.ranges.as_slice()
            && let Some(job) = by_kernel::one_read(file, range, buffer, &options)
        {
            let direct = Some(Reads::One(Some(job)));
            return Ok(Self { direct, copied: None, step_downs: Vec::new() });
        }
        let asked = Asked {
            files: std::slice::from_ref(file),
            requests: &request.ranges,
            around: request.around,
            options: &options,
            buffer: buffer.clone(),
            stop: &AtomicBool::new(false),
        };
        asked.validate()?;
        let decided = by_kernel::decide(&asked, &Requested::new(&request.ranges), None)?;
        Ok(Self {
            direct: Reads::of(decided.direct),
            copied: Reads::of(decided.copied),
            step_downs: decided.step_downs,
        })
    }

    /// In how many queues it has reads.
    pub(super) fn queues(&self) -> u32 {
        u32::from(self.direct.is_some()) + u32::from(self.copied.is_some())
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
