//! A drive that fails, a slow one, and one that is unplugged: each load ends, with an error that names
//! drive and offset, and the bytes it calls valid are the drive's.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bufmap::engine::{self, Buffer, File, Loader, LoaderOptions};
use bufmap::load::Load;
use bufmap::storage::file::SourceFile;
use bufmap::transfer::{Around, Options, Progress, Receipt, Request, TransferError, Valid};
use bufmap_bench::drive::{Drive, pattern};
use bufmap_bench::monitor::Monitor;
use bufmap_bench::{Outcome, check, kernel_log};
use exporters::Destination;
use iomap::{Memory, PageSize};
use libtest_mimic::Failed;

/// The length of the drives.
const LEN: usize = 64 << 20;

fn main() -> ExitCode {
    bufmap_bench::run(
        "faults",
        &[
            ("an_error_of_the_drive_spoils_what_the_kernel_read_with_it", failing),
            ("a_slow_drive_is_waited_for", slow),
            ("a_load_from_a_slow_drive_can_be_stopped", stopped),
            ("a_drive_that_is_unplugged_ends_the_load", unplugged),
            ("a_bad_sector_fails_one_request_of_a_loader", failing_under_a_loader),
            ("a_drive_that_is_unplugged_ends_its_requests_and_no_others", unplugged_under_a_loader),
        ],
    )
}

fn failing() -> Outcome {
    let drive = Drive::with_serial("failing")?;
    let memory = memory()?;
    let error = load(&drive, LEN, &memory, &AtomicBool::new(false), &mut |_| {}).err();
    let Some(TransferError::Read { path, offset, source, valid }) = &error else {
        return Err(format!("{error:?}").into());
    };
    check(*path == drive.block, path.display())?;
    // The kernel joins neighbouring reads, and they fail together.
    let middle = LEN as u64 / 2;
    check((middle - DEPTH as u64 * BLOCK + 1..=middle).contains(offset), offset)?;
    check(matches!(source.raw_os_error(), Some(libc::EIO | libc::ENODATA)), source)?;
    check(valid.ranges()[0] == (0..*offset), valid)?;
    is_the_drives(&memory, valid)?;
    check(kernel_log()?.contains("critical medium error"), "the kernel has not noticed")
}

fn slow() -> Outcome {
    const PART: usize = 4 << 20;
    let drive = Drive::with_serial("slow")?;
    let memory = memory()?;
    let started = Instant::now();
    let mut reports = Vec::new();
    let receipt = load(&drive, PART, &memory, &AtomicBool::new(false), &mut |progress| {
        reports.push(progress.done);
    })?;
    check(receipt.bytes == PART as u64, receipt.bytes)?;
    check(started.elapsed() > Duration::from_millis(500), "the drive is not slow")?;
    check(reports.len() > 2 && reports.is_sorted(), format!("{reports:?}"))?;
    check(contents(&memory)?[..PART] == pattern(PART), "other bytes")
}

fn stopped() -> Outcome {
    let memory = memory()?;
    let stop = AtomicBool::new(false);
    let drive = Drive::with_serial("slow")?;
    let error = load(&drive, LEN, &memory, &stop, &mut |progress| {
        stop.store(progress.done > 1 << 20, Ordering::Relaxed);
    });
    match &error {
        Err(TransferError::Stopped { valid }) => is_the_drives(&memory, valid),
        other => Err(format!("{other:?}").into()),
    }
}

fn unplugged() -> Outcome {
    let drive = Drive::with_serial("victim")?;
    let memory = memory()?;
    let mut monitor = Monitor::open()?;
    let mut plugged = true;
    let mut unplug = Ok(());
    let error = load(&drive, LEN, &memory, &AtomicBool::new(false), &mut |progress| {
        if plugged && progress.done > 1 << 20 {
            plugged = false;
            unplug = monitor.unplug("victim");
        }
    });
    unplug?;
    let Err(TransferError::Read { path, source, valid, .. }) = &error else {
        return Err(format!("{error:?}").into());
    };
    check(*path == drive.block, path.display())?;
    check(matches!(source.raw_os_error(), Some(libc::ENODEV | libc::EIO)), source)?;
    check(!drive.block.exists(), "the drive is still there")?;
    is_the_drives(&memory, valid)
}

/// The requests beside the one with the bad sector land.
fn failing_under_a_loader() -> Outcome {
    let drive = Drive::with_serial("failing")?;
    let loader = Loader::with(LoaderOptions::default().depth(DEPTH).block(BLOCK))?;
    let (file, memory) = (loader.open(&drive.block)?, Arc::new(memory()?));
    let buffer = Buffer::new(memory.clone())?;
    let middle = LEN as u64 / 2;
    let part = |at: u64| loader.submit(engine::Request::new(&file, at..at + BLOCK, &buffer, at));
    let before = part(0)?;
    let bad = part(middle)?;
    let after = part(LEN as u64 - BLOCK)?;
    before.wait()?;
    let error = bad.wait().err();
    let Some(TransferError::Read { path, offset, .. }) = &error else {
        return Err(format!("{error:?}").into());
    };
    check(*path == drive.block && *offset == middle, format!("{error:?}"))?;
    after.wait()?;
    let (found, wanted) = (contents(&memory)?, pattern(LEN));
    for at in [0, LEN - BLOCK as usize] {
        check(found[at..at + BLOCK as usize] == wanted[at..at + BLOCK as usize], at)?;
    }
    Ok(())
}

