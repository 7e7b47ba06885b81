//! Loading: plan a road, run it, check it, account for it.
//!
//! A [`Load`] moves [`Request`]s (so many bytes of a file, to there in the buffer) into a
//! [`Destination`] and ends in a [`Receipt`]. Its parts, in the order in which data flows:
//!
//! * [`mod@format`]: what a file holds, as items; [`layout`]: where they go in the buffer; [`Manifest`]
//!   does both for files named by path, and [`Target`] makes the buffer;
//! * `roads`: which [`Road`] each byte takes, and why not a better one; `plan`: which reads that
//!   makes;
//! * `run`: the engines that carry them out;
//! * `check`: what was proved about the bytes.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use bufmap::load::{Destination, Load, Options, Request};
//! use bufmap::storage::file::SourceFile;
//!
//! let files = [SourceFile::open("model.bin")?];
//! let memory = iomap::Memory::anonymous(files[0].len() as usize, iomap::PageSize::Base)?;
//! let receipt = Load {
//!     files: &files,
//!     requests: &[Request::new(0, 0, files[0].len(), 0)],
//!     around: Default::default(),
//!     destination: Destination::Memory(&memory),
//!     options: Options::default(),
//!     stop: &AtomicBool::new(false),
//! }
//! .run(&mut |progress| println!("{} of {}", progress.done, progress.total))?;
//! println!("{:.2} GiB/s", receipt.gib_per_second());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod contest;
mod error;
pub mod format;
pub mod layout;
mod manifest;
mod plan;
mod receipt;
mod request;
mod road;
mod roads;
mod run;
mod target;
mod valid;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use exporters::vulkan;
use iomap::{BufMap, Memory, PageSize};

pub use check::{Checked, Verify};
pub use error::LoadError;
pub use manifest::{Manifest, Placed};
pub use receipt::{Receipt, Share, StepDown};
pub use request::{Around, Request};
pub use road::Road;
pub use target::Target;
pub use valid::Valid;

use check::{Fingerprints, Part};
use plan::Landing;
use run::direct::Direct;
use run::staged::{Slots, Staged};
use run::{Event, Failure, Job, Landed, Queue, Report};

use crate::storage::file::ring::Ring;
use crate::storage::file::{SourceFile, pread};

/// Where a load puts the bytes.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'a> {
    /// System memory.
    Memory(&'a Memory),
    /// System memory that a GPU imported as the buffer: filling the one fills the other.
    Imported {
        /// The pages.
        memory: &'a Memory,
        /// The buffer that Vulkan made of them.
        buffer: &'a Arc<vulkan::Buffer>,
    },
    /// A GPU's own memory, which the GPU fills from a ring of slots.
    Device(&'a Arc<vulkan::Buffer>),
}

impl Destination<'_> {
    /// The length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(memory) | Self::Imported { memory, .. } => memory.len() as u64,
            Self::Device(buffer) => buffer.len() as u64,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How to load.
#[derive(Clone, Debug)]
pub struct Options {
    /// The one road to take, or an error if it cannot be had; the best one for each byte if absent.
    pub road: Option<Road>,
    /// How thoroughly to check.
    pub verify: Verify,
    /// The most reads in flight, 1 to 4096.
    pub depth: u32,
    /// The most bytes of one read, a power of two from 4 KiB to 1 GiB.
    pub block: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { road: None, verify: Verify::default(), depth: 32, block: 1 << 20 }
    }
}

/// How far a load has come, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The bytes in place.
    pub done: u64,
    /// The bytes asked for.
    pub total: u64,
}

/// A load to be run.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    /// The files, named by their index in the requests.
    pub files: &'a [SourceFile],
    /// What to load.
    pub requests: &'a [Request],
    /// What may become of the buffer's other bytes.
    pub around: Around,
    /// Where to.
    pub destination: Destination<'a>,
    /// How.
    pub options: Options,
    /// Set to true by anyone, at any time, it ends the load early with [`LoadError::Stopped`].
    pub stop: &'a AtomicBool,
}

/// The most bytes that the kernel copies at once: small enough to stay in a core's cache until it
/// is fingerprinted.
const COPY_BLOCK: u64 = 512 << 10;

