//! `cargo xtask demo`: two real files, from the registry into memory and into Vulkan, with the tables that show how.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::child::{self, Error, cargo};
use crate::inputs;
use crate::packages::{self, PIP, VULKAN};
use crate::steps::{Outcome, Steps};

#[derive(Args)]
pub struct Options {
    /// Install no packages, even where that is allowed
    #[arg(long)]
    no_install: bool,
}

pub fn run(options: &Options) -> Result<(), Error> {
    let tool = build()?;
    let mut steps = Steps::default();
    steps.run("packages", || provide(&tool, !options.no_install));
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
        steps.run(&step_name(file, "memory"), || load(&tool, file, "memory"));
    }
    for file in &files {
        steps.run(&step_name(file, "vulkan"), || load_to_vulkan(&tool, file));
    }
    steps.print_summary();
    steps.verdict()
}

/// Installs what fetches the model and, where the tool sees no Vulkan device, one in software.
fn provide(tool: &Path, install: bool) -> Result<Outcome, Error> {
    let drivers: &[_] = if has_vulkan_device(tool)? { &[] } else { &VULKAN };
    Ok(packages::provide(drivers.iter().chain([&PIP]), install))
}

fn load(tool: &Path, file: &Path, to: &str) -> Result<Outcome, Error> {
    let mut load = Command::new(tool);
    load.arg("load").arg(file).args(["--to", to]);
    child::run(&mut load, "its message says what to do")?;
    Ok(Outcome::Done)
}

/// A machine need not have a Vulkan device; where the tool itself sees one, the load must succeed.
fn load_to_vulkan(tool: &Path, file: &Path) -> Result<Outcome, Error> {
    if has_vulkan_device(tool)? {
        return load(tool, file, "vulkan");
    }
    let remedy = packages::vulkan_remedy();
    Ok(Outcome::Skipped(format!("there is no Vulkan device\n{remedy}")))
}

fn has_vulkan_device(tool: &Path) -> Result<bool, Error> {
    let mut probe = Command::new(tool);
    let found = child::output(probe.args(["probe", "--json"]), "its message says what to do")?;
    sees_vulkan_device(&found).ok_or_else(|| Error::Missing {
        what: "the report of `bufmap probe --json` lists no offers".to_owned(),
        remedy: "make xtask/src/demo.rs read it as it is now".to_owned(),
    })
}

/// Whether a report of `bufmap probe --json` names a Vulkan device; `None` if it is no such report.
fn sees_vulkan_device(report: &str) -> Option<bool> {
    let report: serde_json::Value = serde_json::from_str(report).ok()?;
    let mut offers = report["offers"].as_array()?.iter().filter_map(|one| one["what"].as_str());
    Some(offers.any(|what| what.starts_with("Vulkan device")))
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
    fn a_vulkan_device_is_found_in_the_tools_report() {
        let device = r#"{"offers":[{"what":"Vulkan device 0"},{"what":"udmabuf"}],"peers":{}}"#;
        assert_eq!(sees_vulkan_device(device), Some(true));
        assert_eq!(sees_vulkan_device(r#"{"offers":[{"what":"Vulkan"}]}"#), Some(false));
        assert_eq!(sees_vulkan_device(r#"[{"what":"Vulkan device 0"}]"#), None);
        assert_eq!(sees_vulkan_device("no report"), None);
    }

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\nnot json\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/target/release/bufmap\"}\n\
                        {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages), Some("/target/release/bufmap".into()));
        assert_eq!(executable(""), None);
    }
}
