//! The work of a save: writes out of the buffer, and out of slots that are filled from it.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use exporters::vulkan::{Buffer, CopyRegion, Ticket, Transfer, VulkanError};
use iomap::{BufMap, MapError};

use super::queue::Queue;
use crate::nofault::{self, Fault};
use crate::plan::out::{Piece, Taken};
use crate::plan::run::SlotCopy;
use crate::storage::file::Descriptor;
use crate::storage::file::partial::{Came, Partial};
use crate::storage::file::put_off::{First, PutOff};
use crate::storage::work::{Failure, Next, Work, Write};

/// What became of writes.
#[derive(Debug)]
pub(super) enum Event {
    /// This part of the file is written.
    Written(Range<u64>),
    /// A write failed.
    Failed(Failure),
    /// The buffer is not there any more.
    Lost,
    /// The GPU could not fill a slot.
    Gpu(VulkanError),
    /// The engine itself failed.
    Engine(io::Error),
}

/// Who fills slots.
pub(super) enum Filler<'m> {
    /// The CPU.
    Cpu,
    /// A GPU, out of its own memory.
    Gpu(Box<Gpu<'m>>),
}

/// A GPU's queue, and the slots as it knows them.
pub(super) struct Gpu<'m> {
    pub transfer: Transfer,
    pub buffer: &'m Arc<Buffer>,
    pub imported: &'m Arc<Buffer>,
    pub slot_len: usize,
}

/// Why a slot was not filled.
enum Unfilled {
    Fault(Fault),
    Gpu(VulkanError),
}

impl Filler<'_> {
    /// Fills a slot, or has it filled by when the ticket is done.
    fn begin(
        &mut self,
        copies: &[SlotCopy],
        buffer: &BufMap<'_>,
        (number, slot): (usize, &BufMap<'_>),
    ) -> Result<Option<Ticket>, Unfilled> {
        match self {
            Self::Cpu => by_cpu(copies, buffer, slot).map(|()| None).map_err(Unfilled::Fault),
            Self::Gpu(gpu) => {
                let start = number * gpu.slot_len;
                let regions: Vec<_> = copies
                    .iter()
                    .map(|copy| CopyRegion {
                        src_offset: copy.buffer_offset as usize,
                        dst_offset: start + copy.slot_offset as usize,
                        len: copy.len as usize,
                    })
                    .collect();
                let ticket = gpu.transfer.copy(gpu.buffer, gpu.imported, &regions);
                ticket.map(Some).map_err(Unfilled::Gpu)
            }
        }
    }

    fn wait(&mut self, ticket: Ticket) -> Result<(), VulkanError> {
        match self {
            Self::Cpu => Ok(()),
            Self::Gpu(gpu) => gpu.transfer.wait(ticket),
        }
    }
}

fn by_cpu(copies: &[SlotCopy], buffer: &BufMap<'_>, slot: &BufMap<'_>) -> Result<(), Fault> {
    for copy in copies {
        let (from, to) = (copy.buffer_offset as usize, copy.slot_offset as usize);
        let len = copy.len as usize;
        let from = buffer.subrange(from..from + len)?;
        nofault::copy_to(&from, &slot.subrange(to..to + len)?)?;
    }
    Ok(())
}

/// A write that is not done yet.
struct Writing<'m> {
    offset: u64,
    from: BufMap<'m>,
    slot: Option<usize>,
    partial: Partial,
}

/// A slot that the GPU fills.
struct Filling {
    piece: Piece,
    slot: usize,
    ticket: Ticket,
}

/// What the writes of one engine are made of.
pub(super) struct Parts<'m> {
    pub queue: &'m Queue<'m>,
    pub file: Descriptor<'m>,
    /// What each part but the last of a write is a multiple of, in bytes.
    pub granule: u64,
    /// The buffer as the CPU sees it, where it does.
    pub buffer: BufMap<'m>,
    pub slots: Vec<BufMap<'m>>,
    pub filler: Filler<'m>,
    pub events: Sender<Event>,
}

/// Takes writes from a queue and does them.
pub(super) struct Writes<'m> {
    parts: Parts<'m>,
    /// The slots that nothing is written from.
    free: Vec<usize>,
    /// One that waits for a slot.
    held: Option<Piece>,
    filling: VecDeque<Filling>,
    writing: Vec<Option<Writing<'m>>>,
    again: PutOff,
}

impl<'m> Writes<'m> {
    pub(super) fn new(parts: Parts<'m>) -> Self {
        let free = (0..parts.slots.len()).collect();
        let (held, filling) = (None, VecDeque::new());
        Self { parts, free, held, filling, writing: Vec::new(), again: PutOff::default() }
    }

    fn none_in_flight(&self) -> bool {
        self.writing.iter().flatten().count() == self.again.len()
    }

