//! `cargo xtask races`: the loader's tests under ThreadSanitizer, which tells of every access to memory that no order
//! between the threads protects.
//!
//! The standard library is built with it too: its locks would look like races otherwise. The compiler calls that
//! unstable, and is told not to mind.

use std::process::Command;

use clap::Args;

use crate::child::{self, Error, cargo};

#[derive(Args)]
pub struct Options {
    /// How many requests each of the storm's eight threads makes
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
}

/// The tests in which threads meet. What calls a driver of Vulkan's is not among them: the driver is not built so.
const TESTS: [&str; 2] = ["loader", "loader_driver"];

pub fn run(options: &Options) -> Result<(), Error> {
    let mut sources = Command::new("rustup");
    child::run(
        sources.args(["component", "add", "rust-src"]),
        "the standard library's source is built with the sanitizer; install rustup, or check the network",
    )?;
    let host = child::output(
        Command::new("rustc").args(["--print", "host-tuple"]),
        "install Rust by rustup",
    )?;
    let mut test = cargo(&["test", "-Zbuild-std", "--package", "bufmap", "--target", host.trim()]);
    test.args(["--target-dir", "target/races"]);
    for name in TESTS {
        test.args(["--test", name]);
    }
    test.env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zsanitizer=thread")
        .env("BUFMAP_STORM", options.requests.to_string());
    child::run(&mut test, "the sanitizer's reports above say which accesses met, and where")
}
