//! What a read costs the processor, counted in instructions: by the driver in user space, and by the
//! kernel's through io_uring. And ten thousand whole loads, of which nothing is left.

use std::fs::{File, OpenOptions};
use std::iter;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bufmap::engine::{Buffer, Completed, Completions, Loader, LoaderOptions, Request};
use bufmap::load::Load;
use bufmap::storage::file::pread;
use bufmap::storage::nvme::{DriveFile, Extent, Namespace, Queue, QueueOptions, Target};
use bufmap::transfer::{self, Around, DataPath, Options};
use bufmap_bench::cut_short::holds;
use bufmap_bench::drive::Drive;
use bufmap_bench::leaks::{cpu_time, leave_nothing};
use bufmap_bench::ours::Ours;
use bufmap_bench::{Outcome, check};
use exporters::Destination;
use exporters::Intent;
use exporters::vfio::Container;
use io_uring::{IoUring, opcode, types};
use iomap::{BufMap, Memory, PageSize};
use libtest_mimic::Failed;

const PAGE: u64 = 4096;

/// How many reads are in flight at a time, and how many times so many are read.
const DEPTH: u64 = 32;
const ROUNDS: u64 = 100;

fn main() -> ExitCode {
    bufmap_bench::run(
        "vfio-counted",
        &[
            ("a_read_costs_half_of_io_urings", costs),
            ("what_a_read_by_a_loader_costs", loader_costs),
            ("ten_thousand_loads_into_a_bar_leave_nothing_behind", cycles),
        ],
    )
}

fn costs() -> Outcome {
    let kernel = io_uring()?;
    let (memory, vram) = user_space()?;
    println!("instructions for a read of 4 KiB, {DEPTH} in flight:");
    println!("  io_uring, O_DIRECT, registered buffer and file: {kernel}");
    println!("  driver in user space, into system memory:       {memory}");
    println!("  driver in user space, into a BAR:               {vram}");
    check(memory * 2 <= kernel, format!("{memory} are more than half of {kernel}"))?;
    // Where the bytes go is the drive's affair.
    check(memory.abs_diff(vram) * 100 <= memory, format!("{memory} into memory, {vram} into a BAR"))
}

/// Reads through io_uring, from a drive of the kernel's. The processor's time of this process is taken
/// alone: interrupts that find the processor idle are left out, in the kernel's favour.
fn io_uring() -> Result<u64, Failed> {
    let drive = Drive::returned("failing")?;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(drive.block)?;
    let memory = Memory::anonymous((DEPTH * PAGE) as usize, PageSize::Base)?;
    let mut ring = IoUring::new(DEPTH as u32)?;
    let whole = libc::iovec { iov_base: memory.map().as_ptr().cast(), iov_len: memory.len() };
    register(&ring, &whole)?;
    ring.submitter().register_files(&[file.as_raw_fd()])?;
    let mut costs = Vec::new();
    for round in 0..ROUNDS {
        let start = cpu_time();
        for i in 0..DEPTH {
            let at = memory.map().as_ptr().wrapping_add((i * PAGE) as usize);
            let read = opcode::ReadFixed::new(types::Fixed(0), at, PAGE as u32, 0)
                .offset((round * DEPTH + i) * PAGE)
                .build()
                .user_data(i);
            push(&mut ring, &read)?;
        }
        ring.submit_and_wait(DEPTH as usize)?;
        for completion in ring.completion() {
            check(completion.result() == PAGE as i32, completion.result())?;
        }
        costs.push(cpu_time() - start);
    }
    Ok(typical(costs))
}