/// The most threads that read one piece at a time.
const READERS_MAX: usize = 16;

impl Load<'_> {
    /// Runs the load to its end. `progress` is called on this thread as pieces land.
    ///
    /// # Errors
    /// [`LoadError`]; nothing is in flight when it is returned.
    pub fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<Receipt, LoadError> {
        self.validate()?;
        let started = Instant::now();
        let cpu = cpu_time();
        let fingerprints = Fingerprints::new(self.requests);
        let decided = roads::decide(self, &fingerprints)?;
        let stop = AtomicBool::new(false);
        let mut accounts = Accounts::new(self, &fingerprints);

        let engine = match self.destination {
            Destination::Memory(memory) | Destination::Imported { memory, .. } => {
                self.fill_memory(memory, &decided, &stop, &mut accounts, progress)?
            }
            Destination::Device(buffer) => {
                self.fill_device(buffer, &decided, &stop, &mut accounts, progress)?
            }
        };
        let (parts, valid) = accounts.finish(self.stop.load(Ordering::Relaxed))?;

        let mut checked = Checked { verify: self.options.verify, ..Checked::default() };
        if self.options.verify != Verify::None {
            checked.fingerprints = fingerprints.whole(parts);
            checked.format_checksums = self.compare_checksums(&checked.fingerprints)?;
        }
        let elapsed = started.elapsed();
        let cpu = cpu_time().saturating_sub(cpu);
        if self.options.verify == Verify::Full {
            checked.compared = check::compare(self)?;
        }
        let device = matches!(self.destination, Destination::Device(_));
        Ok(Receipt {
            bytes: valid.wanted(),
            cpu_copied: decided.cpu_copied(device),
            gpu_copied: if device { valid.wanted() } else { 0 },
            reads: decided.direct.len() + decided.copied.len(),
            roads: decided.shares,
            step_downs: decided.step_downs,
            engine: engine.words,
            slots: engine.slots,
            elapsed,
            cpu,
            checked,
        })
    }

    fn validate(&self) -> Result<(), LoadError> {
        let len = self.destination.len();
        let mut places = Vec::with_capacity(self.requests.len());
        for request in self.requests {
            let Some(file) = self.files.get(request.file) else {
                return Err(LoadError::NoSuchFile { file: request.file, files: self.files.len() });
            };
            if request.offset.checked_add(request.len).is_none_or(|end| end > file.len()) {
                return Err(LoadError::PastEnd {
                    path: file.path().into(),
                    offset: request.offset,
                    len: request.len,
                    file_len: file.len(),
                });
            }
            let needed = request.buffer_offset.saturating_add(request.len);
            if needed > len {
                return Err(LoadError::TooSmall { needed, len });
            }
            places.push(request.buffer());
        }
        places.retain(|place| !place.is_empty());
        places.sort_unstable_by_key(|place| place.start);
        match places.windows(2).find(|pair| pair[0].end > pair[1].start) {
            Some(pair) => Err(LoadError::Overlap { at: pair[1].start }),
            None => Ok(()),
        }
    }

    fn fill_memory(
        &self,
        memory: &Memory,
        decided: &roads::Decided,
        stop: &AtomicBool,
        accounts: &mut Accounts<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Engine, LoadError> {
        let ring = ring_available(decided);
        let (direct, copied) =
            (Queue::new(&decided.direct, stop), Queue::new(&decided.copied, stop));
        let readers = match &ring {
            Ok(()) => usize::from(!decided.direct.is_empty()),
            Err(_) => decided.direct.len().min(self.options.depth as usize).min(READERS_MAX),
        };
        let slots = SlotMemory::for_jobs(&decided.direct, |pieces| match &ring {
            Ok(()) => pieces.min(self.options.depth as usize),
            Err(_) => readers, // Any of them may take a piece that needs a slot.
        })?;
        let copiers = copiers(decided.copied.len());
        let (events, received) = channel();
        let prints = accounts.wanted_fingerprints();
        let registered = thread::scope(|scope| {
            let mut ring_thread = None;
            for reader in 0..readers {
                let (events, direct, slots) = (events.clone(), &direct, &slots);
                if ring.is_ok() {
                    ring_thread = Some(
                        scope.spawn(move || self.ring_fills_memory(memory, slots, direct, events)),
                    );
                } else {
                    scope.spawn(move || {
                        let slot = slots.map(reader).into_iter().collect();
                        let buffer = memory.map();
                        let mut work = Direct::new(
                            direct,
                            self.files,
                            buffer,
                            slot,
                            None,
                            Report::new(events),
                        );
                        pread::run(&mut work);
                    });
                }
            }
            for _ in 0..copiers {
                let (events, copied) = (events.clone(), &copied);
                scope.spawn(move || {
                    let buffer = memory.map();
                    let mut work = Direct::new(
                        copied,
                        self.files,
                        buffer,
                        Vec::new(),
                        prints,
                        Report::new(events),
                    );
                    pread::run(&mut work);
                });
            }
            drop(events);
            accounts.listen(&received, Some(memory.map()), stop, progress);
            ring_thread.and_then(|thread| thread.join().ok()).flatten()
        });
        Ok(Engine::describe(&ring, decided, readers, copiers, registered, slots.len()))
    }

    /// Runs the direct jobs on an io_uring of this thread. Returns why memory is not registered
    /// with it, if it is not.
    fn ring_fills_memory<'m>(
        &'m self,
        memory: &'m Memory,
        slots: &'m SlotMemory,
        queue: &'m Queue<'m>,
        events: Sender<Event<'m>>,
    ) -> Option<String> {
        let mut ring = match Ring::new(self.options.depth) {
            Ok(ring) => ring,
            Err(error) => {
                let _ = events.send(Event::Engine(error));
                return None;
            }
        };
        let slot_maps: Vec<_> = (0..slots.count()).filter_map(|slot| slots.map(slot)).collect();
        let mut memory_maps = slot_maps.clone();
        memory_maps.push(memory.map());
        ring.register(&memory_maps, self.options.block as usize);
        let mut work = Direct::new(
            queue,
            self.files,
            memory.map(),
            slot_maps,
            None,
            Report::new(events.clone()),
        );
        if let Err(error) = ring.run(&mut work) {
            queue.stop();
            let _ = events.send(Event::Engine(error));
        }
        ring.refusal().map(io::Error::to_string)
    }

    fn fill_device(
        &self,
        buffer: &Arc<vulkan::Buffer>,
        decided: &roads::Decided,
        stop: &AtomicBool,
        accounts: &mut Accounts<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Engine, LoadError> {
        let ring = ring_available(decided);
        let jobs = decided.direct.iter().chain(&decided.copied);
        let slot_len = jobs.map(|job| job.piece.len as usize).max().unwrap_or(0).max(1);
        let slot_len = slot_len.next_multiple_of(PageSize::Base.bytes());
        let count =
            (decided.direct.len() + decided.copied.len()).clamp(1, self.options.depth as usize);
        let memory = target::memory_to_import(buffer.device(), (slot_len * count) as u64)?;
        let imported = Arc::new(buffer.device().import_memory(Arc::clone(&memory))?);
        let prints = accounts.wanted_fingerprints();
        let queues = [Queue::new(&decided.direct, stop), Queue::new(&decided.copied, stop)];
        let uring = [ring.is_ok(), false];
        let (events, received) = channel();
        let registered = thread::scope(|scope| {
            let (memory, imported, queues) = (&memory, &imported, &queues);
            let reader = scope.spawn(move || {
                let mut unregistered = None;
                for (queue, uring) in
                    queues.iter().zip(uring).filter(|(queue, _)| !queue.is_empty())
                {
                    let transfer = match buffer.device().transfer() {
                        Ok(transfer) => transfer,
                        Err(error) => {
                            let _ = events.send(Event::Gpu(error));
                            break;
                        }
                    };
                    let slots = Slots { map: memory.map(), imported, slot_len };
                    let mut work = Staged::new(
                        queue,
                        self.files,
                        slots,
                        (transfer, buffer),
                        prints,
                        Report::new(events.clone()),
                    );
                    if !uring {
                        pread::run(&mut work);
                        continue;
                    }
                    let outcome = Ring::new(self.options.depth).and_then(|mut ring| {
                        ring.register(&[memory.map()], slot_len);
                        let ran = ring.run(&mut work);
                        unregistered = ring.refusal().map(io::Error::to_string);
                        ran
                    });
                    if let Err(error) = outcome {
                        let _ = events.send(Event::Engine(error));
                        break;
                    }
                }
                unregistered
            });
            accounts.listen(&received, None, stop, progress);
            reader.join().ok().flatten()
        });
        Ok(Engine::describe(&ring, decided, 1, 1, registered, memory.len() as u64))
    }

    fn compare_checksums(&self, fingerprints: &[u32]) -> Result<usize, LoadError> {
        let mut met = 0;
        for (request, &found) in self.requests.iter().zip(fingerprints) {
            let Some(expected) = request.crc32 else { continue };
            if expected != found {
                return Err(LoadError::Mismatch {
                    path: self.files[request.file].path().into(),
                    offset: request.offset,
                    what: format!(
                        "their CRC-32 is {found:08x}, the file's format records {expected:08x}"
                    ),
                });
            }
            met += 1;
        }
        Ok(met)
    }
}

