//! Loads by the driver in user space, of files on a drive that the kernel does not have.
//!
//! The drive is given addresses in its container's IOMMU: of the buffer, be it system memory, a BAR
//! that vfio-pci has or what a driver publishes for peers, and of slots for what cannot land there.
//! A BAR is first proved, as on the kernel's path; where that fails, the CPU copies from the slots.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::channel;
use std::thread;

use exporters::vfio::{DmaMapping, Mappable};
use exporters::{Absent, Intent};
use iomap::{BufMap, Memory, PageSize};

use super::accounts::Accounts;
use super::call::Load;
use super::fill::{Engine, Jobs, SlotMemory};
use super::run::direct::Direct;
use super::run::{Queue, Report};
use crate::check::{Fingerprints, map_of};
use crate::dma::{DmaError, DmaKind, DmaList, DmaRange, Iommu, Mapped, Mapper};
use crate::engine::clock::Clock;
use crate::engine::crew::Crew;
use crate::engine::flight::Flight;
use crate::pci::PciError;
use crate::plan::Place;
use crate::plan::asked::{Asked, Buffer};
use crate::plan::by_driver::{decide, out_of_reach};
use crate::plan::cut::Batch;
use crate::plan::decided::Decided;
use crate::plan::job::Job;
use crate::plan::peer::{Pairs, proof};
use crate::plan::requested::Requested;
use crate::storage::nvme::{self, Controller, DriveFile, NvmeError, QueueOptions, Wake, engine};
use crate::storage::work::{Failure, Next, Read, Work};
use crate::traced::Traced;
use crate::transfer::{Progress, Receipt, TransferError};

/// How much is read at once to be compared, in bytes.
const AGAIN: usize = 1 << 20;

impl Load<'_, DriveFile> {
    /// Runs the load to its end. `progress` is called on this thread as pieces land, and ten times a second
    /// at least while none does.
    ///
    /// # Errors
    /// [`TransferError`]; nothing is in flight when it is returned. A GPU's own memory cannot be loaded
    /// into.
    pub fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<Receipt, TransferError> {
        Traced::load(self.files.len(), self.requests.len()).over(|| self.carry_out(progress))
    }

    fn carry_out(&self, progress: &mut dyn FnMut(Progress)) -> Result<Receipt, TransferError> {
        let steady = self.destination.steady();
        let asked = self.asked(self.buffer(&steady)?)?;
        let place = asked.buffer.place;
        let clock = Clock::start();
        let controller = self.controller()?;
        let mapper = Iommu(Arc::clone(controller.device().container()));
        let queue = self.queue(controller)?;
        for file in self.files {
            queue.whole_blocks(file.namespace())?;
        }
        let block = self.files.iter().map(DriveFile::block_size).max().unwrap_or_default();
        let mut drive = Drive { queue, block, spare: None };

        let reach = match steady.map(|memory| mapper.map(memory, Intent::Write)) {
            // Into the system's own memory there is no other path.
            Ok(Err(error)) if place == Place::System => return Err(error.into()),
            Ok(mapped) => mapped.map_err(|error| error.to_string()),
            Err(absent) => Err(absent.to_string()),
        };
        let fingerprints = Fingerprints::new(self.requests);
        let decided = self.decide(&asked, fingerprints.requested(), &mut drive, &reach);
        let mut decided = decided.map_err(|error| self.lost_or(error))?;
        let reach = reach.as_ref().ok().map(Mapped::list);
        let mut accounts = Accounts::new(self.filled(), &self.options, &fingerprints);
        let access = self.destination.access(Intent::ReadWrite)?;
        let engine =
            self.fill_memory(&mut decided, &mut accounts, |(jobs, _): Jobs<'_>, accounts| {
                let absent = self.destination.promised()?;
                let slots =
                    SlotMemory::for_jobs(jobs, absent, |n| n.min(self.options.depth as usize))?;
                self.fill_by_driver(&mut drive, reach, (jobs, &slots), accounts, progress)
            })?;
        let mut again = |file: &_, offset, out: &mut _| {
            drive.read_exact(file, offset, out).map_err(|source| Failure::Io { offset, source })
        };
        let receipt =
            self.settle(&clock, (place, decided), engine, accounts, (&mut again, progress))?;
        access.map_or(Ok(()), |access| access.finish())?;
        Ok(receipt)
    }

    /// The buffer as this driver sees it: what the kernel's drivers may be given is not always what VFIO maps.
    fn buffer(&self, steady: &Result<&dyn Mappable, Absent>) -> Result<Buffer, TransferError> {
        let buffer = Buffer::of_bytes(self.destination)?;
        Ok(match (buffer.place, steady) {
            (Place::Gpu, _) => return Err(out_of_reach(self.files)),
            (Place::System, Err(why)) => {
                Buffer { place: Place::Cpu, no_pages: Some(why.to_string()), ..buffer }
            }
            _ => buffer,
        })
    }

    /// The drive of all files.
    fn controller(&self) -> Result<&Arc<Controller>, TransferError> {
        let first = self.files.first().ok_or(TransferError::Options("there is no file to load"))?;
        let other = |file: &&DriveFile| !Arc::ptr_eq(file.controller(), first.controller());
        match self.files.iter().find(other) {
            Some(file) => Err(TransferError::OtherDrive { path: file.path().into() }),
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

    fn decide(
        &self,
        asked: &Asked<'_, DriveFile>,
        requested: &Requested<'_>,
        drive: &mut Drive,
        reach: &Result<Mapped<'_>, String>,
    ) -> Result<Decided, TransferError> {
        let mut pairs = Pairs::of(self.destination);
        let mut decided = decide(asked, requested, |file: &DriveFile, reads| {
            let reach = reach.as_ref().map_err(String::clone)?;
            let Some(pairs) = &mut pairs else { return Ok(()) };
            drive.may_write(file, reads, pairs, (map_of(self.destination), reach.list()))
        })?;
        decided.proofs = pairs.map(|pairs| pairs.proofs).unwrap_or_default();
        Ok(decided)
    }

    fn fill_by_driver(
        &self,
        drive: &mut Drive,
        reach: Option<&DmaList>,
        (jobs, slots): (&[Job], &SlotMemory),
        accounts: &mut Accounts<'_, DriveFile>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Engine, TransferError> {
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
                let buffer = map_of(self.destination);
                let reached: Vec<_> =
                    whole.into_iter().chain(reach.map(|reach| (buffer, reach))).collect();
                let slots = (0..slots.count()).filter_map(|slot| slots.map(slot)).collect();
                let report = Report::new(events);
                let mut work = Direct::new(queue, self.files, buffer, slots, prints, report);
                let mut reads = reads.lock().unwrap_or_else(PoisonError::into_inner);
                engine::run(&mut reads, &reached, &mut work);
            });
            accounts.listen(&received, Some(map_of(self.destination)), flight, progress);
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
