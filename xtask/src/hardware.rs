//! `cargo xtask hardware`: one directory that finds out what a real machine does, and runs where nothing is installed.
//!
//! It holds the tool and the program of `hardware/`, stripped, Vulkan's loader for machines that have a driver and no
//! loader, and a script. It needs x86-64, glibc 2.36 and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::child::{self, Error, cargo};
use crate::debian;
use crate::files::{file_error, make_directory, remove_directory};

/// The release whose loader is taken: its glibc is the oldest that the directory runs with.
const SUITE: &str = "bookworm";

/// The oldest glibc that the directory runs with.
const GLIBC: (u32, u32) = (2, 36);

/// The directory is at most as long, in bytes.
const MOST: u64 = 50 << 20;

const PROGRAMS: [&str; 2] = ["bufmap", "bufmap-hardware"];

const SCRIPT: &str = "\
#!/bin/sh
# Finds out what this machine does for bufmap: writes hardware.md and hardware.json into a directory beside this file,
# named by the date and the machine.
# Takes at most five minutes and up to 4 GiB of disk for as long as it runs. `./run.sh --help` names the options.
here=$(dirname \"$0\")
exec \"$here/bufmap-hardware\" --out \"$here\" \"$@\"
";

#[derive(Args)]
pub struct Options {
    /// Also run it here, and read back what it writes
    #[arg(long)]
    run: bool,
    /// What the run is told, after `--`, such as `--size 512MiB --limit 100`
    #[arg(last = true, requires = "run")]
    arguments: Vec<String>,
}

pub fn run(options: &Options) -> Result<(), Error> {
    let directory = make()?;
    println!("{}: copy it to the machine and run ./run.sh there", directory.display());
    if options.run {
        let arguments: Vec<_> = options.arguments.iter().map(String::as_str).collect();
        run_here(&directory, &arguments)?;
    }
    Ok(())
}

/// Makes the directory, and says where.
pub fn make() -> Result<PathBuf, Error> {
    let directory = child::workspace().join("target/hardware");
    remove_directory(&directory)?;
    make_directory(&directory.join("lib"))?;
    let mut build = cargo(&[
        "build",
        "--release",
        "--package",
        "bufmap",
        "--package",
        "bufmap-hardware",
        "--bins",
    ]);
    build.arg("--message-format=json-render-diagnostics");
    let messages = child::output(&mut build, "the compiler's messages above say why")?;
    for name in PROGRAMS {
        let built = executable(&messages, name).ok_or_else(|| Error::Missing {
            what: format!("cargo did not say where it put {name}"),
            remedy: "run `cargo build --release --workspace --bins` to see what it does".to_owned(),
        })?;
        let stripped = directory.join(name);
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(&stripped).arg(built);
        child::run(&mut strip, "install binutils, which come with every compiler")?;
        check_glibc(&stripped)?;
    }
    add_loader(&directory)?;
    let script = directory.join("run.sh");
    fs::write(&script, SCRIPT).map_err(file_error("write", &script))?;
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&script, executable).map_err(file_error("change the mode of", &script))?;
    check_length(&directory)?;
    Ok(directory)
}

/// The executable of a name in cargo's messages, one JSON object a line.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    messages
        .filter(|message: &serde_json::Value| message["target"]["name"] == name)
        .find_map(|message| Some(message["executable"].as_str()?.into()))
}

/// Vulkan's loader, from Debian's package.
fn add_loader(directory: &Path) -> Result<(), Error> {
    let work = directory.join("partial");
    make_directory(&work)?;
    let package = debian::fetch(&work, SUITE, "libvulkan1")?;
    let loader = directory.join("lib/libvulkan.so.1");
    debian::take_out(&package, "./usr/lib/x86_64-linux-gnu/libvulkan.so.1.*", &loader)?;
    check_glibc(&loader)?;
    remove_directory(&work)
}

/// Fails for a program that needs a newer glibc than the directory promises.
fn check_glibc(program: &Path) -> Result<(), Error> {
    let mut versions = Command::new("readelf");
    let text = child::output(
        versions.arg("--version-info").arg("--wide").arg(program),
        "install binutils",
    )?;
    match newest_glibc(&text) {
        Some(newest) if newest > GLIBC => Err(Error::Missing {
            what: format!(
                "{} needs glibc {}.{}, newer than 2.36",
                program.display(),
                newest.0,
                newest.1
            ),
            remedy: "build the directory on Debian 12, or another system with glibc 2.36"
                .to_owned(),
        }),
        Some(_) => Ok(()),
        None => Err(Error::Missing {
            what: format!("{} names no version of glibc", program.display()),
            remedy: "see `readelf --version-info`".to_owned(),
        }),
    }
}

/// The newest version of glibc among the versions that a program needs.
fn newest_glibc(text: &str) -> Option<(u32, u32)> {
    let versions = text.split("GLIBC_").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let mut numbers = rest[..end].split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    versions.max()
}

