//! Drives that answer nonsense, nothing, or too late, under the whole driver: each is refused or ended with
//! an error, in time, and left where it moves nothing any more.

mod software_drive;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bufmap::load::Load;
use bufmap::storage::nvme::{
    Controller, ControllerOptions, DriveFile, Extent, NvmeError, Queue, QueueOptions, Target, Wake,
};
use bufmap::transfer::{Around, Options, Request, TransferError};
use exporters::Intent;
use exporters::vfio::DmaMapping;
use exporters::vfio::software::Wires;
use iomap::{Memory, PageSize};
use software_drive::*;

/// What the driver waits in these tests, but for what a test names.
const SHORT: Duration = Duration::from_millis(100);

/// Ends of waits are seen this late at most on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

/// Good manners.
struct Good;

impl Manners for Good {}

fn is_read(command: &Command) -> bool {
    command.queue != 0 && command.opcode() == 2
}

/// The CNS of an Identify.
fn identifies(command: &Command) -> Option<u32> {
    (command.queue == 0 && command.opcode() == 6).then_some(command.words[10])
}

fn options() -> ControllerOptions {
    ControllerOptions { patience: SHORT, limit: SHORT, ..ControllerOptions::default() }
}

fn open(manners: impl Manners + 'static) -> (Result<Arc<Controller>, NvmeError>, Seen) {
    let (device, seen) = drive(0x4000, manners);
    (Controller::open_with(device, options()), seen)
}

fn opened(manners: impl Manners + 'static) -> (Arc<Controller>, Seen) {
    let (controller, seen) = open(manners);
    (controller.expect("it opens"), seen)
}

/// The error of a drive that is not to be opened, which is left quiet.
fn refused(manners: impl Manners + 'static) -> NvmeError {
    let (controller, seen) = open(manners);
    let error = controller.expect_err("it is refused");
    assert_quiet(&seen);
    error
}

/// The drive has no memory mapped any more and begins no transfers.
fn assert_quiet(seen: &Seen) {
    look(seen, |seen| {
        let (master, mapped) = (seen.wires().is_bus_master(), seen.wires().mapped());
        assert_eq!((master, mapped), (false, 0), "{} resets", seen.resets);
    });
}

fn target(controller: &Controller, len: u64) -> (Arc<DmaMapping<Memory>>, Arc<Target>) {
    let memory = Memory::anonymous(len as usize, PageSize::Base).expect("memory");
    let mapping = controller.device().container().map_dma(memory, Intent::Write).expect("mapped");
    let mapping = Arc::new(mapping);
    let mut target = Target::default();
    target.push(&mapping, 0..len).expect("inside");
    (mapping, Arc::new(target))
}

fn queue(controller: &Arc<Controller>) -> Queue {
    let options = QueueOptions { entries: 8, limit: SHORT, ..QueueOptions::default() };
    controller.queue(options).expect("a queue")
}

/// Reads the first block, and waits.
fn read_one(controller: &Arc<Controller>) -> Result<(), NvmeError> {
    let namespace = controller.namespaces()?.remove(0);
    let mut queue = queue(controller);
    let (_, target) = target(controller, 4096);
    queue.read(1, &namespace, 0, &target, 0..4096)?;
    queue.wait().expect("it comes out").result
}

#[test]
fn a_drive_of_good_manners_is_read() -> Result<(), Box<dyn Error>> {
    for (wake, len) in [(Wake::Polled, 128u64 << 10), (Wake::Interrupt, 20 << 10)] {
        let (controller, seen) = opened(Good);
        let namespace = controller.namespaces()?.remove(0);
        let mut queue = controller.queue(QueueOptions { wake, ..QueueOptions::default() })?;
        let (mapping, target) = target(&controller, len);
        for round in 0..600 {
            queue.read(round, &namespace, 4096 * round, &target, 0..len)?;
            let finished = queue.wait().expect("it comes out");
            finished.result?;
            assert_eq!(finished.id, round);
            for at in [0, 1, 4095, 4096, len - 1] {
                assert_eq!(mapping.map().read::<u8>(at as usize)?, byte_at(4096 * round + at));
            }
        }
        drop(queue);
        drop((target, mapping));
        drop(controller);
        assert_quiet(&seen);
        // One reset, when it was opened: it was shut down in order.
        let ended = look(&seen, |seen| (seen.faults, seen.resets, seen.is_shut_down));
        assert_eq!(ended, (0, 1, true));
    }
    Ok(())
}

