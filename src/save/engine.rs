//! Which threads and rings write, and with which slots.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use exporters::vulkan::{Buffer, VulkanError};
use exporters::{Destination, PeerAccess};
use iomap::{Access, BufMap, Location, Memory, MemoryError, PageSize, is_available};

use super::accounts::{Accounts, End};
use super::prints::Prints;
use super::queue::Queue;
use super::writes::{Event, Filler, Gpu, Parts, Writes};
use crate::check::map_of;
use crate::engine::crew::{Crew, Hands};
use crate::plan::OWN;
use crate::plan::out::{Stretches, Taken};
use crate::remedy::{Call, remedy};
use crate::storage::file::ring::Ring;
use crate::storage::file::{Descriptor, SinkFile, pread};
use crate::transfer::{DataPath, Options, Progress, TransferError};

/// The most threads that write one piece at a time.
const WRITERS_MAX: usize = 16;

/// How the writes were issued.
#[derive(Debug, Default)]
pub(super) struct Engine {
    pub words: Vec<String>,
    pub writes: u64,
    /// The memory held beside the buffer, in bytes.
    pub slots: u64,
}

/// What writes are carried out with.
pub(super) struct Means<'a> {
    pub source: &'a dyn Destination,
    pub sink: &'a SinkFile,
    pub options: &'a Options,
    pub stop: &'a AtomicBool,
}

/// Why an io_uring does not do the writes.
enum NoRing {
    /// They are the kernel's copies, one after the other.
    Copies,
    /// It cannot be set up.
    Refused(io::Error),
    /// A device's pages cannot be registered with it.
    Unregistrable,
    /// A program serves the file system, and takes writes in parts as it likes: the kernel (6.18) then goes on by itself,
    /// with the rest of the bytes and the first one's place in the file.
    OfAProgram,
}

impl fmt::Display for NoRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copies => f.write_str("for what the kernel copies"),
            Self::Refused(error) => write!(
                f,
                "because io_uring cannot be set up ({error}: {})",
                remedy(Call::Ring, error)
            ),
            Self::OfAProgram => f.write_str(
                "because a program serves the file system (FUSE), and of a write that it does in part the kernel puts the rest elsewhere by an io_uring",
            ),
            Self::Unregistrable => f.write_str(
                "because the kernel does not keep a device's pages pinned for an io_uring, which then costs more",
            ),
        }
    }
}

impl Engine {
    /// Carries out the writes of `stretches` and accounts for them.
    pub(super) fn run(
        &mut self,
        means: &Means<'_>,
        stretches: &Stretches,
        accounts: &mut Accounts,
        (prints, progress): (&mut Prints<'_>, &mut dyn FnMut(Progress)),
    ) -> Result<(), TransferError> {
        if stretches.is_empty() {
            return Ok(());
        }
        let copied = stretches.paths()[0] == DataPath::Buffered;
        let file = match copied {
            true => Descriptor::Cached(means.sink.as_fd()),
            false => match means.sink.open_direct() {
                Ok(direct) => Descriptor::Direct(direct),
                Err(error) => {
                    accounts.end = Some(End::Failed { offset: 0, source: error });
                    return Ok(());
                }
            },
        };
        let depth = means.options.depth as usize;
        let ring = ring(stretches, means.sink, depth as u32);
        let gpu = means.source.cpu_map().is_err().then(|| means.source.gpu().ok()).flatten();
        let (pieces, in_slots) = counted(stretches, depth);
        let writers = match (&ring, gpu) {
            (Ok(()) | Err(NoRing::Copies), _) | (_, Some(_)) => 1,
            (Err(_), None) => pieces.min(depth).min(WRITERS_MAX),
        };
        // Any of several writers may take a piece that needs a slot.
        let slots = match (in_slots, writers) {
            (0, _) | (_, 1) => in_slots,
            _ => writers,
        };
        let slots = Slots::new(stretches, slots, gpu)?;
        self.slots = self.slots.max(slots.len());
        let queue = &Queue::new(stretches, means.stop);
        let (events, received) = channel();
        let (granule, shared) = (stretches.granule(), (&slots, file));
        let (registered, hands) = thread::scope(|scope| {
            let ring = ring.is_ok();
            let work = move |number| {
                let (slots, file) = shared.clone();
                let own = (writers > 1).then_some(number);
                let parts = slots.filler(gpu).map(|filler| Parts {
                    queue,
                    file,
                    granule,
                    buffer: map_of(means.source),
                    slots: slots.maps(own),
                    filler,
                    events: events.clone(),
                });
                match parts {
                    Ok(parts) if ring => by_ring(means, parts, &events),
                    Ok(parts) => {
                        pread::run(&mut Writes::new(parts));
                        None
                    }
                    Err(error) => {
                        let _ = events.send(Event::Gpu(error));
                        None
                    }
                }
            };
            let crew = Crew::start(scope, writers, work);
            accounts.listen(&received, queue, prints, progress);
            crew.join()
        });
        self.writes += queue.taken();
        self.words.push(describe(&ring, &hands, registered.into_iter().flatten().next()));
        Ok(())
    }
}

/// How many writes there are, and how many of them come out of slots, neither counted further than `enough`.
fn counted(stretches: &Stretches, enough: usize) -> (usize, usize) {
    let gathered = stretches.pieces().filter(|piece| matches!(piece.from, Taken::Slot(_)));
    (stretches.pieces().take(enough).count(), gathered.take(enough).count())
}

/// Whether an io_uring does the writes; the reason, if not.
fn ring(stretches: &Stretches, sink: &SinkFile, depth: u32) -> Result<(), NoRing> {
    match stretches.paths()[0] {
        DataPath::Buffered => Err(NoRing::Copies),
        DataPath::Peer => Err(NoRing::Unregistrable),
        _ if sink.is_of_a_program() => Err(NoRing::OfAProgram),
        _ => Ring::new(depth).map(drop).map_err(NoRing::Refused),
    }
}

/// Runs writes on an io_uring of this thread. Returns why memory is not registered with it, if it is not.
fn by_ring<'m>(means: &Means<'m>, parts: Parts<'m>, events: &Sender<Event>) -> Option<String> {
    let mut ring = match Ring::new(means.options.depth) {
        Ok(ring) => ring,
        Err(error) => {
            let _ = events.send(Event::Engine(error));
            return None;
        }
    };
    let mut maps = parts.slots.clone();
    maps.extend(registrable(means.source));
    ring.register(&maps, means.options.block as usize);
    let queue = parts.queue;
    if let Err(error) = ring.run(&mut Writes::new(parts)) {
        queue.end();
        let _ = events.send(Event::Engine(error));
    }
    ring.refusal().map(|error| format!("{error}: {}", remedy(Call::Register, error)))
}

