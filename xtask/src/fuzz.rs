//! `cargo xtask fuzz`: every target in `fuzz/fuzz_targets`, each for a while, by cargo-fuzz.
//!
//! Inputs that are worth keeping lie in `fuzz/seeds/TARGET` and are in the repository; what the fuzzer finds on its own goes
//! to `fuzz/corpus/TARGET`, which is not.

use std::fs;
use std::process::Command;

use clap::Args;

use crate::child::{self, Error, cargo, workspace};
use crate::steps::{Outcome, Steps};

#[derive(Args)]
pub struct Options {
    /// Only the targets with these names
    names: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

pub fn run(options: &Options) -> Result<(), Error> {
    let targets = targets(&options.names)?;
    require_nightly()?;
    require_cargo_fuzz()?;
    let mut steps = Steps::default();
    for target in &targets {
        steps.run(&format!("fuzz {target}"), || fuzz(target, options.seconds));
    }
    steps.print_summary();
    steps.verdict()
}

fn fuzz(target: &str, seconds: u32) -> Result<Outcome, Error> {
    let corpus = format!("fuzz/corpus/{target}");
    let seeds = format!("fuzz/seeds/{target}");
    let corpus_path = workspace().join(&corpus);
    fs::create_dir_all(&corpus_path).map_err(|source| Error::File {
        action: "create",
        path: corpus_path,
        source,
        remedy: "check the permissions of fuzz/",
    })?;
    let mut fuzz = nightly(&["fuzz", "run", target, &corpus]);
    if workspace().join(&seeds).is_dir() {
        fuzz.arg(&seeds);
    }
    fuzz.arg("--").arg(format!("-max_total_time={seconds}"));
    let remedy = format!(
        "an input that fails is in fuzz/artifacts/{target}; to see it again: cargo +nightly fuzz run {target} FILE"
    );
    child::run(&mut fuzz, &remedy)?;
    Ok(Outcome::Done)
}

/// The targets by the names of their files, as cargo-fuzz lays them out.
fn targets(names: &[String]) -> Result<Vec<String>, Error> {
    let files = fs::read_dir(workspace().join("fuzz/fuzz_targets")).into_iter().flatten().flatten();
    let sources =
        files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let mut there: Vec<_> =
        sources.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    there.sort();
    let unknown = names.iter().find(|name| !there.contains(name));
    if unknown.is_some() || there.is_empty() {
        let named = unknown.map(|name| format!(" named {name}")).unwrap_or_default();
        return Err(Error::Missing {
            what: format!("fuzz/fuzz_targets has no target{named}"),
            remedy: format!("those that are there: {}", there.join(" ")),
        });
    }
    there.retain(|target| names.is_empty() || names.contains(target));
    Ok(there)
}

/// A fuzzer needs the compiler's sanitizers, which only a nightly compiler offers.
fn require_nightly() -> Result<(), Error> {
    if child::succeeds(&mut nightly(&["--version"])) {
        return Ok(());
    }
    Err(Error::Missing {
        what: "there is no nightly toolchain (`cargo +nightly` does not run)".to_owned(),
        remedy: "install one: rustup toolchain install nightly --profile minimal".to_owned(),
    })
}

fn require_cargo_fuzz() -> Result<(), Error> {
    if child::succeeds(&mut cargo(&["fuzz", "--version"])) {
        return Ok(());
    }
    let mut install = cargo(&["install", "--locked", "cargo-fuzz"]);
    child::run(&mut install, "check the network and cargo's configuration")
}

/// rustup's cargo, which alone understands `+nightly`.
fn nightly(arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.arg("+nightly").args(arguments).current_dir(workspace());
    command
}
