//! Memory for buffers and slots, of the kind that suits who is given it.

use std::sync::Arc;

use exporters::Udmabuf;
use exporters::vulkan::Device;
use iomap::{Memory, PageSize};

use crate::transfer::TransferError;

/// Ordinary memory in the largest pages that the kernel has ready: fewer faults, fewer pins.
pub(crate) fn roomy_memory(len: u64) -> Result<Memory, TransferError> {
    let memory = Memory::anonymous(in_memory(len)?.max(1), PageSize::Base)?;
    // A kernel without huge pages has small ones.
    let _ = memory.advise_huge();
    Ok(memory)
}

/// Memory for a device to import: behind a memfd where a dma-buf can be made of all of it, since
/// every driver takes those that takes any, and else ordinary, since drivers that import pages by
/// address may refuse a file's.
pub(crate) fn memory_to_import(device: &Device, len: u64) -> Result<Arc<Memory>, TransferError> {
    let takes_dma_buf = device.info().extension("VK_EXT_external_memory_dma_buf").is_ok();
    let udmabuf_limit = Udmabuf::open().map_or(0, |udmabuf| udmabuf.limit() as u64);
    let memory = match takes_dma_buf && len <= udmabuf_limit {
        true => Memory::memfd("bufmap", in_memory(len)?.max(1), PageSize::Base)?,
        false => roomy_memory(len)?,
    };
    Ok(Arc::new(memory))
}

/// A length as this process's memory has it.
pub(crate) fn in_memory(len: u64) -> Result<usize, TransferError> {
    Ok(usize::try_from(len).map_err(|_| iomap::MemoryError::Length { len: usize::MAX })?)
}
