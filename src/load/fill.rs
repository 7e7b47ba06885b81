//! Filling a buffer: which threads and rings do a load's jobs, with which slots.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use exporters::vulkan;
use iomap::{BufMap, Memory, PageSize};

use super::accounts::Accounts;
use super::plan::Landing;
use super::run::direct::Direct;
use super::run::staged::{Slots, Staged};
use super::run::{Event, Job, Queue, Report};
use super::{Load, LoadError, Progress, roads, target};
use crate::storage::file::pread;
use crate::storage::file::ring::Ring;

/// The most threads that read one piece at a time.
const READERS_MAX: usize = 16;

impl Load<'_> {
    pub(super) fn fill_memory(
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

    pub(super) fn fill_device(
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
}

/// Whether an io_uring can be set up for the direct jobs; the reason, if not.
fn ring_available(decided: &roads::Decided) -> io::Result<()> {
    if decided.direct.is_empty() {
        return Ok(());
    }
    Ring::new(1).map(drop)
}

/// How many threads copy out of the page cache.
pub(super) fn copiers(jobs: usize) -> usize {
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
pub(super) struct Engine {
    pub words: String,
    /// The memory held beside the buffer, in bytes.
    pub slots: u64,
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