/// Whether an io_uring can be set up for the direct jobs; the reason, if not.
fn ring_available(decided: &roads::Decided) -> io::Result<()> {
    if decided.direct.is_empty() {
        return Ok(());
    }
    Ring::new(1).map(drop)
}

fn copiers(jobs: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    jobs.min(cores).min(4)
}

/// The slots in system memory for pieces that cannot land in the buffer.
struct SlotMemory {
    memory: Option<Memory>,
    slot_len: usize,
}

impl SlotMemory {
    fn for_jobs(jobs: &[Job], slots: impl Fn(usize) -> usize) -> Result<Self, LoadError> {
        let in_slots = jobs.iter().filter(|job| matches!(job.piece.landing, Landing::Slot(_)));
        let (count, len) = in_slots.fold((0, 0), |(n, len), job| (n + 1, job.piece.len.max(len)));
        let slot_len = (len as usize).next_multiple_of(PageSize::Base.bytes());
        let memory = match count {
            0 => None,
            _ => Some(Memory::anonymous(slot_len * slots(count), PageSize::Base)?),
        };
        Ok(Self { memory, slot_len })
    }

    fn len(&self) -> u64 {
        self.memory.as_ref().map_or(0, |memory| memory.len() as u64)
    }

    fn count(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.len() / self.slot_len)
    }

    fn map(&self, slot: usize) -> Option<BufMap<'_>> {
        let start = slot * self.slot_len;
        self.memory.as_ref()?.map().subrange(start..start + self.slot_len).ok()
    }
}

