//! Saves into a file system that fails on purpose, by FUSE: it knows no nameless files and sets no space aside, and writes are
//! done in part, put off, refused or done wrong. What is said of it, and that the old file stays whole.

#[path = "support/fuse.rs"]
mod fuse;
mod support;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bufmap::save::{Save, To};
use bufmap::transfer::{DataPath, Left, Options, Receipt, Request as Part, SaveError, Verify};
use fuse::Mount;
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use iomap::{Memory, PageSize};
use support::*;

const LEN: u64 = (4 << 20) + 5;

/// Where what is wrong with a file begins.
const SICK_FROM: u64 = 2 << 20;

fn main() -> ExitCode {
    let fuse = |name: &str, test: fn(Mounted)| trial(name, Mounted::new(), test);
    support::run(vec![
        fuse("without_nameless_files_a_name_is_used_and_nothing_is_left", named),
        fuse("writes_in_parts_and_put_off_become_the_whole", in_parts),
        fuse("errors_leave_the_old_file_and_nothing_beside", errors),
        fuse("what_was_written_wrong_is_found_by_reading_it_back", wrong),
        fuse("what_cannot_be_synced_is_not_renamed", unsynced),
    ])
}

fn named(sick: Mounted) {
    let receipt = sick.save(None, Verify::Full).expect("a save");
    assert_eq!(receipt.bytes, LEN);
    let state = sick.state();
    assert!(state.names_seen.iter().any(|name| name.to_string_lossy().starts_with(".bufmap-")));
    assert_eq!(state.names.keys().collect::<Vec<_>>(), ["file"]);
    assert_same(&state.bytes_of("file"), &bytes_of(LEN as usize));
}

fn in_parts(sick: Mounted) {
    for require in [Some(DataPath::Buffered), None] {
        for sickness in [Sickness::InParts, Sickness::BrokenOff] {
            sick.make_ill(sickness);
            let receipt = sick.save(require, Verify::Full).expect("a save");
            println!("{sickness:?}: {:?}, {}", receipt.paths, receipt.engine);
            assert!(sick.state().fell_ill > 0, "{sickness:?} never happened");
            // Of a write in parts, an io_uring would put the rest elsewhere.
            assert!(!receipt.engine.contains("io_uring with"), "{}", receipt.engine);
            assert_same(&sick.state().bytes_of("file"), &bytes_of(LEN as usize));
        }
    }
}

