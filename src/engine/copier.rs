//! A device's own memory, filled through slots.
//!
//! No drive can be given what lies behind a GPU's driver. Reads land in slots of one of its queues. A thread takes the
//! fingerprints of what is in a slot, and has the queue copy it to where it belongs. Then the slot is free again. Reads
//! and copies overlap. When nothing of a request is left to be done, the queue ends the copies into its target, and the
//! request is answered.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use exporters::SyncFile;
use exporters::upload::{
    CopyRegion, Filled, Ticket, UploadDevice, UploadError, UploadQueue, UploadTarget,
};

use super::landing::{done, fingerprint_slot};
use super::order::{Ended, Payload};
use super::shared::{Arrived, Shared, Taken};
use super::slots::{Slot, Slots, Staging};
use crate::check::Part;
use crate::plan::run::Landing;
use crate::transfer::{TransferError, Valid};

/// A device that a loader copies by, and the slots of its queue.
#[derive(Debug)]
pub(super) struct Gpu {
    device: Box<dyn UploadDevice>,
    pub(super) staging: Arc<Staging>,
}

impl Gpu {
    /// Opens a queue of a device, and starts the thread that has it copy.
    ///
    /// # Errors
    /// [`TransferError::Upload`]; [`TransferError::Engine`] if no thread can be started.
    pub(super) fn start(
        shared: &Arc<Shared>,
        device: Box<dyn UploadDevice>,
    ) -> Result<Self, TransferError> {
        // Half as many again as reads are in flight: they go on while the device copies.
        let count = shared.options.depth as usize * 3 / 2 + 1;
        let mut queue = device.open(count, shared.options.slot_len()).map_err(Arc::new)?;
        let first = queue.wait_for_slot().map_err(Arc::new)?;
        let no_pages = first.pages().err().map(|why| why.to_string());
        let no_dma = queue.copies_by_device().err().map(|why| why.to_string());
        let step_downs = queue.step_downs();
        let has_fences = queue.sync_file().is_ok();
        let slots = Slots::new(Arc::clone(&shared.wake));
        slots.add(first);
        let own = Arc::clone(&slots);
        let copier = shared.start_copier("bufmap-copier", move |shared, number| {
            let under_way = VecDeque::new();
            Copier { queue, has_fences, slots: own, under_way }.run(shared, number);
        })?;
        let staging = Arc::new(Staging { slots, copier, no_pages, no_dma, step_downs });
        Ok(Self { device, staging })
    }

    pub(super) fn owns(&self, target: &dyn UploadTarget) -> bool {
        self.device.owns(target)
    }
}

/// What is filled by a queue, of a request that is.
fn target_of(payload: &Payload) -> Result<&dyn UploadTarget, UploadError> {
    let absent = |why| UploadError::new(&payload.buffer.destination().holder(), why);
    payload.buffer.destination().upload().map_err(absent)
}

/// A read whose bytes the device copies, and their fingerprints.
struct Shipped {
    taken: Taken,
    parts: Vec<Part>,
}

/// What the device has not done yet, by one submission.
struct UnderWay {
    ticket: Ticket,
    what: What,
}

enum What {
    /// Copies.
    Copies(Vec<Shipped>),
    /// The end of the copies of a request.
    End(Ended),
}

struct Copier {
    queue: Box<dyn UploadQueue>,
    /// Whether its device has sync files.
    has_fences: bool,
    slots: Arc<Slots>,
    under_way: VecDeque<UnderWay>,
}

impl Copier {
    fn run(mut self, shared: &Arc<Shared>, number: usize) {
        self.free_slots();
        while let Some(arrived) = shared.take_arrived(number, self.under_way.is_empty()) {
            let nothing_new = arrived.is_empty();
            let ended = self.begin(arrived);
            let mut answered = self.give_back(ended);
            answered.extend(self.reap(nothing_new));
            shared.answer_copied(answered);
            self.free_slots();
        }
    }

    /// Gives the slots that nothing is copied from any more to those who read.
    fn free_slots(&mut self) {
        loop {
            match self.queue.slot() {
                Ok(Some(slot)) => self.slots.add(slot),
                Ok(None) => return,
                Err(error) => return self.slots.lose(error.to_string()),
            }
        }
    }

    /// Has the device copy what has arrived. Returns what has ended.
    fn begin(&mut self, arrived: Vec<Arrived>) -> Vec<Ended> {
        let mut ended = Vec::new();
        let mut together: Vec<(Shipped, Arc<Slot>)> = Vec::new();
        for arrived in arrived {
            let (taken, slot) = match arrived {
                Arrived::Read(taken, slot) => (taken, slot),
                Arrived::Ended(order) => {
                    ended.push(order);
                    continue;
                }
            };
            let parts = match fingerprint_slot(&taken.payload, &taken.job, &slot.map()) {
                Ok(parts) => parts,
                Err(fault) => {
                    ended.extend(done(taken, Err(fault)));
                    continue;
                }
            };
            let buffer = &taken.payload.buffer;
            if together.last().is_some_and(|(last, _)| !last.taken.payload.buffer.is(buffer)) {
                ended.extend(self.ship(std::mem::take(&mut together)));
            }
            together.push((Shipped { taken, parts }, slot));
        }
        ended.extend(self.ship(together));
        ended
    }

