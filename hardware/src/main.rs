//! One run on a real machine: what it is, what its GPU and drives can do, how fast loads are beside
//! their limits and their rivals, and a page that says so.
//!
//! `cargo xtask hardware` puts this program, the tool and Vulkan's loader into a directory that runs
//! where nothing is installed. The modules, in the order in which a run goes through them:
//!
//! * [`supervisor`]: runs each step in a process of its own with a time limit, and keeps what it told;
//! * [`record`]: what a step tells, one line of JSON each, so that a killed step keeps what it had;
//! * [`steps`]: the steps;
//! * [`mod@file`]: the file that is loaded, and how the page cache is filled and emptied;
//! * [`readers`], [`cuda`]: what rivals and limits are measured with;
//! * [`share`]: each speed as a share of what bounds it; [`page`]: the records as a page for people.
#![deny(unsafe_code)]

mod cuda;
mod file;
mod page;
mod readers;
mod record;
mod share;
mod steps;
mod supervisor;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use clap::Parser;

use record::Teller;

/// Finds out what this machine does for bufmap, and writes hardware.md and hardware.json.
///
/// Each step runs in a process of its own with a time limit. A step that fails, crashes or takes too long does
/// not stop the rest, and what the machine lacks is named. No root and no network is needed; root sees more.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Args {
    /// Where hardware.md and hardware.json go, into a directory named by the date and the machine
    #[arg(long, default_value = ".", value_name = "DIR")]
    out: PathBuf,

    /// Where the file to load is made, on the drive that shall be measured; as --out if not given
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,

    /// How long the file is at most; less where there is no room or the drive is slow
    #[arg(long, default_value = "4GiB", value_name = "SIZE")]
    size: ByteSize,

    /// How long all steps together may take, in seconds
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    limit: u64,

    /// Only this step; may be given several times
    #[arg(long = "only", value_name = "STEP", value_parser = steps::names())]
    only: Vec<String>,

    /// Run one step in this process, for at most --limit seconds: how the program calls itself
    #[arg(long, hide = true, value_name = "STEP", value_parser = steps::names())]
    step: Option<String>,
}

/// What every step works with.
pub struct Context {
    /// The file that is loaded.
    file: PathBuf,
    /// The most bytes that it may have when it is made.
    most: u64,
    /// When the step is ended.
    deadline: Instant,
}

impl Context {
    /// The time left to the step.
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let work = args.work.as_ref().unwrap_or(&args.out);
    let context = Context {
        file: work.join("bufmap-hardware.bin"),
        most: args.size.as_u64(),
        deadline: Instant::now() + Duration::from_secs(args.limit),
    };
    if let Some(name) = &args.step {
        // Whoever started this process is the one who ends it in time.
        let _ =
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        steps::named(name).inspect(|step| (step.run)(&context, &mut Teller::default()));
        return ExitCode::SUCCESS;
    }
    match supervisor::run(&args, &context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            supervisor::say(&format!("bufmap-hardware: {why}"));
            ExitCode::FAILURE
        }
    }
}
