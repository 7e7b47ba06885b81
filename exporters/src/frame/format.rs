//! How the rows of each format's planes are made: the formats of `gbm.h`.
//!
//! The meaning of each is in the kernel's `drm_fourcc.h`.

use drm_fourcc::DrmFourcc;

use super::error::FrameError;
use super::picture::Picture;

/// One plane of a format: blocks of `bytes` bytes, each for `across` x `down` pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlaneFormat {
    pub(crate) bytes: u32,
    pub(crate) across: u32,
    pub(crate) down: u32,
}

impl PlaneFormat {
    /// The bytes of a row of `width` pixels.
    pub(super) const fn row_bytes(self, width: u32) -> u64 {
        width.div_ceil(self.across) as u64 * self.bytes as u64
    }

    /// The rows of a picture of `height` pixels.
    pub(super) const fn rows(self, height: u32) -> u64 {
        height.div_ceil(self.down) as u64
    }

    /// Whether each block is one pixel.
    pub(super) const fn is_whole_pixels(self) -> bool {
        self.across == 1 && self.down == 1
    }
}

const fn plane(bytes: u32, across: u32, down: u32) -> PlaneFormat {
    PlaneFormat { bytes, across, down }
}

/// The planes of a picture's format.
pub(crate) fn planes(picture: Picture) -> Result<&'static [PlaneFormat], FrameError> {
    of(picture.format).ok_or(FrameError::Format { format: picture.format })
}

/// The planes of a format, absent for one that is not known here.
const fn of(format: DrmFourcc) -> Option<&'static [PlaneFormat]> {
    use DrmFourcc::*;
    Some(match format {
        C8 | R8 | Rgb332 | Bgr233 => const { &[plane(1, 1, 1)] },
        R16 | Rg88 | Gr88 | Rgb565 | Bgr565 | Xrgb4444 | Xbgr4444 | Rgbx4444 | Bgrx4444
        | Argb4444 | Abgr4444 | Rgba4444 | Bgra4444 | Xrgb1555 | Xbgr1555 | Rgbx5551 | Bgrx5551
        | Argb1555 | Abgr1555 | Rgba5551 | Bgra5551 => const { &[plane(2, 1, 1)] },
        Rgb888 | Bgr888 => const { &[plane(3, 1, 1)] },
        Rg1616 | Gr1616 | Xrgb8888 | Xbgr8888 | Rgbx8888 | Bgrx8888 | Argb8888 | Abgr8888
        | Rgba8888 | Bgra8888 | Xrgb2101010 | Xbgr2101010 | Rgbx1010102 | Bgrx1010102
        | Argb2101010 | Abgr2101010 | Rgba1010102 | Bgra1010102 | Ayuv => {
            const { &[plane(4, 1, 1)] }
        }
        Xrgb16161616f | Xbgr16161616f | Argb16161616f | Abgr16161616f => {
            const { &[plane(8, 1, 1)] }
        }
        Yuyv | Yvyu | Uyvy | Vyuy => const { &[plane(4, 2, 1)] },
        Nv12 | Nv21 => const { &[plane(1, 1, 1), plane(2, 2, 2)] },
        Nv16 | Nv61 => const { &[plane(1, 1, 1), plane(2, 2, 1)] },
        P010 | P012 | P016 => const { &[plane(2, 1, 1), plane(4, 2, 2)] },
        Yuv410 | Yvu410 => const { &[plane(1, 1, 1), plane(1, 4, 4), plane(1, 4, 4)] },
        Yuv411 | Yvu411 => const { &[plane(1, 1, 1), plane(1, 4, 1), plane(1, 4, 1)] },
        Yuv420 | Yvu420 => const { &[plane(1, 1, 1), plane(1, 2, 2), plane(1, 2, 2)] },
        Yuv422 | Yvu422 => const { &[plane(1, 1, 1), plane(1, 2, 1), plane(1, 2, 1)] },
        Yuv444 | Yvu444 => const { &[plane(1, 1, 1), plane(1, 1, 1), plane(1, 1, 1)] },
        _ => return None,
    })
}

/// The bytes of a pixel, absent for formats whose pixels share bytes or have several planes.
pub(crate) const fn pixel_bytes(format: DrmFourcc) -> Option<u32> {
    match of(format) {
        Some(&[plane]) if plane.is_whole_pixels() => Some(plane.bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_sides_are_rounded_up() {
        let Some(&[luma, chroma]) = of(DrmFourcc::Nv12) else { panic!("two planes") };
        assert_eq!((luma.row_bytes(5), luma.rows(3)), (5, 3));
        assert_eq!((chroma.row_bytes(5), chroma.rows(3)), (6, 2));
        let Some(&[packed]) = of(DrmFourcc::Yuyv) else { panic!("one plane") };
        assert_eq!((packed.row_bytes(5), packed.rows(3)), (12, 3));
    }

    #[test]
    fn only_whole_pixels_in_one_plane_have_a_size() {
        assert_eq!(pixel_bytes(DrmFourcc::Rgb565), Some(2));
        assert_eq!(pixel_bytes(DrmFourcc::Yuyv), None);
        assert_eq!(pixel_bytes(DrmFourcc::Nv12), None);
        assert_eq!(pixel_bytes(DrmFourcc::Y416), None);
    }
}
