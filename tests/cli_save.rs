//! `bufmap save` as a user meets it: what it prints, what it exits with, and what it leaves.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::*;

fn bufmap(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bufmap")).args(args).output().expect("the command runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A directory with a file in it, on the disk of the build.
struct Files {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Files {
    fn of(len: usize) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let bytes = bytes_of(len);
        fs::write(dir.path().join("in"), &bytes).expect("a file");
        Self { dir, bytes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).expect("a directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name().into_string());
        let mut names: Vec<_> = names.map(|name| name.expect("text")).collect();
        names.sort();
        names
    }
}

/// Runs a save that must fail with status 1 and a message that holds each of `words`.
#[track_caller]
fn refused(args: &[&str], words: &[&str]) {
    let output = bufmap(&[&["save"], args].concat());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    assert!(output.stdout.is_empty(), "{args:?}");
    assert!(said.starts_with("bufmap: ") && said.lines().count() == 1, "{args:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{args:?} should say '{word}': {said}");
    }
}

#[test]
fn a_file_is_copied_by_way_of_a_buffer_and_the_table_says_how() {
    let files = Files::of((3 << 20) + 5);
    let (from, to) = (files.name("in"), files.name("out"));
    let output = bufmap(&["save", "memory", &to, "--from", &from, "--verify", "full"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty(), "no progress in a pipe: {}", text(&output.stderr));
    let table = text(&output.stdout);
    let crc = format!("{:08x}", crc32fast::hash(&files.bytes));
    for word in [&to, "a new file", "system memory", &from, "direct: 3.0 MiB", "4 writes", &crc] {
        assert!(table.contains(word), "'{word}' is missing in {table}");
    }
    assert!(table.contains("read back from the drive have the same"), "{table}");
    assert_same(&fs::read(&to).expect("the file"), &files.bytes);
    assert_eq!(files.names(), ["in", "out"]);
}

#[test]
fn a_report_for_programs_has_the_same_account() {
    let files = Files::of(1 << 20);
    let (from, to) = (files.name("in"), files.name("out"));
    let args =
        ["save", "memory", &to, "--from", &from, "--offset", "4KiB", "--len", "100KiB", "--json"];
    let output = bufmap(&args);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let saved = &files.bytes[4096..4096 + 102_400];
    assert_eq!(report["crc32"], format!("{:08x}", crc32fast::hash(saved)));
    assert_eq!((&report["len"], &report["buffer_offset"]), (&102_400.into(), &4096.into()));
    assert_eq!(report["in_place"], false);
    assert_eq!(report["receipt"]["paths"][0]["path"], "direct");
    assert_eq!(report["receipt"]["writes"], 1);
    assert_eq!(report["loaded"]["bytes"], 1 << 20);
    assert_same(&fs::read(&to).expect("the file"), saved);
}

#[test]
fn in_place_the_rest_of_the_file_stays() {
    let files = Files::of(1 << 20);
    let (from, to) = (files.name("in"), files.name("out"));
    let old = vec![0x3C; (1 << 20) + 77];
    fs::write(&to, &old).expect("an old file");
    let args = ["save", "memory", &to, "--from", &from, "--len", "300000", "--in-place"];
    let output = bufmap(&[&args[..], &["--at", "1000"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("in place"), "{}", text(&output.stdout));
    let mut expected = old;
    expected[1000..301_000].copy_from_slice(&files.bytes[..300_000]);
    assert_same(&fs::read(&to).expect("the file"), &expected);
}

#[test]
fn what_cannot_be_saved_is_said_with_what_to_do() {
    let files = Files::of(100);
    let (from, to) = (files.name("in"), files.name("out"));
    fs::write(&to, b"old").expect("an old file");
    let loaded = ["memory", &to, "--from", &from];
    let with = |more: &[&'static str]| [&loaded[..], more].concat();
    refused(&["memory", &to], &["--from FILE"]);
    refused(&["p2pmem:0000:7f:00.0", &to], &["--len SIZE"]);
    refused(&["p2pmem:0000:7f:00.0", &to, "--len", "4KiB"], &["0000:7f:00.0"]);
    refused(&with(&["--offset", "101"]), &["past the end of the buffer, which holds 100 bytes"]);
    refused(&with(&["--len", "101"]), &["more than the 100 bytes"]);
    refused(&with(&["--in-place"]), &["past the end of the file at 3", "truncate -s"]);
    refused(&with(&["--require", "peer"]), &["the path peer is required"]);
    let absent = files.name("absent");
    refused(&["memory", &to, "--from", &absent], &["absent", "check the path"]);
    let nowhere = files.name("absent/out");
    refused(&["memory", &nowhere, "--from", &from], &["make its directory first"]);
    refused(&["memory", "/dev/null", "--from", &from], &["/dev/null", "name a regular file"]);
    assert_eq!(fs::read(&to).expect("the file"), b"old");
    assert_eq!(files.names(), ["in", "out"]);
    // Wrong command lines are told apart.
    for args in [&["save", "nonsense", &to][..], &["save", "memory", &to, "--at", "5"]] {
        assert_eq!(bufmap(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn help_teaches() {
    let help = text(&bufmap(&["save", "--help"]).stdout);
    for word in ["--from", "--in-place", "Paths, best first", "takes the old one's"] {
        assert!(help.contains(word), "'{word}' is missing in {help}");
    }
}

/// Ctrl-C ends a save in order: status 130, the old file, and nothing beside it.
#[test]
fn an_interrupt_leaves_the_old_file_and_nothing_beside() {
    let files = Files::of(256 << 20);
    let (from, to) = (files.name("in"), files.name("out"));
    fs::write(&to, b"old").expect("an old file");
    let small = ["--block", "4KiB", "--depth", "1", "--verify", "none"];
    let child = Command::new(env!("CARGO_BIN_EXE_bufmap"))
        .args(["save", "memory", &to, "--from", &from, "--require", "direct"])
        .args(small)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the command runs");
    wait_until_it_has_written(&child, 1 << 20);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
    let output = child.wait_with_output().expect("an end");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("stopped; the file is as it was"), "{said}");
    assert_eq!(fs::read(&to).expect("the file"), b"old");
    assert_eq!(files.names(), ["in", "out"]);
}

fn wait_until_it_has_written(child: &Child, bytes: u64) {
    let begun = Instant::now();
    let status = Path::new("/proc").join(child.id().to_string()).join("io");
    loop {
        let io = fs::read_to_string(&status).expect("a process that runs");
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        if written.and_then(|bytes| bytes.parse::<u64>().ok()).is_some_and(|now| now >= bytes) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "it writes nothing: {io}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
