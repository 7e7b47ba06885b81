//! Loading: plan a road, run it, check it, account for it.
//!
//! A [`Load`] moves [`Request`]s (so many bytes of a file, to there in the buffer) into a
//! [`Destination`] and ends in a [`Receipt`]. Its parts, in the order in which data flows:
//!
//! * [`mod@format`]: what a file holds, as items; [`layout`]: where they go in the buffer; [`Manifest`]
//!   does both for files named by path, and [`Target`] makes the buffer;
//! * `roads`: which [`Road`] each byte takes, and why not a better one; `peer`: whether a drive may
//!   write into another device's memory, and the proof of it; `plan` and `cut`: which reads that makes;
//! * `run`: the work that carries them out; `fill` and `by_driver`: which engines do it, the kernel's
//!   or the driver in user space;
//! * `check`: what was proved about the bytes;
//! * `nofault` and `there`: the memory of a device, which can go away under a load.
//!
//! # Files that something writes to
//!
//! What is in the buffer after a load is the file as it was when it was opened, or the load ends in an
//! error. A file is opened once: one that is replaced by another (a rename to its name, as programs do
//! that write with care) is loaded whole as it was. For one that is written to in place, its length and
//! its times are compared when its last byte has been read, the second time too with [`Verify::Full`];
//! if any is not as it was when the file was opened, the load ends with [`LoadError::Changed`]. So it
//! does if only the file's rights or its name were changed, which cannot be told from a write.
//!
//! This is not promised of
//!
//! * a program that has mapped the file for writing: the kernel stamps a file at the first store into a
//!   page, and again only when it has written the page back;
//! * one write call that began before the file was opened and goes on while it is loaded;
//! * a block device, which has no such times;
//! * a file system on the network whose server does not tell times as they are, and files that are
//!   written to by one machine and loaded by another whose kernel does not yet know.
//!
//! # Many files
//!
//! A file takes one descriptor while it is open, and a second while its bytes are read past the page cache,
//! as many as there are reads in flight at most. A model in a thousand shards needs more than the soft limit
//! that a process begins with:
//! [`open_files::raise_limit`](crate::storage::file::open_files::raise_limit).
//!
//! # Memory that goes away
//!
//! The memory of a device goes away with its device or its driver, and then the CPU's accesses to it end
//! in `SIGBUS`. Those of a load do not end the process: the first load that touches such memory by the CPU
//! (to check it, to prove a peer road, to bounce) installs a handler of that signal, which passes on what is
//! not the load's own, to the handler that was there before or to the default action. A program that installs
//! a handler afterwards passes on in its turn what is not its own. This is written for x86-64 and Arm 64.
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

mod accounts;
mod asked;
mod by_driver;
mod check;
mod contest;
mod crew;
mod cut;
mod error;
mod explain;
mod extent_map;
mod fill;
pub mod format;
pub mod layout;
mod manifest;
mod nofault;
mod path_json;
mod peer;
mod plan;
mod receipt;
mod request;
mod road;
mod roads;
mod run;
mod source;
mod target;
mod there;
mod valid;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use exporters::vfio::{Mappable, Region};
use exporters::{PeerMemory, vulkan};
use iomap::{Location, Memory};

pub use asked::Place;
pub use check::{Checked, Verify};
pub use error::LoadError;
pub use explain::{Explain, Explanation};
pub use extent_map::{Drive, ExtentMap, ExtentMapError, MappedFile, MappedItem};
pub use manifest::{LeftOut, Manifest, Placed, Selection};
pub use peer::Proof;
pub use receipt::{Receipt, Share, StepDown};
pub use request::{Around, Request};
pub use road::Road;
pub use run::Pending;
pub use source::Source;
pub use target::Target;
pub use valid::Valid;

use accounts::Accounts;
use asked::Asked;
use check::{Fingerprints, SecondRead};
use fill::Engine;
use peer::Pairs;
use roads::Decided;

