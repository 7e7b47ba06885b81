//! How a picture lies in its dma-bufs, and whether it can.

use drm_fourcc::{DrmFourcc, DrmModifier};

use super::error::GbmError;
use super::{MAX_SIDE, format};
use crate::DmaBuf;

/// The most planes that a picture has (`GBM_MAX_PLANES`).
pub(super) const MAX_PLANES: usize = 4;

/// A picture and where its planes are: what [`Bo::export`](super::Bo::export) gives and
/// [`Device::import`](super::Device::import) takes.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The width in pixels.
    pub width: u32,
    /// The height in pixels.
    pub height: u32,
    /// The format.
    pub format: DrmFourcc,
    /// How each plane is laid out; `None` is implicit, known to one driver alone.
    pub modifier: Option<DrmModifier>,
    /// The planes in the format's order, then what the modifier adds, such as compression data.
    pub planes: Vec<LayoutPlane>,
}

/// Where one plane lies.
#[derive(Clone, Debug)]
pub struct LayoutPlane {
    /// The dma-buf. Planes of one buffer share one handle.
    pub dma_buf: DmaBuf,
    /// Where the plane begins in it, in bytes.
    pub offset: u32,
    /// The distance from row to row in bytes, or what the modifier means by it.
    pub stride: u32,
}

impl Layout {
    /// Whether each plane has room in its dma-buf, by the size that the kernel tells.
    ///
    /// A linear layout is checked to its last byte. An implicit one is held to the same, as drivers
    /// pad rows and tile them but do not compress them behind a stride. What a modifier makes of a
    /// stride is its vendor's business: of such a plane only the beginning is checked, and the rest
    /// is its driver's to check.
    ///
    /// # Errors
    /// [`GbmError::Side`], [`GbmError::Format`], [`GbmError::Modifiers`], [`GbmError::Planes`],
    /// [`GbmError::Stride`], [`GbmError::TooShort`].
    pub fn check(&self) -> Result<(), GbmError> {
        if self.modifier == Some(DrmModifier::Invalid) {
            return Err(GbmError::Modifiers { modifiers: vec![DrmModifier::Invalid] });
        }
        let spans: Vec<_> = self.planes.iter().map(Span::of).collect();
        check(self.width, self.height, self.format, self.modifier, &spans)
    }
}

/// A plane as a check sees it.
#[derive(Clone, Copy, Debug)]
struct Span {
    len: usize,
    offset: u32,
    stride: u32,
}

impl Span {
    fn of(plane: &LayoutPlane) -> Self {
        Self { len: plane.dma_buf.len(), offset: plane.offset, stride: plane.stride }
    }
}

/// Whether a picture has sides.
pub(super) fn check_sides(width: u32, height: u32) -> Result<(), GbmError> {
    let sides = 1..=MAX_SIDE;
    match sides.contains(&width) && sides.contains(&height) {
        true => Ok(()),
        false => Err(GbmError::Side { width, height }),
    }
}

