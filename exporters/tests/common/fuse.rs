//! A file system that is this program, and answers nothing about its file but that it is there and opened
//! (`linux/fuse.h`, `Documentation/filesystems/fuse.rst`).

use std::cell::RefCell;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::common::{Stop, check, need};

/// What the kernel asks for.
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const OPEN: u32 = 14;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const INTERRUPT: u32 = 36;
}

/// The root directory's node, which the kernel knows.
const ROOT: u64 = 1;
const FILE: u64 = 2;

/// `FUSE_WRITEBACK_CACHE`.
const WRITEBACK_CACHE: u32 = 1 << 16;

/// A trial that hangs itself is freed, and fails.
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Asked {
    /// What was asked about the file and got no answer.
    unanswered: Mutex<Vec<u32>>,
    only_writes_hang: AtomicBool,
    ended: AtomicBool,
}

/// The file system. When it is dropped, whoever waits for it gets an error.
pub struct Hanging {
    root: OwnedFd,
    asked: Arc<Asked>,
    server: Option<JoinHandle<()>>,
    /// Closed once it has ended, so that this program does not hang itself.
    kept: RefCell<Vec<Arc<OwnedFd>>>,
}

impl Hanging {
    /// Mounts it, where nobody else sees it for long: an open directory is all that is needed.
    pub fn mount() -> Result<Self, Stop> {
        // Root may load the module where it is not loaded; what is missing then is told below.
        let _ = Command::new("modprobe").args(["-q", "fuse"]).status();
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let device = need(rustix::fs::open("/dev/fuse", flags, Mode::empty()).map_err(|errno| {
            format!("/dev/fuse cannot be opened ({errno}): be root, and load the module fuse")
        }))?;
        let directory = tempfile::tempdir()?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = CString::new(options)?;
        let nowhere = MountFlags::NOSUID | MountFlags::NODEV;
        need(
            mount("hanging", directory.path(), "fuse", nowhere, Some(options.as_c_str()))
                .map_err(|errno| format!("FUSE cannot be mounted ({errno}): be root")),
        )?;
        let asked = Arc::new(Asked::default());
        let server = thread::spawn({
            let asked = asked.clone();
            move || serve(device, &asked)
        });
        let root =
            rustix::fs::open(directory.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        unmount(directory.path(), UnmountFlags::DETACH)?;
        Ok(Self { root: root?, asked, server: Some(server), kept: RefCell::default() })
    }

    /// Opens its file, for others to close.
    pub fn open(&self) -> Result<OwnedFd, Stop> {
        Ok(openat(&self.root, "file", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Opens its file and closes it when all is over.
    pub fn open_kept(&self) -> Result<Arc<OwnedFd>, Stop> {
        let file = Arc::new(self.open()?);
        self.kept.borrow_mut().push(file.clone());
        Ok(file)
    }

    /// Answers from now on all but who waits until the file is written.
    pub fn hang_in_writes_only(&self) {
        self.asked.only_writes_hang.store(true, Ordering::Relaxed);
    }

    /// How often it was asked so, and did not answer.
    pub fn unanswered(&self, opcode: u32) -> usize {
        let unanswered = self.asked.unanswered.lock().expect("no panic");
        unanswered.iter().filter(|asked| **asked == opcode).count()
    }

    /// Waits until it was asked so.
    pub fn is_asked(&self, opcode: u32) -> Result<(), Stop> {
        let begun = Instant::now();
        while self.unanswered(opcode) == 0 {
            check(begun.elapsed() < Duration::from_secs(10), format!("not asked for {opcode}"))?;
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Fails unless all that it was asked about its file is to close it.
    pub fn was_only_flushed(&self) -> Result<(), Stop> {
        self.is_asked(opcode::FLUSH)?;
        let unanswered = self.asked.unanswered.lock().expect("no panic");
        let flushed = unanswered.iter().all(|asked| *asked == opcode::FLUSH);
        check(flushed, format!("it was asked {unanswered:?}"))
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.asked.ended.store(true, Ordering::Relaxed);
        let server = self.server.take();
        assert!(server.is_none_or(|server| server.join().is_ok()), "the file system panicked");
    }
}

/// Answers until the end; that the device is closed then is an error for whoever still waits.
fn serve(device: OwnedFd, asked: &Asked) {
    let (device, begun) = (&device, Instant::now());
    let mut request = vec![0; 256 << 10];
    let slice = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    while !asked.ended.load(Ordering::Relaxed) && begun.elapsed() < LONGEST {
        let _ = poll(&mut [PollFd::new(device, PollFlags::IN)], Some(&slice));
        let len = match rustix::io::read(device, &mut request[..]) {
            Ok(len) => len,
            Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => continue,
            Err(_) => return,
        };
        let header = Header::of(&request[..len]);
        let only_writes_hang = asked.only_writes_hang.load(Ordering::Relaxed);
        match answer(&header, only_writes_hang) {
            Some(answer) => reply(device, header.unique, 0, answer),
            None if matches!(header.opcode, opcode::FORGET | opcode::INTERRUPT) => {}
            None if only_writes_hang && header.opcode != opcode::WRITE => {
                reply(device, header.unique, Errno::NOSYS.raw_os_error(), vec![]);
            }
            None => asked.unanswered.lock().expect("no panic").push(header.opcode),
        }
    }
}

/// `struct fuse_in_header`.
struct Header {
    opcode: u32,
    unique: u64,
    node: u64,
}

impl Header {
    fn of(bytes: &[u8]) -> Self {
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|index| bytes[at + index]));
        Self { opcode: (word(0) >> 32) as u32, unique: word(8), node: word(16) }
    }
}

/// What follows `struct fuse_out_header`, in words.
fn answer(header: &Header, only_writes_hang: bool) -> Option<Vec<u32>> {
    Some(match (header.opcode, header.node) {
        // Version 7.31, and pages that are written are the kernel's to keep for a while.
        (opcode::INIT, _) => {
            [7, 31, 0, WRITEBACK_CACHE, 0, 4096, 1].into_iter().chain([0; 9]).collect()
        }
        // Nothing is to be remembered: what is wanted to know of it has to be asked.
        (opcode::LOOKUP, _) => {
            [FILE as u32].into_iter().chain([0; 9]).chain(attributes(FILE)).collect()
        }
        (opcode::GETATTR, node) if node == ROOT || only_writes_hang => {
            [0; 4].into_iter().chain(attributes(node)).collect()
        }
        (opcode::OPEN, _) => vec![0; 4],
        (opcode::RELEASE, _) => vec![],
        _ => return None,
    })
}

/// `struct fuse_attr`.
fn attributes(node: u64) -> [u32; 22] {
    let mut words = [0; 22];
    words[0] = node as u32;
    words[2] = 4096;
    words[15] = if node == ROOT { 0o040_755 } else { 0o100_666 };
    words[16] = 1;
    words
}

fn reply(device: &OwnedFd, unique: u64, errno: i32, words: Vec<u32>) {
    let len = 16 + words.len() as u32 * 4;
    let header = [len, -errno as u32, unique as u32, (unique >> 32) as u32];
    let bytes: Vec<u8> = header.into_iter().chain(words).flat_map(u32::to_ne_bytes).collect();
    // One who has stopped waiting (ENOENT) needs no answer.
    let _ = rustix::io::write(device, &bytes);
}
