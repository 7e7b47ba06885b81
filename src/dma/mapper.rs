//! Making memory reachable for a device, by whatever stands between the two.
//!
//! | mapper | what stands between | what the device is given |
//! |---|---|---|
//! | [`Iommu`] | an IOMMU in the hands of VFIO (type1 or iommufd) | one IOVA range, whatever lies behind it |
//! | [`Direct`] | nothing | physical ranges, and bus addresses of peers below the same switch |
//! | [`Bounce`] | memory that the device cannot reach | other memory, copied in and out by the CPU |

use std::fmt;
use std::sync::Arc;

use exporters::dmabuf::Mapping;
use exporters::export::Phyrs;
use exporters::vfio::{Container, DmaMapping, Mappable};
use exporters::{DmaBuf, Intent};
use iomap::{DmaAddr, Memory, PageSize, Phyr};

use super::{DmaError, DmaKind, DmaList, DmaRange};
use crate::pci::{Address, Outcome, Place, Placed, SystemRam, Tree, classify, route};

/// Something that makes memory reachable for one device, or for several in one address space.
pub trait Mapper: fmt::Debug {
    /// Maps memory, with which the device may do what `intent` says, until the answer is dropped.
    ///
    /// # Errors
    /// [`DmaError`], with the reason. A mapper that cannot map a peer's memory still maps the
    /// system's.
    fn map<'m>(&'m self, memory: &'m dyn Mappable, intent: Intent) -> Result<Mapped<'m>, DmaError>;

    /// Maps a dma-buf: memory that need have no address in this process, and none that user space may
    /// know.
    ///
    /// # Errors
    /// [`DmaError`], with the reason.
    fn map_dma_buf<'m>(
        &'m self,
        buffer: &'m DmaBuf,
        intent: Intent,
    ) -> Result<Mapped<'m>, DmaError>;
}

/// Memory as a device sees it, unmapped and unpinned when this is dropped. It borrows the memory and
/// the mapper, and a transfer borrows it: none can go away under another.
#[derive(Debug)]
pub struct Mapped<'m> {
    list: DmaList,
    hold: Hold<'m>,
}

/// What keeps the list true.
#[derive(Debug)]
enum Hold<'m> {
    Pinned { _phyrs: Vec<Phyrs<'m>> },
    Mapping { _mapping: DmaMapping<&'m dyn Mappable> },
    DmaBuf { _mapping: DmaMapping<&'m DmaBuf> },
    BouncedDmaBuf { there: Mapping, here: DmaMapping<Memory>, intent: Intent, copied: u64 },
    Bounced { there: &'m dyn Mappable, here: DmaMapping<Memory>, intent: Intent, copied: u64 },
}

impl<'m> Mapped<'m> {
    /// What an IOMMU makes of memory, wherever its pieces lie.
    fn one(iova: DmaAddr, len: u64, hold: Hold<'m>) -> Result<Self, DmaError> {
        let range = DmaRange::new(DmaKind::Iova, iova, len)?;
        Ok(Self { list: DmaList::from_iter([range]), hold })
    }

    /// What the device is given.
    pub const fn list(&self) -> &DmaList {
        &self.list
    }

    /// Ends the mapping after the device's transfers. What the device wrote into a bounce buffer is
    /// copied to its place; dropped without this, it is lost. Returns how many bytes the CPU copied,
    /// in and out.
    ///
    /// # Errors
    /// [`DmaError::Map`] if the memory cannot be written.
    pub fn finish(self) -> Result<u64, DmaError> {
        match self.hold {
            Hold::Pinned { .. } | Hold::Mapping { .. } | Hold::DmaBuf { .. } => Ok(0),
            Hold::BouncedDmaBuf { there, here, intent, copied } => {
                if intent == Intent::Read {
                    return Ok(copied);
                }
                let access = there.begin_cpu_access(Intent::Write)?;
                let map = access.map();
                map.copy_from(&here.map().subrange(..map.len())?)?;
                access.finish()?;
                Ok(copied + there.len() as u64)
            }
            Hold::Bounced { there, here, intent, copied } => {
                if intent == Intent::Read {
                    return Ok(copied);
                }
                let there = there.map();
                there.copy_from(&here.map().subrange(..there.len())?)?;
                Ok(copied + there.len() as u64)
            }
        }
    }
}

/// A container's IOMMU. Peer memory is mapped like any other: a BAR of a device bound to vfio-pci,
/// what a driver publishes for peers, or a GPU's buffer of which the caller says that it stays
/// ([`Buffer::assume_it_stays`](exporters::vulkan::Buffer::assume_it_stays)). VFIO asks no rules for peers, so whether bytes arrive there is
/// found out by moving some.
#[derive(Clone, Debug)]
pub struct Iommu(pub Arc<Container>);

impl Mapper for Iommu {
    fn map<'m>(&'m self, memory: &'m dyn Mappable, intent: Intent) -> Result<Mapped<'m>, DmaError> {
        let mapping = self.0.map_dma(memory, intent)?;
        Mapped::one(mapping.iova(), mapping.len(), Hold::Mapping { _mapping: mapping })
    }

    fn map_dma_buf<'m>(
        &'m self,
        buffer: &'m DmaBuf,
        intent: Intent,
    ) -> Result<Mapped<'m>, DmaError> {
        let mapping = self.0.map_dma_buf(buffer, intent)?;
        Mapped::one(mapping.iova(), mapping.len(), Hold::DmaBuf { _mapping: mapping })
    }
}

/// No IOMMU: the device is given the addresses that the memory bus has. Each range is first held
/// against the machine's memory and BARs, and each peer against the kernel's rules.
#[derive(Debug)]
pub struct Direct {
    tree: Tree,
    ram: SystemRam,
    device: Address,
}

impl Direct {
    /// For `device`, as the machine is now.
    ///
    /// # Errors
    /// [`DmaError::Pci`] and [`DmaError::Ram`] if the machine does not tell how it is.
    pub fn new(device: Address) -> Result<Self, DmaError> {
        let tree = Tree::read()?;
        tree.function(device)?;
        Ok(Self { tree, ram: SystemRam::read()?, device })
    }

    fn range(&self, placed: Placed) -> Result<DmaRange, DmaError> {
        if !placed.is_as_claimed() {
            return Err(DmaError::Misplaced(placed));
        }
        let kind = match placed.place {
            Place::Bar(bar) => self.peer(bar.function)?,
            Place::SystemRam | Place::Neither => DmaKind::Direct,
        };
        Ok(DmaRange::new(kind, bus_address(placed.range), placed.range.len())?)
    }

    /// Maps memory in pieces, each of which stays pinned as long as the answer is kept: parts in the
    /// system's memory and in peers' side by side, in one list, for one transfer.
    ///
    /// # Errors
    /// [`DmaError`] for the first piece that the device cannot be given.
    pub fn map_phyrs<'m>(
        &self,
        pieces: impl IntoIterator<Item = Phyrs<'m>>,
    ) -> Result<Mapped<'m>, DmaError> {
        let pieces: Vec<_> = pieces.into_iter().collect();
        let placed = pieces.iter().flat_map(|piece| classify(piece.list(), &self.tree, &self.ram));
        let list = placed.map(|placed| self.range(placed)).collect::<Result<_, _>>()?;
        Ok(Mapped { list, hold: Hold::Pinned { _phyrs: pieces } })
    }

    fn peer(&self, provider: Address) -> Result<DmaKind, DmaError> {
        let verdict = route(&self.tree, provider, self.device)?;
        match verdict.outcome {
            Outcome::BusAddress => Ok(DmaKind::Bus),
            Outcome::ThroughHostBridge => Ok(DmaKind::Direct),
            Outcome::NotSupported | Outcome::NotPeerMemory => {
                Err(DmaError::NotPeer(Box::new(verdict)))
            }
        }
    }
}

