//! Loads under the memory limit of a control group, as in every container that has one: what does not fit is
//! refused in words, and nobody is killed.

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use iomap::mounts;
use support::*;

const MIB: usize = 1 << 20;

fn main() -> ExitCode {
    let groups = Groups::find();
    let limited =
        |name: &str, test: fn(&Groups)| trial(name, groups.clone(), move |groups| test(&groups));
    support::run(vec![
        limited("a_file_past_the_limit_is_refused_in_words", past_the_limit),
        limited("the_limit_of_a_group_above_counts", limit_above),
        limited("explain_says_what_the_load_would", explained),
        limited("a_file_within_the_limit_is_loaded", within_the_limit),
        limited("page_cache_of_the_group_is_free", page_cache_is_free),
        limited("no_limit_gets_a_load_killed", never_killed),
    ])
}

/// Where groups with a limit can be made, by which version of the interface.
#[derive(Clone)]
struct Groups {
    top: PathBuf,
    limit: &'static str,
}

impl Groups {
    fn find() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("control groups are made by root".into());
        }
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
        let mounts: Vec<_> = mounts::parse(&mountinfo).flatten().collect();
        let of_memory = |options: &str| options.split(',').any(|option| option == "memory");
        let first = mounts.iter().find(|on| on.kind == "cgroup" && of_memory(&on.options));
        if let Some(mount) = first {
            return Ok(Self { top: mount.on.clone(), limit: "memory.limit_in_bytes" });
        }
        let top = match mounts.into_iter().find(|mount| mount.kind == "cgroup2") {
            Some(mount) => mount.on,
            None => mount_second()?,
        };
        fs::write(top.join("cgroup.subtree_control"), "+memory")
            .map_err(|error| format!("no group of {} is limited: {error}", top.display()))?;
        Ok(Self { top, limit: "memory.max" })
    }

    /// A new group in `parent`, limited to so many bytes.
    fn limited(&self, parent: &Path, limit: Option<usize>) -> Group {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = parent.join(format!("bufmap-test-{}-{count}", std::process::id()));
        fs::create_dir(&path).expect("a group");
        let file = path.join(self.limit);
        if let Some(limit) = limit {
            fs::write(&file, limit.to_string()).expect("a limit");
        }
        Group { path, file }
    }

    fn of(&self, limit: usize) -> Group {
        self.limited(&self.top, Some(limit))
    }
}

/// Mounts the second version, where nobody has.
fn mount_second() -> Result<PathBuf, String> {
    let on = PathBuf::from("/sys/fs/cgroup");
    let mount = Command::new("mount").args(["-t", "cgroup2", "none"]).arg(&on).output();
    let mount = mount.map_err(|error| format!("mount: {error}"))?;
    match mount.status.success() {
        true => Ok(on),
        false => Err(String::from_utf8_lossy(&mount.stderr).into_owned()),
    }
}

struct Group {
    path: PathBuf,
    file: PathBuf,
}

impl Group {
    /// Runs `bufmap` in the group.
    fn bufmap(&self, args: &[&str]) -> Output {
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", self.path.display());
        let mut command = Command::new("sh");
        command.args(["-c", &enter, env!("CARGO_BIN_EXE_bufmap")]).args(args);
        command.stdin(Stdio::null()).output().expect("the command runs")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..50 {
            // A process that has just ended is counted a moment longer.
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            sleep(Duration::from_millis(20));
        }
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn refused(group: &Group, by: &Group, limit: usize, args: &[&str]) {
    let output = group.bufmap(args);
    let said = words(&output);
    assert_eq!(output.status.code(), Some(1), "{}: {said}", output.status);
    let (limit, file) = (limit.to_string(), by.file.display().to_string());
    for word in [limit.as_str(), &file, "bytes are needed", "raise the limit", "ask for less"] {
        assert!(said.contains(word), "should say '{word}': {said}");
    }
}

#[track_caller]
fn loaded(group: &Group, args: &[&str]) {
    let output = group.bufmap(args);
    assert_eq!(output.status.code(), Some(0), "{}: {}", output.status, words(&output));
}

/// A file that no test reads: it is too long.
fn unread(len: usize) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a file");
    file.as_file().set_len(len as u64).expect("a sparse file");
    file
}

fn past_the_limit(groups: &Groups) {
    let file = unread(256 * MIB);
    let group = groups.of(64 * MIB);
    let path = file.path().to_str().expect("a name");
    refused(&group, &group, 64 * MIB, &["load", path]);
}

fn explained(groups: &Groups) {
    let file = unread(256 * MIB);
    let path = file.path().to_str().expect("a name");
    for (limit, lacks) in [(64 * MIB, true), (512 * MIB, false)] {
        let group = groups.of(limit);
        let output = group.bufmap(&["explain", path, "--json"]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let needs = json["needs"].to_string();
        assert_eq!(needs.contains("raise the limit"), lacks, "{needs}");
        assert_eq!(needs.contains(&*group.file.to_string_lossy()), lacks, "{needs}");
        let table = group.bufmap(&["explain", path]).stdout;
        assert_eq!(String::from_utf8_lossy(&table).contains("not yet"), lacks, "{needs}");
    }
}

fn limit_above(groups: &Groups) {
    let file = unread(128 * MIB);
    let parent = groups.of(64 * MIB);
    if groups.limit == "memory.max" {
        fs::write(parent.path.join("cgroup.subtree_control"), "+memory").expect("a parent");
    }
    let path = file.path().to_str().expect("a name");
    for own in [None, Some(512 * MIB)] {
        let child = groups.limited(&parent.path, own);
        refused(&child, &parent, 64 * MIB, &["load", path]);
    }
}

fn within_the_limit(groups: &Groups) {
    let file = file_of(40 * MIB);
    let group = groups.of(64 * MIB);
    loaded(&group, &["load", file.path().to_str().expect("a name"), "--verify", "full"]);
}

fn page_cache_is_free(groups: &Groups) {
    let file = file_of(48 * MIB);
    drop_cache(file.as_file());
    let group = groups.of(64 * MIB);
    let path = file.path().to_str().expect("a name");
    // Through the page cache, of which the group is charged with all that fits.
    loaded(&group, &["load", path, "--require", "buffered"]);
    loaded(&group, &["load", path, "--require", "buffered"]);
}

fn never_killed(groups: &Groups) {
    let file = file_of(32 * MIB + 100);
    let path = file.path().to_str().expect("a name");
    let mut ends = Vec::new();
    for limit in (24..64).step_by(2) {
        for options in
            [&["--require", "direct"][..], &["--require", "buffered"], &["--block", "16MiB"]]
        {
            let args = [&["load", path, "--verify", "full"][..], options].concat();
            // Memory that a ring had registered is given back a moment after its process has ended.
            let output = groups.of(limit * MIB).bufmap(&args);
            let said = words(&output);
            assert_eq!(output.status.signal(), None, "killed at {limit} MiB {options:?}: {said}");
            match output.status.code() {
                Some(1) => assert!(said.contains("raise the limit"), "{limit} MiB: {said}"),
                code => assert_eq!(code, Some(0), "{limit} MiB: {said}"),
            }
            ends.push(output.status.code());
        }
    }
    assert_eq!((ends.first(), ends.last()), (Some(&Some(1)), Some(&Some(0))), "{ends:?}");
}
