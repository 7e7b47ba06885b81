//! Memory mapped for the devices of a container.
//!
//! # Safety
//!
//! The law of this module: a [`DmaMapping`] owns what it maps, unmaps it before it lets go of it,
//! and takes only memory that stays where it is ([`Mappable`]). If the guard is forgotten, the
//! kernel's pin keeps system memory from everybody else, a BAR is nobody else's, and what its driver
//! or allocator would give to others is forgotten with it (`mappable::sealed::Steady::held`).
#![allow(unsafe_code)]

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use iomap::{BufMap, DmaAddr};

use super::container::Container;
use super::error::VfioError;
use super::iommu::Iommu;
use super::mappable::Mappable;
use crate::{DmaBuf, Intent};

/// IOMMUs translate pages of this size with one entry.
const LARGE: u64 = 2 << 20;

/// Memory that the devices of a container see at [`iova`](Self::iova) until this is dropped.
///
/// It owns the memory, or shares it, or borrows it, by what `M` is.
#[derive(Debug)]
pub struct DmaMapping<M> {
    iova: u64,
    len: u64,
    container: Arc<Container>,
    memory: M,
    _held: Option<Arc<dyn fmt::Debug + Send + Sync>>,
}

impl Container {
    /// Maps memory for the container's devices, which may do with it what `intent` says. System
    /// memory is pinned: it counts against `RLIMIT_MEMLOCK`.
    ///
    /// # Errors
    /// [`VfioError::NotMappable`] before a first device was opened, for an address or a length that
    /// is no multiple of the IOMMU's page, over the limits, or where no IOVAs are left; for a
    /// driver's memory that is neither pages nor a BAR's.
    pub fn map_dma<M: Mappable>(
        self: &Arc<Self>,
        memory: M,
        intent: Intent,
    ) -> Result<DmaMapping<M>, VfioError> {
        let map = memory.map();
        let len = map.len() as u64;
        let iova = self.place(map.as_ptr().addr() as u64, len, |iommu, iova| {
            // SAFETY: `memory` is steady and the mapping made here owns it (the module's law).
            unsafe { iommu.map(&memory, iova, len, intent) }
        })?;
        let (container, _held) = (Arc::clone(self), memory.held());
        Ok(DmaMapping { iova, len, container, memory, _held })
    }

    /// Maps a dma-buf for the container's devices, of whole pages: memory that has no address here, or
    /// none that may be known. Its exporter can take the memory back, after which transfers fail.
    ///
    /// # Errors
    /// [`VfioError::NotMappable`] in a container that is not iommufd's, and for an exporter whose
    /// dma-bufs the kernel does not take: those of vfio-pci it does, since Linux 7.0.
    pub fn map_dma_buf<B: Borrow<DmaBuf>>(
        self: &Arc<Self>,
        buffer: B,
        intent: Intent,
    ) -> Result<DmaMapping<B>, VfioError> {
        let len = buffer.borrow().len() as u64;
        let iova = self
            .place(0, len, |iommu, iova| iommu.map_dma_buf(buffer.borrow(), iova, len, intent))?;
        Ok(DmaMapping { iova, len, container: Arc::clone(self), memory: buffer, _held: None })
    }

    /// Finds free addresses for `len` bytes that begin at `start` here, and has them mapped there.
    fn place(
        &self,
        start: u64,
        len: u64,
        map: impl FnOnce(&dyn Iommu, u64) -> Result<(), String>,
    ) -> Result<u64, VfioError> {
        let refused = |why: String| VfioError::NotMappable { len, why };
        let range = self
            .with_space(|space| {
                if !is_whole(start, len, space.page) {
                    return Err(format!("the IOMMU maps whole pages of {} bytes", space.page));
                }
                let align = if len >= LARGE { LARGE } else { space.page };
                let (taken, longest) = (space.free.take(len, align), space.free.longest());
                taken.ok_or_else(|| {
                    format!("the longest free range of IOVAs has {longest} bytes; unmap some")
                })
            })
            .ok_or_else(|| refused("open a device first, which brings its IOMMU".into()))?
            .map_err(refused)?;
        let iova = range.start;
        map(self.iommu(), iova).map_err(|why| {
            self.with_space(|space| space.free.add(range));
            refused(why)
        })?;
        Ok(iova)
    }
}

impl<M> DmaMapping<M> {
    /// Where the devices see the first byte.
    pub const fn iova(&self) -> DmaAddr {
        DmaAddr::new(self.iova)
    }

    /// How many bytes they see.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Always false: nothing cannot be mapped.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// The memory.
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    /// The container it is mapped in.
    pub const fn container(&self) -> &Arc<Container> {
        &self.container
    }
}

impl<M: Mappable> DmaMapping<M> {
    /// The CPU's map of it.
    pub fn map(&self) -> BufMap<'_> {
        self.memory.map()
    }
}

impl<M> Drop for DmaMapping<M> {
    fn drop(&mut self) {
        // The kernel finds every range that it was given whole. If it does not, the addresses are
        // not handed out again.
        if self.container.iommu().unmap(self.iova, self.len).is_ok() {
            let range = self.iova..self.iova + self.len;
            self.container.with_space(|space| space.free.add(range));
        }
    }
}

/// Whether bytes are whole pages, at least one.
const fn is_whole(start: u64, len: u64, page: u64) -> bool {
    len > 0 && start.is_multiple_of(page) && len.is_multiple_of(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_are_mapped() {
        assert!(is_whole(0x7000, 4096, 4096) && is_whole(0, 8192, 4096));
        for (start, len) in [(0, 0), (0, 4095), (64, 4096), (4096, 4097), (0x800, 0x800)] {
            assert!(!is_whole(start, len, 4096), "{start:#x} {len:#x}");
        }
    }
}
