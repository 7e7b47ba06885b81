//! `cargo xtask demo`: two real files, from the registry into memory and into Vulkan, with the tables that show how.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::{self, Error, cargo};
use crate::inputs;
use crate::packages;
use crate::steps::{Outcome, Steps};

pub fn run() -> Result<(), Error> {
    let tool = build()?;
    let mut steps = Steps::default();
    let mut files = Vec::new();
    steps.run("fetch real files", || {
        let inputs = inputs::fetch()?;
        let outcome = inputs.outcome();
        files = inputs.files;
        Ok(outcome)
    });
    if files.is_empty() {
        println!("no real file could be fetched: loading a file that is there, the tool itself");
        files.push(tool.clone());
    }
    steps.run("what this machine offers", || {
        child::run(Command::new(&tool).arg("probe"), "its message says what to do")?;
        Ok(Outcome::Done)
    });
    for file in &files {
        load(&mut steps, &tool, file, "memory");
    }
    for file in &files {
        match packages::missing_for_vulkan() {
            None => load(&mut steps, &tool, file, "vulkan"),
            Some(why) => steps.skip(&step_name(file, "vulkan"), &why),
        }
    }
    steps.print_summary();
    steps.verdict()
}

fn load(steps: &mut Steps, tool: &Path, file: &Path, to: &str) {
    steps.run(&step_name(file, to), || {
        let mut load = Command::new(tool);
        load.arg("load").arg(file).args(["--to", to]);
        child::run(&mut load, "its message says what to do")?;
        Ok(Outcome::Done)
    });
}

fn step_name(file: &Path, to: &str) -> String {
    let name = file.file_name().unwrap_or(file.as_os_str());
    format!("load {} to {to}", name.display())
}

/// Builds the tool as it is meant to be used, and returns where cargo put it.
fn build() -> Result<PathBuf, Error> {
    println!("== build");
    let format = "--message-format=json-render-diagnostics";
    let mut build = cargo(&["build", "--release", "--bin", "bufmap", format]);
    let messages = child::output(&mut build, "the compiler's messages above say why")?;
    executable(&messages).ok_or_else(|| Error::Missing {
        what: "cargo built the tool and did not say where it is".to_owned(),
        remedy: "run `cargo build --release --bin bufmap` to see what it does".to_owned(),
    })
}

/// The executable named in cargo's messages, one JSON object a line.
fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    messages
        .filter_map(|message: serde_json::Value| Some(message["executable"].as_str()?.into()))
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\nnot json\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/target/release/bufmap\"}\n\
                        {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages), Some("/target/release/bufmap".into()));
        assert_eq!(executable(""), None);
    }
}
