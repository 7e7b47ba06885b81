//! Drives driven from user space, into system memory and into a BAR that stands for a GPU's memory.

use std::io::Read;
use std::ops::Range;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use bufmap::pci::{Address, driver};
use bufmap::storage::nvme::{
    Controller, Finished, Lists, Namespace, NvmeError, Queue, QueueOptions, Target, Wake,
};
use bufmap_bench::card::card;
use bufmap_bench::drive::{Drive, pattern};
use bufmap_bench::leaks::{Holdings, hold_no_more};
use bufmap_bench::{Outcome, by_hand, check};
use exporters::Intent;
use exporters::vfio::{Container, DmaMapping, Mappable, Region};
use iomap::{Memory, PageSize};
use libtest_mimic::Failed;

/// How much each drive holds.
const LEN: u64 = 64 << 20;

/// The most that the drive `reader` gives in one read.
const MOST: u64 = 4 << 20;

const PAGE: u64 = 4096;

/// How much is asked for at once where there are many reads.
const READ: u64 = 512 << 10;

/// The variable that makes this program the victim of a test, and names its drive.
const VICTIM: &str = "BUFMAP_VICTIM";

fn main() -> ExitCode {
    if let Ok(address) = std::env::var(VICTIM) {
        return bufmap_bench::end("the victim", victim(&address));
    }
    bufmap_bench::run(
        "vfio",
        &[
            ("a_drive_says_what_it_is", identified),
            ("prps_of_every_shape_bring_the_right_bytes", prps),
            ("sgls_bring_bytes_of_any_alignment", sgls),
            ("blocks_of_4_kib_are_read_in_parts_too", large_blocks),
            ("a_bar_is_filled_as_memory_is", bar),
            ("one_read_fills_memory_and_a_bar", mixed),
            ("four_queues_are_four_threads", queues),
            ("a_queue_is_filled_to_the_last_entry", deep),
            ("what_cannot_be_read_is_refused_before_it_is_tried", refused),
            ("a_block_that_cannot_be_read_is_named", failing),
            ("a_read_that_does_not_end_is_ended", slow),
            ("a_queue_that_is_dropped_waits_for_what_is_in_flight", dropped),
            ("a_controller_that_is_stopped_ends_what_is_in_flight", stopped),
            ("a_drive_that_the_kernel_asks_for_is_given_back", recalled),
            ("a_process_that_is_killed_leaves_a_drive_that_works", killed),
            ("a_drive_without_bus_mastering_is_an_error_and_no_hang", unmastered),
            ("ten_thousand_reads_and_mappings_leave_nothing_behind", endurance),
            ("a_hundred_times_opened_the_kernel_reads_it_still", cycles),
            // The last, because what it forgets is not closed before the process ends.
            ("memory_outlives_a_queue_that_is_forgotten", forgotten),
        ],
    )
}

/// A drive of this process.
struct Ours {
    container: Arc<Container>,
    controller: Arc<Controller>,
    namespace: Namespace,
}

impl Ours {
    fn open(serial: &str) -> Result<Self, Failed> {
        let address = Drive::returned(serial)?.address()?;
        driver::bind(address, "vfio-pci")?;
        Self::open_at(address)
    }

    fn open_at(address: Address) -> Result<Self, Failed> {
        let container = Arc::new(Container::new()?);
        let controller = Controller::open(container.open(&address.to_string())?, 4)?;
        let namespaces = controller.namespaces()?;
        let [namespace] = namespaces[..] else { return Err(format!("{namespaces:?}").into()) };
        Ok(Self { container, controller, namespace })
    }

    fn memory(&self, len: u64) -> Result<Arc<DmaMapping<Memory>>, Failed> {
        let memory = Memory::anonymous(len as usize, PageSize::Base)?;
        Ok(Arc::new(self.container.map_dma(memory, Intent::Write)?))
    }

