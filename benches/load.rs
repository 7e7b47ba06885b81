//! Loads beside what people use today, in one run.
//!
//! Each line times the rivals by turns, several rounds long, and prints the median of the rounds'
//! ratios: above 1.00, `bufmap` is the faster, or the cheaper in CPU time. Machines are noisy: run
//! it on a quiet one, and more than once.

#[path = "support/median.rs"]
mod median;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bufmap::load::{Load, Target};
use bufmap::storage::file::SourceFile;
use bufmap::transfer::{Around, DataPath, Options, Receipt, Request, Verify};
use exporters::Destination;
use exporters::vulkan::{Buffer, Device};
use iomap::{BufMap, Memory, PageSize};
use median::median;

const FILE: u64 = 1 << 30;
const ROUNDS: usize = 9;
const DEPTH: u32 = 32;
const BLOCK: u64 = 1 << 20;

fn main() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-load.bin");
    make_file(&path, FILE);
    println!(
        "{} MiB a load, {ROUNDS} rounds, {DEPTH} reads of {} KiB in flight",
        FILE >> 20,
        BLOCK >> 10
    );
    against_fio(&path);
    against_read_and_copy(&path);
    against_cached_read(&path);
    let _ = std::fs::remove_file(&path);
    memory_beside_the_buffer();
}

/// What one run took.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

fn timed(work: impl FnOnce()) -> Cost {
    let (started, cpu) = (Instant::now(), cpu_time());
    work();
    Cost { wall: started.elapsed(), cpu: cpu_time().saturating_sub(cpu) }
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Runs the rivals by turns and prints a line for each of ours, beside the first, which is theirs.
fn race(title: &str, bytes: u64, rivals: &mut [(&str, &mut dyn FnMut() -> Cost)]) {
    let mut costs = vec![Vec::new(); rivals.len()];
    for _ in 0..ROUNDS {
        for (costs, (_, run)) in costs.iter_mut().zip(rivals.iter_mut()) {
            costs.push(run());
        }
    }
    println!("\n{title}");
    println!("{:44} {:>8} {:>7} {:>12} {:>11}", "", "GiB/s", "ratio", "CPU s/GiB", "CPU ratio");
    let gib = bytes as f64 / (1u64 << 30) as f64;
    for (own, (name, _)) in costs.iter().zip(rivals.iter()) {
        let speed = median(own.iter().map(|c| gib / c.wall.as_secs_f64()).collect());
        let cpu = median(own.iter().map(|c| c.cpu.as_secs_f64() / gib).collect());
        let pairs = || costs[0].iter().zip(own);
        let ratio =
            median(pairs().map(|(t, o)| t.wall.as_secs_f64() / o.wall.as_secs_f64()).collect());
        let cpu_ratio =
            median(pairs().map(|(t, o)| t.cpu.as_secs_f64() / o.cpu.as_secs_f64()).collect());
        println!("{name:44} {speed:8.2} {ratio:7.2} {cpu:12.3} {cpu_ratio:11.2}");
    }
}

fn make_file(path: &Path, len: u64) {
    let mut file = File::create(path).expect("a file in the build's directory");
    let mut block = vec![0u8; 1 << 20];
    let mut state = 1u64;
    for _ in 0..len >> 20 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).expect("room for the file");
    }
    file.sync_all().expect("the file on the disk");
}

fn drop_cache(path: &Path) {
    let file = File::open(path).expect("the file");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
}

fn populated(len: u64) -> Memory {
    let memory = Memory::anonymous(len as usize, PageSize::Base).expect("memory");
    let _ = memory.advise_huge();
    memory.populate().expect("pages");
    memory
}

fn load(
    path: &Path,
    destination: &dyn Destination,
    require: Option<DataPath>,
    verify: Verify,
) -> Receipt {
    let file = SourceFile::open(path).expect("the file");
    let requests = [Request::new(0, 0, file.len(), 0)];
    Load {
        files: &[file],
        requests: &requests,
        around: Around::Scratch,
        destination,
        options: Options { require, verify, depth: DEPTH, block: BLOCK, ..Options::default() },
        stop: &AtomicBool::new(false),
    }
    .run(&mut |_| {})
    .expect("a load")
}

/// The drive's speed as `fio` sees it, with the same block size and depth.
fn against_fio(path: &Path) {
    if Command::new("fio").arg("--version").output().is_err() {
        return println!("\nSKIPPED: loads against fio: it is not installed (apt-get install fio)");
    }
    let memory = populated(FILE);
    let ours = |verify| timed(|| drop(load(path, &memory, Some(DataPath::Direct), verify)));
    race(
        "into system memory, by O_DIRECT, beside fio",
        FILE,
        &mut [
            ("fio, io_uring with fixed buffers", &mut || fio(path, &[])),
            ("bufmap, no check", &mut || ours(Verify::None)),
            ("bufmap, fingerprints", &mut || ours(Verify::Hash)),
        ],
    );
    let Some(_pages) = HugePages::reserve(DEPTH as usize + 2) else {
        return println!("\nSKIPPED: beside fio in huge pages: none can be reserved (root can)");
    };
    let huge = ["--mem=shmhuge", "--hugepage-size=2m"];
    race(
        "the same, fio's buffers in huge pages as the load's are",
        FILE,
        &mut [
            ("fio, io_uring with fixed buffers", &mut || fio(path, &huge)),
            ("bufmap, no check", &mut || ours(Verify::None)),
        ],
    );
}

/// Pages of 2 MiB set aside for the hugetlb pool, and given back.
struct HugePages {
    before: String,
}

