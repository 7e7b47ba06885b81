//! One run on a real machine: what it is, what its GPU and drives can do, how fast loads are beside
//! their limits and their rivals, and a page that says so.
//!
//! `cargo xtask hardware` puts this program, the tool and Vulkan's loader into a directory that runs
//! where nothing is installed. The modules, in the order in which a run goes through them:
//!
//! * [`supervisor`]: runs each step in a process of its own with a time limit, and keeps what it told;
//! * [`run`]: what is known of a run and its steps;
//! * [`record`]: what a step tells, one line of JSON each, so that a killed step keeps what it had;
//! * [`steps`]: the steps;
//! * [`mod@file`]: the file that is loaded, and how the page cache is filled and emptied;
//! * [`readers`], [`cuda`]: what rivals and limits are measured with;
//! * [`share`]: each speed as a share of what bounds it; [`page`]: the records as a page for people.
#![deny(unsafe_code)]

mod args;
mod context;
mod cuda;
mod file;
mod page;
mod readers;
mod record;
mod run;
mod share;
mod steps;
mod supervisor;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use args::Args;
use context::Context;
use record::Teller;

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