    /// BAR 2 of the card, for the drive to write.
    fn vram(&self) -> Result<Arc<DmaMapping<Region>>, Failed> {
        let address = card()?;
        driver::bind(address, "vfio-pci")?;
        let card = self.container.open(&address.to_string())?;
        Ok(Arc::new(self.container.map_dma(card.map_region(2)?, Intent::Write)?))
    }

    fn queue(&self, lists: Lists) -> Result<Queue, Failed> {
        let options = QueueOptions { lists, max_read: MOST, entries: 32, ..<_>::default() };
        Ok(self.controller.queue(options)?)
    }

    /// Reads `part.len()` bytes at `offset` and waits for them.
    fn read(
        &self,
        queue: &mut Queue,
        offset: u64,
        target: &Arc<Target>,
        part: Range<u64>,
    ) -> Outcome {
        queue.read(offset, &self.namespace, offset, target, part)?;
        let finished = queue.wait().ok_or("nothing came out")?;
        check(finished.id == offset, "another read came out")?;
        Ok(finished.result?)
    }

    /// Puts reads of all that a target has room for from the drive's start on into a queue.
    fn read_all(&self, queue: &mut Queue, target: &Arc<Target>) -> Outcome {
        for at in (0..target.len()).step_by(READ as usize) {
            queue.read(at, &self.namespace, at, target, at..at + READ)?;
        }
        Ok(())
    }

    /// Fills `part` of a mapping by one read, which leaves the rest alone.
    fn fill<M: Mappable + Send + Sync + 'static>(
        &self,
        queue: &mut Queue,
        mapping: &Arc<DmaMapping<M>>,
        part: Range<u64>,
        offset: u64,
    ) -> Outcome {
        mapping.map().fill(0xEE)?;
        let whole = target(mapping, part.clone())?;
        self.read(queue, offset, &whole, 0..whole.len())?;
        holds(mapping, part.clone(), offset)?;
        untouched(mapping, 0..part.start)?;
        untouched(mapping, part.end..mapping.len())
    }

    /// Reads a page, which arrives.
    fn works(&self, offset: u64) -> Outcome {
        let mut queue = self.controller.queue(QueueOptions::default())?;
        self.fill(&mut queue, &self.memory(PAGE)?, 0..PAGE, offset)
    }
}

/// One part of a mapping, to be filled.
fn target<M: Send + Sync + 'static>(
    mapping: &Arc<DmaMapping<M>>,
    part: Range<u64>,
) -> Result<Arc<Target>, Failed> {
    targets(mapping, [part])
}

/// Parts of a mapping, to be filled in this order.
fn targets<M: Send + Sync + 'static>(
    mapping: &Arc<DmaMapping<M>>,
    parts: impl IntoIterator<Item = Range<u64>>,
) -> Result<Arc<Target>, Failed> {
    let mut target = Target::default();
    for part in parts {
        target.push(mapping, part)?;
    }
    Ok(Arc::new(target))
}

/// What is on every drive.
static DRIVE: LazyLock<Vec<u8>> = LazyLock::new(|| pattern(LEN as usize));

/// What no drive has, which tests fill memory with.
static EMPTY: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0xEE; LEN as usize]);

/// Checks that `part` of a mapping holds the drive's bytes from `offset` on.
fn holds<M: Mappable>(mapping: &DmaMapping<M>, part: Range<u64>, offset: u64) -> Outcome {
    let from = offset as usize;
    is(mapping, &part, &DRIVE[from..from + (part.end - part.start) as usize])
}

/// Checks that nothing was written to `part` of a mapping.
fn untouched<M: Mappable>(mapping: &DmaMapping<M>, part: Range<u64>) -> Outcome {
    is(mapping, &part, &EMPTY[..(part.end - part.start) as usize])
}

fn is<M: Mappable>(mapping: &DmaMapping<M>, part: &Range<u64>, expected: &[u8]) -> Outcome {
    let mut bytes = vec![0; expected.len()];
    mapping.map().copy_to_slice(part.start as usize, &mut bytes)?;
    if bytes == expected {
        return Ok(());
    }
    let at = bytes.iter().zip(expected).position(|(found, expected)| found != expected);
    Err(format!("another byte at {at:#x?} of {part:#x?}").into())
}