fn check(
    width: u32,
    height: u32,
    format: DrmFourcc,
    modifier: Option<DrmModifier>,
    spans: &[Span],
) -> Result<(), GbmError> {
    check_sides(width, height)?;
    let planes = format::planes(format).ok_or(GbmError::Format { format })?;
    let own = matches!(modifier, None | Some(DrmModifier::Linear));
    let count = match own {
        true => planes.len()..=planes.len(),
        false => planes.len()..=MAX_PLANES,
    };
    if !count.contains(&spans.len()) {
        return Err(GbmError::Planes { got: spans.len(), wanted: planes.len() });
    }
    for (plane, &Span { len, offset, stride }) in spans.iter().enumerate() {
        let (row_bytes, rows) = match planes.get(plane).filter(|_| own) {
            Some(plane) => (plane.row_bytes(width), plane.rows(height)),
            None => (1, 1),
        };
        // `libgbm` takes strides and offsets as C's `int`.
        if u64::from(stride) < row_bytes || i32::try_from(stride).is_err() {
            return Err(GbmError::Stride { plane, stride, row_bytes });
        }
        let end = u64::from(offset) + u64::from(stride) * (rows - 1) + row_bytes;
        if end > len as u64 || i32::try_from(offset).is_err() {
            return Err(GbmError::TooShort { plane, end, len });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINEAR: Option<DrmModifier> = Some(DrmModifier::Linear);

    fn span(len: usize, offset: u32, stride: u32) -> Span {
        Span { len, offset, stride }
    }

    #[test]
    fn the_last_byte_counts_and_the_padding_behind_it_does_not() {
        let check = |len| check(100, 60, DrmFourcc::Xrgb8888, LINEAR, &[span(len, 64, 512)]);
        assert!(check(64 + 59 * 512 + 400).is_ok());
        let short = check(64 + 59 * 512 + 399);
        assert!(matches!(short, Err(GbmError::TooShort { plane: 0, end: 30672, len: 30671 })));
    }

    #[test]
    fn rows_do_not_overlap() {
        let check = |stride| check(100, 1, DrmFourcc::Xrgb8888, None, &[span(4096, 0, stride)]);
        assert!(check(400).is_ok());
        let short = check(399);
        assert!(matches!(short, Err(GbmError::Stride { plane: 0, stride: 399, row_bytes: 400 })));
        assert!(matches!(check(1 << 31), Err(GbmError::Stride { .. })));
    }

    #[test]
    fn the_second_plane_is_checked_as_well() {
        let check = |planes: &[Span]| check(64, 64, DrmFourcc::Nv12, LINEAR, planes);
        assert!(check(&[span(6144, 0, 64), span(6144, 4096, 64)]).is_ok());
        let late = check(&[span(6144, 0, 64), span(6144, 4097, 64)]);
        assert!(matches!(late, Err(GbmError::TooShort { plane: 1, .. })));
        let one = check(&[span(6144, 0, 64)]);
        assert!(matches!(one, Err(GbmError::Planes { got: 1, wanted: 2 })));
    }

    #[test]
    fn a_vendor_s_planes_begin_inside() {
        let tiled = Some(DrmModifier::I915_y_tiled_ccs);
        let check = |planes: &[Span]| check(64, 64, DrmFourcc::Xrgb8888, tiled, planes);
        assert!(check(&[span(32768, 0, 256), span(32768, 32767, 128)]).is_ok());
        assert!(check(&[span(32768, 0, 256), span(32768, 32768, 128)]).is_err());
        assert!(check(&[span(32768, 0, 256); 5]).is_err());
        assert!(check(&[span(32768, 0, 0)]).is_err());
    }

    #[test]
    fn sides_and_formats_are_checked_first() {
        for (width, height) in [(0, 1), (1, 0), (1, MAX_SIDE + 1), (65636, 1)] {
            let answer = check(width, height, DrmFourcc::R8, LINEAR, &[span(1 << 30, 0, 1 << 16)]);
            assert!(matches!(answer, Err(GbmError::Side { .. })), "{width} x {height}");
        }
        let unknown = check(1, 1, DrmFourcc::Y416, LINEAR, &[span(4096, 0, 8)]);
        assert!(matches!(unknown, Err(GbmError::Format { .. })));
    }

    proptest! {
        /// What passes has every byte of every row inside; what fails has not.
        #[test]
        fn whatever_passes_lies_inside(
            width in 1..300u32,
            height in 1..300u32,
            len in 0..400_000usize,
            offset in 0..100_000u32,
            stride in 0..2000u32,
        ) {
            let passes =
                check(width, height, DrmFourcc::Argb8888, None, &[span(len, offset, stride)]).is_ok();
            let fits = stride >= width * 4
                && (0..u64::from(height)).all(|row| {
                    u64::from(offset) + row * u64::from(stride) + u64::from(width * 4) <= len as u64
                });
            prop_assert_eq!(passes, fits);
        }

        /// Any numbers are answered.
        #[test]
        fn nothing_overflows(width: u32, height: u32, len: usize, offset: u32, stride: u32) {
            let _ = check(width, height, DrmFourcc::P010, None, &[span(len, offset, stride); 2]);
        }
    }
}