/// The program's part and the kernel's, on all threads of this process. As many reads as are in flight are kept there.
fn loader_costs() -> Outcome {
    let drive = Drive::returned("failing")?;
    let memory = Arc::new(Memory::anonymous((DEPTH * PAGE) as usize, PageSize::Base)?);
    memory.populate()?;
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&drive.block)?;
    let bare = by_a_bare_ring(&direct, &memory)?;
    let start = cpu_time();
    for i in 0..ROUNDS * DEPTH {
        let into = memory.map().subrange(..PAGE as usize)?;
        check(pread::read_at(&direct, i * PAGE, &into)? == into.len(), i)?;
    }
    let one = each(start);

    let loader = Loader::new()?;
    let file = loader.open(&drive.block)?;
    let buffer = Buffer::new(memory)?;
    let request = |i: u64| {
        let place = i % DEPTH * PAGE;
        Request::new(&file, i * PAGE..(i + 1) * PAGE, &buffer, place).require(DataPath::Direct)
    };
    let together = in_flight(&loader, &request, &mut |completions| completions.wait())?;
    let (driven, mut driver) = Loader::driven(LoaderOptions::default())?;
    let by_driver = in_flight(&driven, &request, &mut |completions| driver.next(completions))?;
    let start = cpu_time();
    (0..ROUNDS * DEPTH).try_for_each(|i| loader.load(request(i)).map(drop))?;
    let alone = each(start);
    println!("instructions for a read of 4 KiB, with the kernel's:");
    println!("  io_uring, {DEPTH} in flight:        {bare}");
    println!("  a loader, {DEPTH} in flight:        {together}");
    println!("  a driven loader, {DEPTH} in flight: {by_driver}");
    println!("  pread, one at a time:        {one}");
    println!("  Loader::load, one at a time: {alone}");
    check(together * 2 <= bare * 5, format!("{together} are more than 2.5 of {bare}"))?;
    check(by_driver * 5 <= bare * 11, format!("{by_driver} are more than 2.2 of {bare}"))?;
    check(alone * 5 <= one * 6, format!("{alone} are more than 1.2 of {one}"))
}

/// What each of all reads costs, as many as are in flight kept there. `next` waits for one.
fn in_flight(
    loader: &Loader,
    request: &dyn Fn(u64) -> Request,
    next: &mut dyn FnMut(&Completions) -> Completed,
) -> Result<u64, Failed> {
    let completions = Completions::new();
    let start = cpu_time();
    loader.submit_all((0..DEPTH).map(request), &completions)?;
    let (mut begun, mut done) = (DEPTH, 0);
    while done < ROUNDS * DEPTH {
        let first = next(&completions);
        let all = iter::once(first).chain(iter::from_fn(|| completions.poll()));
        let came =
            all.map(|completed| completed.outcome).collect::<Result<Vec<_>, _>>()?.len() as u64;
        let next = (begun + came).min(ROUNDS * DEPTH);
        loader.submit_all((begun..next).map(request), &completions)?;
        (begun, done) = (next, done + came);
    }
    Ok(each(start))
}

/// What each of all reads has cost since.
fn each(start: Duration) -> u64 {
    (cpu_time() - start).as_nanos() as u64 / (ROUNDS * DEPTH)
}

/// What a program does that needs nothing else.
fn by_a_bare_ring(direct: &File, memory: &Memory) -> Result<u64, Failed> {
    let mut ring = IoUring::new(DEPTH as u32)?;
    let fd = types::Fd(direct.as_raw_fd());
    let read = |i: u64| {
        let into = memory.map().as_ptr().wrapping_add((i % DEPTH * PAGE) as usize);
        opcode::Read::new(fd, into, PAGE as u32).offset(i * PAGE).build()
    };
    let start = cpu_time();
    for i in 0..DEPTH {
        push(&mut ring, &read(i))?;
    }
    let (mut begun, mut done) = (DEPTH, 0);
    while done < ROUNDS * DEPTH {
        ring.submit_and_wait(1)?;
        while let Some(completion) = next_of(&mut ring) {
            check(completion == PAGE as i32, completion)?;
            done += 1;
            if begun < ROUNDS * DEPTH {
                push(&mut ring, &read(begun))?;
                begun += 1;
            }
        }
    }
    Ok(each(start))
}

fn next_of(ring: &mut IoUring) -> Option<i32> {
    Some(ring.completion().next()?.result())
}