/// How all that is in a queue ends: the numbers of the reads that arrive, and how many end for this cause
/// and with the controller. No other end is allowed.
fn ends(
    queue: &mut Queue,
    is_cause: impl Fn(&NvmeError) -> bool,
) -> Result<(Vec<u64>, usize, usize), NvmeError> {
    let (mut arrived, mut for_it, mut with_it) = (Vec::new(), 0, 0);
    while let Some(Finished { id, result, .. }) = queue.wait() {
        match result {
            Ok(()) => arrived.push(id),
            Err(error) if is_cause(&error) => for_it += 1,
            Err(NvmeError::Stopped { .. }) => with_it += 1,
            Err(error) => return Err(error),
        }
    }
    Ok((arrived, for_it, with_it))
}

fn identified() -> Outcome {
    let drive = Ours::open("reader")?;
    let identity = drive.controller.identity();
    check(identity.serial == "reader" && identity.model == "QEMU NVMe Ctrl", &identity.model)?;
    check(identity.max_transfer(PAGE) == MOST, identity.max_transfer(PAGE))?;
    check(identity.sgl.is_some_and(|sgl| sgl.alignment == 1), format!("{:?}", identity.sgl))?;
    check(drive.controller.version().to_string() == "1.4.0", drive.controller.version())?;
    check(drive.controller.capabilities().queue_entries() == 2048, "another MQES")?;
    check(drive.controller.queues() == 4, drive.controller.queues())?;
    let namespace = drive.namespace.identity();
    check((namespace.block_size, namespace.metadata) == (512, 0), format!("{namespace:?}"))?;
    check(drive.namespace.len() == LEN, drive.namespace.len())
}

/// Reads of one page, of two, of a list, of a list that goes on over three pages; from the start of
/// a page and from inside; in one range and in several.
fn prps() -> Outcome {
    let drive = Ours::open("reader")?;
    let mapping = drive.memory(2 * MOST)?;
    let mut queue = drive.queue(Lists::Prp)?;
    for (offset, start, len) in [
        (0, 0, 512),
        (512, 0, PAGE),
        (LEN - PAGE, 512, PAGE),
        (5 * 512, PAGE - 4, 512),
        (1 << 20, 0, 2 * PAGE),
        (3 << 20, PAGE, 3 * PAGE),
        (4 << 20, 2048, 3 * PAGE - 2048),
        (8 << 20, 0, 512 * PAGE),
        (9 << 20, 0, 513 * PAGE),
        (10 << 20, 0, 514 * PAGE),
        (11 << 20, 0, MOST),
        // QEMU reads into 1024 pages at most.
        (20 << 20, 512, MOST - 512),
        (LEN - MOST, MOST, MOST),
    ] {
        drive.fill(&mut queue, &mapping, start..start + len, offset)?;
    }
    // Pages in any order, the first of which begins inside and the last of which ends inside.
    mapping.map().fill(0xEE)?;
    let parts = [PAGE * 9 + 1024..PAGE * 10, PAGE * 3..PAGE * 5, PAGE * 100..PAGE * 700, 0..1536];
    let scattered = targets(&mapping, parts.clone())?;
    drive.read(&mut queue, 7 * 512, &scattered, 0..scattered.len())?;
    let mut at = 7 * 512;
    for part in parts {
        holds(&mapping, part.clone(), at)?;
        at += part.end - part.start;
    }
    untouched(&mapping, 1536..PAGE * 3)?;
    untouched(&mapping, PAGE * 5..PAGE * 9 + 1024)
}