use crate::storage::file::SourceFile;

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
    /// Memory of a PCI device that its driver gives to peers: a drive may write into it.
    Peer(&'a PeerMemory),
    /// A BAR of a device that vfio-pci has: a drive of this process's own may write into it.
    Bar(&'a Region),
    /// A buffer of a GPU's that the CPU sees and that stays where it is: a drive of this process's own
    /// may write into it.
    Visible(&'a vulkan::SteadyBuffer),
}

impl<'a> Destination<'a> {
    /// The length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(memory) | Self::Imported { memory, .. } => memory.len() as u64,
            Self::Device(buffer) => buffer.len() as u64,
            Self::Peer(memory) => memory.len() as u64,
            Self::Bar(region) => region.map().len() as u64,
            Self::Visible(buffer) => buffer.map().len() as u64,
        }
    }

    /// Where it lies.
    pub fn place(&self) -> Place {
        match self {
            Self::Memory(_) | Self::Imported { .. } => Place::System,
            Self::Device(_) => Place::Gpu,
            Self::Peer(_) => Place::Peer,
            Self::Bar(_) => Place::Bar,
            Self::Visible(buffer) => match buffer.map().location() {
                Location::Io => Place::Bar,
                Location::System => Place::System,
            },
        }
    }

    /// The memory that the CPU and other devices can reach, or else the buffer that only its GPU does.
    fn memory(&self) -> Result<&'a dyn Mappable, &'a Arc<vulkan::Buffer>> {
        match *self {
            Self::Memory(memory) | Self::Imported { memory, .. } => Ok(memory),
            Self::Peer(memory) => Ok(memory),
            Self::Bar(region) => Ok(region),
            Self::Visible(buffer) => Ok(buffer),
            Self::Device(buffer) => Err(buffer),
        }
    }

    /// How many bytes of the system's memory filling it will cost, which are only promised so far.
    fn absent(&self) -> Result<usize, LoadError> {
        match self {
            Self::Memory(memory) | Self::Imported { memory, .. } => Ok(memory.absent()?),
            Self::Device(_) | Self::Peer(_) | Self::Bar(_) | Self::Visible(_) => Ok(0),
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
    pub require: Option<Road>,
    /// How thoroughly to check.
    pub verify: Verify,
    /// The most reads in flight, 1 to 4096.
    pub depth: u32,
    /// The most bytes of one read, a power of two from 4 KiB to 1 GiB.
    pub block: u64,
    /// How long a read of a drive that this process drives itself may take, before it is ended and
    /// the load with it. The kernel has a limit of its own for its drives.
    pub limit: Duration,
}

/// The best road for each byte, 32 reads of 1 MiB in flight, and 30 seconds as in the kernel.
impl Default for Options {
    fn default() -> Self {
        let limit = Duration::from_secs(30);
        Self { require: None, verify: Verify::default(), depth: 32, block: 1 << 20, limit }
    }
}

/// How far a load has come, in bytes, and what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The bytes in place.
    pub done: u64,
    /// The bytes asked for.
    pub total: u64,
    /// The read that has been waited for longest, if one is under way: a file system or drive that does not
    /// answer keeps a load from ending, even when it is [stopped](Load::stop).
    pub pending: Option<Pending>,
}

/// A load to be run, of files that the kernel has or, with [`DriveFile`], of files on a drive that
/// this process drives itself.
///
/// [`DriveFile`]: crate::storage::nvme::DriveFile
#[derive(Clone, Debug)]
pub struct Load<'a, S = SourceFile> {
    /// The files, named by their index in the requests.
    pub files: &'a [S],
    /// What to load.
    pub requests: &'a [Request],
    /// What may become of the buffer's other bytes.
    pub around: Around,
    /// Where to.
    pub destination: Destination<'a>,
    /// How.
    pub options: Options,
    /// Set to true by anyone, at any time, it ends the load early with [`LoadError::Stopped`], as soon as the
    /// reads that are under way are answered.
    pub stop: &'a AtomicBool,
}

impl Load<'_> {
    /// Runs the load to its end. `progress` is called on this thread as pieces land, and ten times a second
    /// at least while none does.
    ///
    /// # Errors
    /// [`LoadError`]; nothing is in flight when it is returned.
    pub fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<Receipt, LoadError> {
        let asked = self.asked()?;
        let clock = Clock::start();
        let fingerprints = Fingerprints::new(self.requests);
        let decided = roads::decide(&asked, &fingerprints, self.pairs());
        let mut decided = decided.map_err(|error| self.destination.lost_or(error))?;
        let mut accounts = Accounts::new(self, &fingerprints);
        let engine = match self.destination.memory() {
            Ok(memory) => self.fill_memory(&mut decided, &mut accounts, |work, accounts| {
                self.fill_map(memory, work, accounts, progress)
            }),
            Err(buffer) => self.in_windows(
                (&decided.direct, &decided.copied),
                &mut accounts,
                &mut |work, accounts| self.fill_device(buffer, work, accounts, progress),
            ),
        }?;
        let mut again =
            |file: &_, offset, out: &mut _| check::by_kernel(file, offset, out, self.stop);
        self.settle(&clock, decided, engine, accounts, (&mut again, progress))
    }
}

