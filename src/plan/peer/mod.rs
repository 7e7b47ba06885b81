//! May the drive below a file write straight into a peer's memory?
//!
//! By the kernel's driver, four questions, cheapest first, each with a reason when the answer is no:
//!
//! 1. Is there one drive below the file? ([`Stack`])
//! 2. Would the kernel map this memory for that drive? ([`can_peer`])
//! 3. Does the memory lie where it claims to, in a BAR of its provider? ([`classify`])
//! 4. Has this very pair moved known bytes, and were they there afterwards? [`proof`], whose answer
//!    is [`kept`] for the pair and the direction until the machine boots again.
//!
//! By the driver in user space, the drive is known, and an IOMMU maps whatever it is told: the last two
//! questions are left. For memory that vfio-pci has, that driver is the only one, and the third has its
//! answer: such memory claims no place of its own.
//!
//! Nothing is remembered of the machine from one load to the next but the proofs, each with what it
//! depends on: so only the functions on the ways of the two devices are read, and a device that was
//! unplugged and plugged in again is another one.
//!
//! The other way, out of the memory into a file, the questions are the same, and the last has a proof and a verdict of
//! its own ([`outward`]): some machines pass one and not the other.
//!
//! What is not shown to this user (configuration space, addresses) is not held against the pair: the
//! kernel knows it and decides by it, and the fourth question is asked in any case.

mod kept;
pub(crate) mod outward;
pub(crate) mod proof;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use exporters::{Destination, Peer, PeerAccess};
use iomap::{BufMap, Memory, PageSize, PhyrList};

use super::cut::Batch;
use crate::pci::{
    Address, Function, PciError, Place, SystemRam, Tree, can_peer, classify, lies_in,
};
use crate::storage::file::SourceFile;
use crate::storage::stack::Stack;
use crate::transfer::{Direction, Proof};
use kept::{Driver, Kept, Pair};
use proof::{Proved, To};

/// The pairs that a load has met: its memory and the drives of its files.
pub(crate) struct Pairs<'a> {
    /// Absent if nothing shall be moved: what is not proved yet is then only forecast.
    memory: Option<&'a dyn Destination>,
    provider: Result<Provider, String>,
    pub proofs: Vec<Proof>,
}

/// Whose memory it is.
struct Provider {
    address: Address,
    access: PeerAccess,
    /// Where the memory claims to lie, if it does and this user may know.
    phyrs: Option<PhyrList>,
    kept: Kept,
    /// What a verdict about each drive that this load has met depends on, or why there can be none.
    met: BTreeMap<Address, Result<String, String>>,
}

impl<'a> Pairs<'a> {
    /// Those of a buffer that is a device's own memory; `None` for any other.
    pub fn of(buffer: &'a dyn Destination) -> Option<Self> {
        let Peer { function, access } = buffer.peer()?;
        let mut pairs = match function {
            Ok(function) => Self::new(access, function, buffer.claims()),
            Err(why) => Self { memory: None, provider: Err(why.to_string()), proofs: Vec::new() },
        };
        pairs.memory = Some(buffer);
        Some(pairs)
    }

    /// Those of memory of a function, of which nobody has taken any.
    pub fn forecast(function: Address, access: PeerAccess) -> Self {
        Self::new(access, &function.to_string(), None)
    }

    fn new(access: PeerAccess, function: &str, phyrs: Option<PhyrList>) -> Self {
        let address = function.parse().map_err(|error: PciError| error.to_string());
        let provider = address.map(|address| Provider {
            address,
            access,
            phyrs,
            kept: Kept::open(),
            met: BTreeMap::new(),
        });
        Self { memory: None, provider, proofs: Vec::new() }
    }

    /// Whether the drive below `file` may write into the memory by the kernel's driver, or why not.
    /// `reads` are those of the file that would: some of them are carried out for a proof.
    pub fn may_write(&mut self, file: &SourceFile, reads: &Batch) -> Result<(), String> {
        let drive = self.drive_below(file)?;
        if self.provider.as_ref().is_ok_and(|provider| provider.access == PeerAccess::Vfio) {
            return Err(format!(
                "the memory is behind a BAR, and the kernel's nvme driver, which has {drive}, writes \
                 only into what other drivers publish; the driver in user space can: write down where the file lies (bufmap extents), unmount it, then bufmap bind \
                 {drive}"
            ));
        }
        let direct = file.open_direct().map_err(|error| error.to_string())?;
        self.verdict(drive, Driver::Kernel, Direction::FromDrive, |memory| {
            let spare = Memory::anonymous(proof::SAMPLE as usize, PageSize::Base)
                .map_err(|error| format!("there is no memory to prove it by: {error}"))?;
            let samples = proof::samples(reads, |sample| proof::has_data(file, sample));
            proof::prove((memory, spare.map()), &samples, &mut |to, sample, into| match to {
                To::System => proof::read(&*direct, sample, into),
                To::Peer => proof::read_by_drive(file, sample, into),
            })
        })
    }

