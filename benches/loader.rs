//! A loader that stays, beside what people use today, in one run.
//!
//! Each line times the rivals by turns, several rounds long, and prints the median of the rounds' ratios: above 1.00,
//! `bufmap` is the faster. Machines are noisy: run it on a quiet one, and more than once.

#[path = "support/median.rs"]
mod median;
#[path = "support/random.rs"]
mod random;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bufmap::engine::{Buffer, Completed, Completions, Loader, LoaderOptions, Request};
use bufmap::transfer::{DataPath, Priority};
use iomap::{Memory, PageSize};
use median::median;
use random::Random;

const FILE: u64 = 1 << 30;
const ROUNDS: usize = 7;
const DEPTH: u64 = 32;

fn main() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-loader.bin");
    make_file(&path, FILE);
    for len in [4 << 10, 64 << 10] {
        many_at_a_time(&path, len);
    }
    for len in [4 << 10, 64 << 10] {
        one_at_a_time(&path, len);
    }
    urgent_beside_background(&path);
    let _ = std::fs::remove_file(&path);
}

/// Runs the rivals by turns and prints a line for each, beside the first.
fn race(title: &str, rivals: &mut [(&str, &mut dyn FnMut() -> f64)]) {
    let mut costs = vec![Vec::new(); rivals.len()];
    for _ in 0..ROUNDS {
        for (costs, (_, run)) in costs.iter_mut().zip(rivals.iter_mut()) {
            costs.push(run());
        }
    }
    println!("\n{title}");
    println!("{:44} {:>12} {:>7}", "", "us a request", "ratio");
    for (own, (name, _)) in costs.iter().zip(rivals.iter()) {
        let ratio = median(costs[0].iter().zip(own).map(|(theirs, own)| theirs / own).collect());
        println!("{name:44} {:12.1} {ratio:7.2}", median(own.clone()));
    }
}

fn make_file(path: &Path, len: u64) {
    let mut file = File::create(path).expect("a file in the build's directory");
    let mut random = Random(1);
    let mut block = vec![0u8; 1 << 20];
    for _ in 0..len >> 20 {
        block.chunks_exact_mut(8).for_each(|word| {
            word.copy_from_slice(&random.below(u64::MAX).to_le_bytes());
        });
        file.write_all(&block).expect("room for the file");
    }
    file.sync_all().expect("the file on the disk");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
}

fn buffer(len: u64) -> Buffer {
    let memory = Memory::anonymous(len as usize, PageSize::Base).expect("memory");
    memory.populate().expect("pages");
    Buffer::new(Arc::new(memory)).expect("memory of the system's")
}

fn many_at_a_time(path: &Path, len: u64) {
    let count = 20_000u64.min((1 << 30) / len);
    let loader = Loader::new().expect("a loader");
    let mut random = Random(88_172_645_463_325_252);
    let mut ours = || {
        let started = Instant::now();
        let mut next = |completions: &Completions| completions.wait();
        many(&loader, path, len, count, &mut || random.below(FILE / len) * len, &mut next);
        started.elapsed().as_secs_f64() * 1e6 / count as f64
    };
    let options = LoaderOptions::default();
    let (driven, mut driver) = Loader::driven(options).expect("a loader");
    let mut random = Random(88_172_645_463_325_252);
    let mut by_driver = || {
        let started = Instant::now();
        let mut next = |completions: &Completions| driver.next(completions);
        many(&driven, path, len, count, &mut || random.below(FILE / len) * len, &mut next);
        started.elapsed().as_secs_f64() * 1e6 / count as f64
    };
    let title = format!("{} KiB at random offsets, {DEPTH} in flight", len >> 10);
    if Command::new("fio").arg("--version").output().is_err() {
        println!("\nSKIPPED: beside fio: it is not installed (apt-get install fio)");
        return race(&title, &mut [("a loader", &mut ours), ("a driven loader", &mut by_driver)]);
    }
    race(
        &title,
        &mut [
            ("fio, io_uring", &mut || fio(path, len, count, &[])),
            ("fio, io_uring with fixed buffers", &mut || fio(path, len, count, &["--fixedbufs"])),
            ("bufmap, a loader", &mut ours),
            ("bufmap, a driven loader", &mut by_driver),
        ],
    );
}

/// Reads by a loader, so many in flight.
fn many(
    loader: &Loader,
    path: &Path,
    len: u64,
    count: u64,
    offset: &mut dyn FnMut() -> u64,
    next: &mut dyn FnMut(&Completions) -> Completed,
) {
    let file = loader.open(path).expect("the file");
    let buffer = buffer(DEPTH * len);
    let completions = Completions::new();
    let mut submit = |place: u64| {
        let at = offset();
        let request = Request::new(&file, at..at + len, &buffer, place * len)
            .require(DataPath::Direct)
            .tag(place);
        loader.submit_to(request, &completions).expect("a request");
    };
    (0..DEPTH).for_each(&mut submit);
    for done in 0..count {
        let completed = next(&completions);
        completed.outcome.expect("its bytes");
        if done + DEPTH < count {
            submit(completed.tag);
        }
    }
}

/// Microseconds a request.
fn fio(path: &Path, len: u64, count: u64, more: &[&str]) -> f64 {
    let output = Command::new("fio")
        .args(["--name=read", "--rw=randread", "--direct=1", "--ioengine=io_uring"])
        .args([format!("--bs={len}"), format!("--iodepth={DEPTH}"), format!("--size={FILE}")])
        .args([format!("--io_size={}", count * len), "--output-format=json".into()])
        .args(["--norandommap", "--randrepeat=0"])
        .args(more)
        .arg(format!("--filename={}", path.display()))
        .output()
        .expect("fio runs");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("fio's JSON");
    1e6 / json["jobs"][0]["read"]["iops"].as_f64().expect("a number of fio's")
}

