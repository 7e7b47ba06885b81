//! Loads by the driver in user space, of files on a drive that the kernel does not have.
//!
//! The drive is given addresses in its container's IOMMU: of the buffer, be it system memory, a BAR
//! that vfio-pci has or what a driver publishes for peers, and of slots for what cannot land there.
//! A BAR is first proved, as on the kernel's road; where that fails, the CPU copies from the slots.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::channel;
use std::thread;

use exporters::Intent;
use exporters::vfio::{DmaMapping, Mappable};
use iomap::{BufMap, Memory, PageSize};

use super::accounts::Accounts;
use super::asked::{Asked, Place};
use super::check::Fingerprints;
use super::crew::Crew;
use super::cut::Batch;
use super::fill::{Engine, Jobs, SlotMemory};
use super::peer::{Pairs, proof};
use super::plan::Run;
use super::roads::{self, Decided, Peer, Split};
use super::run::direct::Direct;
use super::run::{Failure, Flight, Job, Queue, Report};
use super::{Clock, Load, LoadError, Progress, Receipt, Road, Source};
use crate::dma::{DmaError, DmaKind, DmaList, DmaRange, Iommu, Mapped, Mapper};
use crate::pci::PciError;
use crate::storage::nvme::{self, Controller, DriveFile, NvmeError, QueueOptions, Wake, engine};
use crate::storage::work::{Next, Read, Work};

/// How much is read at once to be compared, in bytes.
const AGAIN: usize = 1 << 20;

impl Load<'_, DriveFile> {
    /// Runs the load to its end. `progress` is called on this thread as pieces land, and ten times a second
    /// at least while none does.
    ///
    /// # Errors
    /// [`LoadError`]; nothing is in flight when it is returned. A GPU's own memory cannot be loaded
    /// into.
    pub fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<Receipt, LoadError> {
        let asked = self.asked()?;
        let clock = Clock::start();
        let controller = self.controller()?;
        let mapper = Iommu(Arc::clone(controller.device().container()));
        let queue = self.queue(controller)?;
        for file in self.files {
            queue.whole_blocks(file.namespace())?;
        }
        let block = self.files.iter().map(DriveFile::block_size).max().unwrap_or_default();
        let mut drive = Drive { queue, block, spare: None };

        let buffer = self.buffer()?;
        let reach = match (mapper.map(buffer, Intent::Write), asked.place) {
            // Into the system's own memory there is no other road.
            (Err(error), Place::System) => return Err(error.into()),
            (reach, _) => reach,
        };
        let fingerprints = Fingerprints::new(self.requests);
        let decided = self.decide(&asked, &fingerprints, &mut drive, (buffer, &reach));
        let mut decided = decided.map_err(|error| self.destination.lost_or(error))?;
        let reach = reach.as_ref().ok().map(Mapped::list);
        let mut accounts = Accounts::new(self, &fingerprints);
        let engine =
            self.fill_memory(&mut decided, &mut accounts, |(jobs, _): Jobs<'_>, accounts| {
                let absent = self.destination.absent()?;
                let slots =
                    SlotMemory::for_jobs(jobs, absent, |n| n.min(self.options.depth as usize))?;
                self.fill_by_driver(&mut drive, (buffer, reach), (jobs, &slots), accounts, progress)
            })?;
        let mut again = |file: &_, offset, out: &mut _| {
            drive.read_exact(file, offset, out).map_err(|source| Failure::Io { offset, source })
        };
        self.settle(&clock, decided, engine, accounts, (&mut again, progress))
    }

    /// The drive of all files.
    fn controller(&self) -> Result<&Arc<Controller>, LoadError> {
        let first = self.files.first().ok_or(LoadError::Options("there is no file to load"))?;
        let other = |file: &&DriveFile| !Arc::ptr_eq(file.controller(), first.controller());
        match self.files.iter().find(other) {
            Some(file) => Err(LoadError::OtherDrive { path: file.path().into() }),
            None => Ok(first.controller()),
        }
    }

    /// A queue that sleeps where the drive has an interrupt for it.
    fn queue(&self, controller: &Arc<Controller>) -> Result<nvme::Queue, NvmeError> {
        let options = QueueOptions {
            entries: self.options.depth.saturating_add(1),
            max_read: self.options.block,
            wake: Wake::Interrupt,
            limit: self.options.limit,
            ..QueueOptions::default()
        };
        match controller.queue(options) {
            Err(NvmeError::Unsupported { .. }) => {
                controller.queue(QueueOptions { wake: Wake::Polled, ..options })
            }
            made => made,
        }
    }

    fn buffer(&self) -> Result<&dyn Mappable, LoadError> {
        self.destination.memory().map_err(|_| out_of_reach(self.files))
    }

    fn decide(
        &self,
        asked: &Asked<'_, DriveFile>,
        fingerprints: &Fingerprints<'_>,
        drive: &mut Drive,
        (buffer, reach): (&dyn Mappable, &Result<Mapped<'_>, DmaError>),
    ) -> Result<Decided, LoadError> {
        let mut pairs = self.pairs();
        let mut decided = decide(asked, fingerprints, |file: &DriveFile, reads| {
            let reach = reach.as_ref().map_err(ToString::to_string)?;
            let Some(pairs) = &mut pairs else { return Ok(()) };
            drive.may_write(file, reads, pairs, (buffer.map(), reach.list()))
        })?;
        decided.proofs = pairs.map(|pairs| pairs.proofs).unwrap_or_default();
        Ok(decided)
    }

    fn fill_by_driver(
        &self,
        drive: &mut Drive,
        (buffer, reach): (&dyn Mappable, Option<&DmaList>),
        (jobs, slots): (&[Job], &SlotMemory),
        accounts: &mut Accounts<'_, DriveFile>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Engine, LoadError> {
        if jobs.is_empty() {
            return Ok(Engine::default());
        }
        let mapper = Iommu(drive.queue.container());
        let slots_reach =
            slots.memory.as_ref().map(|memory| mapper.map(memory, Intent::Write)).transpose()?;
        let slots_reach = slots_reach.as_ref().map(Mapped::list);
        let flight = &Flight::new(self.stop);
        let queue = Queue::new(jobs, flight);
        let (events, received) = channel();
        let prints = accounts.wanted_fingerprints();
        let reads = Mutex::new(&mut drive.queue);
        let hands = thread::scope(|scope| {
            let (queue, reads) = (&queue, &reads);
            let reading = Crew::start(scope, 1, move |_| {
                let whole = slots.memory.as_ref().map(Memory::map).zip(slots_reach);
                let buffer = buffer.map();
                let reached: Vec<_> =
                    whole.into_iter().chain(reach.map(|reach| (buffer, reach))).collect();
                let slots = (0..slots.count()).filter_map(|slot| slots.map(slot)).collect();
                let report = Report::new(events);
                let mut work = Direct::new(queue, self.files, buffer, slots, prints, report);
                let mut reads = reads.lock().unwrap_or_else(PoisonError::into_inner);
                engine::run(&mut reads, &reached, &mut work);
            });
            accounts.listen(&received, Some(buffer.map()), flight, progress);
            reading.join().1
        });
        let waits = match drive.queue.wake() {
            Wake::Polled => "polled",
            Wake::Interrupt => "woken by interrupts",
        };
        let mut words = format!("the NVMe driver in user space, {waits}");
        if hands.are_few() {
            words += &format!(", by {hands}");
        }
        Ok(Engine { words, slots: slots.len() })
    }
}

