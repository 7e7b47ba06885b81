//! A picture and its planes: the data.

use drm_fourcc::{DrmFourcc, DrmModifier};

/// The most planes that a picture has.
pub const MAX_PLANES: usize = 4;

/// The longest side of a picture in pixels. Mesa keeps a picture's height, and where a mapping
/// begins, in 16 bits, and X its coordinates: a greater one would be cut short in silence.
pub const MAX_SIDE: u32 = i16::MAX as u32;

/// How many pixels, of which format, in which layout.
///
/// It is written and parsed as `640x480 XR24 LINEAR`; without a modifier it is `640x480 XR24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// The width in pixels, 1 to [`MAX_SIDE`].
    pub width: u32,
    /// The height in pixels, 1 to [`MAX_SIDE`].
    pub height: u32,
    /// The pixels' format.
    pub format: DrmFourcc,
    /// How the pixels lie; none where it is implicit, known to one driver alone.
    pub modifier: Option<DrmModifier>,
}

/// One plane of a picture: in which buffer it lies, where it begins there, and how far its rows are
/// apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramePlane<B> {
    /// The buffer, which several planes may share.
    pub buffer: B,
    /// Where the plane begins in it, in bytes.
    pub offset: u32,
    /// From row to row in bytes, or what the modifier means by it.
    pub pitch: u32,
}

impl<B> FramePlane<B> {
    /// The same place in another buffer.
    pub fn in_buffer<C>(&self, buffer: C) -> FramePlane<C> {
        FramePlane { buffer, offset: self.offset, pitch: self.pitch }
    }
}

impl Picture {
    /// A picture whose rows follow each other untiled ([`DrmModifier::Linear`]).
    pub const fn linear(width: u32, height: u32, format: DrmFourcc) -> Self {
        Self { width, height, format, modifier: Some(DrmModifier::Linear) }
    }
}
