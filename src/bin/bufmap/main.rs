//! The `bufmap` command: a thin face over the library.

mod args;
mod bind;
mod explain;
mod extents;
mod load;
mod peers;
mod phyrs;
mod probe;
mod progress;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;

use bufmap::storage::file::open_files;
use clap::Parser;

/// What a shell expects of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    // Where that is refused, the error of the file that is too many names the limit.
    let _ = open_files::raise_limit();
    let done = match args::Args::parse().command {
        args::Command::Load(args) => load::run(&args),
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
            eprintln!("bufmap: {why}");
            ExitCode::from(INTERRUPTED)
        }
        Err(Failure::Error(why)) => {
            eprintln!("bufmap: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Why a command ended without doing what it was asked.
pub enum Failure {
    /// The user stopped it.
    Stopped(String),
    /// It failed.
    Error(String),
}

/// Prints a report. A reader that closes the pipe early has read enough.
pub fn print(report: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{report}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Error(format!("the report cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error(error.to_string())
    }
}