fn errors(sick: Mounted) {
    for (code, words) in [
        (libc::ENOSPC, "is full"),
        (libc::EIO, "dmesg"),
        (libc::EDQUOT, "quota"),
        (libc::EROFS, "read-only"),
    ] {
        sick.make_ill(Sickness::Fails(code));
        let error = sick.save(None, Verify::None).expect_err("it fails");
        let SaveError::Write { offset, left: Left::AsItWas, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(*offset, SICK_FROM);
        let said = error.to_string();
        assert!(said.contains("file: writing at offset 2097152 failed"), "{said}");
        assert!(said.contains(words) && said.ends_with("the file is as it was"), "{said}");
        sick.has_the_old_file_alone();
    }
}

fn wrong(sick: Mounted) {
    sick.make_ill(Sickness::Wrong);
    sick.save(None, Verify::Hash).expect("nobody looked");
    sick.begin_anew();
    let error = sick.save(None, Verify::Full).expect_err("a byte is another");
    let SaveError::Mismatch { offset: 0, len: LEN, left: Left::AsItWas, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(error.to_string().contains("read back, their CRC-32 is"), "{error}");
    sick.has_the_old_file_alone();
}

fn unsynced(sick: Mounted) {
    sick.make_ill(Sickness::CannotSync);
    let error = sick.save(None, Verify::None).expect_err("it is not in the drive");
    assert!(matches!(error, SaveError::Sync { left: Left::AsItWas, .. }), "{error:?}");
    sick.has_the_old_file_alone();
    sick.make_ill(Sickness::CannotRename);
    let error = sick.save(None, Verify::None).expect_err("it has no name");
    let said = error.to_string();
    assert!(matches!(error, SaveError::Commit { .. }), "{error:?}");
    assert!(said.contains("giving it its name failed"), "{said}");
    assert!(said.ends_with("the old file is as it was"), "{said}");
    sick.has_the_old_file_alone();
}

struct Mounted {
    state: Arc<Mutex<State>>,
    mount: Mount,
}

impl Mounted {
    fn new() -> Result<Self, String> {
        let state = Arc::new(Mutex::new(State::default()));
        let mount = Mount::new(Served(Arc::clone(&state)), &[])?;
        let mounted = Self { state, mount };
        mounted.begin_anew();
        Ok(mounted)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// There is an old file and nothing else.
    fn begin_anew(&self) {
        let mut state = self.state();
        let file = state.make("file");
        state.files.insert(file, b"old".to_vec());
    }

    fn make_ill(&self, sickness: Sickness) {
        self.begin_anew();
        let mut state = self.state();
        (state.sickness, state.fell_ill, state.broken_off) = (sickness, 0, false);
    }

    fn path(&self) -> PathBuf {
        self.mount.at.path().join("file")
    }

    fn save(&self, require: Option<DataPath>, verify: Verify) -> Result<Receipt, SaveError> {
        let memory = Memory::anonymous(LEN as usize, PageSize::Base).expect("memory");
        memory.map().copy_from_slice(0, &bytes_of(LEN as usize)).expect("a writable map");
        Save {
            source: &memory,
            to: To::NewFile(&self.path()),
            requests: &[Part::new(0, 0, LEN, 0)],
            options: Options { require, verify, block: 64 << 10, ..Options::default() },
            stop: &AtomicBool::new(false),
        }
        .run(&mut |_| {})
    }

    fn has_the_old_file_alone(&self) {
        let state = self.state();
        assert_eq!(state.names.keys().collect::<Vec<_>>(), ["file"]);
        assert_eq!(state.bytes_of("file"), b"old");
    }
}

/// What is wrong from [`SICK_FROM`] on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sickness {
    #[default]
    None,
    /// Only the first half of a write is done.
    InParts,
    /// The first write is broken off.
    BrokenOff,
    Fails(i32),
    /// One bit of each write is another.
    Wrong,
    CannotSync,
    CannotRename,
}

/// The file system's state.
#[derive(Default)]
struct State {
    names: BTreeMap<OsString, u64>,
    names_seen: Vec<OsString>,
    files: BTreeMap<u64, Vec<u8>>,
    sickness: Sickness,
    fell_ill: usize,
    broken_off: bool,
}

impl State {
    fn make(&mut self, name: impl Into<OsString>) -> u64 {
        let (name, file) = (name.into(), self.files.keys().last().map_or(2, |last| last + 1));
        self.names_seen.push(name.clone());
        self.names.insert(name, file);
        self.files.insert(file, Vec::new());
        file
    }

    fn bytes_of(&self, name: &str) -> Vec<u8> {
        self.files[&self.names[OsStr::new(name)]].clone()
    }

    fn attributes(&self, file: INodeNo) -> FileAttr {
        let len = self.files.get(&u64::from(file)).map(|bytes| bytes.len() as u64);
        fuse::attributes(file, len)
    }

    /// How many bytes of a write are taken.
    fn write(&mut self, file: u64, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let sick = offset + data.len() as u64 > SICK_FROM;
        let (mut taken, mut flip) = (data.len(), 0);
        match self.sickness {
            Sickness::InParts if sick && data.len() > 8192 => taken = data.len() / 2 + 100,
            Sickness::BrokenOff if sick && !self.broken_off => {
                (self.broken_off, self.fell_ill) = (true, 1);
                return Err(Errno::EINTR);
            }
            Sickness::Fails(code) if sick => return Err(Errno::from_i32(code)),
            Sickness::Wrong if sick => flip = 1,
            _ => {}
        }
        self.fell_ill += usize::from(taken < data.len());
        let bytes = self.files.get_mut(&file).ok_or(Errno::ENOENT)?;
        let end = offset as usize + taken;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(&data[..taken]);
        bytes[end - 1] ^= flip;
        Ok(taken)
    }
}

struct Served(Arc<Mutex<State>>);

impl Served {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }
}

/// Nothing is remembered, and nothing is cached, so that each question comes here.
const AT_ONCE: Duration = Duration::ZERO;

const UNCACHED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO;

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.state();
        match state.names.get(name) {
            Some(&file) => {
                reply.entry(&AT_ONCE, &state.attributes(INodeNo(file)), Generation(0));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, file: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&AT_ONCE, &self.state().attributes(file));
    }

    fn setattr(
        &self,
        _: &Request,
        file: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        if let (Some(size), Some(bytes)) = (size, state.files.get_mut(&u64::from(file))) {
            bytes.resize(size as usize, 0);
        }
        reply.attr(&AT_ONCE, &state.attributes(file));
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut state = self.state();
        let file = INodeNo(state.make(name));
        let attributes = state.attributes(file);
        reply.created(&AT_ONCE, &attributes, Generation(0), FileHandle(0), UNCACHED);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), UNCACHED);
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
        let state = self.state();
        let bytes = state.files.get(&u64::from(file)).map_or(&[][..], Vec::as_slice);
        let start = bytes.len().min(offset as usize);
        let end = bytes.len().min(start + size as usize);
        reply.data(&bytes[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.state().write(file.into(), offset, data) {
            Ok(taken) => reply.written(taken as u32),
            Err(error) => reply.error(error),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.state().sickness {
            Sickness::CannotSync => reply.error(Errno::EIO),
            _ => reply.ok(),
        }
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.state().names.remove(name) {
            Some(_) => reply.ok(),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: INodeNo,
        new: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        match (state.sickness, state.names.get(name).copied()) {
            (Sickness::CannotRename, _) => reply.error(Errno::EIO),
            (_, None) => reply.error(Errno::ENOENT),
            (_, Some(file)) => {
                state.names.remove(name);
                state.names.insert(new.to_owned(), file);
                reply.ok();
            }
        }
    }
}
