//! Why memory cannot be given to a device.

use exporters::Absent;
use exporters::dmabuf::DmaBufError;
use exporters::vfio::VfioError;
use iomap::{MapError, MemoryError};

use super::range::{DmaRange, RangeError};
use crate::pci::{PciError, Placed, RamError, Verdict};

/// Why memory cannot be given to a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DmaError {
    /// No such range.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// A part that is reversed or reaches past the end of the list.
    #[error("bytes {start:#x} to {end:#x} are no part of a list of {total:#x} bytes")]
    OutOfBounds {
        /// The first byte of the part.
        start: u64,
        /// One past its last byte.
        end: u64,
        /// The list's length in bytes.
        total: u64,
    },
    /// No width of addresses.
    #[error("addresses of {bits} bits: a device has 1 to 64")]
    Width {
        /// What was asked for.
        bits: u32,
    },
    /// An address that the device does not have.
    #[error(
        "{range} reaches past {last:#x}, the device's highest address; give it a bounce buffer"
    )]
    TooHigh {
        /// The range.
        range: DmaRange,
        /// The device's highest address.
        last: u64,
    },
    /// A range that does not begin and end where the device needs it to.
    #[error("{range} does not begin and end at a multiple of {alignment} bytes")]
    Misaligned {
        /// The range.
        range: DmaRange,
        /// What it must be a multiple of, in bytes.
        alignment: u64,
    },
    /// More segments than the device takes in one transfer.
    #[error("{segments} segments, and the device takes {limit}; make several transfers of it")]
    TooMany {
        /// How many there are.
        segments: usize,
        /// The most it takes.
        limit: usize,
    },
    /// The physical ranges are not known.
    #[error(transparent)]
    NoPhyrs(#[from] Absent),
    /// A dma-buf, for a device that is given addresses of the memory bus.
    #[error(
        "where a dma-buf of {exporter} lies is its exporter's to know, and no IOMMU stands before the device to map it by its file; take a container of iommufd, or a bounce buffer"
    )]
    NoAddress {
        /// Who exports it.
        exporter: String,
    },
    /// The CPU could not reach a dma-buf, to copy it through a bounce buffer.
    #[error(transparent)]
    DmaBuf(#[from] DmaBufError),
    /// Memory that lies elsewhere than it claims.
    #[error("no device is given memory that lies elsewhere than it claims: {0}")]
    Misplaced(Placed),
    /// Peer memory that this device cannot reach.
    #[error("{0}")]
    NotPeer(Box<Verdict>),
    /// The PCI tree does not tell.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// The machine's memory map does not tell.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// VFIO refused.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// No memory for a bounce buffer.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The bytes could not be copied through the bounce buffer.
    #[error(transparent)]
    Map(#[from] MapError),
}
