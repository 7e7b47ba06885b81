//! What the tests of the virtual bench share.
//!
//! Each program in `tests/` is for the machine of its name (`cargo xtask vm --list`, `_` for `-`) and
//! holds the real kernel to what it is known to do there. `cargo xtask test` boots each machine once
//! and runs its program inside; anywhere else its tests are counted as ignored.
#![deny(unsafe_code)]

pub mod by_hand;
pub mod card;
pub mod cut_short;
pub mod display;
pub mod dma_buf;
pub mod drive;
pub mod drm_file;
pub mod leaks;
pub mod monitor;
pub mod ours;
pub mod programs;
pub mod random;
pub mod slot;
pub mod sync_file;
pub mod validated;

use std::fmt::Display;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// What a test ends with.
pub type Outcome = Result<(), Failed>;

/// A test and its name.
pub type Test<'a> = (&'a str, fn() -> Outcome);

/// The variable in which the guest names its machine.
const MACHINE: &str = "BUFMAP_TOPOLOGY";

/// Runs tests one at a time, or ignores them where this is not the machine `machine`.
pub fn run(machine: &'static str, tests: &[Test<'_>]) -> ExitCode {
    let here = std::env::var(MACHINE).is_ok_and(|here| here == machine);
    let trials = tests.iter().map(|&(name, test)| {
        Trial::ignorable_test(format!("{machine}::{name}"), move || match here {
            true => test().map(|()| match SKIPPED.lock().ok().and_then(|mut why| why.take()) {
                None => Completion::Completed,
                Some(why) => Completion::ignored_with(why),
            }),
            false => Ok(Completion::ignored_with(format!(
                "needs the machine {machine} of the bench: cargo xtask test"
            ))),
        })
    });
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Set in a process that [`alone`] started.
const ALONE: &str = "BUFMAP_ALONE";

/// Runs the trial of that whole name in a process of its own: what a process remembers of its transfers is not known to it.
///
/// # Errors
/// Fails the trial if it fails in that process, which prints why, or if no process can be started.
pub fn alone(name: &str, test: fn() -> Outcome) -> Outcome {
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let mut program = Command::new(std::env::current_exe()?);
    let status = program.args(["--exact", name]).env(ALONE, "1").status()?;
    check(status.success(), format!("{name} in a process of its own: {status}"))
}

/// Why the test that runs now cannot be run here, once it has found that out.
static SKIPPED: Mutex<Option<String>> = Mutex::new(None);

/// Has the test that runs now, which returns next, count as ignored and not as passed. `why` says what
/// lacks and how to get it.
pub fn skip(why: impl Into<String>) {
    if let Ok(mut skipped) = SKIPPED.lock() {
        *skipped = Some(why.into());
    }
}

/// Fails a test unless it holds.
pub fn check(holds: bool, what: impl Display) -> Outcome {
    if holds { Ok(()) } else { Err(what.to_string().into()) }
}

/// How often something that is waited for is looked at.
const TICK: Duration = Duration::from_millis(20);

/// Whether something is so, once it is or after so long.
///
/// # Errors
/// Fails the test if it cannot be told.
pub fn comes_true(
    limit: Duration,
    mut is_so: impl FnMut() -> Result<bool, Failed>,
) -> Result<bool, Failed> {
    let begun = Instant::now();
    loop {
        match is_so()? {
            false if begun.elapsed() < limit => thread::sleep(TICK),
            so => return Ok(so),
        }
    }
}

/// Ends a program that is run for something other than its tests, as a process of a test's own.
pub fn end(who: &str, outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{who}: {}", error.message().unwrap_or("no message"));
            ExitCode::FAILURE
        }
    }
}

/// What the kernel has said since it was booted.
pub fn kernel_log() -> Result<String, Failed> {
    said("dmesg", &[])
}

/// Runs a program that must succeed, and returns what it printed.
pub fn said(program: &str, arguments: &[&str]) -> Result<String, Failed> {
    let output = Command::new(program).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(text),
        false => {
            Err(format!("{program} {arguments:?}: {}: {text}{complaint}", output.status).into())
        }
    }
}
