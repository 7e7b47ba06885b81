//! What a container stands on: an address space of the kernel's for devices, or one of software.

use std::fmt;
use std::io;

use super::error::VfioError;
use super::function::Function;
use super::mappable::Mappable;
use super::ranges::FreeRanges;
use crate::{DmaBuf, Intent};

/// What the IOMMU translates.
#[derive(Debug)]
pub(super) struct IoSpace {
    pub(super) free: FreeRanges,
    /// The smallest page in bytes.
    pub(super) page: u64,
}

/// An address space of the kernel's for devices, and who gives it.
pub(super) trait Iommu: fmt::Debug + Send + Sync {
    /// What it is called in reports.
    fn name(&self) -> &'static str;

    /// Opens a device, whose addresses it translates from then on.
    fn open(&self, address: &str) -> Result<Box<dyn Function>, VfioError>;

    /// What it translates, once it has a device.
    fn space(&self) -> Result<IoSpace, VfioError>;

    /// Maps memory at free addresses, or says why not.
    ///
    /// # Safety
    /// The memory stays where it is, or belongs to nobody else, until it is unmapped: the kernel pins
    /// system memory but is not told when a driver moves memory of its own.
    #[allow(unsafe_code)]
    unsafe fn map(
        &self,
        memory: &dyn Mappable,
        iova: u64,
        len: u64,
        intent: Intent,
    ) -> Result<(), String>;

    /// Maps a dma-buf, which the kernel keeps and whose exporter tells it if the memory goes away.
    fn map_dma_buf(
        &self,
        buffer: &DmaBuf,
        iova: u64,
        len: u64,
        intent: Intent,
    ) -> Result<(), String>;

    fn unmap(&self, iova: u64, len: u64) -> io::Result<()>;
}
