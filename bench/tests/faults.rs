//! A drive that fails, a slow one, and one that is unplugged: each load ends, with an error that names
//! drive and offset, and the bytes it calls valid are the drive's.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bufmap::load::Load;
use bufmap::storage::file::SourceFile;
use bufmap::transfer::{Around, Options, Progress, Receipt, Request, TransferError, Valid};
use bufmap_bench::drive::{Drive, pattern};
use bufmap_bench::monitor::Monitor;
use bufmap_bench::{Outcome, check, kernel_log};
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
