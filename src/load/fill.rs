//! Filling a buffer: which threads and rings do a load's jobs, with which slots.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use exporters::{Destination, vulkan};
use iomap::{BufMap, Memory, MemoryError, PageSize, is_available};

use super::accounts::Accounts;
use super::ahead::Ahead;
use super::call::Load;
use super::run::direct::Direct;
use super::run::staged::{Slots, Staged};
use super::run::{Event, Queue, Report};
use crate::check::{Fingerprints, map_of};
use crate::engine::crew::{Crew, Hands};
use crate::engine::flight::Flight;
use crate::plan::OWN;
use crate::plan::cut::Batch;
use crate::plan::decided::Decided;
use crate::plan::job::Job;
use crate::plan::run::Landing;
use crate::remedy::{Call, remedy};
use crate::storage::file::SourceFile;
use crate::storage::file::pread::{self, copiers};
use crate::storage::file::ring::Ring;
use crate::transfer::{DataPath, Progress, Readable, Source, TransferError};

/// The most threads that read one piece at a time.
const READERS_MAX: usize = 16;

/// The most jobs of each kind that are cut at once. A job takes some hundred bytes until it is done.
const TOGETHER: usize = 1 << 16;

/// Reads past the page cache, and reads that the kernel copies.
pub(super) type Jobs<'w> = (&'w [Job], &'w [Job]);

impl<S: Source> Load<'_, S> {
    /// Fills memory that the CPU can reach: from the drive straight into a peer's what may go there,
    /// and the rest, with what failed on that path, without peers.
    pub(super) fn fill_memory(
        &self,
        decided: &mut Decided,
        accounts: &mut Accounts<'_, S>,
        mut fill: impl FnMut(Jobs<'_>, &mut Accounts<'_, S>) -> Result<Engine, TransferError>,
    ) -> Result<Engine, TransferError> {
        let first = match decided.peer.is_empty() {
            true => Engine::default(),
            false => self.in_windows((&decided.peer, &[]), accounts, &mut fill)?,
        };
        if self.options.require.is_none()
            && self.can_go_on()
            && let Some(why) = accounts.forgive_read()
        {
            decided.fall_back(why, accounts.fingerprints().requested(), |job| accounts.has(job));
        }
        if accounts.has_ended() || self.stop.load(Ordering::Relaxed) {
            return Ok(first);
        }
        let rest = self.in_windows((&decided.direct, &decided.copied), accounts, &mut fill)?;
        Ok(first.followed_by(rest))
    }

    /// Cuts batches into jobs, so many at a time as cost little memory, and has each lot filled.
    pub(super) fn in_windows(
        &self,
        (direct, copied): (&[Batch], &[Batch]),
        accounts: &mut Accounts<'_, S>,
        fill: &mut impl FnMut(Jobs<'_>, &mut Accounts<'_, S>) -> Result<Engine, TransferError>,
    ) -> Result<Engine, TransferError> {
        let mut direct = direct.iter().flat_map(Batch::jobs);
        let mut copied = copied.iter().flat_map(Batch::jobs);
        let mut engine: Option<Engine> = None;
        while !accounts.has_ended() && !self.stop.load(Ordering::Relaxed) {
            let direct: Vec<_> = direct.by_ref().take(TOGETHER).collect();
            let copied: Vec<_> = copied.by_ref().take(TOGETHER).collect();
            if direct.is_empty() && copied.is_empty() {
                break;
            }
            let next = fill((&direct, &copied), accounts)?;
            engine = Some(match engine {
                None => next,
                // The first had all kinds of work.
                Some(first) => Engine { slots: first.slots.max(next.slots), ..first },
            });
        }
        Ok(engine.unwrap_or_default())
    }

    /// Whether another path could bring what is left.
    fn can_go_on(&self) -> bool {
        self.destination.is_present() && self.files.iter().all(Readable::can_be_read)
    }
}

