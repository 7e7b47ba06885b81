//! Files of a file system that fails on purpose, by FUSE: it hangs, puts off, breaks off, and has errors of its
//! own. What is said of it, and that a load of it can be ended.

#[path = "support/fuse.rs"]
mod fuse;
mod support;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fuse::Mount;
use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request,
};
use support::*;

const LEN: u64 = 8 << 20;

/// Where what is wrong with a file begins.
const SICK_FROM: u64 = 4 << 20;

fn main() -> ExitCode {
    let fuse = |name: &str, test: fn(Mounted)| trial(name, Mounted::new(), test);
    support::run(vec![
        fuse("a_read_that_hangs_is_named_and_a_second_interrupt_ends_it", hangs),
        fuse("a_second_read_that_hangs_is_named_too", hangs_again),
        fuse("an_open_that_hangs_is_ended_by_the_first_interrupt", opening_hangs),
        fuse("a_read_that_is_put_off_for_ever_is_given_up", put_off),
        fuse("a_read_that_is_broken_off_is_tried_again", broken_off),
        fuse("errors_of_the_file_system_have_their_remedies", errors),
    ])
}

fn hangs(sick: Mounted) {
    for path in ["direct", "buffered"] {
        let child = sick.load("hang", &["--require", path]);
        sick.wait_for_held();
        ended_by_two_interrupts(&sick, child, "hang: a read at offset ");
    }
}

/// The file is read, and hangs when it is read again to be compared.
fn hangs_again(sick: Mounted) {
    let child = sick.load("hangs_again", &["--require", "buffered", "--verify", "full"]);
    sick.wait_for_held();
    ended_by_two_interrupts(&sick, child, "hangs_again: a read at offset 0 has not come back");
}

fn ended_by_two_interrupts(sick: &Mounted, mut child: Child, words: &str) {
    interrupt(&child);
    let mut said = String::new();
    let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
    errors.read_line(&mut said).expect("a line");
    assert!(said.contains(words) && said.contains("Ctrl-C again ends"), "{said}");
    assert!(!has_ended(&child), "the kernel waits still");
    interrupt(&child);
    let begun = Instant::now();
    // The kernel keeps a thread of it until the file system answers.
    while !has_ended(&child) {
        assert!(begun.elapsed() < Duration::from_secs(1), "it goes on after a second interrupt");
        std::thread::sleep(Duration::from_millis(5));
    }
    sick.answer();
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    said.clear();
    errors.read_to_string(&mut said).expect("text");
    assert_eq!(said, "", "it ended in order");
}

fn opening_hangs(sick: Mounted) {
    let mut child = sick.load("hangs_when_opened", &[]);
    sick.wait_for_held();
    interrupt(&child);
    let begun = Instant::now();
    while !has_ended(&child) {
        assert!(begun.elapsed() < Duration::from_secs(1), "it goes on after an interrupt");
        std::thread::sleep(Duration::from_millis(5));
    }
    sick.answer();
    assert_eq!(child.wait().expect("an end").code(), Some(130));
}

fn put_off(sick: Mounted) {
    let begun = Instant::now();
    let output = sick.loaded("put_off", &["--require", "buffered"]);
    let took = begun.elapsed();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("put each try off"), "{said}");
    assert!(took > Duration::from_secs(10) && took < Duration::from_secs(20), "{took:?}");
    // A pause of 50 ms at most, by as many threads as read.
    let asked = sick.sick.asked.load(Ordering::Relaxed);
    assert!(asked > 100 && asked < 16 * 400, "asked {asked} times");
}

