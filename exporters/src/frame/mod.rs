//! Frames: what makes a picture of the bytes in dma-bufs.
//!
//! A dma-buf is bytes and a size. What a display, a GPU or another process must know beside it is a
//! [`Picture`], so many pixels of a format in a layout, and for each of its planes a [`FramePlane`]:
//! in which buffer it lies, where it begins, and how far its rows are apart. All of them together are
//! a [`Frame`], the form in which pictures go between the modules of this crate and between
//! processes.
//!
//! Formats and layouts have the kernel's numbers (`drm_fourcc.h`) and the names that people write
//! (`text`): a *FourCC* such as `XR24` or `NV12`, and a *modifier*, `LINEAR` or a vendor's number. A
//! picture without a modifier is *implicit*: its layout is known to the driver that made it, and to be
//! shared with that driver alone.
//!
//! Whoever describes a frame may lie, or be wrong, and libraries and drivers believe much of it. So a
//! frame is held against the size that the kernel tells of each buffer before anything touches it
//! ([`Frame::check`]).
//!
//! ```
//! use exporters::frame::{DrmFourcc, DrmModifier, FrameError, FramePlane, Picture};
//!
//! let picture: Picture = "640x480 XR24 LINEAR".parse()?;
//! assert_eq!(picture.format, DrmFourcc::Xrgb8888);
//! assert_eq!(picture.modifier, Some(DrmModifier::Linear));
//!
//! let claimed = FramePlane { buffer: 4096, offset: 0, pitch: 2560 }; // in a buffer of 4096 bytes
//! let answer = picture.check(&[claimed]);
//! assert!(matches!(answer, Err(FrameError::TooShort { end: 1228800, len: 4096, .. })));
//! # Ok::<(), exporters::frame::FrameError>(())
//! ```

mod card;
mod check;
mod error;
mod format;
mod picture;
mod text;

use iomap::{BufMap, Plane};

pub use card::{CardError, TestCard};
pub use drm_fourcc::{DrmFourcc, DrmModifier};
pub use error::FrameError;
pub(crate) use format::{PlaneFormat, pixel_bytes, planes};
pub use picture::{FramePlane, MAX_PLANES, MAX_SIDE, Picture};
pub(crate) use text::format_coded;
pub use text::{format_named, modifier_named};

use crate::DmaBuf;
use crate::dmabuf::is_same;

/// A picture, and where its planes are.
///
/// The planes are in the format's order; then comes what the modifier adds, such as compression data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<B = DmaBuf> {
    /// What it shows.
    pub picture: Picture,
    /// Its planes, one to [`MAX_PLANES`].
    pub planes: Vec<FramePlane<B>>,
}

impl Picture {
    /// Lays a linear picture out in one buffer: plane after plane, each row and each plane at a
    /// multiple of `align` bytes. Devices ask for 64 to 256; a power of two is a good choice, and any
    /// number from 1 up is allowed.
    ///
    /// # Errors
    /// As [`check`](Self::check); [`FrameError::NotLinear`] for any other modifier, or none.
    ///
    /// ```
    /// use exporters::frame::Picture;
    ///
    /// let frame = "101x60 NV12 LINEAR".parse::<Picture>()?.lay_out(64)?;
    /// assert_eq!([frame.planes[0].pitch, frame.planes[1].pitch], [128, 128]);
    /// assert_eq!((frame.planes[1].offset, frame.len()), (128 * 60, 128 * 89 + 102));
    /// # Ok::<(), exporters::frame::FrameError>(())
    /// ```
    pub fn lay_out(self, align: u32) -> Result<Frame<()>, FrameError> {
        check::sides(self)?;
        if self.modifier != Some(DrmModifier::Linear) {
            return Err(FrameError::NotLinear { picture: self });
        }
        let mut planes = Vec::new();
        let mut offset = 0;
        for (plane, format) in format::planes(self)?.iter().enumerate() {
            let row_bytes = format.row_bytes(self.width);
            let pitch = row_bytes.next_multiple_of(align.max(1).into());
            let fits = |bytes: u64| {
                let error = FrameError::Pitch { plane, pitch: u32::MAX, row_bytes };
                i32::try_from(bytes).map(|bytes| bytes as u32).map_err(|_| error)
            };
            let here = FramePlane { buffer: (), offset: fits(offset)?, pitch: fits(pitch)? };
            planes.push(here);
            offset += pitch * format.rows(self.height);
        }
        Ok(Frame { picture: self, planes })
    }
}

impl Frame<()> {
    /// The bytes from the beginning of the buffer to the end of the last plane.
    pub fn len(&self) -> usize {
        let ends = self.planes.iter().enumerate();
        ends.map(|(index, plane)| check::end(self.picture, index, plane) as usize)
            .max()
            .unwrap_or(0)
    }

    /// Whether it has no planes, which no layout has.
    pub fn is_empty(&self) -> bool {
        self.planes.is_empty()
    }

    /// The frame in a buffer.
    ///
    /// # Errors
    /// [`FrameError::TooShort`] if the buffer is.
    pub fn over(&self, dma_buf: &DmaBuf) -> Result<Frame, FrameError> {
        let planes = self.planes.iter().map(|plane| plane.in_buffer(dma_buf.clone())).collect();
        let frame = Frame { picture: self.picture, planes };
        frame.check()?;
        Ok(frame)
    }
}

impl Frame {
    /// Whether each plane has room in its dma-buf, by the size that the kernel tells
    /// ([`Picture::check`]).
    ///
    /// # Errors
    /// As [`Picture::check`].
    pub fn check(&self) -> Result<(), FrameError> {
        let sized = self.planes.iter().map(|plane| plane.in_buffer(plane.buffer.len()));
        self.picture.check(&sized.collect::<Vec<_>>())
    }

    /// The one buffer in which all planes lie, by whichever descriptors, if it is one.
    pub(crate) fn one_buffer(&self) -> Option<&DmaBuf> {
        let (first, rest) = self.planes.split_first()?;
        let is_one = rest.iter().all(|plane| is_same(&plane.buffer, &first.buffer));
        is_one.then_some(&first.buffer)
    }
}

impl<B> Frame<B> {
    /// A plane's rows in a map of its whole buffer.
    ///
    /// # Errors
    /// [`FrameError::NotLinear`] for a layout that has no rows; [`FrameError::Planes`] for a plane that
    /// the format does not have; [`FrameError::Rows`] if the map is too short.
    pub fn rows<'a>(&self, index: usize, map: BufMap<'a>) -> Result<Plane<'a>, FrameError> {
        let picture = self.picture;
        if picture.modifier != Some(DrmModifier::Linear) {
            return Err(FrameError::NotLinear { picture });
        }
        let formats = format::planes(picture)?;
        let (Some(format), Some(plane)) = (formats.get(index), self.planes.get(index)) else {
            return Err(FrameError::Planes { got: index + 1, wanted: formats.len() });
        };
        let (row_bytes, rows) = (format.row_bytes(picture.width), format.rows(picture.height));
        let map = map.offset(plane.offset as usize).map_err(|_| FrameError::TooShort {
            plane: index,
            end: check::end(picture, index, plane),
            len: map.len(),
        })?;
        Ok(Plane::new(map, plane.pitch as usize, row_bytes as usize, rows as usize)?)
    }
}
