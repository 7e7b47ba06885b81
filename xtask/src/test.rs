//! `cargo xtask test`: every check of the project, in the order in which failures are cheapest to find.
//!
//! `cargo test` runs all tests: it is there wherever Rust is, and it alone runs documentation tests, so that there is one
//! runner and one way to read its totals.

use clap::Args;

use crate::child::{self, Error, FEATURES, cargo};
use crate::hardware;
use crate::inputs;
use crate::packaged;
use crate::packages::{self, FIO, PIP, TOOLS, VULKAN};
use crate::steps::{Outcome, Steps};
use crate::tally::Tally;
use crate::vm;

#[derive(Args)]
pub struct Options {
    /// Install no packages, even where that is allowed
    #[arg(long)]
    no_install: bool,
    /// Formats, lints and the unit tests beside the code; nothing is installed or fetched
    #[arg(long)]
    quick: bool,
    /// Only the tests that run in the machines of the bench
    #[arg(long, conflicts_with = "quick")]
    bench: bool,
}

const WHY: &str = "the messages above say why";

pub fn run(options: &Options) -> Result<(), Error> {
    let mut steps = Steps::default();
    let mut tally = Tally::default();
    if options.bench {
        vm::suite::run(&mut steps, &mut tally, !options.no_install);
        return end(&steps, &tally);
    }
    if !options.quick {
        prepare(&mut steps, !options.no_install);
    }
    lint(&mut steps);
    if options.quick {
        test(&mut steps, &mut tally, "unit tests", &["--lib", "--bins"]);
        for left_out in ["packages", "real inputs", "integration tests", "documentation", "bench"] {
            steps.skip(left_out, "--quick");
        }
    } else {
        test(&mut steps, &mut tally, "tests", &["--tests", "--examples"]);
        test_documentation(&mut steps, &mut tally);
        run_on_this_hardware(&mut steps);
        vm::suite::run(&mut steps, &mut tally, !options.no_install);
    }
    end(&steps, &tally)
}

fn end(steps: &Steps, tally: &Tally) -> Result<(), Error> {
    steps.print_summary();
    tally.print();
    steps.verdict()
}

fn prepare(steps: &mut Steps, install: bool) {
    let packages = VULKAN.iter().chain([&FIO, &PIP]).chain(&TOOLS);
    steps.run("packages", || Ok(packages::provide(packages, install)));
    steps.run("real inputs", || Ok(inputs::fetch()?.outcome()));
}

fn lint(steps: &mut Steps) {
    steps.run("format", || {
        child::run(
            &mut cargo(&["fmt", "--all", "--check", "--", "--color=never"]),
            "run `cargo fmt --all`",
        )?;
        Ok(Outcome::Done)
    });
    steps.run("lints", || {
        let mut clippy = cargo(&["clippy", "--workspace", "--all-targets"]);
        child::run(clippy.args(FEATURES).args(["--", "-D", "warnings"]), WHY)?;
        Ok(Outcome::Done)
    });
    steps.run("what is packaged", packaged::check);
}

/// Builds the tests first: only the output of the tests themselves is read for totals and skips.
fn test(steps: &mut Steps, tally: &mut Tally, name: &str, targets: &[&str]) {
    let common = ["test", "--workspace", "--no-fail-fast"];
    let built = steps.run(&format!("build {name}"), || {
        child::run(cargo(&common).args(FEATURES).args(targets).arg("--no-run"), WHY)?;
        Ok(Outcome::Done)
    });
    if !built {
        return steps.skip(name, "they could not be built");
    }
    steps.run(name, || {
        let mut tests = cargo(&common);
        tests.args(FEATURES).args(targets).args(["--", "--show-output"]);
        run_tests(&mut tests, tally)
    });
}

fn test_documentation(steps: &mut Steps, tally: &mut Tally) {
    steps.run("documentation tests", || {
        let mut tests = cargo(&["test", "--workspace", "--no-fail-fast", "--doc"]);
        run_tests(tests.args(FEATURES), tally)
    });
    steps.run("documentation", || {
        let mut doc = cargo(&["doc", "--workspace", "--no-deps"]);
        child::run(doc.args(FEATURES).env("RUSTDOCFLAGS", "-D warnings"), WHY)?;
        Ok(Outcome::Done)
    });
}

/// Makes the directory for real machines and runs it on this one, with less time and a shorter file.
fn run_on_this_hardware(steps: &mut Steps) {
    steps.run("hardware", || {
        hardware::run_here(&hardware::make()?, &["--size", "512MiB", "--limit", "100"])?;
        Ok(Outcome::Done)
    });
}

fn run_tests(tests: &mut std::process::Command, tally: &mut Tally) -> Result<Outcome, Error> {
    tests.env(inputs::VARIABLE, inputs::directory()?);
    child::watch(tests, WHY, |line| tally.read(line))?;
    Ok(Outcome::Done)
}
