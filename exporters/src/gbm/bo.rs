//! A picture in a device's memory, and its pixels as the CPU sees them.
//!
//! # Safety
//!
//! The laws of `device`, and these:
//!
//! 1. A `gbm_bo` is destroyed once, when its [`Bo`] is dropped, and is mapped at most once at a time:
//!    a [`Map`] borrows its [`Bo`] exclusively, and unmaps it when it is dropped. One that is forgotten
//!    leaks its mapping, which nothing points at any more.
//! 2. What `gbm_bo_map` returns is, until it is unmapped, a readable rectangle of pixels, writable if
//!    that was asked for, with rows at the stride that it told. It lies outside every Rust
//!    allocation. That it does not reach past the end of a dma-buf is seen to by
//!    [`Frame::check`] on import.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use drm_fourcc::{DrmFourcc, DrmModifier};
use iomap::{Access, BufMap, Caching, Location, Plane};

use super::device::{Alive, Device, Opening, clear_errno};
use super::error::GbmError;
use super::library::RawBo;
use super::region::Region;
use crate::dmabuf::{inode, is_same};
use crate::frame::{self, Frame, FrameError, FramePlane, Picture};
use crate::{DmaBuf, Intent};

/// A picture. It keeps its [`Device`] alive.
pub struct Bo {
    device: Device,
    opening: Arc<Opening>,
    raw: NonNull<RawBo>,
    width: u32,
    height: u32,
    format: DrmFourcc,
    modifier: Option<DrmModifier>,
    /// What an import was made of. The library does not remember all of it: it reports no offsets.
    imported: Option<Frame>,
}

// SAFETY: law 2 of `device`: all that happens behind the pointer happens under its opening's
// lock.
unsafe impl Send for Bo {}
// SAFETY: as above.
unsafe impl Sync for Bo {}

impl Drop for Bo {
    fn drop(&mut self) {
        let (gbm, mut alive) = self.opening.lock();
        // SAFETY: law 1; its device is alive.
        unsafe { (gbm.bo_destroy)(self.raw.as_ptr()) };
        alive.retain(|one| one.bo != self.raw);
    }
}

impl fmt::Debug for Bo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bo")
            .field("device", &self.device)
            .field("size", &(self.width, self.height))
            .field("format", &self.format)
            .field("modifier", &self.modifier)
            .finish_non_exhaustive()
    }
}

impl Bo {
    /// Takes what a device just made, of this size and format.
    pub(super) fn new(
        device: Device,
        opening: Arc<Opening>,
        raw: NonNull<RawBo>,
        (width, height, format): (u32, u32, DrmFourcc),
        imported: Option<Frame>,
    ) -> Self {
        let modifier = imported.as_ref().and_then(|frame| frame.picture.modifier);
        Self { device, opening, raw, width, height, format, modifier, imported }
    }

    /// Learns which of the modifiers asked for the driver has chosen.
    pub(super) fn settle(&mut self, asked: &[DrmModifier]) -> Result<(), GbmError> {
        let got = {
            let (gbm, _alive) = self.opening.lock();
            // SAFETY: law 2 of `device`.
            unsafe { (gbm.bo_get_modifier)(self.raw.as_ptr()) }
        };
        self.modifier = settled(asked, got.into())?;
        Ok(())
    }

    /// The device that made or imported it.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// The height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The format.
    pub fn format(&self) -> DrmFourcc {
        self.format
    }

    /// How it is laid out; `None` is implicit, known to its driver alone.
    pub fn modifier(&self) -> Option<DrmModifier> {
        self.modifier
    }

    /// The picture as dma-bufs, for other devices, libraries and processes. That of an import is what
    /// was imported.
    ///
    /// Each call makes new descriptors. Planes that lie in one buffer share one.
    ///
    /// # Errors
    /// [`GbmError::Refused`] if the driver cannot export, and as [`Frame::check`] if what it says of
    /// its planes cannot be.
    pub fn export(&self) -> Result<Frame, GbmError> {
        if let Some(frame) = &self.imported {
            return Ok(frame.clone());
        }
        let mut planes: Vec<FramePlane<DmaBuf>> = Vec::new();
        for (fd, offset, pitch) in self.raw_planes()? {
            let shared = planes.iter().find(|plane| is_same(&plane.buffer, &fd));
            let buffer = match shared {
                Some(plane) => plane.buffer.clone(),
                None => DmaBuf::answering(fd)?,
            };
            planes.push(FramePlane { buffer, offset, pitch });
        }
        let Self { width, height, format, modifier, .. } = *self;
        let frame = Frame { picture: Picture { width, height, format, modifier }, planes };
        frame.check()?;
        Ok(frame)
    }