fn sgls() -> Outcome {
    let drive = Ours::open("reader")?;
    let mapping = drive.memory(2 * MOST)?;
    for lists in [Lists::Sgl, Lists::Fitting] {
        let mut queue = drive.queue(lists)?;
        for (offset, start, len) in [
            (0, 0, 512),
            (512, 1, PAGE),
            (1000, 77, 1),
            (1023, 5, 2),
            (12_345, 6_789, 1_234_567),
            (LEN - 3, 0, 3),
            (LEN - MOST, 13, MOST),
        ] {
            drive.fill(&mut queue, &mapping, start..start + len, offset)?;
        }
        // More ranges than a page has room for descriptors of, and none of them whole pages.
        mapping.map().fill(0xEE)?;
        let parts: Vec<_> = (0..600).rev().map(|i| i * 1000 + 3..i * 1000 + 3 + 501).collect();
        let scattered = targets(&mapping, parts.clone())?;
        drive.read(&mut queue, 99, &scattered, 0..scattered.len())?;
        for (i, part) in (0..).zip(parts) {
            holds(&mapping, part.clone(), 99 + i * 501)?;
            untouched(&mapping, part.end..part.end + 499)?;
        }
    }
    Ok(())
}

fn large_blocks() -> Outcome {
    let drive = Ours::open("slow")?;
    check(drive.namespace.identity().block_size == 4096, "blocks of another size")?;
    let mapping = drive.memory(1 << 20)?;
    let mut queue = drive.queue(Lists::Fitting)?;
    for (offset, start, len) in
        [(0, 0, 1), (PAGE, 0, PAGE), (PAGE + 1, 3, 10_000), (LEN - 1, 9, 1), (100, 0, 3 * PAGE)]
    {
        drive.fill(&mut queue, &mapping, start..start + len, offset)?;
    }
    // PRPs cannot leave out a part of a block.
    drop(queue);
    let mut queue = drive.queue(Lists::Prp)?;
    let some = target(&mapping, 0..512)?;
    let error = queue.read(0, &drive.namespace, 512, &some, 0..512).expect_err("a part of a block");
    check(error.to_string().contains("of the ranges of a PRP list"), error)
}

fn bar() -> Outcome {
    let drive = Ours::open("reader")?;
    let vram = drive.vram()?;
    for lists in [Lists::Prp, Lists::Sgl] {
        vram.map().fill(0xEE)?;
        let mut queue = drive.queue(lists)?;
        let part = 5 << 20..(5 << 20) + MOST;
        let whole = target(&vram, part.clone())?;
        drive.read(&mut queue, 17 << 20, &whole, 0..MOST)?;
        holds(&vram, part.clone(), 17 << 20)?;
        untouched(&vram, part.start - (1 << 20)..part.start)?;
        untouched(&vram, part.end..part.end + (1 << 20))?;
    }
    // All of the drive into all of the BAR, as deep as the queue is.
    let mut queue = drive.queue(Lists::Fitting)?;
    let whole = target(&vram, 0..LEN)?;
    for at in (0..LEN).step_by(MOST as usize) {
        queue.read(at, &drive.namespace, at, &whole, at..at + MOST)?;
    }
    while let Some(finished) = queue.wait() {
        finished.result?;
    }
    holds(&vram, 0..LEN, 0)
}

fn mixed() -> Outcome {
    let drive = Ours::open("reader")?;
    let (vram, memory) = (drive.vram()?, drive.memory(1 << 20)?);
    for (lists, cut) in [(Lists::Prp, 3 * PAGE), (Lists::Sgl, 3 * PAGE), (Lists::Fitting, 999)] {
        vram.map().fill(0xEE)?;
        memory.map().fill(0xEE)?;
        let mut queue = drive.queue(lists)?;
        let mut both = Target::default();
        both.push(&memory, 0..cut)?;
        both.push(&vram, 1 << 20..3 << 20)?;
        both.push(&memory, 1 << 19..(1 << 19) + 512)?;
        let both = Arc::new(both);
        drive.read(&mut queue, 30 << 20, &both, 0..both.len())?;
        let at = 30 << 20;
        holds(&memory, 0..cut, at)?;
        holds(&vram, 1 << 20..3 << 20, at + cut)?;
        holds(&memory, 1 << 19..(1 << 19) + 512, at + cut + (2 << 20))?;
        untouched(&memory, cut..1 << 19)?;
        untouched(&vram, 0..1 << 20)?;
    }
    Ok(())
}