    /// Has the device copy reads into one buffer together. Returns what has ended by it.
    fn ship(&mut self, together: Vec<(Shipped, Arc<Slot>)>) -> Vec<Ended> {
        let (mut shipped, mut filled, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for (one, slot) in together {
            match slot.hand_in() {
                Some(slot) => {
                    filled.push(Filled { slot, regions: one.regions().collect() });
                    shipped.push(one);
                }
                None => ended.extend(one.failed(still_read_into)),
            }
        }
        let Some(first) = shipped.first() else { return ended };
        let payload = &first.taken.payload;
        let copied = target_of(payload).and_then(|target| self.queue.copy_together(filled, target));
        match copied {
            Ok(ticket) => {
                let is_fenced = |one: &Shipped| self.has_fences && one.taken.payload.fenced;
                let (fenced, waiting): (Vec<_>, _) = shipped.into_iter().partition(is_fenced);
                // Also where nobody waits for the answer, the slots are wanted.
                self.under_way.push_back(UnderWay { ticket, what: What::Copies(waiting) });
                ended.extend(fenced.into_iter().filter_map(Shipped::landed));
            }
            Err(error) => ended.extend(all_failed(shipped, error)),
        }
        ended
    }

    /// Answers for what the device has done; waits for the oldest submission if `wait`. Returns what is to be answered.
    fn reap(&mut self, mut wait: bool) -> Vec<Ended> {
        let mut answered = Vec::new();
        while let Some(&UnderWay { ticket, .. }) = self.under_way.front() {
            let done = match std::mem::take(&mut wait) {
                true => self.queue.wait(ticket).map(|()| true),
                false => self.queue.is_done(ticket),
            };
            if matches!(done, Ok(false)) {
                break;
            }
            let Some(UnderWay { what, .. }) = self.under_way.pop_front() else { break };
            match (what, done) {
                (What::Copies(shipped), done) => {
                    let ended = match done {
                        Ok(_) => shipped.into_iter().filter_map(Shipped::landed).collect(),
                        Err(error) => all_failed(shipped, error).collect(),
                    };
                    answered.extend(self.give_back(ended));
                }
                (What::End(ended), Ok(_)) => answered.push(ended),
                (What::End(ended), Err(error)) => answered.push(ended.failed(error)),
            }
        }
        answered
    }

    /// Ends the copies into what is handed over by its user, or has them fenced. Returns what can be answered at once.
    fn give_back(&mut self, ended: Vec<Ended>) -> Vec<Ended> {
        ended.into_iter().filter_map(|ended| self.end(ended)).collect()
    }

    fn end(&mut self, ended: Ended) -> Option<Ended> {
        let payload = ended.payload();
        let is_fenced = payload.as_ref().is_some_and(|payload| self.has_fences && payload.fenced);
        let target = payload.as_deref().and_then(|payload| target_of(payload).ok());
        let Some(target) = target.filter(|target| is_fenced || target.has_end()) else {
            return Some(ended);
        };
        let ticket = match self.queue.finish(target) {
            Ok(ticket) => ticket,
            Err(error) => {
                self.wait_for_copies(is_fenced);
                return Some(ended.failed(error));
            }
        };
        // What was ended early has no outcome that a fence could come with, and copies that nobody has waited for.
        if is_fenced
            && !ended.is_early()
            && let Ok(fence) = self.queue.sync_file()
            && let Ok(fence) = fence.map(SyncFile::new).transpose()
        {
            return Some(ended.after(fence));
        }
        self.under_way.push_back(UnderWay { ticket, what: What::End(ended) });
        None
    }

    /// Of a request that was to be fenced nobody has waited for the copies, and the error comes without a fence.
    fn wait_for_copies(&mut self, is_fenced: bool) {
        if let Some(last) = self.under_way.back().filter(|_| is_fenced) {
            // Of a device that is lost nothing is under way.
            let _ = self.queue.wait(last.ticket);
        }
    }
}

fn all_failed(shipped: Vec<Shipped>, error: UploadError) -> impl Iterator<Item = Ended> {
    let error = Arc::new(error);
    shipped.into_iter().filter_map(move |one| one.failed(|_| Arc::clone(&error).into()))
}

/// The ring gives a slot back before it hands the read back, so that nobody has it here.
fn still_read_into(valid: Valid) -> TransferError {
    let source = io::Error::other("it is still read into");
    TransferError::Engine { step: "a slot", source, valid }
}

impl Shipped {
    fn regions(&self) -> impl Iterator<Item = CopyRegion> {
        let copies = match &self.taken.job.piece.landing {
            Landing::Slot(copies) => copies.as_slice(),
            Landing::Buffer(_) => &[],
        };
        copies.iter().map(|copy| CopyRegion {
            src_offset: copy.slot_offset as usize,
            dst_offset: copy.buffer_offset as usize,
            len: copy.len as usize,
        })
    }

    /// The device has copied it.
    fn landed(self) -> Option<Ended> {
        let Self { taken: Taken { order, payload, job, .. }, parts } = self;
        order.landed(&job, payload, parts)
    }

    /// It has not.
    fn failed(self, error: impl FnOnce(Valid) -> TransferError) -> Option<Ended> {
        let Taken { order, payload, .. } = self.taken;
        order.failed(payload, |_, valid| error(valid))
    }
}
