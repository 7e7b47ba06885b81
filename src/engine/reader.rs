//! The ring's thread: it takes reads past the page cache from the queues, and hands on what has come.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use iomap::{BufMap, MapError, Memory, PageSize};

use super::held::{Held, lend_buffer, lend_slot};
use super::landing::{copy_out, done, fingerprint, land, stopped, without_slot};
use super::order::Ended;
use super::shared::{Found, Shared, Taken};
use super::slots::{Slot, Slots};
use crate::nofault::Fault;
use crate::plan::run::Landing;
use crate::storage::file::partial::{Came, Partial};
use crate::storage::file::put_off::{First, PutOff};
use crate::storage::file::ring::Steps;
use crate::storage::work::{Failure, Next, Read, Work};
use crate::transfer::{Readable, TransferError};

/// Runs a ring until the loader closes. Where there can be none, workers read.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut reader = Reader::of(shared);
    let ran = Steps::new(shared.options.depth, Arc::clone(&shared.wake)).and_then(|mut steps| {
        while !steps.step(&mut reader)? {}
        Ok(())
    });
    if let Err(error) = ran {
        shared.lose_ring();
        reader.fail(&error);
    }
}

/// A read that is with the drive, or is to be asked for again.
struct Reading {
    taken: Taken,
    partial: Partial,
    slot: Option<Arc<Slot>>,
}

/// The ring's work.
pub(super) struct Reader {
    shared: Arc<Shared>,
    /// Taken from the queues, and not begun.
    taken: VecDeque<Taken>,
    /// By their tag.
    reading: Vec<Option<Reading>>,
    /// The tags that are not used.
    unused: Vec<usize>,
    again: PutOff,
    /// Taken, and not begun for want of a slot.
    stalled: VecDeque<Taken>,
    /// For what the CPU copies to where it belongs, made when they are first needed.
    slots: Option<Arc<Slots>>,
    /// The bytes that have come back since the queues were last asked, by priority.
    done: [u64; 4],
    /// What is to be concluded.
    ended: Vec<Ended>,
}

