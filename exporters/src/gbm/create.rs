//! The making of pictures, and the import of others'.
//!
//! # Safety
//!
//! The laws of `device`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

use drm_fourcc::{DrmFourcc, DrmModifier};

use super::bo::Bo;
use super::device::{Alive, Device, Usage, clear_errno};
use super::error::GbmError;
use super::library::{IMPORT_FD_MODIFIER, ImportData, RawBo};
use crate::dmabuf::inode;
use crate::frame::{self, Frame, Picture};

impl Device {
    /// Makes a picture whose layout is the driver's secret: to be shared with the same driver only.
    ///
    /// # Errors
    /// [`GbmError::Frame`], [`GbmError::Refused`].
    pub fn create(
        &self,
        width: u32,
        height: u32,
        format: DrmFourcc,
        usage: Usage,
    ) -> Result<Bo, GbmError> {
        check_picture(width, height, format)?;
        let opening = self.first();
        let raw = {
            let (gbm, _alive) = opening.lock();
            clear_errno();
            // SAFETY: law 2 of `device`.
            let raw =
                unsafe { (gbm.bo_create)(self.raw(), width, height, format as u32, usage.bits()) };
            self.made("gbm_bo_create", (width, height, format, None), raw)?
        };
        // What the driver then calls its modifier is not asked: it may be bogus.
        Ok(Bo::new(self.clone(), opening.clone(), raw, (width, height, format), None))
    }

    /// Makes a picture laid out by one of `modifiers`, which the driver chooses.
    ///
    /// # Errors
    /// [`GbmError::Frame`], [`GbmError::Modifiers`] if there is none or one is
    /// `Invalid`, [`GbmError::Refused`] if the driver can lay it out by none of them.
    pub fn create_with(
        &self,
        width: u32,
        height: u32,
        format: DrmFourcc,
        modifiers: &[DrmModifier],
        usage: Usage,
    ) -> Result<Bo, GbmError> {
        check_picture(width, height, format)?;
        if modifiers.is_empty() || modifiers.contains(&DrmModifier::Invalid) {
            return Err(GbmError::Modifiers { modifiers: modifiers.to_vec() });
        }
        let codes: Vec<u64> = modifiers.iter().map(|&modifier| modifier.into()).collect();
        let of = (width, height, format, Some(modifiers));
        let opening = self.first();
        let raw = {
            let (gbm, _alive) = opening.lock();
            clear_errno();
            let count = u32::try_from(codes.len()).unwrap_or(u32::MAX);
            let (device, code, list) = (self.raw(), format as u32, codes.as_ptr());
            let make = gbm.bo_create_with_modifiers2;
            // SAFETY: law 2 of `device`; `list` has at least `count` entries.
            let raw = unsafe { make(device, width, height, code, list, count, usage.bits()) };
            self.made("gbm_bo_create_with_modifiers2", of, raw)?
        };
        let mut bo = Bo::new(self.clone(), opening.clone(), raw, (width, height, format), None);
        bo.settle(modifiers)?;
        Ok(bo)
    }

    /// Imports a picture that another device, library or process made.
    ///
    /// The frame is checked first ([`Frame::check`]), and whether this device takes its modifier
    /// with so many planes.
    ///
    /// # Errors
    /// [`GbmError::Frame`] as [`Frame::check`]; [`GbmError::Layout`] and [`GbmError::Planes`] if the device takes no such
    /// thing; [`GbmError::Refused`] if it does not take this one.
    pub fn import(&self, frame: &Frame, usage: Usage) -> Result<Bo, GbmError> {
        frame.check()?;
        let Picture { width, height, format, modifier } = frame.picture;
        let planes = &frame.planes;
        if let Some(modifier) = modifier {
            let node = self.node().to_owned();
            let wanted = self.plane_count(format, modifier).ok_or(GbmError::Layout {
                node,
                format,
                modifier,
            })?;
            if wanted != planes.len() {
                return Err(GbmError::Planes { got: planes.len(), wanted });
            }
        }
        let mut data = ImportData {
            width,
            height,
            format: format as u32,
            num_fds: planes.len() as u32,
            fds: [-1; frame::MAX_PLANES],
            strides: [0; frame::MAX_PLANES],
            offsets: [0; frame::MAX_PLANES],
            modifier: modifier.unwrap_or(DrmModifier::Invalid).into(),
        };
        for (i, plane) in planes.iter().enumerate() {
            data.fds[i] = plane.buffer.as_fd().as_raw_fd();
            data.strides[i] = plane.pitch as i32;
            data.offsets[i] = plane.offset as i32;
        }
        let modifiers = modifier.map(|modifier| [modifier]);
        let of = (width, height, format, modifiers.as_ref().map(|one| one.as_slice()));
        let inodes = planes
            .iter()
            .map(|plane| inode(plane.buffer.as_fd()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|errno| self.refused("fstat", "a plane's dma-buf".to_owned(), errno.into()))?;
        let (opening, raw) = self.in_an_opening_without(&inodes, |opening, alive| {
            clear_errno();
            let (device, data) = (opening.raw.as_ptr(), (&raw mut data).cast());
            // SAFETY: law 2 of `device`; `data` is what this kind of import reads, and its descriptors are open;
            // the library duplicates what it needs.
            let raw =
                unsafe { (opening.gbm.bo_import)(device, IMPORT_FD_MODIFIER, data, usage.bits()) };
            let bo = self.made("gbm_bo_import", of, raw)?;
            alive.extend(inodes.iter().map(|&inode| Alive { inode, bo }));
            Ok(bo)
        })?;
        Ok(Bo::new(self.clone(), opening, raw, (width, height, format), Some(frame.clone())))
    }

    /// What a call that makes a bo returned, or its refusal.
    fn made(
        &self,
        call: &'static str,
        (width, height, format, modifiers): (u32, u32, DrmFourcc, Option<&[DrmModifier]>),
        raw: *mut RawBo,
    ) -> Result<NonNull<RawBo>, GbmError> {
        NonNull::new(raw).ok_or_else(|| {
            let source = io::Error::last_os_error();
            let layout = match modifiers {
                Some(modifiers) => format!("{modifiers:?}"),
                None => "implicit".to_owned(),
            };
            let what = format!("{width} x {height} pixels, {format}, {layout}");
            self.refused(call, what, source)
        })
    }
}

fn check_picture(width: u32, height: u32, format: DrmFourcc) -> Result<(), GbmError> {
    Ok(Picture { width, height, format, modifier: None }.check_format()?)
}