fn queues() -> Outcome {
    let drive = Ours::open("reader")?;
    let mapping = drive.memory(LEN)?;
    let whole = target(&mapping, 0..LEN)?;
    let worker = |share: u64| -> Result<(), NvmeError> {
        let wake = if share.is_multiple_of(2) { Wake::Polled } else { Wake::Interrupt };
        let options = QueueOptions { wake, entries: 8, ..QueueOptions::default() };
        let mut queue = drive.controller.queue(options)?;
        let mut left = (share << 24..(share + 1) << 24).step_by(128 << 10);
        loop {
            while queue.has_room()
                && let Some(at) = left.next()
            {
                queue.read(at, &drive.namespace, at, &whole, at..at + (128 << 10))?;
            }
            match queue.wait() {
                Some(finished) => finished.result?,
                None => return Ok(()),
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|share| scope.spawn(move || worker(share))).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => Ok(result?),
            Err(_) => Err(Failed::from("a worker panicked")),
        })
    })?;
    holds(&mapping, 0..LEN, 0)?;
    // There are four, and each comes back when it is dropped.
    let four: Vec<_> = (0..4).map(|_| drive.queue(Lists::Fitting)).collect::<Result<_, _>>()?;
    let error =
        drive.queue(Lists::Fitting).expect_err("a fifth").message().unwrap_or("").to_owned();
    check(error.contains("all 4 are in use"), error)?;
    drop(four);
    drive.queue(Lists::Fitting).map(drop)
}

fn deep() -> Outcome {
    let drive = Ours::open("reader")?;
    let mapping = drive.memory(2047 * PAGE)?;
    let whole = target(&mapping, 0..2047 * PAGE)?;
    for wake in [Wake::Polled, Wake::Interrupt] {
        mapping.map().fill(0xEE)?;
        let options =
            QueueOptions { entries: u32::MAX, max_read: PAGE, wake, ..QueueOptions::default() };
        let mut queue = drive.controller.queue(options)?;
        check(queue.depth() == 2047, queue.depth())?;
        // Three times around, in another order each time.
        for round in 0..3 {
            let page = |i: u64| (i * (2 * round + 1) % 2047) * PAGE;
            for i in 0..2047 {
                let at = page(i);
                queue.read(i, &drive.namespace, at, &whole, at..at + PAGE)?;
            }
            check(!queue.has_room() && queue.len() == 2047, "there is room still")?;
            let error =
                queue.read(0, &drive.namespace, 0, &whole, 0..PAGE).expect_err("it is full");
            check(matches!(error, NvmeError::Full { depth: 2047, .. }), error)?;
            let mut seen = vec![false; 2047];
            while let Some(Finished { id, result, .. }) = queue.wait() {
                result?;
                check(!std::mem::replace(&mut seen[id as usize], true), "it came out twice")?;
            }
            check(seen.iter().all(|&seen| seen) && queue.is_empty(), "some did not come out")?;
        }
        holds(&mapping, 0..2047 * PAGE, 0)?;
    }
    Ok(())
}