/// What the driver does not do: there is no memory that a drive could be given.
pub(super) fn out_of_reach<S: Source>(files: &[S]) -> LoadError {
    let path = files.first().map(|file| file.path().to_owned()).unwrap_or_default();
    let why = "the buffer is in a GPU's own memory; give the drive back to the kernel (bufmap unbind) and \
               load from there";
    LoadError::Road { path, road: Road::Staged, why: why.into() }
}

/// Decides for every request of a load. `may_write` says whether the reads of a file may go from the drive
/// into the buffer of a peer, or why not.
pub(super) fn decide<S: Source>(
    asked: &Asked<'_, S>,
    fingerprints: &Fingerprints<'_>,
    mut may_write: impl FnMut(&S, &Batch) -> Result<(), String>,
) -> Result<Decided, LoadError> {
    let mut decided = Decided::default();
    for (index, runs) in roads::by_file(asked) {
        asked.go_on()?;
        let file = &asked.files[index];
        for split in splits(asked, file, runs, &mut |reads| may_write(file, reads))? {
            decided.take(split, fingerprints);
        }
    }
    Ok(decided)
}

/// The roads of one file.
fn splits<S: Source>(
    asked: &Asked<'_, S>,
    file: &S,
    runs: Vec<Run>,
    may_write: &mut dyn FnMut(&Batch) -> Result<(), String>,
) -> Result<Vec<Split>, LoadError> {
    let refused = |road, why| LoadError::Road { path: file.path().into(), road, why };
    let plain = |road, runs| {
        let runs = roads::roomy(asked, file, road, runs);
        vec![Split::new(asked, file, road, &runs)]
    };
    let required = asked.options.require;
    if let Some(road) = required {
        roads::misfit(road, asked.place).map_err(|why| refused(road, why))?;
        if road.cpu_copies() {
            return Err(refused(road, "the kernel does not have the drive".into()));
        }
    }
    match (asked.place, required) {
        (Place::System | Place::Gpu, _) => Ok(plain(Road::Direct, runs)),
        (_, Some(Road::Bounce)) => Ok(plain(Road::Bounce, runs)),
        (Place::Peer | Place::Bar, required) => {
            let peer = Peer::of(asked, file, &runs);
            match (peer.ask(required.is_some(), may_write), required) {
                (Ok(()), _) => Ok(peer.splits()),
                (Err(why), Some(road)) => Err(refused(road, why)),
                (Err(why), None) => Ok(roads::without_peer(plain(Road::Bounce, runs), &why)),
            }
        }
    }
}