fn broken_off(sick: Mounted) {
    for path in ["direct", "buffered"] {
        let output = sick.loaded("broken_off", &["--require", path, "--verify", "full"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
}

fn errors(sick: Mounted) {
    for (name, words) in [
        ("error_5", "dmesg"),
        ("error_12", "limit on memory"),
        ("error_19", "plug it in"),
        ("error_28", "make room"),
        ("error_61", "smartctl"),
        ("error_107", "mount it again"),
        ("error_110", "does not answer"),
        ("error_116", "mount again"),
        ("error_126", "unlock"),
    ] {
        let args = ["--require", "buffered", "--depth", "1"];
        let output = sick.loaded(name, &args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        let at = format!("{name}: reading at offset 4194304 failed");
        assert!(said.contains(&at) && said.contains(words), "{name}: {said}");
        assert!(said.contains("of 8388608 bytes are valid"), "{name}: {said}");
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
}

/// Whether a process has ended, or is killed and only the kernel still waits in its name.
fn has_ended(child: &Child) -> bool {
    const KILLED: u64 = 1 << (9 - 1);
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
    let status = status.expect("a child that nobody waited for");
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:\t"));
    let pending = u64::from_str_radix(pending.expect("signals"), 16).expect("a mask");
    status.contains("State:\tZ") || pending & KILLED != 0
}

/// A file system, whose requests that hang are answered before it is unmounted.
struct Mounted {
    sick: Arc<Sick>,
    mount: Mount,
}

impl Mounted {
    fn new() -> Result<Self, String> {
        let sick = Arc::new(Sick { bytes: bytes_of(LEN as usize), ..Sick::default() });
        let mount = Mount::new(Served(Arc::clone(&sick)), &[MountOption::RO])?;
        Ok(Self { sick, mount })
    }

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let file: PathBuf = self.mount.at.path().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_bufmap"));
        command.args(["load", "--format", "raw"]).args(args).arg(file);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn load(&self, name: &str, args: &[&str]) -> Child {
        self.command(name, args).spawn().expect("the command runs")
    }

    fn loaded(&self, name: &str, args: &[&str]) -> Output {
        self.command(name, args).output().expect("the command runs")
    }

    /// Waits until a request hangs.
    fn wait_for_held(&self) {
        let begun = Instant::now();
        while self.sick.held.lock().expect("no panic").is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20), "nothing hangs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Answers what hangs, with an error.
    fn answer(&self) {
        self.sick.held.lock().expect("no panic").clear();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.answer();
    }
}

/// What hangs: dropped, it is answered with an error.
enum Held {
    Read(#[expect(dead_code, reason = "it is kept to be dropped")] ReplyData),
    Open(#[expect(dead_code, reason = "it is kept to be dropped")] ReplyOpen),
}

/// The file system's state.
#[derive(Default)]
struct Sick {
    bytes: Vec<u8>,
    held: Mutex<Vec<Held>>,
    /// How often a read was put off.
    asked: AtomicUsize,
    /// The offsets of reads that were seen before.
    seen: Mutex<Vec<u64>>,
}

struct Served(Arc<Sick>);

/// Its files by their number, from 2 on. `error_N` fails with error N from the middle on.
const FILES: [&str; 14] = [
    "hang",
    "hangs_again",
    "hangs_when_opened",
    "put_off",
    "broken_off",
    "error_5",
    "error_12",
    "error_19",
    "error_28",
    "error_61",
    "error_107",
    "error_110",
    "error_116",
    "error_126",
];

fn name_of(file: INodeNo) -> &'static str {
    let index = usize::try_from(u64::from(file)).ok().and_then(|file| file.checked_sub(2));
    index.and_then(|index| FILES.get(index)).copied().unwrap_or_default()
}

fn attributes_of(file: INodeNo) -> FileAttr {
    fuse::attributes(file, (file != INodeNo::ROOT).then_some(LEN))
}

const FOR_LONG: Duration = Duration::from_secs(3600);

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match FILES.iter().position(|file| Path::new(file) == Path::new(name)) {
            Some(index) => {
                let file = attributes_of(INodeNo(index as u64 + 2));
                reply.entry(&FOR_LONG, &file, Generation(0));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, file: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_LONG, &attributes_of(file));
    }

    /// Nothing is cached, so that each read comes here.
    fn open(&self, _: &Request, file: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match name_of(file) {
            "hangs_when_opened" => self.0.held.lock().expect("no panic").push(Held::Open(reply)),
            _ => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
        }
    }

    fn read(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let sick = &self.0;
        let first = {
            let mut seen = sick.seen.lock().expect("no panic");
            let first = !seen.contains(&offset);
            seen.push(offset);
            first
        };
        let hold = |reply| sick.held.lock().expect("no panic").push(Held::Read(reply));
        match name_of(file) {
            "hang" if offset >= SICK_FROM => return hold(reply),
            "hangs_again" if !first => return hold(reply),
            "put_off" => {
                sick.asked.fetch_add(1, Ordering::Relaxed);
                return reply.error(Errno::EAGAIN);
            }
            "broken_off" if first => return reply.error(Errno::EINTR),
            name if offset >= SICK_FROM && name.starts_with("error_") => {
                let code = name.trim_start_matches("error_").parse().expect("a number");
                return reply.error(Errno::from_i32(code));
            }
            _ => {}
        }
        let end = (offset + u64::from(size)).min(LEN);
        reply.data(sick.bytes.get(offset as usize..end as usize).unwrap_or_default());
    }
}
