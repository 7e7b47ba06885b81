//! The whole driver under a drive of software whose registers, answers and completions are the
//! fuzzer's: it is opened, asked what it is, read from, and closed.
//!
//! Whatever the drive does, nothing panics, every wait ends, no read is a success that the drive did not
//! announce, the driver has described no memory but what it mapped, what is beside the target stays as
//! it was, and in the end nothing is mapped and the drive is off the bus.
#![no_main]

#[path = "../../tests/software_drive/mod.rs"]
mod software_drive;

use std::sync::Arc;
use std::time::Duration;

use bufmap::storage::nvme::{
    Controller, ControllerOptions, Lists, NvmeError, QueueOptions, Target, Wake,
};
use exporters::Intent;
use exporters::vfio::software::Wires;
use iomap::{Memory, PageSize};
use libfuzzer_sys::fuzz_target;
use software_drive::*;

/// What every wait is given.
const SHORT: Duration = Duration::from_millis(2);

/// Commands of a run: a thousand namespaces, and a few.
const COMMANDS: usize = 1500;

const READS: u64 = 12;

/// What is around the target in its mapping, and what it holds.
const AROUND: usize = PAGE;
const UNTOUCHED: u8 = 0xa5;

struct Whims {
    bytes: Vec<u8>,
    at: usize,
}

impl Whims {
    /// The next byte; zeros, which are good manners, when there are no more.
    fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }
}

/// Fields of answers that a driver looks at: MDTS, CNTRLTYPE, ACL, entry sizes, NN, SGLS, RTD3E, MAXCMD; of a
/// namespace its size, formats, metadata; of a list its first numbers.
const FIELDS: [u16; 16] = [77, 111, 258, 512, 513, 516, 519, 536, 88, 514, 0, 4, 25, 26, 128, 130];

impl Manners for Whims {
    fn registers(&mut self, wires: &Wires) {
        for at in [CAP, CAP + 4, VS, CRTO, CSTS] {
            if self.byte() & 1 != 0 {
                let value = self.word();
                wires.set_register(at, value);
            }
        }
    }

    fn status(&mut self, status: u32) -> u32 {
        match self.byte() {
            0..0xe0 => status,
            0xe0..0xf0 => status ^ READY,
            _ => self.word(),
        }
    }

    fn step(&mut self, wires: &Wires) {
        if self.bytes.get(self.at).is_some_and(|&next| next >= 0xfc) {
            let status = match self.byte() {
                0xfc => FATAL | READY,
                0xfd => 0,
                0xfe => u32::MAX,
                _ => self.word(),
            };
            wires.set_register(CSTS, status);
        }
    }

    fn identify(&mut self, _: &Command, page: &mut [u8; PAGE]) {
        for _ in 0..self.byte() % 9 {
            let at = match self.byte() {
                field @ 0..0xc0 => FIELDS[usize::from(field) % FIELDS.len()].into(),
                high => usize::from(high) << 8 & 0xf00 | usize::from(self.byte()),
            };
            page[at] = self.byte();
        }
    }

    fn moves(&mut self, _: &Command) -> bool {
        self.byte() & 1 == 0
    }

    fn complete(&mut self, _: &Command, completion: Completion) -> Vec<Completion> {
        match self.byte() % 8 {
            0..4 => vec![completion],
            4 => Vec::new(),
            5 => vec![completion; 1 + usize::from(self.byte() % 64)],
            6 => {
                let command = completion.command ^ u16::from(self.byte());
                let queue = completion.queue ^ u16::from(self.byte() & 3);
                vec![Completion { command, queue, head: self.byte().into(), ..completion }]
            }
            _ => {
                let status = u16::from(self.byte()) << 8 | u16::from(self.byte());
                vec![Completion { status: status & 0x7fff, result: self.word(), ..completion }]
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&[how, entries, offset], rest)) = input.split_first_chunk() else { return };
    let whims = Whims { bytes: rest.to_vec(), at: 0 };
    let (device, seen) = drive(0x4000, whims);
    let options = ControllerOptions { patience: SHORT, limit: SHORT, ..Default::default() };
    if let Ok(controller) = Controller::open_with(device, options) {
        let queue = QueueOptions {
            entries: entries.into(),
            wake: if how & 1 == 0 { Wake::Polled } else { Wake::Interrupt },
            lists: [Lists::Fitting, Lists::Prp, Lists::Sgl][usize::from(how >> 1) % 3],
            limit: SHORT,
            ..QueueOptions::default()
        };
        let succeeded = use_it(&controller, queue, offset.into()).unwrap_or_else(|error| {
            assert!(error.to_string().starts_with("0000:00:00.0"), "{error}");
            0
        });
        let announced = look(&seen, |seen| seen.successes);
        assert!(succeeded <= announced, "{succeeded} reads, of {announced} announced");
    }
    look(&seen, |seen| {
        assert_eq!((seen.wires().is_bus_master(), seen.wires().mapped()), (false, 0));
        assert_eq!(seen.faults, 0);
        assert!(seen.commands.len() <= COMMANDS, "{} commands", seen.commands.len());
    });
});

/// Reads of all namespaces, and returns how many reads succeeded.
fn use_it(
    controller: &Arc<Controller>,
    options: QueueOptions,
    offset: u64,
) -> Result<u64, NvmeError> {
    let mut succeeded = 0;
    for namespace in controller.namespaces()?.iter().take(3) {
        let mut queue = controller.queue(options)?;
        let len = 64 << 10;
        let memory = Memory::anonymous(len + 2 * AROUND, PageSize::Base)?;
        memory.map().fill(UNTOUCHED).expect("writable");
        let mapping = Arc::new(controller.device().container().map_dma(memory, Intent::Write)?);
        let mut target = Target::default();
        let part = AROUND as u64..(AROUND + len) as u64;
        target.push(&mapping, part).expect("inside");
        let target = Arc::new(target);
        let mut put_in = 0;
        for id in 0..READS {
            let len = (512 << (id % 8)).min(len as u64);
            let put = queue.read(id, namespace, 512 * (id * offset), &target, 0..len);
            put_in += u64::from(put.is_ok());
            if id % 4 == 3
                && let Some(finished) = queue.wait()
            {
                put_in -= 1;
                succeeded += u64::from(finished.result.is_ok());
            }
        }
        while let Some(finished) = queue.wait() {
            put_in -= 1;
            succeeded += u64::from(finished.result.is_ok());
        }
        assert_eq!(put_in, 0, "each read comes out once");
        drop(queue);
        for at in (0..AROUND).chain(AROUND + len..len + 2 * AROUND) {
            assert_eq!(mapping.map().read(at), Ok(UNTOUCHED), "{at:#x}");
        }
    }
    Ok(succeeded)
}