fn refused() -> Outcome {
    let drive = Ours::open("reader")?;
    let mapping = drive.memory(2 * MOST)?;
    let whole = target(&mapping, 0..2 * MOST)?;
    let mut queue = drive.queue(Lists::Prp)?;
    let mut refuse = |offset, target: &Arc<Target>, part, words: &str| -> Outcome {
        let read = queue.read(0, &drive.namespace, offset, target, part);
        let error = read.expect_err(words).to_string();
        check(error.contains(words), &error)?;
        check(queue.is_empty(), "it was put in all the same")
    };
    refuse(LEN - 512, &whole, 0..1024, "not inside a namespace")?;
    refuse(u64::MAX, &whole, 0..512, "not inside a namespace")?;
    refuse(0, &whole, 5..5, "not inside a namespace")?;
    refuse(0, &whole, 2 * MOST - 512..2 * MOST + 512, "not inside a namespace")?;
    refuse(0, &whole, 0..MOST + 512, "more than the 4194304")?;
    refuse(100, &whole, 0..512, "of the ranges of a PRP list")?;
    refuse(0, &whole, 2..514, "of the ranges of a PRP list")?;
    let torn = targets(&mapping, [0..512, PAGE..PAGE + 512])?;
    refuse(0, &torn, 0..1024, "of the ranges of a PRP list")?;

    let other = Arc::new(Container::new()?);
    let card = card()?;
    driver::bind(card, "vfio-pci")?;
    let _card = other.open(&card.to_string())?;
    let elsewhere = other.map_dma(Memory::anonymous(4096, PageSize::Base)?, Intent::Write)?;
    let elsewhere = Arc::new(elsewhere);
    refuse(0, &target(&elsewhere, 0..512)?, 0..512, "another container")?;
    let mut both = Target::default();
    both.push(&mapping, 0..512)?;
    check(both.push(&elsewhere, 0..512).is_err(), "pieces of two containers in one target")?;
    check(both.push(&mapping, 2 * MOST - 1..2 * MOST + 1).is_err(), "a piece from outside")?;
    drop(queue);
    let few = QueueOptions { lists: Lists::Sgl, max_read: PAGE, ..QueueOptions::default() };
    let mut queue = drive.controller.queue(few)?;
    let parts: Vec<_> = (0..512).map(|i| i * 9..i * 9 + 1).collect();
    let dust = targets(&mapping, parts.clone())?;
    let error = queue.read(0, &drive.namespace, 0, &dust, 0..512).expect_err("512 ranges");
    check(error.to_string().contains("more than the 256 descriptors"), error)
}

fn failing() -> Outcome {
    let drive = Ours::open("failing")?;
    let mapping = drive.memory(1 << 20)?;
    let whole = target(&mapping, 0..1 << 20)?;
    let mut queue = drive.controller.queue(QueueOptions::default())?;
    let bad = LEN / 2;
    queue.read(1, &drive.namespace, bad - PAGE, &whole, 0..PAGE)?;
    queue.read(2, &drive.namespace, bad, &whole, PAGE..2 * PAGE)?;
    queue.read(3, &drive.namespace, bad + PAGE, &whole, 2 * PAGE..3 * PAGE)?;
    let mut errors = Vec::new();
    while let Some(finished) = queue.wait() {
        errors.extend(finished.result.err().map(|error| (finished.id, error.to_string())));
    }
    let [(2, error)] = &errors[..] else { return Err(format!("{errors:?}").into()) };
    check(error.contains("Read (8 blocks from LBA 65536 of namespace 1)"), error)?;
    check(error.contains("Unrecovered Read Error (status 2h/81h)"), error)?;
    check(error.contains(drive.controller.address()), error)?;
    holds(&mapping, 0..PAGE, bad - PAGE)?;
    holds(&mapping, 2 * PAGE..3 * PAGE, bad + PAGE)
}

/// A drive that gives 4 MiB a second is asked for 15 MiB, and given half a second for each read.
fn slow() -> Outcome {
    let drive = Ours::open("slow")?;
    let mapping = drive.memory(15 << 20)?;
    let whole = target(&mapping, 0..15 << 20)?;
    let limit = Duration::from_millis(500);
    let options = QueueOptions { limit, ..QueueOptions::default() };
    let mut queue = drive.controller.queue(options)?;
    drive.read_all(&mut queue, &whole)?;
    let start = Instant::now();
    let (good, late, with_it) = ends(&mut queue, |e| matches!(e, NvmeError::TimedOut { .. }))?;
    let took = start.elapsed();
    println!("{} arrived, {late} too late, {with_it} with them, in {took:?}", good.len());
    // Those that arrived have arrived, whatever became of the others.
    check(!good.is_empty() && late > 0 && good.len() + late + with_it == 30, "other numbers")?;
    check(took < Duration::from_secs(10), format!("{took:?}"))?;
    for at in good {
        holds(&mapping, at..at + READ, at)?;
    }
    let error = queue.read(0, &drive.namespace, 0, &whole, 0..512).expect_err("it is stopped");
    check(matches!(error, NvmeError::Stopped { .. }), error)?;
    let address = drive.controller.address().parse()?;
    drop((queue, drive, mapping, whole));
    // And the drive goes on from there.
    Ours::open_at(address)?.works(40 << 20)
}