/// Several threads read from a drive that goes and from one that stays: every request is answered, with the drive's bytes
/// or an error that names it.
fn unplugged_under_a_loader() -> Outcome {
    const THREADS: usize = 4;
    let (victim, stays) = (Drive::with_serial("victim-too")?, Drive::with_serial("slow")?);
    let loader = Loader::with(LoaderOptions::default().depth(DEPTH).block(BLOCK))?;
    let files = [loader.open(&victim.block)?, loader.open(&stays.block)?];
    let wanted = pattern(LEN);
    let descriptors = || Ok::<_, Failed>(fs::read_dir("/proc/self/fd")?.count());
    let before = descriptors()?;
    let memories = (0..THREADS).map(|_| memory().map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    let landed = AtomicUsize::new(0);
    let (whole, lost) = thread::scope(|scope| {
        let reading: Vec<_> = memories
            .iter()
            .map(|memory| scope.spawn(|| read_on_and_on(&loader, &files, memory, &landed)))
            .collect();
        while landed.load(Ordering::Relaxed) < 8 {
            thread::sleep(Duration::from_millis(5));
        }
        Monitor::open()?.unplug("victim-too")?;
        let mut both = (0, 0);
        for reading in reading {
            let (whole, lost) = reading.join().map_err(|_| "a thread panicked")??;
            both = (both.0 + whole, both.1 + lost);
        }
        Ok::<_, Failed>(both)
    })?;
    println!("{whole} requests landed, {lost} lost their drive");
    check(
        whole >= 8 && lost > 0 && whole + lost == THREADS * REQUESTS,
        format!("{whole}, {lost}"),
    )?;
    check(!victim.block.exists(), "the drive is still there")?;
    for memory in &memories {
        check(Arc::strong_count(memory) == 1, "the loader has it still")?;
        let found = contents(memory)?;
        // The part that the drive that stays has filled.
        let stays = LEN / 2..LEN / 2 + REQUESTS / 2 * BLOCK as usize;
        check(found[stays.clone()] == wanted[stays], "other bytes")?;
    }
    check(descriptors()? <= before, "descriptors are left")
}

/// How many requests each thread has.
const REQUESTS: usize = 32;

/// Reads from both drives by turns, into the two halves of a memory. Returns how many requests landed, and how many lost their
/// drive.
fn read_on_and_on(
    loader: &Loader,
    files: &[File; 2],
    memory: &Arc<Memory>,
    landed: &AtomicUsize,
) -> Result<(usize, usize), Failed> {
    let buffer = Buffer::new(Arc::clone(memory) as Arc<dyn Destination>)?;
    let wanted = pattern(REQUESTS / 2 * BLOCK as usize);
    let mut tickets = Vec::new();
    for i in 0..REQUESTS {
        let (of, at) = (i % 2, (i / 2) as u64 * BLOCK);
        let place = of as u64 * LEN as u64 / 2 + at;
        let offset = if of == 0 { at } else { LEN as u64 / 2 + at };
        let request = engine::Request::new(&files[of], offset..offset + BLOCK, &buffer, place);
        tickets.push((of, at as usize, loader.submit(request.fingerprints())?));
    }
    let (mut whole, mut lost) = (0, 0);
    for (of, at, ticket) in tickets {
        match ticket.wait() {
            Ok(found) => {
                landed.fetch_add(1, Ordering::Relaxed);
                whole += 1;
                let expected = crc32fast::hash(&wanted[at..at + BLOCK as usize]);
                check(of == 1 || found.fingerprints == [expected], "other bytes")?;
            }
            Err(TransferError::Read { path, source, .. }) => {
                lost += 1;
                check(of == 0 && path == files[0].path(), path.display())?;
                let gone = [libc::ENODEV, libc::EIO];
                check(source.raw_os_error().is_some_and(|errno| gone.contains(&errno)), source)?;
            }
            Err(error) => return Err(format!("{error:?}").into()),
        }
    }
    Ok((whole, lost))
}

/// The most reads in flight, and the most bytes of one.
const DEPTH: u32 = 4;
const BLOCK: u64 = 64 << 10;

/// Loads the first `len` bytes of a drive.
fn load(
    drive: &Drive,
    len: usize,
    memory: &Memory,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Receipt, TransferError> {
    let file = SourceFile::open(&drive.block)
        .map_err(|source| TransferError::Open { path: drive.block.clone(), source })?;
    Load {
        files: &[file],
        requests: &[Request::new(0, 0, len as u64, 0)],
        around: Around::Untouched,
        destination: memory,
        options: Options { depth: DEPTH, block: BLOCK, ..Options::default() },
        stop,
    }
    .run(progress)
}

fn memory() -> Result<Memory, Failed> {
    Ok(Memory::anonymous(LEN, PageSize::Base)?)
}

fn contents(memory: &Memory) -> Result<Vec<u8>, Failed> {
    let mut bytes = vec![0; LEN];
    memory.map().copy_to_slice(0, &mut bytes)?;
    Ok(bytes)
}

/// The bytes called valid are some, not all, and those of the drive.
fn is_the_drives(memory: &Memory, valid: &Valid) -> Outcome {
    check(valid.bytes() > 0 && valid.bytes() < valid.wanted(), valid)?;
    let (found, wanted) = (contents(memory)?, pattern(LEN));
    for range in valid.ranges() {
        let range = range.start as usize..range.end as usize;
        check(found[range.clone()] == wanted[range.clone()], format!("{range:?} differ"))?;
    }
    Ok(())
}
