//! The rings of a queue pair: where the next command goes and where the next completion is expected.
//!
//! NVM Express Base Specification 2.0c, sections 3.3.1 (queues) and 3.3.3.2 (the phase). A submission
//! ring is full at one entry less than it has. It is never overrun here, and neither is the ring of
//! completions, because no more commands are in flight than fit: the caller's slots see to that. What
//! the controller reports of its own progress is thus not needed.
//!
//! The controller inverts the phase bit each time it passes the end of the ring, so that an entry is
//! new if and only if its phase is the one that is expected.

use iomap::{BufMap, MapError};

use super::barrier;
use super::command;
use super::completion::Entry;

/// The ring of commands, in memory given to each call.
#[derive(Debug)]
pub(super) struct Submissions {
    entries: u32,
    /// Where the next command goes.
    tail: u32,
}

impl Submissions {
    pub const fn new(entries: u32) -> Self {
        Self { entries, tail: 0 }
    }

    /// The tail, which the doorbell tells the controller.
    pub const fn tail(&self) -> u32 {
        self.tail
    }

    /// Puts a command in the next place.
    #[inline]
    pub fn push(&mut self, ring: &BufMap<'_>, entry: &command::Entry) -> Result<(), MapError> {
        let at = self.tail as usize * command::ENTRY_LEN;
        ring.copy_from_slice(at, bytemuck::bytes_of(entry))?;
        self.tail = next(self.tail, self.entries);
        Ok(())
    }
}

/// The ring of completions, in memory given to each call, which is zero at first.
#[derive(Debug)]
pub(super) struct Completions {
    entries: u32,
    /// Where the next completion is expected, and with which phase.
    head: u32,
    phase: bool,
}

impl Completions {
    pub const fn new(entries: u32) -> Self {
        Self { entries, head: 0, phase: true }
    }

    /// The head, which the doorbell tells the controller.
    pub const fn head(&self) -> u32 {
        self.head
    }

    /// Takes the next completion if it is there.
    #[inline]
    pub fn pop(&mut self, ring: &BufMap<'_>) -> Result<Option<Entry>, MapError> {
        let at = self.head as usize * Entry::LEN;
        if Entry::phase(ring.read(at + Entry::PHASE_AT)?) != self.phase {
            return Ok(None);
        }
        barrier::after_loads();
        let entry = ring.read::<Entry>(at)?;
        self.head = next(self.head, self.entries);
        self.phase ^= self.head == 0;
        Ok(Some(entry))
    }
}

const fn next(at: u32, entries: u32) -> u32 {
    if at + 1 == entries { 0 } else { at + 1 }
}

/// Commands in flight, by the identifier that each was given.
///
/// An identifier is a place, and in the bits above it how often the place was used, as in the kernel's
/// driver: a completion that comes twice is not taken for that of the next command in its place.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    /// Places.
    free: Vec<u16>,
    /// The bits of an identifier that are a place.
    mask: u16,
}

#[derive(Debug)]
struct Slot<T> {
    /// The identifier of the command that is here, or of the next one.
    command: u16,
    what: Option<T>,
}

impl<T> Slots<T> {
    /// Room for `count` commands, 65,535 at most: the last identifier means none (section 4.1), and so
    /// all bits of a place are never set.
    pub fn new(count: u32) -> Self {
        let count = count.min(u16::MAX.into()) as u16;
        Self {
            slots: (0..count).map(|command| Slot { command, what: None }).collect(),
            free: (0..count).rev().collect(),
            mask: u16::MAX.checked_shr(count.leading_zeros()).unwrap_or(0),
        }
    }

    /// The place of a command, less than their count.
    #[inline]
    pub const fn place(&self, command: u16) -> usize {
        (command & self.mask) as usize
    }

    /// How many commands are in flight.
    pub fn taken(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// The identifier that the next command will get.
    pub fn next(&self) -> Option<u16> {
        let place = self.free.last()?;
        self.slots.get(usize::from(*place)).map(|slot| slot.command)
    }

    /// Keeps `what` under the identifier that [`next`](Self::next) tells. It must not be full.
    pub fn insert(&mut self, what: T) -> Option<u16> {
        let slot = self.slots.get_mut(usize::from(self.free.pop()?))?;
        slot.what = Some(what);
        Some(slot.command)
    }

    /// What was kept under an identifier, which is free from then on.
    pub fn remove(&mut self, command: u16) -> Option<T> {
        let slot = self.slots.get_mut(usize::from(command & self.mask))?;
        if slot.command != command {
            return None;
        }
        let what = slot.what.take()?;
        slot.command = command.wrapping_add(self.mask.wrapping_add(1));
        self.free.push(command & self.mask);
        Some(what)
    }

    /// Those in flight.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u16, &mut T)> {
        self.slots.iter_mut().filter_map(|slot| Some((slot.command, slot.what.as_mut()?)))
    }