fn dropped() -> Outcome {
    let drive = Ours::open("slow")?;
    let mapping = drive.memory(4 << 20)?;
    let whole = target(&mapping, 0..4 << 20)?;
    let mut queue = drive.controller.queue(QueueOptions::default())?;
    drive.read_all(&mut queue, &whole)?;
    queue.announce()?;
    drop(whole);
    drop(queue);
    check(Arc::strong_count(&mapping) == 1, "something keeps the memory still")?;
    holds(&mapping, 0..4 << 20, 0)
}

fn forgotten() -> Outcome {
    let drive = Ours::open("slow")?;
    let mapping = drive.memory(1 << 20)?;
    let whole = target(&mapping, 0..1 << 20)?;
    let mut queue = drive.controller.queue(QueueOptions::default())?;
    queue.read(0, &drive.namespace, 0, &whole, 0..512 << 10)?;
    queue.announce()?;
    std::mem::forget(queue);
    drop(whole);
    check(Arc::strong_count(&mapping) == 2, "the read does not keep its memory")?;
    drive.controller.stop();
    Ok(())
}

fn stopped() -> Outcome {
    let drive = Ours::open("slow")?;
    let mapping = drive.memory(8 << 20)?;
    let whole = target(&mapping, 0..8 << 20)?;
    let mut queue = drive.controller.queue(QueueOptions::default())?;
    drive.read_all(&mut queue, &whole)?;
    let first = queue.wait().ok_or("nothing came out")?;
    first.result?;
    drive.controller.stop();
    // What is on the drive from now on does not reach memory any more.
    mapping.map().fill(0xEE)?;
    let (good, _, with_it) = ends(&mut queue, |_| false)?;
    check(with_it > 0 && good.len() + with_it == 15, format!("{} and {with_it}", good.len()))?;
    thread::sleep(Duration::from_secs(3));
    untouched(&mapping, 0..8 << 20)?;
    let error = drive.controller.namespaces().expect_err("it is stopped").to_string();
    check(error.contains("the controller was stopped: it was told to; open it again"), error)?;

    // The device, its container and the memory can stay.
    let device = drive.controller.device().clone();
    drop((queue, drive.controller));
    for wake in [Wake::Interrupt, Wake::Polled] {
        let again = Controller::open(device.clone(), 1)?;
        let mut queue = again.queue(QueueOptions { wake, ..QueueOptions::default() })?;
        queue.read(0, &drive.namespace, 0, &whole, 0..PAGE)?;
        queue.wait().ok_or("nothing came out")?.result?;
        holds(&mapping, 0..PAGE, 0)?;
    }
    Ok(())
}

/// Memory mapped, read into and unmapped, then queues created and deleted, again and again.
fn endurance() -> Outcome {
    let drive = Ours::open("reader")?;
    let mut queue = drive.queue(Lists::Fitting)?;
    hold_no_more(Holdings::now, 11..10_000, |cycle| {
        let at = u64::from(cycle) * 13 % (LEN / PAGE - 1) * PAGE;
        let mapping = drive.memory(2 * PAGE)?;
        let some = target(&mapping, 0..2 * PAGE - 512)?;
        drive.read(&mut queue, at, &some, 0..2 * PAGE - 512)?;
        holds(&mapping, 0..2 * PAGE - 512, at)
    })?;
    let before = Holdings::now()?;
    for _ in 0..200 {
        drop(drive.queue(Lists::Fitting)?);
    }
    let after = Holdings::now()?;
    // The kernel makes one mapping of neighbours, or does not.
    let same = Holdings { maps: before.maps, ..after } == before && after.maps < before.maps + 4;
    check(same, format!("{before:?}, then {after:?}"))
}