/// A buffer whose pages the kernel may keep pinned. It does so for writing, which would make pages of what has none, and
/// fails for what is read-only.
fn registrable(source: &dyn Destination) -> Option<BufMap<'_>> {
    let map = source.cpu_map().ok()?;
    let pinned = map.location() == Location::System && map.access() == Access::ReadWrite;
    let own = source.peer().is_none_or(|peer| peer.access != PeerAccess::Kernel);
    let there = source.pages().is_ok() && source.promised().is_ok_and(|absent| absent == 0);
    (pinned && own && there).then_some(map)
}

fn describe(ring: &Result<(), NoRing>, hands: &Hands, unregistered: Option<String>) -> String {
    let registered = match unregistered {
        None => "with registered buffers".to_owned(),
        Some(why) => format!("without registered buffers ({why})"),
    };
    match ring {
        Ok(()) if hands.are_few() => format!("io_uring {registered}, by {hands}"),
        Ok(()) => format!("io_uring {registered}"),
        Err(why) => format!("{hands} with pwrite, {why}"),
    }
}

/// The slots for what cannot be written out of the buffer.
struct Slots {
    memory: Option<Arc<Memory>>,
    /// As a GPU knows them.
    imported: Option<Arc<Buffer>>,
    slot_len: usize,
}

impl Slots {
    fn new(
        stretches: &Stretches,
        count: usize,
        gpu: Option<&Arc<Buffer>>,
    ) -> Result<Self, TransferError> {
        let slot_len = (stretches.longest() as usize).next_multiple_of(PageSize::Base.bytes());
        if count == 0 {
            return Ok(Self { memory: None, imported: None, slot_len });
        }
        let len = slot_len.saturating_mul(count);
        is_available(len.saturating_add(OWN)).map_err(MemoryError::from)?;
        let Some(gpu) = gpu else {
            let memory = Memory::anonymous(len, PageSize::Base)?;
            return Ok(Self { memory: Some(Arc::new(memory)), imported: None, slot_len });
        };
        let memory = Arc::new(gpu.device().memory_to_import(len)?);
        let imported = gpu.device().import_memory(Arc::clone(&memory))?;
        Ok(Self { memory: Some(memory), imported: Some(Arc::new(imported)), slot_len })
    }

    fn len(&self) -> u64 {
        self.memory.as_ref().map_or(0, |memory| memory.len() as u64)
    }

    /// The slot of one of several writers, or all of them.
    fn maps(&self, own: Option<usize>) -> Vec<BufMap<'_>> {
        let Some(memory) = &self.memory else { return Vec::new() };
        let slot = |start: usize| memory.map().subrange(start..start + self.slot_len).ok();
        let starts = (0..memory.len() / self.slot_len).map(|number| number * self.slot_len);
        match own {
            None => starts.filter_map(slot).collect(),
            Some(own) => starts.skip(own).take(1).filter_map(slot).collect(),
        }
    }

    fn filler<'m>(&'m self, gpu: Option<&'m Arc<Buffer>>) -> Result<Filler<'m>, VulkanError> {
        Ok(match (gpu, &self.imported) {
            (Some(buffer), Some(imported)) => {
                let (transfer, slot_len) = (buffer.device().transfer()?, self.slot_len);
                Filler::Gpu(Box::new(Gpu { transfer, buffer, imported, slot_len }))
            }
            _ => Filler::Cpu,
        })
    }
}