impl Mapper for Direct {
    fn map<'m>(
        &'m self,
        memory: &'m dyn Mappable,
        _intent: Intent,
    ) -> Result<Mapped<'m>, DmaError> {
        self.map_phyrs([memory.phyrs()?])
    }

    fn map_dma_buf<'m>(&'m self, buffer: &'m DmaBuf, _: Intent) -> Result<Mapped<'m>, DmaError> {
        Err(DmaError::NoAddress { exporter: buffer.exporter().to_owned() })
    }
}

/// A BAR has the same addresses on the bus as on the memory bus, wherever firmware follows the ACPI
/// of x86 and Arm servers (no translation offset of the host bridge).
const fn bus_address(range: Phyr) -> iomap::DmaAddr {
    iomap::DmaAddr::new(range.addr().get())
}

/// Memory of its own that stands in for memory which a device cannot reach, in a container. The CPU
/// copies what the device reads in when it is mapped, and what it wrote out in
/// [`Mapped::finish`].
#[derive(Clone, Debug)]
pub struct Bounce(pub Arc<Container>);

impl Mapper for Bounce {
    fn map<'m>(&'m self, memory: &'m dyn Mappable, intent: Intent) -> Result<Mapped<'m>, DmaError> {
        let there = memory.map();
        let buffer = Memory::anonymous(there.len(), PageSize::Base)?;
        let mut copied = 0;
        if intent != Intent::Write {
            buffer.map().subrange(..there.len())?.copy_from(&there)?;
            copied = there.len() as u64;
        }
        let here = self.0.map_dma(buffer, intent)?;
        let iova = here.iova();
        let hold = Hold::Bounced { there: memory, here, intent, copied };
        Mapped::one(iova, there.len() as u64, hold)
    }

    fn map_dma_buf<'m>(
        &'m self,
        buffer: &'m DmaBuf,
        intent: Intent,
    ) -> Result<Mapped<'m>, DmaError> {
        let there = buffer.map()?;
        let memory = Memory::anonymous(there.len(), PageSize::Base)?;
        let mut copied = 0;
        if intent != Intent::Write {
            let access = there.begin_cpu_access(Intent::Read)?;
            memory.map().subrange(..there.len())?.copy_from(&access.map())?;
            access.finish()?;
            copied = there.len() as u64;
        }
        let here = self.0.map_dma(memory, intent)?;
        let (iova, len) = (here.iova(), there.len() as u64);
        Mapped::one(iova, len, Hold::BouncedDmaBuf { there, here, intent, copied })
    }
}
