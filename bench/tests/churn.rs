//! Ten thousand exports, imports and drops, in random order, by threads of two processes that share
//! frames over sockets: nothing is left in either, nor in the kernel.

use std::error::Error;
use std::fmt::Debug;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use bufmap_bench::leaks::{Holdings, dma_bufs, end_threads};
use bufmap_bench::random::Random;
use bufmap_bench::{Outcome, check};
use exporters::dmabuf::Mapping;
use exporters::drm::{Card, Gem, Node};
use exporters::frame::{DrmFourcc, Frame, FramePlane, Picture};
use exporters::gbm::{self, Bo, Usage};
use exporters::socket::{Link, Listener, Sink, SocketError, Source};
use exporters::vulkan::{Buffer, Device};
use exporters::{DmaHeap, Exporter, Intent, Udmabuf};
use libtest_mimic::Failed;

/// Makes this program the importing process, of what is offered at this path.
const IMPORTER: &str = "BUFMAP_CHURN_IMPORTER";

const THREADS: u64 = 3;

/// How many exports, imports and drops of either there are at least.
const STEPS: u64 = 10_000;

const PICTURE: Picture = Picture::linear(64, 16, DrmFourcc::Xrgb8888);

const PATIENCE: Duration = Duration::from_secs(60);

/// The drivers of the machine's cards. The second takes only its own buffers.
const DRIVERS: [&str; 3] = ["vgem", "virtio_gpu", "bochs-drm"];

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let Some(path) = std::env::var_os(IMPORTER) else {
        return bufmap_bench::run("gpu", &[("ten_thousand_steps_leave_nothing_behind", churn)]);
    };
    bufmap_bench::end("the importer", import_all(&PathBuf::from(path)))
}

fn churn() -> Outcome {
    let devices = Devices::open()?;
    devices.try_all()?;
    let before = devices.holdings()?;
    let buffers = dma_bufs()?;
    let path = Path::new("/tmp/churn");
    let listener = Listener::bind(path)?;
    let mut importer = Command::new(std::env::current_exe()?).env(IMPORTER, path).spawn()?;
    let steps = AtomicU64::new(0);
    let made = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|seed| {
                let (devices, listener, steps) = (&devices, &listener, &steps);
                scope.spawn(move || export_some(devices, listener, Random(seed + 1), steps))
            })
            .collect();
        join(threads)
    });
    drop(listener);
    let imported = importer.wait()?;
    let made: u64 = made?.into_iter().sum();
    check(imported.success(), "the importer failed")?;
    println!("{made} exports, {} steps here and as many imports there", steps.into_inner());
    check(
        devices.holdings()? == before,
        format!("{before:?} before, {:?} now", devices.holdings()?),
    )?;
    check(dma_bufs()? == buffers, format!("{buffers} dma-bufs before, {} now", dma_bufs()?))
}

/// Everything that frames are made with and imported by, opened once.
struct Devices {
    udmabuf: Udmabuf,
    heap: DmaHeap,
    cards: Vec<Card>,
    gbms: Vec<gbm::Device>,
    vulkan: Device,
}

/// What is kept of a frame by whoever made or imported it.
#[derive(Debug)]
enum Kept {
    Bytes { _export: exporters::Export },
    Bo { _bo: Bo },
    Gem { _gem: Gem },
    Buffer { _buffer: Arc<Buffer> },
    Mapping { _mapping: Mapping },
}

impl Devices {
    fn open() -> Result<Self, Failed> {
        let card = |driver| Card::find(driver, Node::Primary);
        let cards = DRIVERS.into_iter().map(card).collect::<Result<Vec<_>, _>>()?;
        let gbm = |card: &Card| gbm::Device::open(card.path());
        Ok(Self {
            udmabuf: Udmabuf::open()?,
            heap: DmaHeap::open("system")?,
            gbms: cards.iter().map(gbm).collect::<Result<_, _>>()?,
            cards,
            vulkan: Device::open_validated(None)?,
        })
    }

    /// Makes a frame with its number in it, by the source `which`.
    fn export(&self, which: usize, number: u32) -> Result<(Frame, Kept), Failure> {
        let layout = PICTURE.lay_out(256)?;
        let of = |exporter: &dyn Exporter| -> Result<(Frame, Kept), Failure> {
            let export = exporter.export(layout.len())?;
            let access = export.cpu()?.begin(Intent::Write)?;
            access.map().write(0, number)?;
            access.finish()?;
            Ok((layout.over(export.dma_buf()?)?, Kept::Bytes { _export: export }))
        };
        match which {
            0 => of(&self.udmabuf),
            1 => of(&self.heap),
            2..5 => of(&self.cards[which - 2]),
            5..8 => {
                let Picture { width, height, format, modifier } = PICTURE;
                let modifiers: Vec<_> = modifier.into_iter().collect();
                let device = &self.gbms[which - 5];
                let mut bo =
                    device.create_with(width, height, format, &modifiers, Usage::empty())?;
                bo.map(Intent::Write)?.map().write(0, number)?;
                Ok((bo.export()?, Kept::Bo { _bo: bo }))
            }
            _ => of(&self.vulkan),
        }
    }

