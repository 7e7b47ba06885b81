//! What the tests of devices share: a device that is absent is a trial ignored with a reason.

use std::fmt::Display;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// Why a trial did not pass: it failed, or something it needs is not on this machine.
pub enum Stop {
    Failed(String),
    Absent(String),
}

impl<E: Display> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

pub type Outcome = Result<(), Stop>;

/// What a trial needs and this machine may lack.
pub fn need<T>(thing: Result<T, impl Display>) -> Result<T, Stop> {
    thing.map_err(|why| Stop::Absent(why.to_string()))
}

/// Fails the trial unless it holds.
pub fn check(holds: bool, what: impl Display) -> Outcome {
    if holds { Ok(()) } else { Err(Stop::Failed(what.to_string())) }
}

pub fn trial(name: &str, run: fn() -> Outcome) -> Trial {
    Trial::ignorable_test(name, move || match run() {
        Ok(()) => Ok(Completion::Completed),
        Err(Stop::Absent(why)) => Ok(Completion::ignored_with(why)),
        Err(Stop::Failed(why)) => Err(Failed::from(why)),
    })
}

/// Runs one trial at a time, because some count the process's file descriptors.
pub fn run(trials: Vec<Trial>) -> ExitCode {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials).exit_code()
}

pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Bytes that repeat nowhere near (xorshift).
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len.div_ceil(8)).flat_map(|_| step().to_le_bytes()).take(len).collect()
}
