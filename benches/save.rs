//! Saves beside what people use today, in one run.
//!
//! Each line times the rivals by turns, several rounds long, and prints the median of the rounds' ratios: above 1.00,
//! `bufmap` is the faster. Every round writes a new file, and ends when it is in the drive. Machines are noisy: run it on a
//! quiet one, and more than once.

#[path = "support/median.rs"]
mod median;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bufmap::save::{Save, To};
use bufmap::transfer::{DataPath, Options, Request, Verify};
use iomap::{Memory, PageSize};
use median::median;

const FILE: u64 = 1 << 30;
const ROUNDS: usize = 5;
const DEPTH: u32 = 32;
const BLOCK: u64 = 1 << 20;

fn main() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-save.bin");
    let mut memory = Memory::anonymous(FILE as usize, PageSize::Base).expect("memory");
    let _ = memory.advise_huge();
    fill(memory.as_mut_slice().expect("nobody else's"));
    let ours = |verify, require| {
        let (path, memory) = (path.clone(), &memory);
        move || save(&path, memory, verify, require)
    };
    let mut direct = ours(Verify::None, Some(DataPath::Direct));
    let mut hashed = ours(Verify::Hash, Some(DataPath::Direct));
    let mut buffered = ours(Verify::None, Some(DataPath::Buffered));
    println!(
        "{} MiB into a new file, synced, {ROUNDS} rounds, {DEPTH} writes of {} KiB in flight",
        FILE >> 20,
        BLOCK >> 10
    );
    match Command::new("fio").arg("--version").output() {
        Ok(_) => race(
            "O_DIRECT",
            &mut [
                ("fio, io_uring", &mut || fio(&path, &[])),
                ("fio, io_uring with fixed buffers", &mut || fio(&path, &["--fixedbufs"])),
                ("bufmap, no check", &mut direct),
                ("bufmap, fingerprints", &mut hashed),
            ],
        ),
        Err(_) => println!("SKIPPED: beside fio: it is not installed (apt-get install fio)"),
    }
    // The slice of a program's own, as it would be given to `write`.
    let bytes = contents(&memory);
    race(
        "what programs do",
        &mut [
            ("std::fs::write, then sync_all", &mut || plain(&path, &bytes)),
            ("bufmap, through the page cache", &mut buffered),
            ("bufmap, no check", &mut ours(Verify::None, None)),
        ],
    );
    let _ = std::fs::remove_file(&path);
}

fn fill(bytes: &mut [u8]) {
    let mut x = 88_172_645_463_325_252u64;
    for word in bytes.chunks_exact_mut(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        word.copy_from_slice(&x.to_le_bytes());
    }
}

fn contents(memory: &Memory) -> Vec<u8> {
    let mut bytes = vec![0; memory.len()];
    memory.map().copy_to_slice(0, &mut bytes).expect("the memory");
    bytes
}

/// Runs the rivals by turns and prints a line for each, beside the first.
fn race(title: &str, rivals: &mut [(&str, &mut dyn FnMut() -> f64)]) {
    let mut seconds = vec![Vec::new(); rivals.len()];
    for _ in 0..ROUNDS {
        for (seconds, (_, run)) in seconds.iter_mut().zip(rivals.iter_mut()) {
            seconds.push(run());
        }
    }
    println!("\n{title}");
    println!("{:36} {:>8} {:>7}", "", "GiB/s", "ratio");
    for (own, (name, _)) in seconds.iter().zip(rivals.iter()) {
        let ratio = median(seconds[0].iter().zip(own).map(|(first, own)| first / own).collect());
        let speed = FILE as f64 / (1u64 << 30) as f64 / median(own.clone());
        println!("{name:36} {speed:8.2} {ratio:7.2}");
    }
}

/// How many seconds a save takes, from the call to the new file in its place.
fn save(path: &Path, memory: &Memory, verify: Verify, require: Option<DataPath>) -> f64 {
    anew(path);
    let started = Instant::now();
    let receipt = Save {
        source: memory,
        to: To::NewFile(path),
        requests: &[Request::new(0, 0, FILE, 0)],
        options: Options { verify, require, depth: DEPTH, block: BLOCK, ..Options::default() },
        stop: &AtomicBool::new(false),
    }
    .run(&mut |_| {})
    .expect("a save");
    assert_eq!(receipt.bytes, FILE);
    started.elapsed().as_secs_f64()
}

/// How many seconds fio takes by its own account, the end's fsync included and the file's making not.
fn fio(path: &Path, more: &[&str]) -> f64 {
    anew(path);
    let output = Command::new("fio")
        .args(["--name=write", "--rw=write", "--direct=1", "--ioengine=io_uring", "--end_fsync=1"])
        .args([format!("--bs={BLOCK}"), format!("--iodepth={DEPTH}"), format!("--size={FILE}")])
        .args(["--output-format=json"])
        .args(more)
        .arg(format!("--filename={}", path.display()))
        .output()
        .expect("fio runs");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("fio's JSON");
    let write = &json["jobs"][0]["write"];
    assert_eq!(write["io_bytes"].as_u64(), Some(FILE), "fio wrote all");
    write["runtime"].as_f64().expect("a number of fio's") / 1e3
}

fn plain(path: &Path, bytes: &[u8]) -> f64 {
    anew(path);
    let started = Instant::now();
    std::fs::write(path, bytes).expect("room for the file");
    std::fs::File::open(path).and_then(|file| file.sync_all()).expect("the file in the drive");
    started.elapsed().as_secs_f64()
}

/// The file is gone, and nothing of others waits to be written.
fn anew(path: &Path) {
    let _ = std::fs::remove_file(path);
    rustix::fs::sync();
}
