//! Reads from one drive into the peer memory of another, and writes out of it, as every machine with two drives does them.

#[allow(dead_code)] // Not in every program.
pub mod loader;
#[allow(dead_code)] // Each machine uses its part.
pub mod loads;
#[allow(dead_code)] // Not in every program.
pub mod losses;
#[allow(dead_code)] // Each machine uses its part.
pub mod saves;

use std::io;

use bufmap::dma::{Direct, DmaError, DmaKind, Mapper};
use bufmap::pci::{self, Address, Tree, Verdict, can_peer};
use bufmap::storage::file::{SourceFile, pread};
use bufmap_bench::drive::{Drive, pattern};
use bufmap_bench::{Outcome, check, kernel_log};
use exporters::vfio::Mappable;
use exporters::{Intent, P2pmem, PeerMemory};
use iomap::{Memory, PageSize, PhysAddr};
use libtest_mimic::Failed;

pub const LEN: usize = 64 << 10;

/// What the memory holds before anything is read into it.
const BEFORE: u8 = 0x11;

/// Reads the first bytes of the drive `reader` past the page cache into peer memory of the drive
/// `provider`. Returns the kernel's answer, and what the memory holds then.
pub fn read() -> Result<(io::Result<usize>, Vec<u8>), Failed> {
    let memory = memory(LEN)?;
    memory.map().fill(BEFORE)?;
    let source = SourceFile::open(Drive::with_serial("reader")?.block)?;
    let direct = source.open_direct()?;
    let answer = pread::read_at(&*direct, 0, &memory.map());
    let mut bytes = vec![0; LEN];
    memory.map().copy_to_slice(0, &mut bytes)?;
    Ok((answer, bytes))
}

/// The peer memory of the drive `provider`.
pub fn provider() -> Result<P2pmem, Failed> {
    Ok(P2pmem::in_directory(&Drive::with_serial("provider")?.function)?)
}

/// A part of it.
pub fn memory(len: usize) -> Result<PeerMemory, Failed> {
    Ok(provider()?.allocate(len)?)
}

/// The address of the drive with this serial number.
pub fn address(serial: &str) -> Result<Address, Failed> {
    Drive::with_serial(serial)?.address()
}

/// The verdict about the drives `provider` and `reader`, which must be this one at this distance.
/// The other way round there is no memory, and by the places alone it is the same.
#[allow(dead_code)] // Not in every program.
pub fn verdict(outcome: pci::Outcome, distance: u32) -> Result<Verdict, Failed> {
    let tree = Tree::read()?;
    let (provider, reader) = (address("provider")?, address("reader")?);
    let verdict = can_peer(&tree, provider, reader)?;
    check((verdict.outcome, verdict.distance) == (outcome, distance), &verdict)?;
    let back = can_peer(&tree, reader, provider)?;
    check(back.outcome == pci::Outcome::NotPeerMemory, &back)?;
    let back = pci::route(&tree, reader, provider)?;
    check((back.outcome, back.distance) == (outcome, distance), &back)?;
    Ok(verdict)
}

/// The kernel's reason for a refusal, without the addresses.
#[allow(dead_code)] // Not on every machine.
pub const REFUSAL: &str = "do not share an upstream bridge or whitelisted host bridge";

/// The read succeeds and the bytes arrive.
#[allow(dead_code)] // Not on every machine.
pub fn arrives() -> Outcome {
    let (answer, bytes) = read()?;
    check(matches!(answer, Ok(LEN)), format!("{answer:?}"))?;
    check(bytes == pattern(LEN), "the bytes are not the drive's")
}

/// The read is refused with `EINVAL`, and the kernel says why.
#[allow(dead_code)] // Not on every machine.
pub fn is_refused() -> Outcome {
    let (answer, bytes) = read()?;
    let refused = answer.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL));
    check(refused, format!("{answer:?}"))?;
    check(bytes.iter().all(|&byte| byte == BEFORE), "something arrived all the same")?;
    check(kernel_log()?.contains(REFUSAL), "the kernel's log does not say why")
}

/// The read is reported to succeed, nothing arrives, and the IOMMU has seen why.
#[allow(dead_code)] // Not on every machine.
pub fn is_a_lie() -> Outcome {
    let (answer, bytes) = read()?;
    check(matches!(answer, Ok(LEN)), format!("{answer:?}"))?;
    check(bytes.iter().all(|&byte| byte == BEFORE), "something arrived")?;
    let log = kernel_log()?;
    check(log.contains("DMAR: [DMA Write NO_PASID]"), "the IOMMU saw no write")?;
    check(log.contains("PTE Write access is not set"), "the IOMMU saw no fault")
}

/// Without an IOMMU, the drive `reader` is given the addresses of the memory bus: of system memory
/// always, of peer memory as addresses of this kind, or with the kernel's reason not at all.
#[allow(dead_code)] // Not on every machine.
pub fn is_mapped_as(kind: Option<DmaKind>) -> Outcome {
    let mapper = Direct::new(address("reader")?)?;
    let system = Memory::anonymous(LEN, PageSize::Base)?;
    let mapped = mapper.map(&system, Intent::Write)?;
    let list = mapped.list();
    let direct = list.ranges().iter().all(|range| range.kind() == DmaKind::Direct);
    check(direct && list.total() == LEN as u64, format!("{list:?}"))?;

    let (peer, provider) = (memory(LEN)?, address("provider")?);
    let mixed = mapper.map_phyrs([Mappable::phyrs(&system)?, Mappable::phyrs(&peer)?]);
    check(mixed.is_ok() == kind.is_some(), format!("{mixed:?}"))?;
    if let (Ok(mixed), Some(kind)) = (&mixed, kind) {
        let all = mixed.list().ranges();
        let of =
            |kind| all.iter().filter(|range| range.kind() == kind).map(|range| range.len()).sum();
        let (direct, peers): (u64, u64) = (of(DmaKind::Direct), of(kind));
        // Through a host bridge a peer is given like memory, so that it is of one kind with it.
        let both = if kind == DmaKind::Direct { 2 * LEN as u64 } else { LEN as u64 };
        check(direct == both && peers == both, format!("{all:?}"))?;
    }
    drop(mixed);
    match (mapper.map(&peer, Intent::Write), kind) {
        (Ok(mapped), Some(kind)) => {
            let tree = Tree::read()?;
            check(mapped.list().total() == LEN as u64, format!("{mapped:?}"))?;
            for range in mapped.list().ranges() {
                check(range.kind() == kind, range)?;
                let bar = tree.bar_at(PhysAddr::new(range.addr().get()));
                check(bar.is_some_and(|bar| bar.function == provider), range)?;
            }
            check(mapped.finish()? == 0, "the CPU copied")
        }
        (Err(DmaError::NotPeer(verdict)), None) => {
            check(verdict.to_string().contains("is not on the kernel's list"), &verdict)
        }
        (other, _) => Err(format!("{other:?}").into()),
    }
}