/// How the reads were issued.
struct Engine {
    words: String,
    slots: u64,
}

impl Engine {
    fn describe(
        ring: &io::Result<()>,
        decided: &roads::Decided,
        readers: usize,
        copiers: usize,
        unregistered: Option<String>,
        slots: u64,
    ) -> Self {
        let mut words = Vec::new();
        match ring {
            Ok(()) if decided.direct.is_empty() => {}
            Ok(()) => words.push(match unregistered {
                None => "io_uring with registered buffers".to_owned(),
                Some(error) => format!(
                    "io_uring without registered buffers ({error}: raise RLIMIT_MEMLOCK, `ulimit -l`)"
                ),
            }),
            Err(error) => words.push(format!(
                "{readers} threads with pread, because io_uring cannot be set up ({error}: see the sysctl kernel.io_uring_disabled and the container's seccomp profile)"
            )),
        }
        if !decided.copied.is_empty() {
            words.push(format!("{copiers} threads with pread for what the kernel copies"));
        }
        Self { words: words.join("; "), slots }
    }
}

/// What ended a load early.
enum End<'a> {
    Failed(&'a Job, Failure),
    Gpu(vulkan::VulkanError),
    Engine(io::Error),
}

impl End<'_> {
    fn lies_behind(&self, job: &Job) -> bool {
        matches!(self, Self::Failed(failed, _)
            if (failed.piece.file, failed.piece.offset) > (job.piece.file, job.piece.offset))
    }
}