    /// A dma-buf's descriptor, the offset and the stride of each plane, as the driver tells them.
    fn raw_planes(&self) -> Result<Vec<(OwnedFd, u32, u32)>, GbmError> {
        let (gbm, mut alive) = self.opening.lock();
        let bo = self.raw.as_ptr();
        // SAFETY: law 2 of `device`, as in all calls below.
        let count = unsafe { (gbm.bo_get_plane_count)(bo) };
        let plane = |plane: c_int| {
            clear_errno();
            // SAFETY: as above; the plane's number is less than their count.
            let (fd, offset, stride) = unsafe {
                (
                    (gbm.bo_get_fd_for_plane)(bo, plane),
                    (gbm.bo_get_offset)(bo, plane),
                    (gbm.bo_get_stride_for_plane)(bo, plane),
                )
            };
            if fd < 0 {
                let error = io::Error::last_os_error();
                let call = "gbm_bo_get_fd_for_plane";
                return Err(self.device.refused(call, format!("plane {plane}"), error));
            }
            // SAFETY: it is a new descriptor, and ours alone.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            let inode = inode(fd.as_fd())
                .map_err(|e| self.device.refused("fstat", format!("plane {plane}"), e.into()))?;
            if !alive.iter().any(|one| one.inode == inode) {
                alive.push(Alive { inode, bo: self.raw });
            }
            Ok((fd, offset, stride))
        };
        (0..count).map(plane).collect()
    }

    /// Maps all pixels. See [`map_region`](Self::map_region).
    ///
    /// # Errors
    /// As [`map_region`](Self::map_region).
    pub fn map(&mut self, intent: Intent) -> Result<Map<'_>, GbmError> {
        let all = Region { x: 0, y: 0, width: self.width, height: self.height };
        self.map_region(all, intent)
    }

    /// Maps a rectangle of pixels for the CPU: row by row, whatever the layout.
    ///
    /// With [`Intent::Read`] the map is read-only. With [`Intent::Write`] it need not show what the
    /// picture holds, and every pixel of the rectangle must be written: what is left out may become
    /// anything. [`Intent::ReadWrite`] shows the picture and writes it back.
    ///
    /// It waits for no other device ([`DmaBuf::export_sync_file`] is for that), and for an import of
    /// another driver's memory it need not open the dma-buf's bracket: have one open meanwhile
    /// ([`Mapping::begin_cpu_access`](crate::dmabuf::Mapping::begin_cpu_access)). A picture is mapped
    /// once at a time, and not dropped meanwhile:
    ///
    /// ```compile_fail,E0505
    /// # fn f(mut bo: exporters::gbm::Bo) -> Result<(), Box<dyn std::error::Error>> {
    /// let map = bo.map(exporters::Intent::Read)?;
    /// drop(bo);
    /// map.map().read::<u8>(0)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`GbmError::Planar`] for formats that are not whole pixels in one plane, [`GbmError::Region`],
    /// [`GbmError::Refused`].
    pub fn map_region(&mut self, region: Region, intent: Intent) -> Result<Map<'_>, GbmError> {
        let pixel =
            frame::pixel_bytes(self.format).ok_or(GbmError::Planar { format: self.format })?;
        self.check_region(region)?;
        let Region { x, y, width, height } = region;
        let (mut stride, mut data) = (0, ptr::null_mut());
        let pixels = {
            let (gbm, _alive) = self.opening.lock();
            clear_errno();
            let (bo, flags) = (self.raw.as_ptr(), flags(intent));
            // SAFETY: laws 1 and 2 of `device`; the rectangle lies inside the picture.
            unsafe { (gbm.bo_map)(bo, x, y, width, height, flags, &raw mut stride, &raw mut data) }
        };
        let Some(pixels) = NonNull::new(pixels) else {
            let error = io::Error::last_os_error();
            return Err(self.device.refused("gbm_bo_map", format!("{region:?}"), error));
        };
        let mapped = Mapped { bo: self, data };
        let row_bytes = width as usize * pixel as usize;
        let pitch = stride as usize;
        if pitch < row_bytes {
            let row_bytes = row_bytes as u64;
            return Err(FrameError::Pitch { plane: 0, pitch: stride, row_bytes }.into());
        }
        let len = pitch * (height as usize - 1) + row_bytes;
        let access = match intent {
            Intent::Read => Access::ReadOnly,
            Intent::Write | Intent::ReadWrite => Access::ReadWrite,
        };
        let pixels = pixels.as_ptr().cast();
        // SAFETY: law 2; the map's lifetime is that of the borrow of the bo, and `Map` hands it out
        // for no longer than itself.
        let map =
            unsafe { BufMap::from_raw(pixels, len, Location::Io, Caching::WriteCombining, access) };
        let plane = Plane::new(map, pitch, row_bytes, height as usize)?;
        Ok(Map { map, plane, _mapped: mapped })
    }

    fn check_region(&self, region: Region) -> Result<(), GbmError> {
        let fits = |start: u32, len: u32, limit: u32| {
            len > 0 && start.checked_add(len).is_some_and(|end| end <= limit)
        };
        let Region { x, y, width, height } = region;
        match fits(x, width, self.width) && fits(y, height, self.height) {
            true => Ok(()),
            false => Err(GbmError::Region { region, width: self.width, height: self.height }),
        }
    }
}