    /// What was kept of all in flight, whose identifiers are free from then on.
    pub fn take_all(&mut self) -> Vec<(u16, T)> {
        let taken: Vec<_> = self.iter_mut().map(|(command, _)| command).collect();
        taken.into_iter().filter_map(|command| Some((command, self.remove(command)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::{DataPointer, Operation, encode};
    use super::super::completion::Status;
    use super::*;
    use iomap::{Memory, PageSize};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A controller's side of the rings: it fetches commands up to the tail that it was told, and
    /// completes them in any order, as long as the head that it was told leaves room.
    struct Controller {
        entries: u32,
        fetched: u32,
        posted: u32,
        phase: bool,
        pending: Vec<u16>,
    }

    impl Controller {
        fn fetch(&mut self, ring: &BufMap<'_>, tail: u32) {
            while self.fetched != tail {
                let word: u32 = ring.read(self.fetched as usize * 64).expect("in the ring");
                self.pending.push((u32::from_le(word) >> 16) as u16);
                self.fetched = (self.fetched + 1) % self.entries;
            }
        }

        fn complete(&mut self, ring: &BufMap<'_>, head: u32, which: usize) {
            let room = (head + self.entries - self.posted - 1) % self.entries;
            if self.pending.is_empty() || room == 0 {
                return;
            }
            let command = self.pending.swap_remove(which % self.pending.len());
            let status = Status::new(0, command as u8);
            let entry = Entry::written(command, self.fetched as u16, self.phase, status, 7);
            ring.write(self.posted as usize * 16, entry).expect("in the ring");
            self.posted = (self.posted + 1) % self.entries;
            self.phase ^= self.posted == 0;
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Submit,
        Announce,
        Complete(usize),
        Take,
        Acknowledge,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Submit),
            1 => Just(Step::Announce),
            2 => any::<usize>().prop_map(Step::Complete),
            3 => Just(Step::Take),
            1 => Just(Step::Acknowledge),
        ];
        proptest::collection::vec(step, 0..600)
    }

    proptest! {
        #[test]
        fn every_command_completes_once_and_none_is_made_up(
            entries in 2u32..20, steps in steps()
        ) {
            let memory = Memory::anonymous(8192, PageSize::Base).expect("memory");
            let (commands, answers) = memory.map().split_at(4096).expect("in it");
            let mut controller = Controller {
                entries, fetched: 0, posted: 0, phase: true, pending: Vec::new(),
            };
            let mut submissions = Submissions::new(entries);
            let mut completions = Completions::new(entries);
            let mut slots = Slots::new(entries - 1);
            let (mut submitted, mut finished) = (0u32, BTreeSet::new());
            let (mut announced, mut acknowledged) = (0, 0);
            let read = Operation::Read { namespace: 1, lba: 0, blocks: 1 };
            for step in steps {
                match step {
                    Step::Submit => if let Some(command) = slots.next() {
                        let entry = encode(read, command, DataPointer::None);
                        submissions.push(&commands, &entry).expect("in the ring");
                        prop_assert_eq!(slots.insert(submitted), Some(command));
                        submitted += 1;
                    } else {
                        prop_assert_eq!(slots.taken() as u32, entries - 1);
                    },
                    Step::Announce => announced = submissions.tail(),
                    Step::Complete(which) => {
                        controller.fetch(&commands, announced);
                        controller.complete(&answers, acknowledged, which);
                    }
                    Step::Take => if let Some(entry) = completions.pop(&answers).expect("in it") {
                        let number = slots.remove(entry.command());
                        prop_assert_eq!(entry.status(), Status::new(0, entry.command() as u8));
                        prop_assert!(finished.insert(number.expect("it was in flight")));
                    },
                    Step::Acknowledge => acknowledged = completions.head(),
                }
                prop_assert_eq!(slots.taken(), submitted as usize - finished.len());
                prop_assert_eq!(slots.iter_mut().count(), slots.taken());
            }
            // And what is left completes too.
            let mut rounds = 0;
            while slots.taken() > 0 {
                controller.fetch(&commands, submissions.tail());
                controller.complete(&answers, completions.head(), 0);
                while let Some(entry) = completions.pop(&answers).expect("in it") {
                    let number = slots.remove(entry.command()).expect("it was in flight");
                    prop_assert!(finished.insert(number));
                }
                rounds += 1;
                prop_assert!(rounds <= 2 * entries);
            }
            prop_assert_eq!(finished.len() as u32, submitted);
        }
    }

    #[test]
    fn an_identifier_that_is_not_in_flight_is_nobodys() {
        let mut slots = Slots::new(2);
        assert_eq!(slots.remove(0), None);
        assert_eq!(slots.insert('a'), Some(0));
        assert_eq!((slots.remove(1), slots.remove(2), slots.remove(u16::MAX)), (None, None, None));
        assert_eq!((slots.insert('b'), slots.insert('c')), (Some(1), None));
        assert!(slots.is_full());
        assert_eq!((slots.remove(0), slots.remove(0)), (Some('a'), None));
        assert_eq!((slots.take_all(), slots.taken()), (vec![(1, 'b')], 0));
        assert_eq!(Slots::<()>::new(1 << 16).free.len(), 65535);
    }

    #[test]
    fn a_place_has_another_identifier_each_time() {
        for (count, times) in
            [(1u32, 1 << 15), (3, 1 << 14), (4, 1 << 13), (255, 256), (256, 128), (65535, 1)]
        {
            let mut slots = Slots::new(count);
            let mut seen = BTreeSet::new();
            for _ in 0..times {
                let command = slots.next().expect("room");
                assert_eq!((slots.insert(()), slots.place(command)), (Some(command), 0));
                assert!(command != u16::MAX && seen.insert(command), "{command} of {count}");
                assert_eq!((slots.remove(command), slots.remove(command)), (Some(()), None));
            }
            assert_eq!(slots.next(), Some(0), "{count}");
        }
    }
}