/// Somebody unbinds the drive while it is at work, as when it is pulled out.
fn recalled() -> Outcome {
    let drive = Ours::open("slow")?;
    let address: Address = drive.controller.address().parse()?;
    let mapping = drive.memory(8 << 20)?;
    let whole = target(&mapping, 0..8 << 20)?;
    let mut queue = drive.controller.queue(QueueOptions::default())?;
    drive.read_all(&mut queue, &whole)?;
    queue.announce()?;
    let unbinder = thread::spawn(move || by_hand::unbind(address));
    let start = Instant::now();
    let (good, recalled, with_it) = ends(&mut queue, |e| matches!(e, NvmeError::Recalled { .. }))?;
    check(start.elapsed() < Duration::from_secs(5), format!("{:?}", start.elapsed()))?;
    check((recalled, good.len() + with_it) == (1, 15), format!("{recalled}, {with_it}"))?;
    for at in good {
        holds(&mapping, at..at + READ, at)?;
    }
    check(!unbinder.is_finished(), "it was taken away before it was let go of")?;
    drop((queue, drive));
    match unbinder.join() {
        Ok(driver) => check(driver?.as_deref() == Some("nvme"), "the kernel did not take it"),
        Err(_) => Err("the thread panicked".into()),
    }
}

/// A process that reads until it is killed.
fn victim(address: &str) -> Outcome {
    let drive = Ours::open_at(address.parse()?)?;
    let mapping = drive.memory(16 << 20)?;
    let whole = target(&mapping, 0..16 << 20)?;
    let mut queue = drive.controller.queue(QueueOptions::default())?;
    loop {
        drive.read_all(&mut queue, &whole)?;
        queue.wait().ok_or("nothing came out")?.result?;
        println!("reading");
        while let Some(finished) = queue.wait() {
            finished.result?;
        }
    }
}

fn killed() -> Outcome {
    let address = Drive::returned("slow")?.address()?;
    driver::bind(address, "vfio-pci")?;
    for _ in 0..3 {
        let mut victim = Command::new(std::env::current_exe()?)
            .env(VICTIM, address.to_string())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = [0; 7];
        victim.stdout.take().ok_or("no pipe")?.read_exact(&mut line)?;
        check(&line == b"reading", "it says something else")?;
        victim.kill()?;
        victim.wait()?;
        Ours::open_at(address)?.works(12 << 20)?;
    }
    Ok(())
}

fn unmastered() -> Outcome {
    let drive = Ours::open("reader")?;
    let mapping = drive.memory(PAGE)?;
    let page = target(&mapping, 0..PAGE)?;
    let mut queue = drive.controller.queue(QueueOptions::default())?;
    drive.read(&mut queue, 0, &page, 0..PAGE)?;
    drive.controller.device().set_bus_master(false)?;
    let start = Instant::now();
    queue.read(1, &drive.namespace, 0, &page, 0..PAGE)?;
    let error = queue.wait().ok_or("nothing came out")?.result.expect_err("it cannot read");
    println!("{error}");
    check(matches!(error, NvmeError::Fatal { .. }), error)?;
    check(start.elapsed() < Duration::from_secs(5), format!("{:?}", start.elapsed()))?;
    let address = drive.controller.address().parse()?;
    drop((queue, drive, mapping, page));
    Ours::open_at(address)?.works(0)
}

fn cycles() -> Outcome {
    let address = Drive::returned("reader")?.address()?;
    hold_no_more(Holdings::now, 4..100, |cycle| {
        driver::bind(address, "vfio-pci")?;
        Ours::open_at(address)?.works(u64::from(cycle) * 77 * PAGE)?;
        check(driver::release(address)?.as_deref() == Some("nvme"), "the kernel did not take it")
    })?;
    let bytes = std::fs::read(Drive::appearing("reader")?.block)?;
    check(bytes == *DRIVE, "other bytes")
}