fn check_length(directory: &Path) -> Result<(), Error> {
    let length = |path: &Path| -> Result<u64, Error> {
        let files = fs::read_dir(path).map_err(file_error("read", path))?.flatten();
        Ok(files
            .filter_map(|file| file.metadata().ok())
            .filter(|file| file.is_file())
            .map(|file| file.len())
            .sum())
    };
    let all = length(directory)? + length(&directory.join("lib"))?;
    println!("{} has {all} bytes", directory.display());
    if all <= MOST {
        return Ok(());
    }
    Err(Error::Missing {
        what: format!("{} has {all} bytes, more than {MOST}", directory.display()),
        remedy: "see what has grown".to_owned(),
    })
}

/// Runs the directory's script here and reads back what it writes.
pub fn run_here(directory: &Path, arguments: &[&str]) -> Result<(), Error> {
    let before = runs(directory)?;
    let mut script = Command::new(directory.join("run.sh"));
    child::run(script.args(arguments), "its messages above say why")?;
    let run = runs(directory)?.into_iter().find(|run| !before.contains(run));
    let run = run.ok_or_else(|| Error::Missing {
        what: format!("the run left no directory in {}", directory.display()),
        remedy: "see its messages above".to_owned(),
    })?;
    let read = |name: &str| {
        let path = run.join(name);
        fs::read_to_string(&path).map_err(file_error("read", &path))
    };
    let (page, json) = (read("hardware.md")?, read("hardware.json")?);
    check_report(&page, &json).map_err(|what| Error::Missing {
        what,
        remedy: format!("read {}", run.join("hardware.md").display()),
    })
}

/// The directories of the runs that were made there.
fn runs(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(directory).map_err(file_error("read", directory))?.flatten();
    let paths = entries.map(|entry| entry.path());
    Ok(paths.filter(|path| path.join("hardware.json").is_file()).collect())
}

/// Whether both reports are whole: no step crashed or ran out of time, each has told something, nothing has failed, and
/// the page has a line for each row of the JSON.
fn check_report(page: &str, json: &str) -> Result<(), String> {
    let report: serde_json::Value =
        serde_json::from_str(json).map_err(|error| error.to_string())?;
    let steps = report["steps"].as_array().filter(|steps| !steps.is_empty()).ok_or("no steps")?;
    let mut rows = 0;
    for step in steps {
        let name = step["name"].as_str().unwrap_or_default();
        if let Some(ended) = step["ended"].as_str() {
            return Err(format!("the step {name} {ended}"));
        }
        let records = step["records"].as_array().filter(|records| !records.is_empty());
        let records = records.ok_or_else(|| format!("the step {name} told nothing"))?;
        let of =
            |kind: &str| records.iter().filter(|record| record["kind"] == kind).collect::<Vec<_>>();
        if let Some(failed) = of("failed").first() {
            return Err(format!("in the step {name} failed {}: {}", failed["what"], failed["why"]));
        }
        rows += of("row").len() + of("limit").len();
        if !page.contains(&format!("Step `{name}`")) {
            return Err(format!("the page has no step {name}"));
        }
    }
    let lines = page.lines().filter(|line| line.starts_with("| ")).count();
    let heads = page.lines().filter(|line| line.starts_with("|---")).count();
    if lines != rows + heads {
        return Err(format!(
            "the page has {lines} lines of tables, for {rows} rows and {heads} heads"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_is_found() {
        let text = "  0x0010:   Name: GLIBC_2.2.5  Flags: none  Version: 3\n  0x0020:   Name: GLIBC_2.34  Flags: none\n";
        assert_eq!(newest_glibc(text), Some((2, 34)));
        assert_eq!(
            newest_glibc("Name: GLIBC_2.4\nName: GLIBC_2.36\nName: GLIBC_2.9"),
            Some((2, 36))
        );
        assert_eq!(newest_glibc("Name: GLIBCXX_3.4"), None);
    }

    #[test]
    fn a_report_that_is_not_whole_is_refused() {
        let report = |ended: &str, kind: &str| {
            format!(
                r#"{{"steps":[{{"name":"loads","ended":{ended},"records":[{{"kind":"{kind}","what":"w","why":"y"}}]}}]}}"#
            )
        };
        let page = "Step `loads`: done\n\n| a | b |\n|---|---|\n| 1 | 2 |\n";
        assert_eq!(check_report(page, &report("null", "row")), Ok(()));
        for (page, json, why) in [
            (page, report("\"crashed by signal 11\"", "row"), "crashed"),
            (page, report("null", "failed"), "failed"),
            (page, report("null", "skipped"), "2 lines of tables, for 0 rows"),
            ("| a |\n|---|\n| 1 |\n", report("null", "row"), "no step loads"),
            (page, r#"{"steps":[]}"#.into(), "no steps"),
            (page, r#"{"steps":[{"name":"x","ended":null,"records":[]}]}"#.into(), "told nothing"),
            (page, "{".into(), "EOF"),
        ] {
            let refused = check_report(page, &json).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