/// A drive's queue, with a little memory of the load's own that the drive can reach. It is mapped when it
/// is first needed: a load that proves nothing and compares nothing does without.
struct Drive {
    queue: nvme::Queue,
    /// The longest block of a file on it, in bytes.
    block: u32,
    spare: Option<Spare>,
}

/// Memory of the system's, and what the drive sees of it.
struct Spare {
    memory: DmaMapping<Memory>,
    list: DmaList,
}

impl Spare {
    /// For what is read at once, and the blocks that it begins and ends in.
    fn new(queue: &nvme::Queue, block: u32) -> Result<Self, DmaError> {
        let around = 2 * proof::SAMPLE.max(block.into()) as usize;
        let memory = Memory::anonymous(AGAIN + around, PageSize::Base)?;
        let memory = queue.container().map_dma(memory, Intent::Write)?;
        let range = DmaRange::new(DmaKind::Iova, memory.iova(), memory.len())?;
        Ok(Self { memory, list: DmaList::from_iter([range]) })
    }
}

impl Drive {
    fn with_spare(&mut self) -> Result<(&mut nvme::Queue, (BufMap<'_>, &DmaList)), DmaError> {
        let Self { queue, block, spare } = self;
        let spare = match spare {
            Some(spare) => spare,
            None => spare.insert(Spare::new(queue, *block)?),
        };
        Ok((queue, (spare.memory.map(), &spare.list)))
    }

    /// Whether the drive may write into the buffer of a pair, or why not.
    fn may_write(
        &mut self,
        file: &DriveFile,
        reads: &Batch,
        pairs: &mut Pairs<'_>,
        buffer: (BufMap<'_>, &DmaList),
    ) -> Result<(), String> {
        let address = file.controller().address().parse();
        let address = address.map_err(|error: PciError| error.to_string())?;
        pairs.may_be_written_by(address, |memory| {
            let samples = proof::samples(reads, |_| true);
            let (queue, spare) = self.with_spare().map_err(|error| error.to_string())?;
            let reach = [spare, buffer];
            proof::prove((memory, spare.0), &samples, &mut |_, sample, into| {
                read_once(queue, &reach, file, sample.offset, into)
                    .map_err(|error| error.to_string())
            })
        })
    }

    /// Reads again what a load read, into memory of the system's.
    fn read_exact(&mut self, file: &DriveFile, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let block = u64::from(file.block_size());
        let (queue, spare) = self.with_spare().map_err(io::Error::other)?;
        let mut at = 0;
        while at < out.len() {
            let start = (offset + at as u64) / block * block;
            let head = (offset + at as u64 - start) as usize;
            let len = (out.len() - at).min(AGAIN);
            let whole = (head + len).next_multiple_of(block as usize).min(spare.0.len());
            let into = spare.0.subrange(..whole).map_err(io::Error::other)?;
            read_once(queue, &[spare], file, start, &into)?;
            let len = len.min(whole - head);
            into.copy_to_slice(head, &mut out[at..at + len]).map_err(io::Error::other)?;
            at += len;
        }
        Ok(())
    }
}

/// Reads as much as `into` is long, all at once.
fn read_once(
    queue: &mut nvme::Queue,
    reach: &[(BufMap<'_>, &DmaList)],
    file: &DriveFile,
    offset: u64,
    into: &BufMap<'_>,
) -> io::Result<()> {
    let mut work = Once { read: Some(Read { file, offset, into: *into, tag: 0 }), got: Ok(0) };
    engine::run(queue, reach, &mut work);
    match work.got? {
        got if got == into.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// One read.
struct Once<'m> {
    read: Option<Read<'m, &'m DriveFile>>,
    got: io::Result<usize>,
}

impl<'m> Work<'m> for Once<'m> {
    type File = &'m DriveFile;

    fn next(&mut self) -> Next<'m, &'m DriveFile> {
        self.read.take().map_or(Next::Done, Next::Read)
    }

    fn completed(&mut self, _: usize, result: io::Result<usize>) {
        self.got = result;
    }
}
