//! A region of a device, mapped: a BAR as the CPU sees it.
//!
//! # Safety
//!
//! The law of this module: a [`Region`] stays mapped over its length until it is dropped, lies outside
//! every Rust allocation, and is reached through maps only. While the device's memory is off (a
//! reset is at work, or its command register says so) the kernel answers an access with `SIGBUS`,
//! which ends the process and touches nothing.
#![allow(unsafe_code)]

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use iomap::{Access, BufMap, Caching, Location, PhyrList};
use memmap2::{MmapOptions, MmapRaw};
use vfio_bindings::bindings::vfio::{VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_WRITE};

use super::device::Device;
use super::error::VfioError;
use super::mappable::{Mappable, sealed};
use crate::export::Phyrs;
use crate::{Absent, DmaBuf};

/// A BAR, or a part of one, of a device that VFIO opened.
///
/// The kernel maps it uncached. It keeps the device's memory, and not the device itself: once that
/// is closed, an access is a `SIGBUS`, so a region holds on to its device.
#[derive(Debug)]
pub struct Region {
    pages: MmapRaw,
    access: Access,
    device: Device,
    index: u32,
    /// The bytes of the BAR.
    range: Range<u64>,
}

impl Device {
    /// Maps all of a BAR (0 to 5).
    ///
    /// # Errors
    /// [`VfioError::Region`] if the device has none of this number, or none that can be mapped;
    /// [`VfioError::Kernel`] if the mapping fails.
    pub fn map_region(&self, index: u32) -> Result<Region, VfioError> {
        let len = self.region(index)?.len;
        self.map_part(index, 0..len)
    }

    /// Maps a part of a BAR, of whole pages.
    ///
    /// # Errors
    /// Those of [`map_region`](Self::map_region).
    pub fn map_part(&self, index: u32, range: Range<u64>) -> Result<Region, VfioError> {
        let info = self.region(index)?;
        let refused =
            |why: String| VfioError::Region { device: self.address().into(), region: index, why };
        if info.flags & VFIO_REGION_INFO_FLAG_MMAP == 0 {
            return Err(refused("it cannot be mapped, only read and written by calls".into()));
        }
        let page = rustix::param::page_size() as u64;
        let whole = range.start.is_multiple_of(page) && range.end.is_multiple_of(page);
        if range.is_empty() || range.end > info.len || !whole {
            return Err(refused(format!(
                "bytes {:#x} to {:#x} of {:#x}: a part lies inside and is whole pages of {page}",
                range.start, range.end, info.len
            )));
        }
        let pages = MmapOptions::new()
            .offset(info.offset + range.start)
            .len((range.end - range.start) as usize)
            .map_raw(self.as_fd().as_raw_fd())
            .map_err(VfioError::kernel("mmap", format!("{} region {index}", self.address())))?;
        let writable = info.flags & VFIO_REGION_INFO_FLAG_WRITE != 0;
        let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
        Ok(Region { pages, access, device: self.clone(), index, range })
    }
}

impl Region {
    /// A map of it, uncached.
    pub fn map(&self) -> BufMap<'_> {
        // SAFETY: the module's law; the lifetime is the mapping's.
        unsafe {
            BufMap::from_raw(
                self.pages.as_mut_ptr(),
                self.pages.len(),
                Location::Io,
                Caching::Uncached,
                self.access,
            )
        }
    }

    /// The device it is of.
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// The number of the BAR.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Which bytes of the BAR they are.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Where they lie on the memory bus.
    ///
    /// # Errors
    /// [`VfioError::Region`] if sysfs does not tell.
    pub fn phyrs(&self) -> Result<PhyrList, VfioError> {
        self.device.phyrs(self.index, self.range())
    }
}

impl sealed::Steady for Region {}

impl Mappable for Region {
    fn map(&self) -> BufMap<'_> {
        Self::map(self)
    }

    fn phyrs(&self) -> Result<Phyrs<'_>, Absent> {
        Self::phyrs(self).map(Phyrs::fixed).map_err(|e| Phyrs::unknown(&e))
    }

    fn dma_buf(&self) -> Option<Result<DmaBuf, VfioError>> {
        Some(self.device().dma_buf(self.index(), self.range()))
    }
}
