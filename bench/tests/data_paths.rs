//! What a load costs the processor, path by path, counted in instructions.
#![allow(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bufmap::load::Load;
use bufmap::storage::file::SourceFile;
use bufmap::storage::nvme::{Queue, QueueOptions, Target, Wake};
use bufmap::transfer::{Around, DataPath, Options, Request, Verify};
use bufmap_bench::drive::{Drive, pattern};
use bufmap_bench::ours::Ours;
use bufmap_bench::{Outcome, check};
use exporters::Destination;
use exporters::vfio::Container;
use exporters::{Intent, P2pmem};
use iomap::{BufMap, Memory, PageSize};
use libtest_mimic::Failed;

const MIB: u64 = 1 << 20;

/// How much is read. A cost is that of what the longer read has more than the shorter one, so that
/// what each load takes to begin with does not count.
const SHORT: u64 = 16 * MIB;
const LONG: u64 = 48 * MIB;

fn main() -> ExitCode {
    bufmap_bench::run("vfio-counted", &[("what_each_path_costs_the_processor", costs)])
}

fn costs() -> Outcome {
    let memfd = Memory::memfd("zero-copy", LONG as usize, PageSize::Base)?;
    let memory = Memory::anonymous(LONG as usize, PageSize::Base)?;
    let device = P2pmem::in_directory(&Drive::returned("slow")?.function)?;
    let device = device.allocate(LONG as usize)?;
    let (by_kernel, checked, by_driver) = Spare::default().while_spinning(|spare| {
        let loads: [(DataPath, &dyn Destination); 4] = [
            (DataPath::Peer, &device),
            (DataPath::Direct, &memfd),
            (DataPath::Bounce, &device),
            (DataPath::Buffered, &memory),
        ];
        let by_kernel = loads.map(|(path, destination)| {
            through_the_kernel(spare, (path, Verify::None), destination, &mut || Ok(()))
        });
        let checked = |verify, before: &mut dyn FnMut() -> Outcome| {
            through_the_kernel(spare, (DataPath::Peer, verify), &device, before)
        };
        let checked = [
            checked(Verify::Auto, &mut || Ok(())),
            checked(Verify::Auto, &mut forget),
            checked(Verify::Hash, &mut || Ok(())),
        ];
        (by_kernel, checked, by_a_driver_of_ours(spare))
    })?;
    let [peer, zero_copy, bounce, buffered] = by_kernel;
    let (peer, zero_copy, bounce, buffered) = (peer?, zero_copy?, bounce?, buffered?);
    let [sample, first_use, hash] = checked;
    let (sample, first_use, hash) = (sample?, first_use?, hash?);
    let ours = by_driver?;
    println!("instructions of the whole machine for each MiB, in reads of 1 MiB:");
    for (path, cost) in [
        ("peer, a driver in user space", ours),
        ("peer, through the kernel", peer),
        ("zero-copy, into a memfd", zero_copy),
        ("bounce", bounce),
        ("buffered", buffered),
        ("peer, the default check", sample),
        ("the same, the first time", first_use),
        ("peer, fingerprints of all", hash),
    ] {
        println!("  {path:30} {cost:>9} {:>6.1} %", cost as f64 * 100.0 / buffered as f64);
    }
    check(ours * 10 <= buffered, format!("{ours} are more than a tenth of {buffered}"))?;
    // Through the kernel no byte is moved by the CPU either, but each page of the device is looked up
    // and pinned for each read, which for memory of the system's is done once.
    check(peer < buffered, format!("{peer} are more than {buffered}"))?;
    // One block in 64 is read back, and read again.
    check(sample < 2 * peer, format!("{sample} with the default check, {peer} without"))?;
    check(sample * 5 < hash, format!("{sample} for a sample, {hash} for all"))
}

