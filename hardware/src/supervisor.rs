//! Runs the steps, each in a process of its own, and writes what they told.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::args::Args;
use crate::context::Context;
use crate::record::Record;
use crate::run::{Done, Run};
use crate::steps::{STEPS, Step};
use crate::{page, share};

/// Runs all steps, or those that were asked for, and writes both reports.
pub fn run(args: &Args, context: &Context) -> Result<(), String> {
    let mut run = Run {
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        machine: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION"),
        steps: Vec::new(),
    };
    let own = args.out.join(directory_name(&run.date, &run.machine));
    fs::create_dir_all(&own).map_err(|error| at(&own, &error))?;
    remove_on_ctrl_c(&context.file)?;
    let environment = environment(&own);
    let chosen =
        |step: &&Step| args.only.is_empty() || args.only.iter().any(|one| one == step.name);
    // What a step does not use of its time, later ones may.
    let mut spare = Duration::ZERO;
    for step in STEPS.iter().filter(chosen) {
        let limit = Duration::from_secs(args.limit) * step.share / 100 + spare;
        say(&format!("{:9} at most {:.0} s …", step.name, limit.as_secs_f64()));
        let done = one(args, step, limit, &environment);
        spare = limit.saturating_sub(Duration::from_secs_f64(done.took_s));
        let ended = done.ended.as_deref().unwrap_or("done");
        say(&format!("{:9} {ended}, {:.1} s", step.name, done.took_s));
        run.steps.push(done);
    }
    let _ = fs::remove_file(&context.file);
    share::add(&mut run);
    let json = serde_json::to_string_pretty(&run).map_err(|error| error.to_string())?;
    for (name, text) in [("hardware.json", json), ("hardware.md", page::render(&run))] {
        let path = own.join(name);
        fs::write(&path, text + "\n").map_err(|error| at(&path, &error))?;
        say(&format!("wrote {}", path.display()));
    }
    Ok(())
}

/// A directory for each run, by its date and its machine, whose name is anybody's.
fn directory_name(date: &str, machine: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '-' };
    format!("{date}-{machine}").chars().map(plain).collect()
}

/// Ctrl-C removes the file; the step that runs is ended by the kernel with this process.
fn remove_on_ctrl_c(file: &Path) -> Result<(), String> {
    let file = file.to_owned();
    ctrlc::set_handler(move || {
        let _ = fs::remove_file(&file);
        std::process::exit(130);
    })
    .map_err(|error| format!("Ctrl-C cannot be handled: {error}"))
}

/// Tells whoever looks on. Nobody may.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// Runs one step to its end or its limit.
fn one(
    args: &Args,
    step: &'static Step,
    limit: Duration,
    environment: &[(&str, OsString)],
) -> Done {
    let started = Instant::now();
    let mut records = Vec::new();
    let ended = match spawn(args, step, limit, environment) {
        Ok(child) => listen(child, started + limit, &mut records),
        Err(error) => Some(format!("could not be started: {error}")),
    };
    let took_s = started.elapsed().as_secs_f64();
    Done { name: step.name, title: step.title, took_s, ended, records }
}

/// In a process group of its own, so that all that the step starts is ended with it.
fn spawn(
    args: &Args,
    step: &Step,
    limit: Duration,
    environment: &[(&str, OsString)],
) -> io::Result<Child> {
    let work = args.work.as_ref().unwrap_or(&args.out);
    Command::new(env::current_exe()?)
        .args(["--step", step.name, "--limit", &limit.as_secs().max(1).to_string()])
        .args(["--size", &args.size.as_u64().to_string()])
        .arg("--work")
        .arg(work)
        .arg("--out")
        .arg(&args.out)
        .envs(environment.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
}

/// Keeps what a step tells until it ends. The answer says how it ended, if not well.
fn listen(mut child: Child, deadline: Instant, records: &mut Vec<Record>) -> Option<String> {
    let (told, lines) = mpsc::channel();
    if let Some(out) = child.stdout.take() {
        thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            lines
                .filter_map(|line| serde_json::from_str(&line).ok())
                .try_for_each(|one| told.send(one))
        });
    }
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(record) => records.push(record),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                end(&mut child);
                return Some("ended at its time limit".into());
            }
        }
    }
    match child.wait() {
        Ok(status) => why(status),
        Err(error) => Some(format!("its end could not be seen: {error}")),
    }
}