impl Load<'_> {
    /// Fills memory that the CPU can reach.
    pub(super) fn fill_map(
        &self,
        (direct, copied): Jobs<'_>,
        accounts: &mut Accounts<'_, SourceFile>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Engine, TransferError> {
        let flight = &Flight::new(self.stop);
        let ring = ring_available(direct, self.options.depth);
        let readers = match &ring {
            Ok(()) => usize::from(!direct.is_empty()),
            Err(_) => direct.len().min(self.options.depth as usize).min(READERS_MAX),
        };
        let copiers = copiers(copied.len());
        let buffer = self.destination;
        let absent = buffer.promised()?;
        let ahead = &Ahead::of(direct, flight);
        let populators = ahead.threads(absent);
        let slots = SlotMemory::for_jobs(direct, absent, |pieces| match &ring {
            Ok(()) => pieces.min(self.options.depth as usize),
            Err(_) => readers, // Any of them may take a piece that needs a slot.
        })?;
        let absent = absent.saturating_add(slots.len() as usize);
        let copier_slots = SlotMemory::for_jobs(copied, absent, |_| copiers)?;
        let held = slots.len() + copier_slots.len();
        let queues = (Queue::new(direct, flight), Queue::new(copied, flight));
        let (events, received) = channel();
        let prints = accounts.wanted_fingerprints();
        let uring = ring.is_ok();
        let (read, copied_by) = thread::scope(|scope| {
            let (slots, copier_slots, queues) = (&slots, &copier_slots, &queues);
            let own_events = events.clone();
            let reading = Crew::start(scope, readers, move |reader| match uring {
                true => self.ring_fills_map(buffer, slots, &queues.0, prints, &own_events),
                false => {
                    let slot = slots.map(reader);
                    self.thread_fills_map(buffer, slot, &queues.0, prints, own_events);
                    None
                }
            });
            for _ in 0..populators {
                // Where no thread can be started, the reads make the pages ready.
                let _ = thread::Builder::new().spawn_scoped(scope, || ahead.run(buffer));
            }
            let copying = Crew::start(scope, copiers, move |copier| {
                let slot = copier_slots.map(copier);
                self.thread_fills_map(buffer, slot, &queues.1, prints, events);
            });
            accounts.listen(&received, Some(map_of(buffer)), flight, progress);
            (reading.join(), copying.join())
        });
        let ((registered, readers), (_, copiers)) = (read, copied_by);
        let registered = registered.into_iter().flatten().next();
        Ok(Engine::describe(&ring, (direct, copied), (readers, copiers), registered, held))
    }

    /// Does jobs by one read at a time.
    fn thread_fills_map<'m>(
        &'m self,
        buffer: &'m dyn Destination,
        slot: Option<BufMap<'m>>,
        queue: &'m Queue<'m>,
        prints: Option<&'m Fingerprints<'m>>,
        events: Sender<Event<'m>>,
    ) {
        let slots = slot.into_iter().collect();
        let report = Report::new(events);
        pread::run(&mut Direct::new(queue, self.files, map_of(buffer), slots, prints, report));
    }

    /// Runs direct jobs on an io_uring of this thread. Returns why memory is not registered with
    /// it, if it is not.
    fn ring_fills_map<'m>(
        &'m self,
        buffer: &'m dyn Destination,
        slots: &'m SlotMemory,
        queue: &'m Queue<'m>,
        prints: Option<&'m Fingerprints<'m>>,
        events: &Sender<Event<'m>>,
    ) -> Option<Unregistered> {
        let mut ring = match Ring::new(self.options.depth) {
            Ok(ring) => ring,
            Err(error) => {
                let _ = events.send(Event::Engine(error));
                return None;
            }
        };
        let slot_maps: Vec<_> = (0..slots.count()).filter_map(|slot| slots.map(slot)).collect();
        let mut memory_maps = slot_maps.clone();
        memory_maps.push(map_of(buffer));
        ring.register(&memory_maps, self.options.block as usize);
        let report = Report::new(events.clone());
        let mut work = Direct::new(queue, self.files, map_of(buffer), slot_maps, prints, report);
        if let Err(error) = ring.run(&mut work) {
            queue.flight().end();
            let _ = events.send(Event::Engine(error));
        }
        ring.refusal().map(Unregistered::from)
    }

    pub(super) fn fill_device(
        &self,
        buffer: &Arc<vulkan::Buffer>,
        (direct, copied): Jobs<'_>,
        accounts: &mut Accounts<'_, SourceFile>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Engine, TransferError> {
        let flight = &Flight::new(self.stop);
        let ring = ring_available(direct, self.options.depth);
        let jobs = direct.iter().chain(copied);
        let slot_len = jobs.map(|job| job.piece.len as usize).max().unwrap_or(0).max(1);
        let slot_len = slot_len.next_multiple_of(PageSize::Base.bytes());
        let count = (direct.len() + copied.len()).clamp(1, self.options.depth as usize);
        let memory = Arc::new(buffer.device().memory_to_import(slot_len * count)?);
        let imported = Arc::new(buffer.device().import_memory(Arc::clone(&memory))?);
        let prints = accounts.wanted_fingerprints();
        let queues = [Queue::new(direct, flight), Queue::new(copied, flight)];
        let uring = [ring.is_ok(), false];
        let (events, received) = channel();
        let (registered, hands) = thread::scope(|scope| {
            let (memory, imported, queues) = (&memory, &imported, &queues);
            let reading = Crew::start(scope, 1, move |_| {
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
                        unregistered = ring.refusal().map(Unregistered::from);
                        ran
                    });
                    if let Err(error) = outcome {
                        let _ = events.send(Event::Engine(error));
                        break;
                    }
                }
                unregistered
            });
            accounts.listen(&received, None, flight, progress);
            reading.join()
        });
        let registered = registered.into_iter().flatten().next();
        let hands = (hands.clone(), hands);
        Ok(Engine::describe(&ring, (direct, copied), hands, registered, memory.len() as u64))
    }
}