impl Reader {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            taken: VecDeque::new(),
            reading: Vec::new(),
            unused: Vec::new(),
            again: PutOff::default(),
            stalled: VecDeque::new(),
            slots: None,
            done: [0; 4],
            ended: Vec::new(),
        }
    }

    fn in_flight(&self) -> usize {
        self.reading.len() - self.unused.len()
    }

    /// A read that came in part, or was put off, if its time has come.
    fn rest(&mut self) -> Option<Next<'static, Held>> {
        loop {
            let wait = match self.again.first() {
                First::Nothing => return None,
                First::Later(wait) => wait,
                First::Due(tag) => match self.ask(tag) {
                    None => continue,
                    read => return read,
                },
            };
            if self.in_flight() > self.again.len() {
                return Some(Next::Wait);
            }
            thread::sleep(wait.min(Duration::from_millis(50)));
        }
    }

    /// Asks for a read, or for what is left of it. Nothing, if it has failed.
    fn ask(&mut self, tag: usize) -> Option<Next<'static, Held>> {
        let reading = self.reading.get(tag)?.as_ref()?;
        match self.lend(reading) {
            Ok((file, into)) => {
                let offset = reading.taken.job.piece.offset + reading.partial.got();
                Some(Next::Read(Read { file, offset, into, tag }))
            }
            Err(error) => {
                self.drop_reading(tag, error.into());
                None
            }
        }
    }

    fn lend(&self, reading: &Reading) -> Result<(Held, BufMap<'static>), MapError> {
        let Reading { taken: Taken { payload, job, .. }, partial, slot } = reading;
        let got = partial.got();
        let len = job.piece.len - got;
        match (&job.piece.landing, slot) {
            (_, Some(slot)) => lend_slot(payload, job.path, slot, (got, len)),
            (Landing::Buffer(at), None) => lend_buffer(payload, job.path, (at + got, len)),
            (Landing::Slot(_), None) => lend_buffer(payload, job.path, (0, 0)),
        }
    }

    /// A slot for a read that needs one. Nothing, if none is free.
    fn slot_for(&mut self, taken: &Taken) -> io::Result<Option<Slot>> {
        let slots = match (&taken.payload.staging, &self.slots) {
            (Some(staging), _) => &staging.slots,
            (None, Some(slots)) => slots,
            (None, None) => self.slots.insert(self.make_slots()?),
        };
        slots.take()
    }

    /// A read that has waited for a slot, if one is free now.
    fn unstalled(&mut self) -> Option<Taken> {
        let has_answer = |taken: &Taken| {
            let slots = taken.payload.staging.as_ref().map(|staging| &staging.slots);
            slots.or(self.slots.as_ref()).is_none_or(|slots| slots.has_answer())
        };
        let first = self.stalled.iter().position(has_answer)?;
        self.stalled.remove(first)
    }

    /// Ends what waits for a slot, because the loader closes.
    fn stop_stalled(&mut self) {
        for taken in self.stalled.drain(..) {
            self.done[taken.order.priority.index()] += taken.job.piece.len;
            self.ended.extend(stopped(taken));
        }
    }

    /// As many slots as reads are in flight.
    fn make_slots(&self) -> io::Result<Arc<Slots>> {
        let options = &self.shared.options;
        let slots = Slots::new(Arc::clone(&self.shared.wake));
        for _ in 0..options.depth {
            let memory = Memory::anonymous(options.slot_len(), PageSize::Base);
            slots.add(Box::new(memory.map_err(io::Error::other)?));
        }
        Ok(slots)
    }

    /// Begins what was taken. Nothing, if it needs pages, or a slot and none is free, or has failed.
    fn begin(&mut self, mut taken: Taken) -> Option<Next<'static, Held>> {
        if !taken.prepared {
            let lacks = |landed| taken.payload.buffer.lacks_pages(landed);
            taken.prepared = true;
            if taken.job.landed().any(lacks) {
                match self.shared.prepare(taken) {
                    Ok(()) => return None,
                    Err(own) => taken = own,
                }
            }
        }
        let mut slot = None;
        if matches!(taken.job.piece.landing, Landing::Slot(_)) {
            slot = match self.slot_for(&taken) {
                Ok(Some(slot)) => Some(Arc::new(slot)),
                Ok(None) => {
                    self.stalled.push_back(taken);
                    return None;
                }
                Err(source) => {
                    self.fail_taken(taken, source);
                    return None;
                }
            };
        }
        let tag = self.unused.pop().unwrap_or_else(|| {
            self.reading.push(None);
            self.reading.len() - 1
        });
        self.reading[tag] = Some(Reading { taken, partial: Partial::default(), slot });
        self.ask(tag)
    }

    /// Takes a read out of the account.
    fn end(&mut self, tag: usize) -> Option<Reading> {
        let reading = self.reading.get_mut(tag)?.take()?;
        self.unused.push(tag);
        self.done[reading.taken.order.priority.index()] += reading.taken.job.piece.len;
        Some(reading)
    }

    fn complete(&mut self, tag: usize) {
        let Some(Reading { taken, slot, .. }) = self.end(tag) else { return };
        let copier = taken.payload.staging.as_ref().map(|staging| staging.copier);
        let slot = match (slot, copier) {
            (Some(slot), Some(copier)) => {
                return self.ended.extend(copy_out(&self.shared, copier, taken, slot));
            }
            (slot, _) => slot,
        };
        let map = slot.as_ref().map(|slot| slot.map());
        let landed = land(&taken.payload, &taken.job, map.as_ref());
        drop(slot);
        let taken = match landed {
            Ok(None) => match self.shared.check(taken) {
                Ok(()) => return,
                Err(taken) => taken,
            },
            Ok(Some(parts)) => return self.ended.extend(done(taken, Ok::<_, Fault>(parts))),
            Err(fault) => return self.ended.extend(done(taken, Err(fault))),
        };
        let parts = fingerprint(&taken.payload, &taken.job);
        self.ended.extend(done(taken, parts));
    }

    fn drop_reading(&mut self, tag: usize, fault: Fault) {
        let Some(Reading { taken, .. }) = self.end(tag) else { return };
        self.ended.extend(done(taken, Err(fault)));
    }

    fn fail_reading(&mut self, tag: usize, failure: Failure) {
        let Some(Reading { taken, .. }) = self.end(tag) else { return };
        self.ended.extend(done(taken, Err(failure)));
    }

    /// There is no memory for a slot.
    fn fail_taken(&mut self, taken: Taken, source: io::Error) {
        self.done[taken.order.priority.index()] += taken.job.piece.len;
        self.ended.extend(without_slot(taken, source));
    }

    /// The ring itself has failed: what it has in hand fails with it.
    pub(super) fn fail(mut self, error: &io::Error) {
        let readings = std::mem::take(&mut self.reading).into_iter().flatten();
        let waiting = self.taken.drain(..).chain(self.stalled.drain(..));
        let taken = waiting.chain(readings.map(|reading| reading.taken));
        for Taken { order, payload, .. } in taken {
            let source = io::Error::new(error.kind(), error.to_string());
            self.ended.extend(order.failed(payload, |_, valid| TransferError::Engine {
                step: "the io_uring",
                source,
                valid,
            }));
        }
        self.shared.conclude(self.ended.drain(..));
    }
}

impl Work<'static> for Reader {
    type File = Held;

    fn next(&mut self) -> Next<'static, Held> {
        loop {
            if let Some(rest) = self.rest() {
                return rest;
            }
            if self.taken.is_empty() {
                let in_flight = self.in_flight();
                let begun = in_flight + self.stalled.len();
                let found = self.shared.take_direct(begun, &mut self.done, &mut self.taken);
                if found == Found::Closed {
                    self.stop_stalled();
                }
                if found != Found::Open && in_flight + self.stalled.len() == 0 {
                    self.settled();
                    return Next::Done;
                }
            }
            let Some(taken) = self.unstalled().or_else(|| self.taken.pop_front()) else {
                // What failed before it began is not kept waiting for what is in flight.
                self.settled();
                return Next::Wait;
            };
            if let Some(next) = self.begin(taken) {
                return next;
            }
        }
    }

    fn completed(&mut self, tag: usize, result: io::Result<usize>) {
        let Some(Some(reading)) = self.reading.get_mut(tag) else { return };
        let Taken { payload, job, .. } = &reading.taken;
        let granule = payload.file.source().alignment(job.path).offset.into();
        let asked = (job.piece.offset, job.piece.need);
        match reading.partial.came(result, asked, granule) {
            Came::Whole => self.complete(tag),
            Came::Rest(pause) => self.again.push(tag, pause),
            Came::Failed(failure) => self.fail_reading(tag, failure),
        }
    }

    fn settled(&mut self) {
        if !self.ended.is_empty() {
            self.shared.conclude(self.ended.drain(..));
        }
    }
}