fn why(status: ExitStatus) -> Option<String> {
    match (status.success(), status.signal()) {
        (true, _) => None,
        (_, Some(signal)) => Some(format!("crashed by signal {signal}")),
        (_, None) => Some(format!("failed ({status})")),
    }
}

/// Ends a step and all that it has started. What hangs in the kernel is left behind.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let patience = Instant::now() + Duration::from_secs(2);
    while Instant::now() < patience && !matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
        thread::sleep(Duration::from_millis(20));
    }
}

/// What brings Vulkan to a machine that has a driver and no loader, or a driver and no manifest of it.
fn environment(out: &Path) -> Vec<(&'static str, OsString)> {
    let mut environment = Vec::new();
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("lib")));
    if !has_library("libvulkan.so.1")
        && let Some(beside) = beside.filter(|lib| lib.join("libvulkan.so.1").exists())
    {
        let own = env::var_os("LD_LIBRARY_PATH").map(|own| env::split_paths(&own).collect());
        let own: Vec<PathBuf> = own.unwrap_or_default();
        if let Ok(path) = env::join_paths(own.into_iter().chain([beside])) {
            environment.push(("LD_LIBRARY_PATH", path));
        }
    }
    environment.extend(nvidia_manifest(out));
    environment
}

/// A manifest of Nvidia's driver, where a container has its library and not the manifest.
fn nvidia_manifest(out: &Path) -> Option<(&'static str, OsString)> {
    const DIRECTORIES: [&str; 3] =
        ["/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];
    let manifests =
        DIRECTORIES.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten();
    let known =
        manifests.flatten().any(|file| file.file_name().to_string_lossy().contains("nvidia"));
    let library =
        ["libGLX_nvidia.so.0", "libEGL_nvidia.so.0"].into_iter().find(|name| has_library(name));
    let library = library.filter(|_| !known && env::var_os("VK_ADD_DRIVER_FILES").is_none())?;
    let manifest = std::path::absolute(out).ok()?.join("nvidia_icd.json");
    let text = format!(
        r#"{{"file_format_version": "1.0.1", "ICD": {{"library_path": "{library}", "api_version": "1.3.0"}}}}"#
    );
    fs::write(&manifest, text).ok()?;
    Some(("VK_ADD_DRIVER_FILES", manifest.into()))
}

/// Whether the dynamic linker finds a library.
#[allow(unsafe_code)]
fn has_library(name: &str) -> bool {
    // SAFETY: these libraries' initialisers have no preconditions; what is opened is closed at once.
    unsafe { libloading::Library::new(name) }.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_told_apart_and_a_machines_name_leads_nowhere_else() {
        assert_eq!(directory_name("2026-01-02T03:04:05Z", "box"), "2026-01-02T03-04-05Z-box");
        assert_eq!(directory_name("d", "../\u{1b}[31m/x"), "d-..---31m-x");
    }

    fn listened(script: &str, limit: Duration) -> (Option<String>, Vec<Record>) {
        let mut shell = Command::new("sh");
        let child = shell.args(["-c", script]).stdout(Stdio::piped()).process_group(0).spawn();
        let mut records = Vec::new();
        let ended = listen(child.expect("sh"), Instant::now() + limit, &mut records);
        (ended, records)
    }

    const FACT: &str = r#"echo '{"kind":"fact","name":"a","value":"b"}'; echo 'no record'"#;

    #[test]
    fn what_a_step_told_before_it_crashed_or_hung_is_kept() {
        let long = Duration::from_secs(60);
        let (ended, records) = listened(FACT, long);
        assert_eq!((ended, records.len()), (None, 1));
        let (ended, records) = listened(&format!("{FACT}; kill -SEGV $$"), long);
        assert_eq!((ended.as_deref(), records.len()), (Some("crashed by signal 11"), 1));
        let (ended, records) = listened(&format!("{FACT}; exit 3"), long);
        assert!(ended.is_some_and(|ended| ended.contains("3")) && records.len() == 1);
        let begun = Instant::now();
        let (ended, records) = listened(&format!("{FACT}; sleep 50"), Duration::from_millis(500));
        assert_eq!((ended.as_deref(), records.len()), (Some("ended at its time limit"), 1));
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
