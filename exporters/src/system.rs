//! System memory as a source: pages behind a memfd, ordinary or huge.
//!
//! A memfd's pages can be had by everything: files are read into them by DMA, `/dev/udmabuf` makes
//! a dma-buf of them ([`crate::udmabuf`]), and a GPU imports them as they are.

use std::sync::Arc;

use iomap::{Memory, PageSize};

use crate::Absent;
use crate::export::{CpuView, Export, ExportError, Exporter, PhyrSource, Provider};

/// Why plain memory has no dma-buf.
pub(crate) fn no_dma_buf() -> Absent {
    Absent::new("plain memory is no dma-buf", "export it from /dev/udmabuf (exporters::Udmabuf)")
}

/// The machine's memory, in pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemMemory {
    page_size: PageSize,
}

impl SystemMemory {
    /// Memory in pages of `page_size`. Huge pages must have been reserved by the administrator.
    pub const fn new(page_size: PageSize) -> Self {
        Self { page_size }
    }
}

impl Default for SystemMemory {
    /// Ordinary pages.
    fn default() -> Self {
        Self::new(PageSize::Base)
    }
}

impl Exporter for SystemMemory {
    fn name(&self) -> &str {
        match self.page_size {
            PageSize::Base => "memfd",
            PageSize::Huge2M => "memfd with 2 MiB pages",
            PageSize::Huge1G => "memfd with 1 GiB pages",
        }
    }

    fn export(&self, len: usize) -> Result<Export, ExportError> {
        let memory = Memory::memfd("bufmap", len, self.page_size)
            .map_err(|e| ExportError::new(self.name(), e))?;
        let memory = Arc::new(memory);
        Ok(Export {
            len: memory.len(),
            provider: Provider::System,
            cpu: Ok(CpuView::new(memory.clone(), Vec::new())),
            phyrs: PhyrSource::Pages(memory),
            dma_bufs: Err(no_dma_buf()),
        })
    }
}
