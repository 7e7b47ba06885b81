//! Why VFIO did not do what was asked.

use std::io;

use crate::Absent;
use crate::dmabuf::DmaBufError;
use crate::outside::outside;

/// Why VFIO did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VfioError {
    /// VFIO is not there, or not for this user.
    #[error(transparent)]
    Unavailable(Absent),
    /// The kernel is too old, or was built without it.
    #[error("{what} needs {since}, and this kernel refused it for {device}", device = outside(device))]
    Unsupported {
        /// What was wanted.
        what: &'static str,
        /// The first version that has it, and how it is switched on.
        since: &'static str,
        /// The PCI address of the device.
        device: String,
    },
    /// A device that cannot be opened as it is.
    #[error("{device}: {why}", device = outside(device))]
    Device {
        /// Its PCI address.
        device: String,
        /// Why not, and what to do.
        why: Absent,
    },
    /// A region that is not there, or not mapped, or not of that size.
    #[error("{device}: region {region}: {why}", device = outside(device))]
    Region {
        /// The device's PCI address.
        device: String,
        /// The region's number; 0 to 5 are the BARs.
        region: u32,
        /// What is wrong with it.
        why: String,
    },
    /// Memory that cannot be mapped for DMA as it is.
    #[error("{len} bytes cannot be mapped for DMA: {why}")]
    NotMappable {
        /// Its length in bytes.
        len: u64,
        /// Why not, and what to do.
        why: String,
    },
    /// The kernel refused.
    #[error("{what}: {step}: {source}")]
    Kernel {
        /// What was being done.
        step: &'static str,
        /// To which device, group or file.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// What it made is no dma-buf that can be used.
    #[error(transparent)]
    DmaBuf(#[from] DmaBufError),
}

impl VfioError {
    pub(super) fn kernel(
        step: &'static str,
        what: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Kernel { step, what: what.into(), source }
    }
}