    /// Begins a write.
    fn start(
        &mut self,
        piece: &Piece,
        slot: Option<usize>,
        from: Result<BufMap<'m>, MapError>,
    ) -> Next<'m, Descriptor<'m>> {
        let from = match from.and_then(|from| from.subrange(..piece.len as usize)) {
            Ok(from) => from,
            Err(error) => return self.fail(Event::Engine(io::Error::other(error))),
        };
        let tag = self.writing.iter().position(Option::is_none).unwrap_or_else(|| {
            self.writing.push(None);
            self.writing.len() - 1
        });
        let (offset, partial) = (piece.offset, Partial::default());
        self.parts.queue.begun(offset);
        self.writing[tag] = Some(Writing { offset, from, slot, partial });
        Next::Write(Write { file: self.parts.file.clone(), offset, from, tag })
    }

    /// What is to be written again. While the kernel puts writes off, nothing new is begun.
    fn rest(&mut self) -> Option<Next<'m, Descriptor<'m>>> {
        /// So soon the end of the save is noticed.
        const LOOK_UP: Duration = Duration::from_millis(50);
        loop {
            let wait = match self.again.first() {
                First::Nothing => return None,
                First::Later(wait) => wait,
                First::Due(tag) => {
                    let writing = self.writing[tag].as_ref()?;
                    let got = writing.partial.got();
                    let from = writing.from.subrange(got as usize..).ok()?;
                    let (file, offset) = (self.parts.file.clone(), writing.offset + got);
                    return Some(Next::Write(Write { file, offset, from, tag }));
                }
            };
            if !self.none_in_flight() {
                return Some(Next::Wait);
            }
            if self.parts.queue.is_ended() {
                return None;
            }
            thread::sleep(wait.min(LOOK_UP));
        }
    }

    fn abandon(&mut self) -> Next<'m, Descriptor<'m>> {
        self.filling.clear();
        for tag in self.again.abandon() {
            if let Some(writing) = self.writing[tag].take() {
                self.parts.queue.answered(writing.offset);
            }
        }
        Next::Done
    }

    fn fail(&mut self, event: Event) -> Next<'m, Descriptor<'m>> {
        self.parts.queue.end();
        self.tell(event);
        self.abandon()
    }

    fn tell(&self, event: Event) {
        // The save's own thread listens until every sender is gone.
        let _ = self.parts.events.send(event);
    }

    fn unfilled(&mut self, why: Unfilled) -> Next<'m, Descriptor<'m>> {
        self.fail(match why {
            Unfilled::Fault(Fault::Gone) => Event::Lost,
            Unfilled::Fault(Fault::Map(error)) => Event::Engine(io::Error::other(error)),
            Unfilled::Gpu(error) => Event::Gpu(error),
        })
    }
}

impl<'m> Work<'m> for Writes<'m> {
    type File = Descriptor<'m>;

    fn next(&mut self) -> Next<'m, Descriptor<'m>> {
        if self.parts.queue.is_ended() {
            return self.abandon();
        }
        if let Some(next) = self.rest() {
            return next;
        }
        while let Some(piece) = self.held.take().or_else(|| self.parts.queue.take()) {
            let copies = match &piece.from {
                Taken::Buffer(at) => {
                    let from = self.parts.buffer.subrange(*at as usize..);
                    return self.start(&piece, None, from);
                }
                Taken::Slot(copies) => copies,
            };
            let Some(slot) = self.free.pop() else {
                self.held = Some(piece);
                break;
            };
            let map = self.parts.slots[slot];
            match self.parts.filler.begin(copies, &self.parts.buffer, (slot, &map)) {
                Ok(None) => return self.start(&piece, Some(slot), Ok(map)),
                Ok(Some(ticket)) => self.filling.push_back(Filling { piece, slot, ticket }),
                Err(why) => return self.unfilled(why),
            }
        }
        match self.filling.pop_front() {
            Some(Filling { piece, slot, ticket }) => match self.parts.filler.wait(ticket) {
                Ok(()) => self.start(&piece, Some(slot), Ok(self.parts.slots[slot])),
                Err(error) => self.fail(Event::Gpu(error)),
            },
            None if self.none_in_flight() => Next::Done,
            None => Next::Wait,
        }
    }

    fn completed(&mut self, tag: usize, result: io::Result<usize>) {
        let Some(writing) = self.writing.get_mut(tag).and_then(Option::as_mut) else { return };
        let (offset, len) = (writing.offset, writing.from.len() as u64);
        match writing.partial.went(result, (offset, len), self.parts.granule) {
            Came::Rest(pause) => {
                return self.again.push(tag, pause);
            }
            Came::Whole => self.tell(Event::Written(offset..offset + len)),
            Came::Failed(failure) => {
                self.parts.queue.end();
                self.tell(Event::Failed(failure));
            }
        }
        self.parts.queue.answered(offset);
        self.free.extend(self.writing[tag].take().and_then(|writing| writing.slot));
    }
}