/// Pixels of a picture in this process's memory, which may be a copy of them: written back when this
/// is dropped, and not seen by others before. `libgbm` does not tell whether that went well.
#[derive(Debug)]
#[must_use = "the pixels may be touched only while this lives"]
pub struct Map<'a> {
    map: BufMap<'a>,
    plane: Plane<'a>,
    _mapped: Mapped<'a>,
}

impl Map<'_> {
    /// The bytes, from the first pixel's to the last one's. It says write-combining I/O memory, which
    /// is right for the buffer itself and for a copy (see [the module](super)).
    pub fn map(&self) -> BufMap<'_> {
        self.map
    }

    /// The bytes as rows.
    pub fn plane(&self) -> Plane<'_> {
        self.plane
    }

    /// The distance from row to row in bytes. It need not be the picture's own.
    pub fn stride(&self) -> usize {
        self.plane.pitch()
    }
}

/// What is unmapped when it is dropped.
struct Mapped<'a> {
    bo: &'a Bo,
    data: *mut c_void,
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        let (gbm, _alive) = self.bo.opening.lock();
        // SAFETY: law 1, and law 2 of `device`; `data` is this mapping's.
        unsafe { (gbm.bo_unmap)(self.bo.raw.as_ptr(), self.data) };
    }
}

impl fmt::Debug for Mapped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bo.fmt(f)
    }
}

/// `enum gbm_bo_transfer_flags`.
const fn flags(intent: Intent) -> u32 {
    match intent {
        Intent::Read => 1,
        Intent::Write => 2,
        Intent::ReadWrite => 3,
    }
}

/// Which modifier a picture has whose driver could choose among `asked` and reports `got`.
fn settled(asked: &[DrmModifier], got: DrmModifier) -> Result<Option<DrmModifier>, GbmError> {
    match got {
        DrmModifier::Invalid => Ok(None),
        got if asked.contains(&got) => Ok(Some(got)),
        got => Err(GbmError::OtherModifier { asked: asked.to_vec(), got }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modifier_is_one_of_those_asked_for_or_implicit() {
        let asked = [DrmModifier::Linear, DrmModifier::I915_x_tiled];
        let settled = |got| settled(&asked, got);
        assert!(matches!(settled(DrmModifier::I915_x_tiled), Ok(Some(DrmModifier::I915_x_tiled))));
        assert!(matches!(settled(DrmModifier::Invalid), Ok(None)));
        let other = settled(DrmModifier::I915_y_tiled);
        assert!(matches!(other, Err(GbmError::OtherModifier { .. })));
    }

    #[test]
    fn intents_are_the_header_s_flags() {
        assert_eq!([Intent::Read, Intent::Write, Intent::ReadWrite].map(flags), [1, 2, 3]);
    }
}
