//! A device's memory as a dma-buf, and the device as a source of buffers.

use std::sync::Arc;

use ash::vk;

use super::buffer::{Buffer, not_exportable};
use super::device::Device;
use super::error::VulkanError;
use crate::export::{CpuView, Export, ExportError, Exporter, PhyrSource, Provider};
use crate::{Absent, DmaBuf};

impl Buffer {
    /// The buffer's memory as a dma-buf, which may be a little longer than the buffer. It holds the
    /// memory on its own: the buffer may be dropped before it. Asked again, it is the same dma-buf.
    ///
    /// # Errors
    /// [`VulkanError::Unavailable`] if the buffer was not allocated to be exported.
    pub fn export_dma_buf(&self) -> Result<DmaBuf, VulkanError> {
        self.exportable.clone().map_err(VulkanError::Unavailable)?;
        if let Some(dma_buf) = self.shared.get() {
            return Ok(dma_buf.clone());
        }
        let memory = self.allocation().ok_or_else(|| VulkanError::Unavailable(not_exportable()))?;
        let dma_buf = memory.dma_buf()?;
        Ok(self.shared.get_or_init(|| dma_buf).clone())
    }
}

impl Device {
    /// Whether buffers can leave as dma-bufs.
    pub(super) fn exports_dma_bufs(&self) -> Result<(), Absent> {
        self.can(
            vk::ExternalMemoryHandleTypeFlags::DMA_BUF_EXT,
            vk::ExternalMemoryFeatureFlags::EXPORTABLE,
            "VK_EXT_external_memory_dma_buf",
        )
    }
}

impl Exporter for Device {
    fn name(&self) -> &str {
        &self.info().name
    }

    fn export(&self, len: usize) -> Result<Export, ExportError> {
        let failed = |error: VulkanError| ExportError::new(self.name(), error);
        let exports = self.exports_dma_bufs();
        let buffer = Arc::new(self.allocate(len, exports.is_ok()).map_err(failed)?);
        let dma_bufs = match exports {
            Ok(()) => Ok(vec![buffer.export_dma_buf().map_err(failed)?]),
            Err(absent) => Err(absent),
        };
        let cpu = match buffer.bytes() {
            Some(_) => Ok(CpuView::new(buffer.clone(), Vec::new())),
            None => Err(buffer.unreached()),
        };
        Ok(Export {
            len,
            provider: Provider::Vulkan(self.info().name.clone()),
            cpu,
            phyrs: PhyrSource::Absent(Absent::new(
                "a GPU's driver keeps the physical addresses of its memory to itself",
                "hand the buffer on as a dma-buf",
            )),
            dma_bufs,
        })
    }
}
