//! What a process holds, counted, so that a test sees what it left behind.

use std::fmt::Debug;
use std::fs;
use std::hint::black_box;
use std::io;
use std::ops::Range;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use libtest_mimic::Failed;
use rustix::time::{ClockId, clock_gettime};

use crate::{Outcome, check, comes_true, said};

/// What this process holds of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Open file descriptors.
    pub fds: usize,
    /// Mappings.
    pub maps: usize,
    /// Locked memory, KiB: what type1 has pinned is counted here.
    pub locked_kib: u64,
    /// Pinned memory, KiB: what io_uring has registered is counted here.
    pub pinned_kib: u64,
}

impl Holdings {
    /// What it holds now.
    ///
    /// # Errors
    /// Fails the test if `/proc` does not tell.
    pub fn now() -> Result<Self, Failed> {
        let status = fs::read_to_string("/proc/self/status")?;
        let kib = |name: &str| -> Result<u64, Failed> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next());
            Ok(number.ok_or("a short /proc/self/status")?.parse()?)
        };
        Ok(Self {
            fds: fs::read_dir("/proc/self/fd")?.count(),
            maps: fs::read_to_string("/proc/self/maps")?.lines().count(),
            locked_kib: kib("VmLck:")?,
            pinned_kib: kib("VmPin:")?,
        })
    }
}

/// How many dma-bufs the kernel has, of all processes together.
///
/// # Errors
/// Fails the test if debugfs does not tell.
pub fn dma_bufs() -> Result<usize, Failed> {
    let info = bufinfo()?;
    // Each dma-buf has a total too, that of the devices attached to it.
    let total = info.lines().find_map(|line| {
        let (count, _) = line.strip_prefix("Total ")?.split_once(" objects, ")?;
        Some(count)
    });
    Ok(total.ok_or("no total of dma-bufs")?.parse().map_err(io::Error::other)?)
}

/// The kernel's list of its dma-bufs.
///
/// # Errors
/// Fails the test if debugfs does not tell.
pub fn bufinfo() -> Result<String, Failed> {
    const INFO: &str = "/sys/kernel/debug/dma_buf/bufinfo";
    if !fs::exists(INFO)? {
        said("mount", &["-t", "debugfs", "none", "/sys/kernel/debug"])?;
    }
    Ok(fs::read_to_string(INFO)?)
}

/// Waits until the kernel has as many dma-bufs again as before: it closes a dead process's files in its
/// own time.
///
/// # Errors
/// Fails the test if it has more or fewer after `limit`.
pub fn dma_bufs_are(before: usize, limit: Duration) -> Outcome {
    comes_true(limit, || Ok(dma_bufs()? == before))?;
    check(dma_bufs()? == before, format!("{before} dma-bufs before, {} now", dma_bufs()?))
}

/// Does something again and again, each time with its number: so often that everything that is made
/// once is there, then up to the end of `cycles`. What `held` counts is the same after it as before.
///
/// # Errors
/// Fails the test if one of the times does, or if another number is held.
pub fn hold_no_more<T: PartialEq + Debug>(
    held: impl Fn() -> Result<T, Failed>,
    cycles: Range<u32>,
    mut cycle: impl FnMut(u32) -> Outcome,
) -> Outcome {
    (0..cycles.start).try_for_each(&mut cycle)?;
    let before = held()?;
    cycles.into_iter().try_for_each(&mut cycle)?;
    let after = held()?;
    check(before == after, format!("{before:?}, then {after:?}"))
}

/// How often what must leave nothing behind is done.
const CYCLES: u32 = 10_000;

/// After so many times, everything that is made once is there.
const WARM: u32 = 100;

/// Does something ten thousand times, after which this process holds what it held before, and `more` is
/// what it was. Returns what a time costs this process on the processor; where that is counted, in
/// instructions.
///
/// # Errors
/// Fails the test if one of the times does, or if something was left behind.
pub fn leave_nothing<T: PartialEq + Debug>(
    mut more: impl FnMut() -> Result<T, Failed>,
    mut cycle: impl FnMut(u32) -> Outcome,
) -> Result<Duration, Failed> {
    end_threads();
    (0..WARM).try_for_each(&mut cycle)?;
    let (before, start) = ((Holdings::now()?, more()?), cpu_time());
    (WARM..CYCLES).try_for_each(&mut cycle)?;
    let each = (cpu_time() - start) / (CYCLES - WARM);
    let after = (Holdings::now()?, more()?);
    check(before == after, format!("{before:?}, then {after:?}"))?;
    Ok(each)
}

/// The C library keeps the stack and the heap of a thread that has ended for one to come. So a few are
/// made to end here: more than ever live at a time in a test.
pub fn end_threads() {
    const THREADS: usize = 8;
    let all = Barrier::new(THREADS);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                drop(black_box(vec![0_u8; 64]));
                all.wait();
            });
        }
    });
}

/// What this process has had of the processor.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
