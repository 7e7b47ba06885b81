//! A machine whose clock counts instructions: a cost read in it is the same on every host.
#![allow(unsafe_code)]

use std::arch::asm;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bufmap_bench::{Outcome, check};

fn main() -> ExitCode {
    bufmap_bench::run("plain-counted", &[("a_nanosecond_is_an_instruction", counts)])
}

/// A loop that is longer by half a million turns of two instructions takes a million nanoseconds
/// longer, to one in 10,000. The shortest of some tries is one that
/// no timer of the kernel's has interrupted.
fn counts() -> Outcome {
    const TURNS: u64 = 500_000;
    let shortest = |turns| (0..16).map(|_| turn(turns)).min().unwrap_or_default();
    let more = shortest(2 * TURNS).saturating_sub(shortest(TURNS)).as_nanos() as u64;
    check(more.abs_diff(2 * TURNS) < 2 * TURNS / 10_000, format!("{more} ns"))
}

fn turn(turns: u64) -> Duration {
    let started = Instant::now();
    // SAFETY: a loop over a register, which ends because `turns` is not zero.
    unsafe {
        asm!("2:", "dec {turns}", "jnz 2b", turns = inout(reg) turns => _, options(nomem, nostack));
    }
    started.elapsed()
}