    /// Imports a frame by the importer `which`, and looks whether it is the one.
    fn import(&self, which: usize, frame: &Frame, number: u32) -> Result<Kept, Failure> {
        let FramePlane { buffer, offset, .. } = &frame.planes[0];
        let look = |mapping: &Mapping| -> Result<(), Failure> {
            let access = mapping.begin_cpu_access(Intent::Read)?;
            let found = access.map().read::<u32>(*offset as usize)?;
            if found != number {
                return Err(format!("frame {found} in the place of {number}").into());
            }
            Ok(access.finish()?)
        };
        let mapping = buffer.map()?;
        look(&mapping)?;
        Ok(match which {
            0 => Kept::Mapping { _mapping: mapping },
            1..4 => {
                let gem = self.cards[which - 1].import(buffer)?;
                look(&gem.dma_buf()?.map()?)?;
                Kept::Gem { _gem: gem }
            }
            4..7 => Kept::Bo { _bo: self.gbms[which - 4].import(frame, Usage::empty())? },
            _ => Kept::Buffer { _buffer: Arc::new(self.vulkan.import_dma_buf(buffer)?) },
        })
    }

    /// Uses everything once in as many threads as there will be, because libraries keep what they need
    /// for later. A thread that shares frames has another beside it for moments, which closes them.
    fn try_all(&self) -> Outcome {
        end_threads();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| self.try_each())).collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a panic")?)
        })
    }

    fn try_each(&self) -> Outcome {
        for source in 0..9 {
            let (frame, _kept) = self.export(source, 7).map_err(failed)?;
            for importer in (0..8).filter(|&importer| takes(importer)) {
                self.import(importer, &frame, 7).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// What this process holds, and the handles that are free on each card, of which the kernel gives
    /// the lowest.
    fn holdings(&self) -> Result<(Holdings, Vec<NonZeroU32>), Failed> {
        let free = |card: &Card| Ok(card.dumb_buffer(64, 1, 32)?.gem().handle());
        let free = self.cards.iter().map(free).collect::<Result<_, Failed>>()?;
        let errors = self.vulkan.validation().map(|log| log.errors()).unwrap_or_default();
        check(errors.is_empty(), format!("{errors:#?}"))?;
        Ok((Holdings::now()?, free))
    }
}

/// Whether an importer takes whatever there is: virtio-gpu's driver takes only its own.
fn takes(importer: usize) -> bool {
    importer != 2
}

fn failed(error: Failure) -> Failed {
    error.to_string().into()
}

/// Drops some of what is kept, whichever. Returns how many.
fn drop_some(random: &mut Random, kept: &mut Vec<impl Debug>, most: usize) -> u64 {
    let mut dropped = 0;
    while kept.len() > most || (!kept.is_empty() && random.below(3) == 0) {
        kept.swap_remove(random.below(kept.len()));
        dropped += 1;
    }
    dropped
}

/// Offers pool after pool to whoever connects, until there were enough steps. Returns how many frames
/// it made.
fn export_some(
    devices: &Devices,
    listener: &Listener,
    mut random: Random,
    steps: &AtomicU64,
) -> Result<u64, Failed> {
    let mut kept = Vec::new();
    let mut made = 0;
    while steps.load(Ordering::Relaxed) < STEPS {
        let link = listener.accept(PATIENCE)?;
        let mut pool = Vec::new();
        for slot in 0..1 + random.below(6) {
            let (frame, own) = devices.export(random.below(9), slot as u32).map_err(failed)?;
            pool.push(frame);
            kept.push(own);
        }
        made += pool.len() as u64;
        let mut source = Source::offer(link, &pool, PATIENCE)?;
        for _ in 0..pool.len() {
            let free = source.free(PATIENCE)?;
            source.ready(free, None, PATIENCE)?;
        }
        // Each of them is imported there, and this process may be done with it before.
        let dropped = drop_some(&mut random, &mut kept, 20);
        let count = pool.len() as u64;
        drop(pool);
        source.finish(PATIENCE)?;
        steps.fetch_add(2 * count + dropped, Ordering::Relaxed);
    }
    Ok(made)
}

fn import_all(path: &Path) -> Outcome {
    let devices = Devices::open()?;
    devices.try_all()?;
    let before = devices.holdings()?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|seed| {
                let (devices, over) = (&devices, &over);
                scope.spawn(move || import_some(devices, path, Random(seed + 100), over))
            })
            .collect();
        join(threads)
    })?;
    check(
        devices.holdings()? == before,
        format!("{before:?} before, {:?} now", devices.holdings()?),
    )
}

/// What came of threads. Where one fails, others find the other process gone: all of them are told of.
fn join<T>(threads: Vec<ScopedJoinHandle<'_, Result<T, Failed>>>) -> Result<Vec<T>, Failed> {
    let ended: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
        .collect();
    let failures = ended.iter().filter_map(|ended| ended.as_ref().err()?.message());
    let failures: Vec<_> = failures.collect();
    check(failures.is_empty(), failures.join("; and "))?;
    ended.into_iter().collect()
}

/// Takes pool after pool, until nobody offers any.
fn import_some(devices: &Devices, path: &Path, mut random: Random, over: &AtomicBool) -> Outcome {
    let mut kept = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let sink = Link::connect(path, PATIENCE).and_then(|link| Sink::accept(link, PATIENCE));
        let mut sink = match sink {
            Ok(sink) => sink,
            // The other side has closed its door.
            Err(SocketError::Path { .. } | SocketError::Gone) => break,
            Err(error) => return Err(error.into()),
        };
        while let Some(ready) = sink.next(PATIENCE)? {
            let importer = loop {
                let importer = random.below(8);
                if takes(importer) {
                    break importer;
                }
            };
            let frame = &sink.frames()[ready.slot];
            kept.push(devices.import(importer, frame, ready.slot as u32).map_err(failed)?);
            sink.release(ready.slot, None, PATIENCE)?;
            drop_some(&mut random, &mut kept, 20);
        }
    }
    over.store(true, Ordering::Relaxed);
    Ok(())
}
