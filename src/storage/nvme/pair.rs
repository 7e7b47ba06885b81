//! A queue pair: two rings in memory that the controller reads and writes, and their doorbells.

use std::sync::Arc;

use exporters::Intent;
use exporters::vfio::{DmaMapping, Region};
use iomap::{MapError, Memory, PageSize};

use super::PAGE;
use super::barrier;
use super::command::{self, DataPointer, Operation};
use super::completion::Entry;
use super::error::NvmeError;
use super::link::Link;
use super::registers::Registers;
use super::ring::{Completions, Slots, Submissions};

/// A queue pair, and what its user keeps of each command in flight.
#[derive(Debug)]
pub(super) struct Pair<T> {
    /// The ring of commands, and from `completions_at` on that of completions.
    memory: DmaMapping<Memory>,
    number: u16,
    completions_at: usize,
    entries: u32,
    doorbells: Doorbells,
    submissions: Submissions,
    completions: Completions,
    pub slots: Slots<T>,
    /// The tail and the head that the controller was told.
    announced: u32,
    acknowledged: u32,
}

/// A command that ended.
#[derive(Debug)]
pub(super) struct Ended<T> {
    pub what: T,
    pub entry: Entry,
}

/// Why a completion could not be taken.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is of a command that is not in flight in this queue.
    Unasked(u16),
    /// The rings are not where they should be.
    Map(MapError),
}

impl From<MapError> for Trouble {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

impl<T> Pair<T> {
    /// The queue pair `number` with rings of `entries` each, in fresh memory.
    pub fn new(link: &Link, number: u16, entries: u32) -> Result<Self, NvmeError> {
        let page = PAGE as usize;
        let submissions_len = (entries as usize * command::ENTRY_LEN).next_multiple_of(page);
        let completions_len = (entries as usize * Entry::LEN).next_multiple_of(page);
        let memory = Memory::anonymous(submissions_len + completions_len, PageSize::Base)?;
        Ok(Self {
            doorbells: Doorbells::new(link, number)?,
            memory: link.device().container().map_dma(memory, Intent::ReadWrite)?,
            number,
            completions_at: submissions_len,
            entries,
            submissions: Submissions::new(entries),
            completions: Completions::new(entries),
            // A ring holds one entry less than it has.
            slots: Slots::new(entries - 1),
            announced: 0,
            acknowledged: 0,
        })
    }

    pub const fn entries(&self) -> u32 {
        self.entries
    }

    /// Where the controller sees the ring of commands, and that of completions.
    pub const fn addresses(&self) -> (u64, u64) {
        let start = self.memory.iova().get();
        (start, start + self.completions_at as u64)
    }

    /// Whether another command can be put in.
    #[inline]
    pub fn has_room(&self) -> bool {
        !self.slots.is_full()
    }

    /// Puts in a command, which the controller is told of by [`announce`](Self::announce). There
    /// must be room.
    #[inline]
    pub fn submit(
        &mut self,
        command: u16,
        operation: Operation,
        data: DataPointer,
        what: T,
    ) -> Result<(), MapError> {
        // Completions that are taken and not acknowledged have their place still.
        if self.slots.taken() as u32 + self.unacknowledged() >= self.entries - 1 {
            self.acknowledge()?;
        }
        let map = self.memory.map();
        self.submissions.push(&map, &command::encode(operation, command, data))?;
        self.slots.insert(what);
        Ok(())
    }

    /// Tells the controller of commands put in since the last time, if there are any.
    #[inline]
    pub fn announce(&mut self) -> Result<(), MapError> {
        let tail = self.submissions.tail();
        if tail != self.announced {
            barrier::before_doorbell();
            self.doorbells.ring_submission(tail)?;
            self.announced = tail;
        }
        Ok(())
    }

    /// Takes a completion if there is one.
    #[inline]
    pub fn take(&mut self) -> Result<Option<Ended<T>>, Trouble> {
        let ring = self.memory.map().offset(self.completions_at)?;
        let Some(entry) = self.completions.pop(&ring)? else {
            self.acknowledge()?;
            return Ok(None);
        };
        let is_own = entry.queue() == self.number;
        let what = is_own.then(|| self.slots.remove(entry.command())).flatten();
        let what = what.ok_or(Trouble::Unasked(entry.command()))?;
        Ok(Some(Ended { what, entry }))
    }

    const fn unacknowledged(&self) -> u32 {
        let (head, told) = (self.completions.head(), self.acknowledged);
        if head >= told { head - told } else { head + self.entries - told }
    }

    /// Tells the controller which completions were taken, so that their places are free. It is put
    /// off until no more are there, because a doorbell is the dearest access of all.
    fn acknowledge(&mut self) -> Result<(), MapError> {
        let head = self.completions.head();
        if head != self.acknowledged {
            barrier::after_loads();
            self.doorbells.ring_completion(head)?;
            self.acknowledged = head;
        }
        Ok(())
    }
}

/// The two doorbells of a queue pair.
#[derive(Debug)]
struct Doorbells {
    region: Arc<Region>,
    submission: usize,
    completion: usize,
}

impl Doorbells {
    fn new(link: &Link, number: u16) -> Result<Self, NvmeError> {
        let registers = Registers::new(link.region().map());
        let (submission, completion) =
            registers.doorbells(link.capabilities, number).map_err(|fault| link.error(fault))?;
        Ok(Self { region: Arc::clone(link.region()), submission, completion })
    }

    #[inline]
    fn ring_submission(&self, tail: u32) -> Result<(), MapError> {
        self.region.map().write(self.submission, tail.to_le())
    }

    #[inline]
    fn ring_completion(&self, head: u32) -> Result<(), MapError> {
        self.region.map().write(self.completion, head.to_le())
    }
}