struct Registers(Vec<(u64, u32)>);

impl Manners for Registers {
    fn registers(&mut self, wires: &Wires) {
        for &(at, value) in &self.0 {
            wires.set_register(at, value);
        }
    }
}

#[test]
fn registers_that_name_nothing_usable_are_refused() {
    let low = CAPABILITIES as u32;
    let high = (CAPABILITIES >> 32) as u32;
    let refused = |registers: &[(u64, u32)]| refused(Registers(registers.to_vec())).to_string();
    // MQES 0: a ring of one entry.
    assert!(refused(&[(CAP, low & !0xffff)]).contains("MQES"));
    // MPSMIN 15, CSS none, DSTRD 15: doorbells 128 KiB apart.
    assert!(refused(&[(CAP + 4, high | 0xf << 16)]).contains("a page of 4096 bytes"));
    assert!(refused(&[(CAP + 4, high & !(1 << 5))]).contains("administrative"));
    assert!(refused(&[(CAP + 4, high | 0xf)]).contains("BAR 0"));
    for at in [CAP, VS, CC, CSTS] {
        let all = [(at, u32::MAX), (at + 4, u32::MAX)];
        assert!(refused(&all).contains("read as ones"), "{at:#x}");
    }
}

#[test]
fn a_bar_without_room_for_registers_is_refused() {
    let (device, seen) = drive(0x1000, Good);
    let error = Controller::open_with(device, options()).expect_err("no doorbells").to_string();
    assert!(error.contains("BAR 0"), "{error}");
    assert_quiet(&seen);
}

/// Shows this of CSTS whatever it is told.
struct Stuck {
    status: u32,
    registers: Registers,
}

impl Manners for Stuck {
    fn registers(&mut self, wires: &Wires) {
        self.registers.registers(wires);
        wires.set_register(CSTS, self.status);
    }

    fn status(&mut self, _: u32) -> u32 {
        self.status
    }
}

#[test]
fn a_wait_that_the_drive_names_has_a_limit() {
    // TO 127.5 s, and CRTO nine hours.
    let high = (CAPABILITIES >> 32) as u32;
    let patient = [(CAP, 0xff << 24 | 0x7ff), (CAP + 4, high | 1 << 27), (CRTO, 0xffff)];
    for (status, words) in [(0, "did not get ready"), (READY, "did not stop"), (FATAL, "fatal")] {
        let registers = Registers(patient.to_vec());
        let start = Instant::now();
        let error = refused(Stuck { status, registers }).to_string();
        assert!(error.contains(words), "{error}");
        assert!(start.elapsed() < SLACK, "{status}: {:?}", start.elapsed());
    }
    let most = ControllerOptions::default().patience;
    assert!(most <= Duration::from_secs(128));
}

/// Sets `stop` at a step, and then shows this of CSTS.
struct StopsAt {
    steps: u32,
    stop: Arc<AtomicBool>,
    status: u32,
}