impl<'a, S: Source> Load<'a, S> {
    /// What has to be known of the buffer's device as a peer, if it lies in one.
    fn pairs(&self) -> Option<Pairs<'a>> {
        match self.destination {
            Destination::Peer(memory) => Some(Pairs::published(memory)),
            Destination::Bar(region) => Some(Pairs::bar(region)),
            Destination::Visible(buffer) if self.destination.place() == Place::Bar => {
                Some(Pairs::visible(buffer))
            }
            _ => None,
        }
    }

    /// What the planner decides by, if it makes sense.
    fn asked(&self) -> Result<Asked<'_, S>, LoadError> {
        let asked = Asked {
            files: self.files,
            requests: self.requests,
            around: self.around,
            options: &self.options,
            place: self.destination.place(),
            buffer_len: self.destination.len(),
            stop: self.stop,
        };
        asked.validate()?;
        Ok(asked)
    }

    /// Checks what landed, and accounts for it.
    fn settle(
        &self,
        clock: &Clock,
        decided: Decided,
        engine: Engine,
        accounts: Accounts<'_, S>,
        (again, progress): (SecondRead<'_, S>, &mut dyn FnMut(Progress)),
    ) -> Result<Receipt, LoadError> {
        self.destination.check_there()?;
        let read_back = accounts.read_back();
        let fingerprints = accounts.fingerprints();
        let (parts, valid) = accounts.finish(self.stop.load(Ordering::Relaxed))?;
        let (elapsed, cpu) = clock.elapsed();
        let checked = self.check(fingerprints.whole(parts), &valid, again, progress);
        // A file that something changes is not the one that its checksums are of.
        if matches!(checked, Ok(_) | Err(LoadError::Mismatch { .. })) {
            self.check_unchanged()?;
        }
        let mut checked = checked?;
        checked.read_back += read_back;
        let place = self.destination.place();
        let device = place == Place::Gpu;
        Ok(Receipt {
            bytes: valid.wanted(),
            left_out: Vec::new(),
            cpu_copied: decided.cpu_copied(device),
            gpu_copied: if device { valid.wanted() } else { 0 },
            reads: decided.reads(),
            roads: decided.shares,
            step_downs: decided.step_downs,
            engine: engine.words,
            slots: engine.slots,
            elapsed,
            cpu,
            proofs: decided.proofs,
            checked,
        })
    }

    /// Proves what the options ask for of the bytes in the buffer.
    fn check(
        &self,
        fingerprints: Vec<u32>,
        valid: &Valid,
        again: SecondRead<'_, S>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Checked, LoadError> {
        let mut checked = Checked { verify: self.options.verify, ..Checked::default() };
        if self.options.verify == Verify::None {
            return Ok(checked);
        }
        checked.format_checksums = self.compare_checksums(&fingerprints)?;
        checked.fingerprints = fingerprints;
        if self.options.verify == Verify::Full {
            checked.compared = check::compare(self, valid, again, progress)?;
            if matches!(self.destination.place(), Place::Peer | Place::Bar) {
                checked.read_back = checked.compared;
            }
        }
        Ok(checked)
    }

    /// Fails for the first file that something may have changed, of those that were read.
    fn check_unchanged(&self) -> Result<(), LoadError> {
        let read: BTreeSet<_> = self.requests.iter().map(|request| request.file).collect();
        read.into_iter().try_for_each(|file| self.files[file].check_unchanged())
    }

    fn compare_checksums(&self, fingerprints: &[u32]) -> Result<usize, LoadError> {
        let mut met = 0;
        for (request, &found) in self.requests.iter().zip(fingerprints) {
            let Some(expected) = request.crc32 else { continue };
            if expected != found {
                return Err(LoadError::Mismatch {
                    path: self.files[request.file].path().to_owned(),
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

/// When a load began, and how much of the processor the process had taken by then.
struct Clock {
    started: Instant,
    cpu: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { started: Instant::now(), cpu: cpu_time() }
    }

    fn elapsed(&self) -> (Duration, Duration) {
        (self.started.elapsed(), cpu_time().saturating_sub(self.cpu))
    }
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
