//! The developer commands: `cargo xtask demo`, `test`, `bench`, `fuzz`, `races`, `hardware`, `matrix` and `vm`.
//!
//! Each command is one file and reads from top to bottom as what it does. They share the running of children
//! ([`child`]), the list of steps with its summary ([`steps`]), the packages of the system ([`packages`]) and the
//! real files that tests and demonstrations load ([`inputs`]).

#![deny(unsafe_code)]

mod apt_sources;
mod bench;
mod child;
#[cfg(test)]
mod circles;
mod debian;
mod demo;
mod files;
mod fuzz;
mod hardware;
mod inputs;
mod matrix;
mod packaged;
mod packages;
mod races;
mod steps;
mod tally;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of bufmap.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the tool, fetch two real files, load both into memory and into Vulkan
    Demo(demo::Options),
    /// Formats, lints, every kind of test, documentation; ends with what was skipped and why
    Test(test::Options),
    /// Run the benchmarks, each of which prints its own ratios
    Bench(bench::Options),
    /// Run every fuzz target for a while
    Fuzz(fuzz::Options),
    /// Run the loader's tests under ThreadSanitizer
    Races(races::Options),
    /// Try every source of frames against every importer, and write docs/matrix.md
    Matrix,
    /// Make a directory that finds out what a real machine does, and runs where nothing is installed
    Hardware(hardware::Options),
    /// Boot a machine in software and run a command in it
    Vm(vm::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Races(options) => races::run(&options),
        Command::Matrix => matrix::run(),
        Command::Hardware(options) => hardware::run(&options),
        Command::Vm(options) => match vm::run(&options) {
            Ok(status) => return ExitCode::from(status.clamp(0, 255) as u8),
            Err(error) => Err(error),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