/// Has the next load find out anew whether the drive may write into the memory, as a process does that uses it for the first
/// time.
fn forget() -> Outcome {
    let runtime = std::env::var("XDG_RUNTIME_DIR")?;
    match fs::remove_file(Path::new(&runtime).join("bufmap/peer-paths.json")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// What a load through the kernel costs for each MiB.
fn through_the_kernel(
    spare: &Spare,
    (path, verify): (DataPath, Verify),
    destination: &dyn Destination,
    before: &mut dyn FnMut() -> Outcome,
) -> Result<u64, Failed> {
    let file = SourceFile::open(Drive::with_serial("reader")?.block)?;
    marginal(|len| {
        fs::write("/proc/sys/vm/drop_caches", "1")?;
        before()?;
        let load = Load {
            files: std::slice::from_ref(&file),
            requests: &[Request::new(0, 0, len, 0)],
            around: Around::Untouched,
            destination,
            options: Options { require: Some(path), verify, ..Options::default() },
            stop: &AtomicBool::new(false),
        };
        let mut receipt = None;
        let cost = spare.left_by(|| receipt = Some(load.run(&mut |_| {})));
        let receipt = receipt.ok_or("no load")??;
        check(receipt.bytes == len && receipt.paths[0].path == path, path)?;
        is_the_drives(&destination.cpu_map()?, len)?;
        Ok(cost)
    })
}

/// What it costs to have a drive write into the BAR of another device without the kernel.
fn by_a_driver_of_ours(spare: &Spare) -> Result<u64, Failed> {
    let ours = Ours::open(Container::new()?, "reader")?;
    let Ours { container, card, controller, namespace, .. } = ours;
    let mut queue =
        controller.queue(QueueOptions { wake: Wake::Interrupt, ..QueueOptions::default() })?;
    let vram = Arc::new(container.map_dma(card.map_region(2)?, Intent::Write)?);
    let mut target = Target::default();
    target.push(&vram, 0..LONG)?;
    let target = Arc::new(target);

    let finish = |queue: &mut Queue| -> Outcome {
        let finished = queue.wait().ok_or("nothing is in flight")?;
        Ok(finished.result?)
    };
    marginal(|len| {
        let mut outcome = Ok(());
        let cost = spare.left_by(|| {
            outcome = (0..len / MIB).try_for_each(|i| {
                if queue.len() == 32 {
                    finish(&mut queue)?;
                }
                queue.read(i, &namespace, i * MIB, &target, i * MIB..(i + 1) * MIB)?;
                Ok(queue.announce()?)
            });
            while outcome.is_ok() && !queue.is_empty() {
                outcome = finish(&mut queue);
            }
        });
        outcome?;
        is_the_drives(&vram.map(), len)?;
        Ok(cost)
    })
}

/// The least that each MiB has cost in some rounds; the first one finds nothing warm.
fn marginal(mut cost: impl FnMut(u64) -> Result<u64, Failed>) -> Result<u64, Failed> {
    let mut least = |len| -> Result<u64, Failed> {
        cost(len)?;
        Ok(cost(len)?.min(cost(len)?))
    };
    let (short, long) = (least(SHORT)?, least(LONG)?);
    Ok(long.saturating_sub(short) / ((LONG - SHORT) / MIB))
}

/// The first bytes are the drive's, by a sample of each MiB; then they are wiped out.
fn is_the_drives(map: &BufMap<'_>, len: u64) -> Outcome {
    let expected = pattern(len as usize);
    for at in (0..len as usize).step_by(MIB as usize) {
        let mut found = [0; 4096];
        let sample = at + at / MIB as usize * 4096;
        map.copy_to_slice(sample, &mut found)?;
        check(found[..] == expected[sample..sample + 4096], format!("other bytes at {sample}"))?;
        map.subrange(sample..sample + 4096)?.fill(0)?;
    }
    Ok(())
}

/// A thread of the lowest class that counts while nobody else has anything to do, so that the
/// machine is never idle: what it does not count is somebody's work, interrupts included.
#[derive(Default)]
struct Spare {
    turns: AtomicU64,
    /// Turns for each 1,000,000 instructions of an otherwise idle machine.
    rate: AtomicU64,
}

impl Spare {
    fn while_spinning<T>(&self, work: impl FnOnce(&Self) -> T) -> Result<T, Failed> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let lowest = libc::sched_param { sched_priority: 0 };
                // SAFETY: a call about this thread alone, which reads one structure.
                unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const lowest) };
                while !done.load(Ordering::Relaxed) {
                    self.turns.fetch_add(1, Ordering::Relaxed);
                }
            });
            thread::sleep(Duration::from_millis(100));
            let (elapsed, turns) = self.elapsed(|| thread::sleep(Duration::from_millis(500)));
            self.rate.store(turns * 1_000_000 / elapsed, Ordering::Relaxed);
            let result = match turns {
                0 => Err("nobody counts".into()),
                _ => Ok(work(self)),
            };
            done.store(true, Ordering::Relaxed);
            result
        })
    }

    /// How many instructions the machine executed while it did some work and was not spare.
    fn left_by(&self, work: impl FnOnce()) -> u64 {
        let (elapsed, turns) = self.elapsed(work);
        elapsed.saturating_sub(turns * 1_000_000 / self.rate.load(Ordering::Relaxed))
    }

    fn elapsed(&self, work: impl FnOnce()) -> (u64, u64) {
        let (start, before) = (Instant::now(), self.turns.load(Ordering::Relaxed));
        work();
        let turns = self.turns.load(Ordering::Relaxed) - before;
        (start.elapsed().as_nanos() as u64, turns)
    }
}
