//! The `bufmap` command: a thin face over the library.
// What a system, a file or a peer can refuse is an error and no panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::print_stdout,
        clippy::print_stderr,
        clippy::disallowed_methods
    )
)]

mod account;
mod args;
mod bind;
mod buffer;
mod caveats;
mod explain;
mod exporter;
mod extents;
mod failure;
mod interrupt;
mod json;
mod load;
mod output;
mod peers;
mod phyrs;
mod probe;
mod progress;
mod save;
mod table;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::ExitCode;

use bufmap::exporters::outside::{self, report};
use bufmap::storage::file::open_files;
use clap::Parser;

use failure::Failure;
use interrupt::INTERRUPTED;
use output::{say, unprinted};

fn main() -> ExitCode {
    // Where that is refused, the error of the file that is too many names the limit.
    let _ = open_files::raise_limit();
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(instead) => return explain_usage(&instead),
    };
    let done = match args.command {
        args::Command::Load(args) => load::run(&args),
        args::Command::Save(args) => save::run(&args),
        args::Command::Explain(args) => explain::run(&args),
        args::Command::Extents(args) => extents::run(&args),
        args::Command::Probe(args) => probe::run(&args),
        args::Command::Phyrs(args) => phyrs::run(&args),
        args::Command::Bind(args) => bind::bind(&args),
        args::Command::Unbind(args) => bind::unbind(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Stopped(why)) => {
            say(&why);
            ExitCode::from(INTERRUPTED)
        }
        Err(Failure::Error(why)) => {
            say(&why);
            ExitCode::FAILURE
        }
    }
}

/// Prints the help that was asked for, or what is wrong with the command line.
fn explain_usage(instead: &clap::Error) -> ExitCode {
    let printed = match std::env::args_os().all(|argument| is_harmless(&argument)) {
        true => instead.print(),
        // It repeats the arguments, between its own colours.
        false => write!(io::stderr(), "{}", report(&instead.render().to_string())),
    };
    match u8::try_from(instead.exit_code()) {
        Ok(0) => match printed.map_err(unprinted) {
            Ok(()) | Err(None) => ExitCode::SUCCESS,
            Err(Some(why)) => {
                say(&why);
                ExitCode::FAILURE
            }
        },
        status => ExitCode::from(status.unwrap_or(2)),
    }
}

fn is_harmless(argument: &OsStr) -> bool {
    argument.to_str().is_some_and(|text| text.chars().all(outside::is_harmless))
}
