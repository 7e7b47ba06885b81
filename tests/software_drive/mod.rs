//! An NVMe drive of software, which answers as the specification says wherever its [`Manners`] do not
//! answer otherwise. It is written against the same specification as the driver, and shares no line
//! with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use exporters::vfio::Device;
use exporters::vfio::software::{self, Model, Wires};

pub const CAP: u64 = 0x00;
pub const VS: u64 = 0x08;
pub const CC: u64 = 0x14;
pub const CSTS: u64 = 0x1c;
pub const CRTO: u64 = 0x68;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;

pub const PAGE: usize = 4096;
/// CSTS: ready, failed, shutdown complete.
pub const READY: u32 = 1;
pub const FATAL: u32 = 2;
pub const SHUT_DOWN: u32 = 0b10 << 2;

/// A command as it was fetched.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    pub queue: u16,
    pub words: [u32; 16],
}

impl Command {
    pub fn id(&self) -> u16 {
        (self.words[0] >> 16) as u16
    }

    pub fn opcode(&self) -> u8 {
        self.words[0] as u8
    }

    fn long(&self, word: usize) -> u64 {
        u64::from(self.words[word]) | u64::from(self.words[word + 1]) << 32
    }
}

/// What the drive says of a command that ended. Status is type and code, without the phase.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    pub result: u32,
    pub head: u16,
    pub queue: u16,
    pub command: u16,
    pub status: u16,
}

/// Where a drive may behave otherwise than it should.
pub trait Manners: Send {
    /// Its first registers.
    fn registers(&mut self, _: &Wires) {}

    /// What CSTS becomes, which should be `status`.
    fn status(&mut self, status: u32) -> u32 {
        status
    }

    /// Each time that it works.
    fn step(&mut self, _: &Wires) {}

    /// Spoils an answer to Identify.
    fn identify(&mut self, _: &Command, _: &mut [u8; PAGE]) {}

    /// Whether the bytes of a read are moved.
    fn moves(&mut self, _: &Command) -> bool {
        true
    }

    /// What is posted in the ring of a queue when a command ends.
    fn complete(&mut self, _: &Command, completion: Completion) -> Vec<Completion> {
        vec![completion]
    }
}

/// What was seen of a drive.
#[derive(Debug, Default)]
pub struct Log {
    /// Commands that were fetched.
    pub commands: Vec<Command>,
    /// Completions of I/O queues that told of success.
    pub successes: u64,
    /// Transfers that the driver asked for and the IOMMU refused.
    pub faults: u64,
    pub resets: u64,
    /// Whether it was told to shut down.
    pub is_shut_down: bool,
    pub steps: u64,
    wires: Option<Arc<Wires>>,
}

impl Log {
    pub fn wires(&self) -> &Wires {
        self.wires.as_ref().expect("a drive that was opened")
    }
}

pub type Seen = Arc<Mutex<Log>>;

pub fn look<T>(seen: &Seen, act: impl FnOnce(&mut Log) -> T) -> T {
    act(&mut seen.lock().unwrap_or_else(PoisonError::into_inner))
}

struct Queue {
    commands: u64,
    entries: u32,
    head: u32,
    completions: u64,
    completion_entries: u32,
    tail: u32,
    phase: bool,
    vector: Option<usize>,
}

struct Drive<M> {
    manners: M,
    seen: Seen,
    stride: u64,
    is_enabled: bool,
    status: u32,
    queues: BTreeMap<u16, Queue>,
    /// Completion queues that have no commands yet: address, entries, vector.
    rings: BTreeMap<u16, (u64, u32, Option<usize>)>,
}

/// MQES 2047, CQR, TO 15, the NVM command set, MPSMAX 4.
pub const CAPABILITIES: u64 = 0x7ff | 1 << 16 | 0xf << 24 | 1 << 37 | 4 << 52;

/// How many blocks of 512 bytes a namespace has, unless the manners say otherwise.
pub const BLOCKS: u64 = 1 << 20;

/// Opens a drive whose registers are in a BAR of `bar_len` bytes.
pub fn drive(bar_len: u64, manners: impl Manners + 'static) -> (Device, Seen) {
    let seen = Seen::default();
    let drive = Drive {
        manners,
        seen: Arc::clone(&seen),
        stride: 4,
        is_enabled: false,
        status: 0,
        queues: BTreeMap::new(),
        rings: BTreeMap::new(),
    };
    let device = software::device("0000:00:00.0", bar_len, 8, Box::new(drive));
    (device.expect("a device of software"), seen)
}

