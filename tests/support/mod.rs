//! What the load tests share: real files on the disk that the build lies on, and loads into memory.
#![allow(dead_code)] // Each test program uses its part.

#[path = "../../benches/support/random.rs"]
pub mod random;

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use bufmap::load::Load;
use bufmap::storage::file::SourceFile;
use bufmap::transfer::{Around, Options, Receipt, Request, TransferError};
use exporters::vfio::Mappable;
use exporters::{Absent, Destination};
use iomap::{BufMap, Memory, PageSize};
use libtest_mimic::{Arguments, Completion, Trial};

/// A file of `len` bytes that differ everywhere, on a real file system.
pub fn file_of(len: usize) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a file");
    file.write_all(&bytes_of(len)).expect("room for the file");
    file.as_file().sync_all().expect("the file on the disk");
    file
}

/// Bytes without a short period: each 8-byte word is a hash of its own index.
pub fn bytes_of(len: usize) -> Vec<u8> {
    let words = (0..len.div_ceil(8) as u64).map(|i| {
        let mut x = i.wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x ^= x >> 29;
        x.wrapping_mul(0x94D0_49BB_1331_11EB)
    });
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(len);
    bytes
}

/// Drops a file's clean pages from the page cache.
pub fn drop_cache(file: &File) {
    file.sync_all().expect("the file on the disk");
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
}

/// Reads the whole file, so that the page cache holds it.
pub fn fill_cache(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("the file")
}

/// Opens a file again, past whatever this process did with it before.
pub fn source(path: &Path) -> SourceFile {
    SourceFile::open(path).expect("the file opens")
}

/// Loads `requests` of `file` into `memory`.
pub fn load(
    file: &SourceFile,
    requests: &[Request],
    around: Around,
    memory: &Memory,
    options: Options,
) -> Result<Receipt, TransferError> {
    Load {
        files: std::slice::from_ref(file),
        requests,
        around,
        destination: memory,
        options,
        stop: &AtomicBool::new(false),
    }
    .run(&mut |_| {})
}

/// Memory filled with a byte that tells what a load did not touch.
pub fn memory_of(len: usize) -> Memory {
    let memory = Memory::anonymous(len, PageSize::Base).expect("memory");
    memory.map().fill(UNTOUCHED).expect("a writable map");
    memory
}

/// What bytes that no request names must still be.
pub const UNTOUCHED: u8 = 0xA5;

/// The bytes of a memory.
pub fn contents(memory: &Memory) -> Vec<u8> {
    let mut bytes = vec![0; memory.len()];
    memory.map().copy_to_slice(0, &mut bytes).expect("the whole memory");
    bytes
}

/// The bytes that a load of `requests` must leave in a buffer of `len` bytes, by plain reads.
pub fn expected(path: &Path, requests: &[Request], len: usize) -> Vec<u8> {
    let mut file = OpenOptions::new().read(true).open(path).expect("the file");
    let mut bytes = vec![UNTOUCHED; len];
    for request in requests {
        file.seek(SeekFrom::Start(request.offset)).expect("an offset in the file");
        let place = request.buffer_offset as usize..(request.buffer_offset + request.len) as usize;
        file.read_exact(&mut bytes[place]).expect("the request's bytes");
    }
    bytes
}

/// Asserts equality without printing megabytes.
#[track_caller]
pub fn assert_same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len(), "lengths differ");
    if let Some(at) = found.iter().zip(expected).position(|(a, b)| a != b) {
        panic!("byte {at} is {:#04x} and should be {:#04x}", found[at], expected[at]);
    }
}

/// Where the real inputs lie, or why they are not there.
pub fn real_input(name: &str) -> Result<std::path::PathBuf, String> {
    let directory = std::env::var_os("BUFMAP_INPUTS")
        .ok_or("BUFMAP_INPUTS names no directory of real inputs: run `cargo xtask test`")?;
    let path = Path::new(&directory).join(name);
    match path.is_file() {
        true => Ok(path),
        false => Err(format!("{} is not there: `cargo xtask test` fetches it", path.display())),
    }
}

/// The machine's Vulkan device, or why there is none.
pub fn vulkan_device() -> Result<exporters::vulkan::Device, String> {
    exporters::vulkan::Device::open(None).map_err(|error| error.to_string())
}

/// A test that is counted as ignored, with the reason, where the machine lacks what it needs.
pub fn trial<T: Send + 'static>(
    name: &str,
    needs: Result<T, String>,
    test: impl FnOnce(T) + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || match needs {
        Ok(given) => {
            test(given);
            Ok(Completion::Completed)
        }
        Err(why) => Ok(Completion::ignored_with(why)),
    })
}

/// Runs trials one at a time, because some count what the whole process holds.
pub fn run(trials: Vec<Trial>) -> std::process::ExitCode {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A program's own buffer, with the facets that its fields say.
#[derive(Debug)]
pub struct Own {
    pub memory: Memory,
    /// Whether drives may be given its pages.
    pub pages: bool,
    /// Whether it has gone away.
    pub gone: AtomicBool,
}

impl Own {
    pub fn new(len: usize, pages: bool) -> Self {
        let memory = Memory::anonymous(len, PageSize::Base).expect("memory");
        Self { memory, pages, gone: AtomicBool::new(false) }
    }
}

impl Destination for Own {
    fn len(&self) -> usize {
        self.memory.len()
    }

    fn cpu_map(&self) -> Result<BufMap<'_>, Absent> {
        Ok(self.memory.map())
    }

    fn pages(&self) -> Result<(), Absent> {
        match self.pages {
            true => Ok(()),
            false => Err(Absent::new("its pages are its own", "take another buffer")),
        }
    }

    fn steady(&self) -> Result<&dyn Mappable, Absent> {
        Ok(&self.memory)
    }

    fn is_present(&self) -> bool {
        !self.gone.load(Ordering::Relaxed)
    }

    fn holder(&self) -> String {
        "a device of the test's".into()
    }
}

/// Set in a child process that is to run one test in a restricted way.
pub const RESTRICTED: &str = "BUFMAP_TEST_RESTRICTED";

/// Runs a restricted test in a process of its own.
pub fn in_child(test: &str) {
    let own = std::env::current_exe().expect("this program");
    let done = Command::new(own).env(RESTRICTED, test).output().expect("a child");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{test}: {}\n{said}", done.status);
}

/// What loop devices, mounts and other users need.
pub fn root() -> Result<(), String> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err("loop devices, mounts and other users need root".into()),
    }
}