/// Why direct jobs are not done by an io_uring.
enum NoRing {
    /// It cannot be set up.
    Refused(io::Error),
    /// A device's pages cannot be registered with it, and without that it costs more: its reads lock
    /// and mark each page when they begin and again when they end, a `pread` only when it ends.
    Unregistrable,
}

impl fmt::Display for NoRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(
                f,
                "io_uring cannot be set up ({error}: {})",
                remedy(Call::Ring, error)
            ),
            Self::Unregistrable => f.write_str(
                "the kernel does not keep a device's pages pinned for an io_uring, which then costs nearly twice as much",
            ),
        }
    }
}

/// Whether the direct jobs are done by an io_uring; the reason, if not.
fn ring_available(direct: &[Job], depth: u32) -> Result<(), NoRing> {
    if direct.is_empty() {
        return Ok(());
    }
    if direct.iter().any(|job| job.path == DataPath::Peer) {
        return Err(NoRing::Unregistrable);
    }
    Ring::new(depth).map(drop).map_err(NoRing::Refused)
}

/// The slots in system memory for pieces that cannot land in the buffer.
pub(super) struct SlotMemory {
    pub(super) memory: Option<Memory>,
    slot_len: usize,
}

impl SlotMemory {
    /// For jobs that are done beside `absent` bytes which were promised and will be written.
    ///
    /// # Errors
    /// [`TransferError::Memory`], if there is not memory for all of it.
    pub(super) fn for_jobs(
        jobs: &[Job],
        absent: usize,
        slots: impl Fn(usize) -> usize,
    ) -> Result<Self, TransferError> {
        let in_slots = jobs.iter().filter(|job| matches!(job.piece.landing, Landing::Slot(_)));
        let (count, len) = in_slots.fold((0, 0), |(n, len), job| (n + 1, job.piece.len.max(len)));
        let slot_len = (len as usize).next_multiple_of(PageSize::Base.bytes());
        let len = slot_len.saturating_mul(slots(count));
        is_available(len.saturating_add(absent).saturating_add(OWN)).map_err(MemoryError::from)?;
        let memory = match count {
            0 => None,
            _ => Some(Memory::anonymous(len, PageSize::Base)?),
        };
        Ok(Self { memory, slot_len })
    }

    pub(super) fn len(&self) -> u64 {
        self.memory.as_ref().map_or(0, |memory| memory.len() as u64)
    }

    pub(super) fn count(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.len() / self.slot_len)
    }

    pub(super) fn map(&self, slot: usize) -> Option<BufMap<'_>> {
        let start = slot * self.slot_len;
        self.memory.as_ref()?.map().subrange(start..start + self.slot_len).ok()
    }
}

/// Why memory is not registered with an io_uring: what the kernel said, and what it means.
struct Unregistered(String);

impl From<&io::Error> for Unregistered {
    fn from(error: &io::Error) -> Self {
        Self(format!("{error}: {}", remedy(Call::Register, error)))
    }
}

/// How the reads were issued.
#[derive(Default)]
pub(super) struct Engine {
    pub words: String,
    /// The memory held beside the buffer, in bytes.
    pub slots: u64,
}

impl Engine {
    fn describe(
        ring: &Result<(), NoRing>,
        (direct, copied): (&[Job], &[Job]),
        (readers, copiers): (Hands, Hands),
        unregistered: Option<Unregistered>,
        slots: u64,
    ) -> Self {
        let mut words = Vec::new();
        match ring {
            Ok(()) if direct.is_empty() => {}
            Ok(()) => {
                let registered = match unregistered {
                    None => "with registered buffers".to_owned(),
                    Some(Unregistered(why)) => format!("without registered buffers ({why})"),
                };
                words.push(match readers.are_few() {
                    false => format!("io_uring {registered}"),
                    true => format!("io_uring {registered}, by {readers}"),
                });
            }
            Err(why) => words.push(format!("{readers} with pread, because {why}")),
        }
        if !copied.is_empty() {
            words.push(format!("{copiers} with pread for what the kernel copies"));
        }
        Self { words: words.join("; "), slots }
    }

    /// The account of this and then another, which may both have had nothing to do.
    fn followed_by(self, next: Self) -> Self {
        let words = [self.words, next.words];
        let words: Vec<_> = words.into_iter().filter(|words| !words.is_empty()).collect();
        Self { words: words.join(", then "), slots: self.slots.max(next.slots) }
    }
}
