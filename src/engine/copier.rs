//! A GPU's own memory, filled through slots.
//!
//! No drive can be given what lies behind a GPU's driver. Reads land in slots, pages of the system's that the GPU has
//! imported. A thread takes the fingerprints of what is in a slot, and has the GPU's transfer queue copy it to where it
//! belongs, at any alignment. Then the slot is free again. Reads and copies overlap.

use std::collections::VecDeque;
use std::sync::Arc;

use exporters::vulkan::{self, CopyRegion, Device, Ticket, Transfer, VulkanError};

use super::landing::{done, fingerprint_slot};
use super::order::Ended;
use super::shared::{Arrived, Shared, Taken};
use super::slots::{Slot, Slots, Staging};
use crate::check::Part;
use crate::plan::run::Landing;
use crate::transfer::TransferError;

/// A GPU that a loader copies by, and the slots that it has imported.
#[derive(Debug)]
pub(super) struct Gpu {
    device: Device,
    pub(super) staging: Staging,
}

impl Gpu {
    /// Makes slots that a device imports, and starts the thread that has it copy.
    ///
    /// # Errors
    /// [`TransferError::Memory`], [`TransferError::Vulkan`]; [`TransferError::Engine`] if no thread can be started.
    pub(super) fn start(shared: &Arc<Shared>, device: &Device) -> Result<Self, TransferError> {
        let len = shared.options.slot_len();
        // Half as many again as reads are in flight: they go on while the device copies.
        let count = shared.options.depth as usize * 3 / 2 + 1;
        let memory = Arc::new(device.memory_to_import(len.saturating_mul(count))?);
        let imported = Arc::new(device.import_memory(Arc::clone(&memory))?);
        let transfer = device.transfer()?;
        let slots = Slots::in_memory(memory, len, Arc::clone(&shared.wake));
        let copier = shared.start_copier("bufmap-copier", move |shared, number| {
            Copier { imported, transfer, copying: VecDeque::new() }.run(shared, number);
        })?;
        Ok(Self { device: device.clone(), staging: Staging { slots, copier } })
    }

    pub(super) fn is_of(&self, device: &Device) -> bool {
        self.device == *device
    }
}

/// A read whose bytes are in its slot, and their fingerprints.
struct Shipped {
    taken: Taken,
    slot: Slot,
    parts: Vec<Part>,
}

/// What the device has not copied yet, by one submission.
struct Copying {
    ticket: Ticket,
    shipped: Vec<Shipped>,
}

struct Copier {
    imported: Arc<vulkan::Buffer>,
    transfer: Transfer,
    copying: VecDeque<Copying>,
}

impl Copier {
    fn run(mut self, shared: &Arc<Shared>, number: usize) {
        while let Some(arrived) = shared.take_arrived(number, self.copying.is_empty()) {
            let nothing_new = arrived.is_empty();
            let mut ended = self.begin(arrived);
            ended.extend(self.reap(nothing_new));
            shared.conclude_elsewhere(ended);
        }
    }

    /// Has the device copy what has arrived. Returns what has ended by it.
    fn begin(&mut self, arrived: Vec<Arrived>) -> Vec<Ended> {
        let mut ended = Vec::new();
        let mut together: Vec<Shipped> = Vec::new();
        for Arrived { taken, slot } in arrived {
            let parts = match fingerprint_slot(&taken.payload, &taken.job, &slot.map()) {
                Ok(parts) => parts,
                Err(fault) => {
                    ended.extend(done(taken, Err(fault)));
                    continue;
                }
            };
            let shipped = Shipped { taken, slot, parts };
            if together.last().is_some_and(|last| !last.is_into_the_same(&shipped)) {
                ended.extend(self.ship(std::mem::take(&mut together)));
            }
            together.push(shipped);
        }
        ended.extend(self.ship(together));
        ended
    }

    /// Has the device copy reads into one buffer together. Returns what has ended by it.
    fn ship(&mut self, shipped: Vec<Shipped>) -> Vec<Ended> {
        let Some(first) = shipped.first() else { return Vec::new() };
        let regions: Vec<_> = shipped.iter().flat_map(Shipped::regions).collect();
        let copied = match first.buffer() {
            Ok(buffer) => self.transfer.copy(&self.imported, buffer, &regions),
            Err(error) => Err(error),
        };
        match copied {
            Ok(ticket) => {
                self.copying.push_back(Copying { ticket, shipped });
                Vec::new()
            }
            Err(error) => match <[Shipped; 1]>::try_from(shipped) {
                Ok([one]) => one.done(Err(error)).into_iter().collect(),
                // Each is told what the device says about it.
                Err(more) => more.into_iter().flat_map(|one| self.ship(vec![one])).collect(),
            },
        }
    }

    /// Answers for what the device has copied; waits for the oldest submission if `wait`.
    fn reap(&mut self, mut wait: bool) -> Vec<Ended> {
        let mut ended = Vec::new();
        while let Some(&Copying { ticket, .. }) = self.copying.front() {
            let done = match std::mem::take(&mut wait) {
                true => self.transfer.wait(ticket).map(|()| true),
                false => self.transfer.is_done(ticket),
            };
            if matches!(done, Ok(false)) {
                break;
            }
            let Some(Copying { shipped, .. }) = self.copying.pop_front() else { break };
            for one in shipped {
                let copied = if done.is_ok() { Ok(()) } else { self.transfer.wait(ticket) };
                ended.extend(one.done(copied));
            }
        }
        ended
    }
}

impl Shipped {
    fn buffer(&self) -> Result<&Arc<vulkan::Buffer>, VulkanError> {
        self.taken.payload.buffer.destination().gpu().map_err(VulkanError::Unavailable)
    }

    fn is_into_the_same(&self, other: &Self) -> bool {
        let (Ok(own), Ok(other)) = (self.buffer(), other.buffer()) else { return false };
        Arc::ptr_eq(own, other)
    }

    fn regions(&self) -> impl Iterator<Item = CopyRegion> {
        let start = self.slot.start();
        let copies = match &self.taken.job.piece.landing {
            Landing::Slot(copies) => copies.as_slice(),
            Landing::Buffer(_) => &[],
        };
        copies.iter().map(move |copy| CopyRegion {
            src_offset: start + copy.slot_offset as usize,
            dst_offset: copy.buffer_offset as usize,
            len: copy.len as usize,
        })
    }

    /// The device has copied it, or has failed to.
    fn done(self, copied: Result<(), VulkanError>) -> Option<Ended> {
        let Self { taken: Taken { order, payload, job, .. }, parts, .. } = self;
        match copied {
            Ok(()) => order.landed(&job, payload, parts),
            Err(error) => order.failed(payload, |_, _| error.into()),
        }
    }
}