/// Reads by the driver, into system memory and into a BAR.
fn user_space() -> Result<(u64, u64), Failed> {
    let ours = Ours::open(Container::new()?, "reader")?;
    let Ours { container, card, controller, namespace, .. } = ours;
    let mut queue = controller.queue(QueueOptions::default())?;

    let memory = Memory::anonymous((DEPTH * PAGE) as usize, PageSize::Base)?;
    let memory = Arc::new(container.map_dma(memory, Intent::Write)?);
    let vram = Arc::new(container.map_dma(card.map_region(2)?, Intent::Write)?);
    let mut here = Target::default();
    here.push(&memory, 0..DEPTH * PAGE)?;
    let mut there = Target::default();
    there.push(&vram, 0..DEPTH * PAGE)?;
    let here = reads(&mut queue, &namespace, &Arc::new(here))?;
    Ok((here, reads(&mut queue, &namespace, &Arc::new(there))?))
}

fn reads(queue: &mut Queue, namespace: &Namespace, target: &Arc<Target>) -> Result<u64, Failed> {
    let clock = clock_cost();
    let mut costs = Vec::new();
    for round in 0..ROUNDS {
        let start = Instant::now();
        for i in 0..DEPTH {
            let offset = (round * DEPTH + i) * PAGE;
            queue.read(i, namespace, offset, target, i * PAGE..(i + 1) * PAGE)?;
        }
        queue.announce()?;
        let mut cost = start.elapsed().saturating_sub(clock);
        while !queue.is_empty() {
            // A look that finds nothing is waiting, and the others are work.
            let start = Instant::now();
            let finished = queue.poll();
            let took = start.elapsed().saturating_sub(clock);
            if let Some(finished) = finished {
                finished.result?;
                cost += took;
            }
        }
        costs.push(cost);
    }
    Ok(typical(costs))
}

/// A BAR mapped, loaded into and unmapped; and now and then memory of the system's.
fn cycles() -> Outcome {
    const SOME: u64 = 2 * PAGE;
    let ours = Ours::open(Container::new()?, "reader")?;
    let extents = vec![Extent { file_offset: 0, offset: 0, len: SOME }];
    let file = DriveFile::new(&ours.controller, ours.namespace, "the first bytes", extents)?;
    let load = |destination: &dyn Destination, map: BufMap<'_>, path| -> Outcome {
        map.fill(0xEE)?;
        let options = Options { require: Some(path), depth: 4, ..Options::default() };
        let receipt = Load {
            files: std::slice::from_ref(&file),
            requests: &[transfer::Request::new(0, 0, SOME, 0)],
            around: Around::Untouched,
            destination,
            options,
            stop: &AtomicBool::new(false),
        }
        .run(&mut |_| ())?;
        check(receipt.bytes == SOME && receipt.cpu_copied == 0, format!("{receipt:?}"))?;
        holds(&map, 0..SOME)
    };
    let each = leave_nothing(
        || Ok(()),
        |cycle| {
            let vram = ours.card.map_part(2, 0..SOME)?;
            load(&vram, vram.map(), DataPath::Peer)?;
            if cycle % 10 == 0 {
                let memory = Memory::anonymous(SOME as usize, PageSize::Base)?;
                load(&memory, memory.map(), DataPath::Direct)?;
            }
            Ok(())
        },
    )?;
    println!("instructions to map, load {SOME} bytes and unmap: {}", each.as_nanos());
    Ok(())
}

/// The cost of a read in a typical round: one that nothing of the kernel's has interrupted.
fn typical(mut costs: Vec<Duration>) -> u64 {
    costs.sort_unstable();
    costs[costs.len() / 2].as_nanos() as u64 / DEPTH
}

/// What it costs to look at the clock.
fn clock_cost() -> Duration {
    (0..100).map(|_| Instant::now().elapsed()).min().unwrap_or_default()
}

#[allow(unsafe_code)]
fn register(ring: &IoUring, whole: &libc::iovec) -> Result<(), Failed> {
    // SAFETY: the memory outlives the ring, which is dropped before it.
    Ok(unsafe { ring.submitter().register_buffers(std::slice::from_ref(whole)) }?)
}

#[allow(unsafe_code)]
fn push(ring: &mut IoUring, read: &io_uring::squeue::Entry) -> Result<(), Failed> {
    // SAFETY: the memory that it reads into outlives the ring, and the round waits for it.
    Ok(unsafe { ring.submission().push(read) }?)
}