impl HugePages {
    const POOL: &str = "/proc/sys/vm/nr_hugepages";

    fn reserve(pages: usize) -> Option<Self> {
        let before = std::fs::read_to_string(Self::POOL).ok()?;
        let there: usize = before.trim().parse().ok()?;
        std::fs::write(Self::POOL, (there + pages).to_string()).ok()?;
        let reserved = Self { before };
        let now: usize = std::fs::read_to_string(Self::POOL).ok()?.trim().parse().ok()?;
        (now == there + pages).then_some(reserved)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::POOL, self.before.trim());
    }
}

fn fio(path: &Path, more: &[&str]) -> Cost {
    let output = Command::new("fio")
        .args(["--name=read", "--rw=read", "--direct=1", "--ioengine=io_uring", "--fixedbufs"])
        .args([format!("--bs={BLOCK}"), format!("--iodepth={DEPTH}"), format!("--size={FILE}")])
        .args(["--output-format=json", "--invalidate=1"])
        .arg(format!("--filename={}", path.display()))
        .args(more)
        .output()
        .expect("fio runs");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("fio's JSON");
    let job = &json["jobs"][0];
    let number = |value: &serde_json::Value| value.as_f64().expect("a number of fio's");
    let wall = FILE as f64 / number(&job["read"]["bw_bytes"]);
    let cpu = wall * (number(&job["usr_cpu"]) + number(&job["sys_cpu"])) / 100.0;
    Cost { wall: Duration::from_secs_f64(wall), cpu: Duration::from_secs_f64(cpu.max(1e-6)) }
}

/// What most programs do: read the file, copy it into a staging buffer.
fn against_read_and_copy(path: &Path) {
    let device = match Device::open(None) {
        Ok(device) => device,
        Err(why) => return println!("\nSKIPPED: loads into Vulkan: {why}"),
    };
    let (target, _) = Target::vulkan(&device, FILE, None).expect("a buffer");
    if let Target::Imported(buffer) = &target
        && let Some(memory) = buffer.imported_memory()
    {
        memory.populate().expect("pages");
    }
    let staging = staging(&device, FILE);
    let mut read_and_copy = || {
        drop_cache(path);
        timed(|| {
            let bytes = std::fs::read(path).expect("the file");
            staging_map(&staging).copy_from(&BufMap::from_slice(&bytes)).expect("one length");
        })
    };
    let ours = |verify| {
        drop_cache(path);
        timed(|| drop(load(path, target.destination(), None, verify)))
    };
    race(
        "into a Vulkan buffer, nothing cached",
        FILE,
        &mut [
            ("std::fs::read and a copy into staging", &mut read_and_copy),
            ("bufmap, no check", &mut || ours(Verify::None)),
            ("bufmap, fingerprints", &mut || ours(Verify::Hash)),
        ],
    );
}

/// Host-visible memory that a GPU would copy from.
fn staging(device: &Device, len: u64) -> (Arc<Memory>, Arc<Buffer>) {
    let memory = Arc::new(populated(len));
    let buffer = device.import_memory(Arc::clone(&memory)).expect("pages imported");
    (memory, Arc::new(buffer))
}

fn staging_map(staging: &(Arc<Memory>, Arc<Buffer>)) -> BufMap<'_> {
    staging.0.map()
}

fn against_cached_read(path: &Path) {
    let memory = populated(FILE);
    let mut bytes = vec![1u8; FILE as usize];
    let _ = std::fs::read(path).expect("the file");
    let mut read = || {
        timed(|| {
            File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).expect("the file")
        })
    };
    let ours = |verify| timed(|| drop(load(path, &memory, None, verify)));
    race(
        "the same file again, from the page cache, into the same buffer",
        FILE,
        &mut [
            ("std::fs::File::read_exact", &mut read),
            ("bufmap, no check", &mut || ours(Verify::None)),
            ("bufmap, fingerprints", &mut || ours(Verify::Hash)),
        ],
    );
}

/// Loads a file larger than a tenth of the machine's memory into a buffer window by window, and
/// shows how much memory the load itself took.
fn memory_beside_the_buffer() {
    let path: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-large.bin");
    let len = (total_memory() / 10).next_multiple_of(1 << 20) + (1 << 20);
    let file = File::create(&path).expect("a file");
    // Blocks that the file system has to read: real extents, not holes.
    let block = vec![7u8; 8 << 20];
    let mut at = 0;
    while at < len {
        let part = block.len().min((len - at) as usize);
        file.write_all_at(&block[..part], at).expect("room for the file");
        at += part as u64;
    }
    file.sync_all().expect("the file on the disk");
    drop_cache(&path);
    println!("\nmemory beside the buffer, a file of {} MiB (a tenth of RAM and more)", len >> 20);
    let memory = populated(len);
    // What this process needed before does not count (proc(5): 5 resets the peak).
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak is reset");
    let before = resident();
    let receipt = load(&path, &memory, Some(DataPath::Direct), Verify::Hash);
    let grown = resident().saturating_sub(before);
    println!(
        "direct, depth {DEPTH}: {} KiB of slots, peak resident memory grew by {} KiB; {:.2} GiB/s",
        receipt.slots >> 10,
        grown >> 10,
        receipt.gib_per_second()
    );
    drop(memory);
    let _ = std::fs::remove_file(&path);
}

fn total_memory() -> u64 {
    status("/proc/meminfo", "MemTotal:")
}

/// The peak of resident memory in bytes.
fn resident() -> u64 {
    status("/proc/self/status", "VmHWM:")
}

fn status(path: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(path).expect("proc");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("the line");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
    kib << 10
}