/// The byte of a namespace at `offset`.
pub fn byte_at(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl<M: Manners> Model for Drive<M> {
    fn step(&mut self, wires: &Arc<Wires>) {
        self.manners.step(wires);
        self.follow_configuration(wires);
        if self.is_enabled {
            let numbers: Vec<_> = self.queues.keys().copied().collect();
            for number in numbers {
                self.work(number, wires);
            }
        }
        look(&self.seen, |seen| seen.steps += 1);
    }

    fn reset(&mut self, wires: &Arc<Wires>) {
        (self.is_enabled, self.status) = (false, 0);
        self.queues.clear();
        self.rings.clear();
        for at in (0..0x1000).step_by(4) {
            wires.set_register(at, 0);
        }
        wires.set_register(CAP, CAPABILITIES as u32);
        wires.set_register(CAP + 4, (CAPABILITIES >> 32) as u32);
        wires.set_register(VS, 0x0002_0000);
        self.manners.registers(wires);
        self.stride = 4 << (wires.register(CAP + 4) & 0xf);
        look(&self.seen, |seen| {
            seen.resets += 1;
            seen.wires.get_or_insert_with(|| Arc::clone(wires));
        });
    }
}

impl<M: Manners> Drive<M> {
    fn follow_configuration(&mut self, wires: &Wires) {
        let configuration = wires.register(CC);
        let is_enabled = configuration & 1 != 0;
        let before = self.status;
        if is_enabled && !self.is_enabled {
            let long = |at| u64::from(wires.register(at)) | u64::from(wires.register(at + 4)) << 32;
            let sizes = wires.register(AQA);
            let ring = (long(ACQ), (sizes >> 16 & 0xfff) + 1, None);
            self.queues.insert(0, Queue::new(long(ASQ), (sizes & 0xfff) + 1, ring));
            self.status = READY;
        } else if !is_enabled && self.is_enabled {
            self.queues.clear();
            self.rings.clear();
            self.status = 0;
        }
        self.is_enabled = is_enabled;
        if configuration >> 14 & 0b11 != 0 {
            self.status |= SHUT_DOWN;
            look(&self.seen, |seen| seen.is_shut_down = true);
        }
        if self.status != before || wires.register(CSTS) != self.status {
            let shown = self.manners.status(self.status);
            wires.set_register(CSTS, shown);
        }
    }

    fn work(&mut self, number: u16, wires: &Wires) {
        loop {
            let Some(queue) = self.queues.get_mut(&number) else { return };
            let doorbell = DOORBELLS + 2 * u64::from(number) * self.stride;
            if wires.register(doorbell) % queue.entries == queue.head {
                return;
            }
            let mut bytes = [0; 64];
            let fetched = wires.dma_read(queue.commands + u64::from(queue.head) * 64, &mut bytes);
            queue.head = (queue.head + 1) % queue.entries;
            let word =
                |i: usize| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four"));
            let command = Command { queue: number, words: std::array::from_fn(word) };
            look(&self.seen, |seen| match fetched {
                Ok(()) => seen.commands.push(command),
                Err(_) => seen.faults += 1,
            });
            if fetched.is_ok() {
                self.execute(&command, wires);
            }
        }
    }

    fn execute(&mut self, command: &Command, wires: &Wires) {
        let (status, result) = match (command.queue, command.opcode()) {
            (0, 0x06) => (self.answer(command, wires), 0),
            (0, 0x09) => (0, command.words[11]),
            (0, 0x05) => {
                let vector =
                    (command.words[11] & 2 != 0).then_some(command.words[11] as usize >> 16);
                let entries = (command.words[10] >> 16) + 1;
                self.rings.insert(command.words[10] as u16, (command.long(6), entries, vector));
                (0, 0)
            }
            (0, 0x01) => match self.rings.get(&((command.words[11] >> 16) as u16)) {
                Some(&ring) => {
                    let entries = (command.words[10] >> 16) + 1;
                    let queue = Queue::new(command.long(6), entries, ring);
                    self.queues.insert(command.words[10] as u16, queue);
                    (0, 0)
                }
                None => (0x100, 0),
            },
            (0, 0x00) => (self.queues.remove(&(command.words[10] as u16)).map_or(0x101, |_| 0), 0),
            (0, 0x04) => (self.rings.remove(&(command.words[10] as u16)).map_or(0x101, |_| 0), 0),
            // An abort comes too late: commands end when they are fetched.
            (0, 0x08) => (0, 1),
            (1.., 0x02) => (self.read(command, wires), 0),
            _ => (0x01, 0),
        };
        let Some(queue) = self.queues.get(&command.queue) else { return };
        let completion = Completion {
            result,
            head: queue.head as u16,
            queue: command.queue,
            command: command.id(),
            status,
        };
        for completion in self.manners.complete(command, completion) {
            self.post(command.queue, completion, wires);
        }
    }

    fn answer(&mut self, command: &Command, wires: &Wires) -> u16 {
        let mut page = [0; PAGE];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        match command.words[10] {
            0 => {
                put(0, &BLOCKS.to_le_bytes());
                put(130, &[9]);
            }
            1 => {
                put(4, b"software            ");
                put(77, &[5]);
                put(512, &[0x66, 0x44]);
                put(516, &4u32.to_le_bytes());
            }
            2 if command.words[1] == 0 => put(0, &[1]),
            2 => {}
            _ => return 0x02,
        }
        self.manners.identify(command, &mut page);
        self.write(command.long(6), &page, wires)
    }

    /// Moves the bytes of a read to where its PRPs say.
    fn read(&mut self, command: &Command, wires: &Wires) -> u16 {
        if command.words[0] >> 14 & 0b11 != 0 {
            return 0x11;
        }
        if !self.manners.moves(command) {
            return 0;
        }
        let start = command.long(10) * 512;
        let len = (u64::from(command.words[12] & 0xffff) + 1) * 512;
        let Some(pages) = self.pages(command, len, wires) else {
            look(&self.seen, |seen| seen.faults += 1);
            return 0x04;
        };
        let mut at = start;
        for (addr, len) in pages {
            let bytes: Vec<u8> = (at..at + len).map(byte_at).collect();
            at += len;
            let status = self.write(addr, &bytes, wires);
            if status != 0 {
                return status;
            }
        }
        0
    }

    /// The pages that a command's PRPs name, and how much of each.
    fn pages(&self, command: &Command, len: u64, wires: &Wires) -> Option<Vec<(u64, u64)>> {
        let page = PAGE as u64;
        let first = command.long(6);
        let mut pages = vec![(first, len.min(page - first % page))];
        let mut left = len - pages[0].1;
        let mut at = command.long(8);
        if left > 0 && left <= page {
            pages.push((at, left));
            return Some(pages);
        }
        while left > 0 {
            let mut entry = [0; 8];
            wires.dma_read(at, &mut entry).ok()?;
            let entry = u64::from_le_bytes(entry);
            if (at + 8).is_multiple_of(page) && left > page {
                at = entry;
                continue;
            }
            let here = left.min(page);
            pages.push((entry, here));
            (left, at) = (left - here, at + 8);
        }
        Some(pages)
    }

    fn write(&self, addr: u64, bytes: &[u8], wires: &Wires) -> u16 {
        match wires.dma_write(addr, bytes) {
            Ok(()) => 0,
            Err(_) => {
                look(&self.seen, |seen| seen.faults += 1);
                0x04
            }
        }
    }

    fn post(&mut self, number: u16, completion: Completion, wires: &Wires) {
        let Some(queue) = self.queues.get_mut(&number) else { return };
        let Completion { result, head, queue: from, command, status } = completion;
        let mut entry = [0; 16];
        entry[..4].copy_from_slice(&result.to_le_bytes());
        entry[8..10].copy_from_slice(&head.to_le_bytes());
        entry[10..12].copy_from_slice(&from.to_le_bytes());
        entry[12..14].copy_from_slice(&command.to_le_bytes());
        entry[14..].copy_from_slice(&(status << 1 | u16::from(queue.phase)).to_le_bytes());
        let posted = wires.dma_write(queue.completions + u64::from(queue.tail) * 16, &entry);
        queue.tail = (queue.tail + 1) % queue.completion_entries;
        queue.phase ^= queue.tail == 0;
        if let Some(vector) = queue.vector {
            wires.interrupt(vector);
        }
        look(&self.seen, |seen| match posted {
            Ok(()) => seen.successes += u64::from(number > 0 && status & 0x7ff == 0),
            Err(_) => seen.faults += 1,
        });
    }
}

impl Queue {
    fn new(commands: u64, entries: u32, ring: (u64, u32, Option<usize>)) -> Self {
        let (completions, completion_entries, vector) = ring;
        let (head, tail, phase) = (0, 0, true);
        Self { commands, entries, head, completions, completion_entries, tail, phase, vector }
    }
}