    /// Whether a drive may write into the memory by the driver in user space, or why not. `prove`
    /// moves some bytes into it.
    pub fn may_be_written_by(
        &mut self,
        drive: Address,
        prove: impl FnOnce(BufMap<'_>) -> Result<Proved, String>,
    ) -> Result<(), String> {
        self.verdict(drive, Driver::UserSpace, Direction::FromDrive, prove)
    }

    /// Whether the drive below `file` may read out of the memory by the kernel's driver, which its own driver has published,
    /// or why not. `prove` has it do so, into a file that is nobody else's.
    pub fn may_be_read(
        &mut self,
        file: &SourceFile,
        prove: impl FnOnce(BufMap<'_>) -> Result<Proved, String>,
    ) -> Result<(), String> {
        let drive = self.drive_below(file)?;
        self.verdict(drive, Driver::Kernel, Direction::ToDrive, prove)
    }

    fn drive_below(&self, file: &SourceFile) -> Result<Address, String> {
        self.provider.as_ref().map_err(String::clone)?;
        let stack = Stack::below(file);
        stack.drive().map_err(|why| format!("{why} (the file lies on {stack})"))
    }

    /// What is known of the pair, or else what is found out now.
    fn verdict(
        &mut self,
        drive: Address,
        driver: Driver,
        direction: Direction,
        prove: impl FnOnce(BufMap<'_>) -> Result<Proved, String>,
    ) -> Result<(), String> {
        let provider = self.provider.as_mut().map_err(|why| why.clone())?;
        let pair = Pair {
            provider: provider.address,
            drive,
            driver,
            direction,
            circumstances: provider.circumstances(drive, driver)?,
        };
        if let Some(verdict) = provider.kept.verdict(&pair) {
            self.note(&pair, verdict.is_ok(), 0);
            return verdict;
        }
        let Some(memory) = self.memory else { return Ok(()) };
        let proved = prove(memory.cpu_map().map_err(|why| why.to_string())?)?;
        let verdict = match &proved.lie {
            None => Ok(()),
            // Nothing was found out about the pair.
            Some(lie) if !memory.is_present() => {
                return Err(format!("{} does not answer any more, and {lie}", provider.address));
            }
            Some(lie) => Err(match direction {
                Direction::FromDrive => format!(
                    "{drive} reported that it wrote {} bytes into the memory of {}, and {lie}",
                    proved.bytes, provider.address
                ),
                Direction::ToDrive => format!(
                    "{drive} reported that it read {} bytes out of the memory of {}, and {lie}",
                    proved.bytes, provider.address
                ),
            }),
        };
        provider.kept.keep(&pair, &verdict);
        self.note(&pair, verdict.is_ok(), proved.bytes);
        verdict
    }

    fn note(&mut self, pair: &Pair, arrives: bool, bytes: u64) {
        let (provider, drive) = (pair.provider.to_string(), pair.drive.to_string());
        let direction = pair.direction;
        let known =
            self.proofs.iter().any(|proof| proof.provider == provider && proof.drive == drive);
        if !known {
            self.proofs.push(Proof { provider, drive, direction, arrives, bytes });
        }
    }
}

impl Provider {
    /// What a verdict about a drive depends on beside the two addresses: with any of it changed, it
    /// is another machine. It is found out once a load.
    fn circumstances(&mut self, drive: Address, driver: Driver) -> Result<String, String> {
        if let Some(known) = self.met.get(&drive) {
            return known.clone();
        }
        let found = self.look(drive, driver);
        self.met.insert(drive, found.clone());
        found
    }

    fn look(&self, drive: Address, driver: Driver) -> Result<String, String> {
        let both = [self.address, drive];
        let words = |error: PciError| error.to_string();
        let (forecast, [provider, other]) = match driver {
            Driver::Kernel => {
                let tree = Tree::read_around(&both).map_err(words)?;
                let forecast = forecast(&tree, self.address, drive)?;
                let function = |address| tree.function(address).cloned().map_err(words);
                (forecast, [function(self.address)?, function(drive)?])
            }
            Driver::UserSpace => {
                let function = |address| Function::read(address).map_err(words);
                ("mapped by VFIO".into(), [function(self.address)?, function(drive)?])
            }
        };
        self.check_place(&provider)?;
        let [own, others] = [&provider, &other].map(|function| {
            let group = function.iommu_group.as_ref().and_then(|group| group.kind.as_deref());
            group.unwrap_or("none")
        });
        let (bars, instances) = (&provider.bars, both.map(instance));
        Ok(format!(
            "{forecast}; IOMMU groups {own} and {others}; BARs {bars:?}; instances {instances:?}"
        ))
    }

    /// Fails if the memory does not lie in BARs of its provider, as far as this user may know.
    fn check_place(&self, provider: &Function) -> Result<(), String> {
        let Some(phyrs) = &self.phyrs else { return Ok(()) };
        let Ok(ram) = SystemRam::read() else { return Ok(()) };
        if lies_in(phyrs, provider, &ram) {
            return Ok(());
        }
        // Whose place it is instead is seen in the whole tree.
        let tree = Tree::read().map_err(|error| error.to_string())?;
        let is_own = |place| matches!(place, Place::Bar(bar) if bar.function == self.address);
        match classify(phyrs, &tree, &ram).iter().find(|part| !is_own(part.place)) {
            None => Ok(()),
            Some(part) => Err(format!(
                "the memory claims to be that of {}, and a part of it lies elsewhere ({part}): no device \
                 is given its address",
                self.address
            )),
        }
    }
}

/// What the kernel would do for a drive, in words, or why it would refuse.
fn forecast(tree: &Tree, provider: Address, drive: Address) -> Result<String, String> {
    match can_peer(tree, provider, drive) {
        Ok(verdict) if verdict.outcome.is_supported() => Ok(verdict.to_string()),
        Ok(verdict) => Err(match verdict.remedy() {
            Some(remedy) => format!("{verdict}; to change that, {remedy}"),
            None => verdict.to_string(),
        }),
        Err(error @ PciError::Undecided { .. }) => Ok(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// What tells a function from one that was at the same address before it was unplugged: the number of
/// its directory in sysfs, which is never the same again.
fn instance(function: Address) -> Option<u64> {
    let directory = fs::metadata(format!("/sys/bus/pci/devices/{function}"));
    Some(directory.ok()?.ino())
}