impl Manners for StopsAt {
    fn step(&mut self, _: &Wires) {
        self.steps = self.steps.saturating_sub(1);
        if self.steps == 0 {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    fn status(&mut self, status: u32) -> u32 {
        if self.steps == 0 { self.status } else { status }
    }
}

#[test]
fn who_wants_to_stop_waits_for_no_drive() {
    // At each step of opening, with a drive that sticks from then on, or goes on.
    let one = |steps: u32, status: u32| {
        let stop = Arc::new(AtomicBool::new(false));
        let manners = StopsAt { steps, stop: Arc::clone(&stop), status };
        let (device, seen) = drive(0x4000, manners);
        let start = Instant::now();
        let opened = Controller::open_with(
            device,
            ControllerOptions { stop, patience: Duration::from_secs(100), ..options() },
        );
        let ended = opened.and_then(|controller| controller.namespaces().map(drop));
        assert!(start.elapsed() < SLACK, "{steps}, {status}: {:?}", start.elapsed());
        if look(&seen, |seen| seen.steps) >= steps.into() {
            assert_quiet(&seen);
            let orderly = matches!(
                ended,
                Ok(()) | Err(NvmeError::Interrupted { .. } | NvmeError::Reset { .. })
            );
            assert!(orderly, "{steps}, {status}: {ended:?}");
        }
    };
    thread::scope(|scope| {
        for (steps, status) in (1..12).flat_map(|steps| [(steps, 0), (steps, READY)]) {
            scope.spawn(move || one(steps, status));
        }
    });
}

/// Spoils the answers to one CNS.
struct Answers<F>(u32, F);

impl<F: FnMut(&Command, &mut [u8; PAGE]) + Send> Manners for Answers<F> {
    fn identify(&mut self, command: &Command, page: &mut [u8; PAGE]) {
        if identifies(command) == Some(self.0) {
            (self.1)(command, page);
        }
    }
}

fn put(page: &mut [u8; PAGE], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn a_shutdown_takes_no_hour() {
    struct NoShutdown;
    impl Manners for NoShutdown {
        fn identify(&mut self, _: &Command, page: &mut [u8; PAGE]) {
            put(page, 88, &u32::MAX.to_le_bytes());
        }
        fn status(&mut self, status: u32) -> u32 {
            status & !SHUT_DOWN
        }
    }
    let (controller, seen) = opened(NoShutdown);
    let start = Instant::now();
    drop(controller);
    assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
    assert_quiet(&seen);
}

#[test]
fn lists_of_namespaces_ascend_and_end() {
    let listed = |page: fn(&Command, &mut [u8; PAGE])| {
        let (controller, seen) = opened(Answers(2, page));
        let listed = controller.namespaces().map(|all| all.len());
        let asked = look(&seen, |seen| seen.commands.len());
        assert!(asked < 1100, "{asked} commands");
        listed.map_err(|error| error.to_string())
    };
    assert_eq!(listed(|_, page| put(page, 0, &[1, 0, 0, 0, 3])), Ok(2));
    // The same again, falling, beyond NN, and a list that begins anew behind itself.
    for list in [
        (|_, page| put(page, 0, &[1, 0, 0, 0, 1])) as fn(&Command, &mut [u8; PAGE]),
        |_, page| put(page, 0, &[3, 0, 0, 0, 1]),
        |_, page| put(page, 0, &[1, 0, 0, 0, 5]),
        |_, page| page.fill(0xff),
    ] {
        let error = listed(list).expect_err("it is refused");
        assert!(error.contains("numbers ascend and end at"), "{error}");
    }
}

#[test]
fn a_list_of_namespaces_does_not_go_on_for_ever() {
    struct Endless;
    impl Manners for Endless {
        fn identify(&mut self, command: &Command, page: &mut [u8; PAGE]) {
            match identifies(command) {
                Some(1) => put(page, 516, &u32::MAX.to_le_bytes()),
                Some(2) => {
                    for (i, at) in (0..PAGE).step_by(4).enumerate() {
                        put(page, at, &(command.words[1] + 1 + i as u32).to_le_bytes());
                    }
                }
                _ => {}
            }
        }
    }
    let (controller, seen) = opened(Endless);
    let error = controller.namespaces().expect_err("it is refused").to_string();
    assert!(error.contains("more than 1024 namespaces"), "{error}");
    assert!(look(&seen, |seen| seen.commands.len()) < 10);
}

#[test]
fn namespaces_that_cannot_be_read_are_refused() {
    for (spoil, words) in [
        ((|_, page| put(page, 130, &[8])) as fn(&Command, &mut [u8; PAGE]), "2^8 bytes"),
        (|_, page| put(page, 130, &[255]), "2^255 bytes"),
        (|_, page| put(page, 26, &[5]), "in format 5 of 1"),
        (|_, page| put(page, 0, &[0xff; 8]), "more than 2^64 bytes"),
        (|_, page| put(page, 128, &[8]), "metadata"),
        // Blocks of 2 GiB, of which a read has none.
        (|_, page| put(page, 130, &[31]), "are more than the"),
    ] {
        let (controller, _) = opened(Answers(0, spoil));
        let error = read_one(&controller).expect_err("it is refused").to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_controller_of_another_kind_is_refused_and_its_names_are_text() {
    let spoil = |_: &Command, page: &mut [u8; PAGE]| put(page, 512, &[0x77]);
    assert!(refused(Answers(1, spoil)).to_string().contains("queue entries"));
    let spoil = |_: &Command, page: &mut [u8; PAGE]| put(page, 111, &[3]);
    assert!(refused(Answers(1, spoil)).to_string().contains("CNTRLTYPE"));
    let spoil = |_: &Command, page: &mut [u8; PAGE]| {
        put(page, 4, &[0x1b; 68]);
        // MDTS 2^255, more lists and aborts than there are.
        put(page, 77, &[255]);
        put(page, 258, &[255]);
        put(page, 536, &[0xff; 4]);
    };
    let (controller, _) = opened(Answers(1, spoil));
    assert_eq!(controller.identity().serial, "?".repeat(20));
    read_one(&controller).expect("it is read all the same");
}

/// Blocks of 2^`0` bytes.
fn blocks_of(exponent: u8) -> impl Manners {
    Answers(0, move |_: &Command, page: &mut [u8; PAGE]| put(page, 130, &[exponent]))
}

#[test]
fn a_block_longer_than_a_read_ends_the_load() {
    // MDTS allows 128 KiB.
    for (exponent, fits) in [(16, true), (17, true), (18, false), (21, false), (31, false)] {
        let (controller, _) = opened(blocks_of(exponent));
        let namespace = controller.namespaces().expect("a list").remove(0);
        let extents = vec![Extent { file_offset: 0, offset: 0, len: 100 }];
        let file = DriveFile::new(&controller, namespace, "file", extents).expect("it fits");
        let memory = Memory::anonymous(1 << 20, PageSize::Base).expect("memory");
        let stop = AtomicBool::new(false);
        let load = Load {
            files: &[file],
            requests: &[Request::new(0, 0, 100, 0)],
            around: Around::Scratch,
            destination: &memory,
            options: Options { limit: SHORT, ..Options::default() },
            stop: &stop,
        };
        match load.run(&mut |_| {}) {
            Ok(receipt) => assert!(fits && receipt.bytes == 100, "2^{exponent}"),
            Err(TransferError::Nvme(error)) => {
                assert!(
                    !fits && error.to_string().contains("a block longer than a read"),
                    "{error}"
                );
            }
            Err(error) => panic!("2^{exponent}: {error}"),
        }
    }
}

/// Posts other completions for reads.
struct Completes<F>(F);

impl<F: FnMut(Completion) -> Vec<Completion> + Send> Manners for Completes<F> {
    fn complete(&mut self, command: &Command, completion: Completion) -> Vec<Completion> {
        if is_read(command) { (self.0)(completion) } else { vec![completion] }
    }
}

#[test]
fn completions_of_nobodys_stop_the_controller() {
    for (what, spoil) in [
        (
            "another command",
            (|c| vec![Completion { command: c.command ^ 1, ..c }]) as fn(Completion) -> _,
        ),
        ("a command far out", |c| vec![Completion { command: u16::MAX, ..c }]),
        ("another queue", |c| vec![Completion { queue: 7, ..c }]),
    ] {
        let (controller, seen) = opened(Completes(spoil));
        let error = read_one(&controller).expect_err(what);
        assert!(matches!(error, NvmeError::Unasked { queue: 1, .. }), "{what}: {error}");
        drop(controller);
        assert_quiet(&seen);
    }
    // What the drive says of its own progress is not looked at.
    let (controller, _) = opened(Completes(|c| vec![Completion { head: u16::MAX, ..c }]));
    read_one(&controller).expect("it is read");
}

#[test]
fn a_completion_that_comes_twice_ends_no_other_read() {
    /// Completes the first read twice, and the others never.
    struct Twice(u32);
    impl Manners for Twice {
        fn moves(&mut self, _: &Command) -> bool {
            self.0 == 0
        }
        fn complete(&mut self, command: &Command, completion: Completion) -> Vec<Completion> {
            if !is_read(command) {
                return vec![completion];
            }
            self.0 += 1;
            let first = Completion { command: 0, ..completion };
            vec![first]
        }
    }
    let (controller, _) = opened(Twice(0));
    let namespace = controller.namespaces().expect("a list").remove(0);
    let mut queue = queue(&controller);
    let (_, target) = target(&controller, 4096);
    queue.read(1, &namespace, 0, &target, 0..4096).expect("room");
    queue.wait().expect("it comes out").result.expect("it was read");
    queue.read(2, &namespace, 0, &target, 0..4096).expect("room");
    let second = queue.wait().expect("it comes out");
    assert!(matches!(second.result, Err(NvmeError::Unasked { command: 0, .. })), "{second:?}");
}

#[test]
fn every_status_is_an_error_but_success() {
    let mut status = 0;
    let (controller, _) = opened(Completes(move |completion| {
        status += 1;
        vec![Completion { status, ..completion }]
    }));
    let namespace = controller.namespaces().expect("a list").remove(0);
    let mut queue = queue(&controller);
    let (_, target) = target(&controller, 4096);
    for status in 1..0x800u64 {
        queue.read(status, &namespace, 0, &target, 0..4096).expect("room");
        let error = queue.wait().expect("it comes out").result.expect_err("no success");
        assert!(matches!(error, NvmeError::Command { .. }), "{status:#x}: {error}");
    }
}

#[test]
fn reads_that_never_end_are_ended() {
    /// Answers aborts by this, or in good order but late.
    struct Silent {
        aborts: Option<Vec<Completion>>,
    }
    impl Manners for Silent {
        fn complete(&mut self, command: &Command, completion: Completion) -> Vec<Completion> {
            match (is_read(command), command.queue, command.opcode()) {
                (true, ..) => Vec::new(),
                (_, 0, 8) => match &mut self.aborts {
                    Some(instead) => std::mem::take(instead),
                    None => {
                        thread::sleep(SHORT / 2);
                        vec![completion]
                    }
                },
                _ => vec![completion],
            }
        }
    }
    // Its aborts are answered by nothing, by nonsense, or so late that 255 of them take 12 seconds.
    let stray = Completion { result: 0, head: 0, queue: 0, command: 999, status: 0 };
    for aborts in [Some(vec![]), Some(vec![stray]), None] {
        for wake in [Wake::Polled, Wake::Interrupt] {
            let (controller, seen) = opened(Silent { aborts: aborts.clone() });
            let namespace = controller.namespaces().expect("a list").remove(0);
            let options = QueueOptions { limit: SHORT, wake, ..QueueOptions::default() };
            let mut queue = controller.queue(options).expect("a queue");
            let (_, target) = target(&controller, 4096);
            let start = Instant::now();
            for id in 0..255 {
                queue.read(id, &namespace, 0, &target, 0..4096).expect("room");
            }
            let mut ended = 0;
            while let Some(finished) = queue.wait() {
                finished.result.expect_err("it never ended");
                ended += 1;
            }
            assert_eq!(ended, 255);
            assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
            drop((queue, controller, target));
            assert_quiet(&seen);
        }
    }
}

#[test]
fn who_wants_to_stop_waits_for_no_read() {
    let stop = Arc::new(AtomicBool::new(false));
    let (device, seen) = drive(0x4000, Completes(|_| Vec::new()));
    let controller =
        Controller::open_with(device, ControllerOptions { stop: Arc::clone(&stop), ..options() })
            .expect("it opens");
    let namespace = controller.namespaces().expect("a list").remove(0);
    let mut queue = controller.queue(QueueOptions::default()).expect("a queue");
    let (_, target) = target(&controller, 4096);
    queue.read(1, &namespace, 0, &target, 0..4096).expect("room");
    let stopper = thread::spawn(move || {
        thread::sleep(SHORT);
        stop.store(true, Ordering::Relaxed);
    });
    let start = Instant::now();
    queue.wait().expect("it comes out").result.expect_err("it never ended");
    assert!(start.elapsed() < 2 * SLACK, "{:?}", start.elapsed());
    stopper.join().expect("it ends");
    drop((queue, controller, target));
    assert_quiet(&seen);
}