/// The accounts of a load, kept on its own thread.
struct Accounts<'a> {
    load: &'a Load<'a>,
    fingerprints: &'a Fingerprints<'a>,
    parts: Vec<Part>,
    valid: Valid,
    end: Option<LoadError>,
}

impl<'a> Accounts<'a> {
    fn new(load: &'a Load<'a>, fingerprints: &'a Fingerprints<'a>) -> Self {
        let wanted = load.requests.iter().map(|request| request.len).sum();
        let valid = Valid::none_of(wanted);
        Self { load, fingerprints, parts: Vec::new(), valid, end: None }
    }

    fn wanted_fingerprints(&self) -> Option<&'a Fingerprints<'a>> {
        (self.load.options.verify != Verify::None).then_some(self.fingerprints)
    }

    /// Takes events until every engine is done. `buffer` is what to fingerprint what landed
    /// unfingerprinted by.
    fn listen(
        &mut self,
        events: &Receiver<Event<'_>>,
        buffer: Option<BufMap<'_>>,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress),
    ) {
        const LOOK_UP: Duration = Duration::from_millis(50);
        let mut end: Option<End<'_>> = None;
        loop {
            if self.load.stop.load(Ordering::Relaxed) {
                stop.store(true, Ordering::Relaxed);
            }
            match events.recv_timeout(LOOK_UP) {
                Ok(Event::Landed(landed)) => {
                    for landed in landed {
                        self.landed(landed, buffer);
                    }
                    progress(Progress { done: self.valid.bytes(), total: self.valid.wanted() });
                }
                Ok(Event::Failed(job, failure)) => {
                    // Several reads may fail before the rest is stopped: the first place counts.
                    if !matches!(&end, Some(end) if !end.lies_behind(job)) {
                        end = Some(End::Failed(job, failure));
                    }
                }
                Ok(Event::Gpu(error)) => {
                    end.get_or_insert(End::Gpu(error));
                }
                Ok(Event::Engine(error)) => {
                    stop.store(true, Ordering::Relaxed);
                    end.get_or_insert(End::Engine(error));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.end = end.map(|end| self.explain(end));
    }

    fn landed(&mut self, landed: Landed<'_>, buffer: Option<BufMap<'_>>) {
        let Landed { job, parts } = landed;
        let fingerprint = parts.is_none() && self.wanted_fingerprints().is_some();
        self.parts.extend(parts.into_iter().flatten());
        for landed in job.landed() {
            for (_, place) in self.fingerprints.filled(landed.clone()) {
                self.valid.insert(place);
            }
            let (true, Some(buffer)) = (fingerprint, buffer) else { continue };
            let bytes = buffer.subrange(landed.start as usize..landed.end as usize);
            let parts = bytes.and_then(|bytes| self.fingerprints.of(landed, &bytes));
            // A piece that landed lies inside the buffer.
            self.parts.extend(parts.unwrap_or_default());
        }
    }

    fn explain(&self, end: End<'_>) -> LoadError {
        let valid = self.valid.clone();
        match end {
            End::Failed(job, failure) => {
                let file = &self.load.files[job.piece.file];
                let path = file.path().into();
                match failure {
                    Failure::Io { offset, source } => {
                        LoadError::Read { path, offset, source, valid }
                    }
                    Failure::Ended { at } => {
                        let at = file.current_len().map_or(at, |now| now.min(at));
                        LoadError::Shrank { path, at, file_len: file.len(), valid }
                    }
                }
            }
            End::Gpu(error) => LoadError::Vulkan(error),
            End::Engine(source) => LoadError::Engine { step: "the io_uring", source, valid },
        }
    }

    fn finish(self, stopped: bool) -> Result<(Vec<Part>, Valid), LoadError> {
        match self.end {
            Some(error) => Err(error),
            None if self.valid.bytes() == self.valid.wanted() => Ok((self.parts, self.valid)),
            None if stopped => Err(LoadError::Stopped { valid: self.valid }),
            None => Err(LoadError::Engine {
                step: "a thread of the load",
                source: io::Error::other("it ended before its work was done"),
                valid: self.valid,
            }),
        }
    }
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