/// The file past the page cache.
fn direct(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT).open(path).expect("the file")
}

fn one_at_a_time(path: &Path, len: u64) {
    let count = 5_000;
    let loader = Loader::new().expect("a loader");
    let file = loader.open(path).expect("the file");
    let buffer = buffer(len);
    let direct = direct(path);
    let mut pages = Memory::anonymous(len as usize, PageSize::Base).expect("memory");
    let bytes = pages.as_mut_slice().expect("nobody else's");
    let mut random = Random(88_172_645_463_325_252);
    let mut pread = || {
        let started = Instant::now();
        for _ in 0..count {
            let at = random.below(FILE / len) * len;
            direct.read_exact_at(&mut bytes[..len as usize], at).expect("its bytes");
        }
        started.elapsed().as_secs_f64() * 1e6 / f64::from(count)
    };
    let mut random = Random(88_172_645_463_325_252);
    let mut request = || {
        let at = random.below(FILE / len) * len;
        Request::new(&file, at..at + len, &buffer, 0).require(DataPath::Direct)
    };
    let mut one = || {
        let started = Instant::now();
        (0..count).for_each(|_| drop(loader.load(request()).expect("its bytes")));
        started.elapsed().as_secs_f64() * 1e6 / f64::from(count)
    };
    let mut random = Random(88_172_645_463_325_252);
    let mut ticket = || {
        let started = Instant::now();
        for _ in 0..count {
            let at = random.below(FILE / len) * len;
            let request = Request::new(&file, at..at + len, &buffer, 0).require(DataPath::Direct);
            loader.submit(request).expect("a request").wait().expect("its bytes");
        }
        started.elapsed().as_secs_f64() * 1e6 / f64::from(count)
    };
    race(
        &format!("{} KiB at random offsets, one at a time", len >> 10),
        &mut [
            ("pread, O_DIRECT", &mut pread),
            ("bufmap, Loader::load", &mut one),
            ("bufmap, Loader::submit and Ticket::wait", &mut ticket),
        ],
    );
}

/// The latency of an urgent request while a file is loaded in the background. A drive that is shared with others has
/// pauses of its own: the first line has those of an idle one, and one with `pread` those that nobody's queue makes.
fn urgent_beside_background(path: &Path) {
    let loader = Loader::with(LoaderOptions::default()).expect("a loader");
    let file = loader.open(path).expect("the file");
    let (background, urgent) = (buffer(FILE), buffer(64 << 10));
    println!("\na 64 KiB request every 5 ms while 1 GiB is loaded over and over");
    println!("{:44} {:>12} {:>11} {:>11} {:>11}", "", "background", "median", "95 %", "99 %");
    let load = |priority| {
        Request::new(&file, 0..FILE, &background, 0).require(DataPath::Direct).priority(priority)
    };
    let by_loader = |priority| {
        let (loader, file, urgent) = (&loader, &file, &urgent);
        move |at: u64| {
            let request = Request::new(file, at..at + (64 << 10), urgent, 0)
                .require(DataPath::Direct)
                .priority(priority);
            loader.submit(request).expect("a request").wait().expect("its bytes");
        }
    };
    let direct = direct(path);
    let pages = Mutex::new(Memory::anonymous(64 << 10, PageSize::Base).expect("memory"));
    let pread = |at: u64| {
        let mut pages = pages.lock().expect("no panic");
        let bytes = pages.as_mut_slice().expect("nobody else's");
        direct.read_exact_at(bytes, at).expect("its bytes");
    };
    let (normal, realtime) = (by_loader(Priority::Normal), by_loader(Priority::Realtime));
    type Ask<'f> = &'f dyn Fn(u64);
    let rows: [(_, _, Option<Ask<'_>>); 5] = [
        ("nothing in the background", None, Some(&normal)),
        ("nothing urgent", Some(Priority::Low), None),
        ("all Normal", Some(Priority::Normal), Some(&normal)),
        ("background Low, the request Realtime", Some(Priority::Low), Some(&realtime)),
        ("background Low, a pread beside the loader", Some(Priority::Low), Some(&pread)),
    ];
    for (name, back, front) in rows {
        let stop = AtomicBool::new(false);
        let (loader, load, stopped) = (&loader, &load, &stop);
        let (speed, mut latencies) = std::thread::scope(|scope| {
            let loading = back.map(|priority| {
                scope.spawn(move || {
                    let (started, mut bytes) = (Instant::now(), 0u64);
                    while !stopped.load(Ordering::Relaxed) {
                        bytes += loader.load(load(priority)).expect("its bytes").bytes;
                    }
                    bytes as f64 / started.elapsed().as_secs_f64() / (1u64 << 30) as f64
                })
            });
            let (started, mut random) = (Instant::now(), Random(7));
            let mut latencies = Vec::new();
            while started.elapsed() < Duration::from_secs(6) {
                std::thread::sleep(Duration::from_millis(5));
                let Some(front) = front else { continue };
                let at = random.below(FILE >> 16) << 16;
                let asked = Instant::now();
                front(at);
                latencies.push(asked.elapsed().as_secs_f64() * 1e3);
            }
            stop.store(true, Ordering::Relaxed);
            (loading.map(|loading| loading.join().expect("a speed")), latencies)
        });
        latencies.sort_by(f64::total_cmp);
        let part = |share: f64| {
            let at = (latencies.len() as f64 * share) as usize;
            latencies.get(at).map_or("-".into(), |ms| format!("{ms:.2} ms"))
        };
        let speed = speed.map_or("-".into(), |speed| format!("{speed:.2} GiB/s"));
        println!("{name:44} {speed:>12} {:>11} {:>11} {:>11}", part(0.5), part(0.95), part(0.99));
    }
}
