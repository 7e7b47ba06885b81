//! Whether a picture can lie where it is said to lie.

use drm_fourcc::DrmModifier;

use super::error::FrameError;
use super::format;
use super::picture::{FramePlane, MAX_PLANES, MAX_SIDE, Picture};

impl Picture {
    /// Whether each plane has room in its buffer, whose length in bytes stands in its place: the length
    /// that the kernel tells, not one that a peer claims.
    ///
    /// A linear picture is checked to its last byte. An implicit one is held to the same, as drivers
    /// pad rows and tile them but do not compress them behind a pitch. What a modifier makes of a
    /// pitch is its vendor's business: of such a plane only the beginning is checked, and the rest
    /// is its driver's to check.
    ///
    /// # Errors
    /// [`FrameError::Side`], [`FrameError::Format`], [`FrameError::Modifier`], [`FrameError::Planes`],
    /// [`FrameError::Pitch`], [`FrameError::TooShort`].
    pub fn check(self, planes: &[FramePlane<usize>]) -> Result<(), FrameError> {
        sides(self)?;
        let formats = format::planes(self)?;
        let most = match self.modifier {
            Some(DrmModifier::Invalid) => return Err(FrameError::Modifier),
            _ if is_in_rows(self) => formats.len(),
            _ => MAX_PLANES,
        };
        if !(formats.len()..=most).contains(&planes.len()) {
            return Err(FrameError::Planes { got: planes.len(), wanted: formats.len() });
        }
        planes.iter().enumerate().try_for_each(|(index, plane)| fits(self, index, plane))
    }

    /// Whether there can be such a picture at all: its sides and its format.
    pub(crate) fn check_format(self) -> Result<(), FrameError> {
        sides(self)?;
        format::planes(self).map(drop)
    }
}

/// Whether a picture has sides.
pub(super) fn sides(Picture { width, height, .. }: Picture) -> Result<(), FrameError> {
    let sides = 1..=MAX_SIDE;
    match sides.contains(&width) && sides.contains(&height) {
        true => Ok(()),
        false => Err(FrameError::Side { width, height }),
    }
}

/// One past a plane's last byte that is known.
pub(super) fn end<B>(picture: Picture, index: usize, plane: &FramePlane<B>) -> u64 {
    let (row_bytes, rows) = rows(picture, index);
    u64::from(plane.offset) + u64::from(plane.pitch) * (rows - 1) + row_bytes
}

fn fits(picture: Picture, index: usize, plane: &FramePlane<usize>) -> Result<(), FrameError> {
    let FramePlane { buffer: len, offset, pitch } = *plane;
    let (row_bytes, _) = rows(picture, index);
    // `libgbm` and many drivers take pitches and offsets as C's `int`.
    if u64::from(pitch) < row_bytes || i32::try_from(pitch).is_err() {
        return Err(FrameError::Pitch { plane: index, pitch, row_bytes });
    }
    let end = end(picture, index, plane);
    if end > len as u64 || i32::try_from(offset).is_err() {
        return Err(FrameError::TooShort { plane: index, end, len });
    }
    Ok(())
}

/// The bytes of a plane's row, and how many rows: one byte of one row where only a vendor knows.
fn rows(picture: Picture, index: usize) -> (u64, u64) {
    let formats = format::planes(picture).ok().filter(|_| is_in_rows(picture));
    match formats.and_then(|formats| formats.get(index)) {
        Some(plane) => (plane.row_bytes(picture.width), plane.rows(picture.height)),
        None => (1, 1),
    }
}

fn is_in_rows(picture: Picture) -> bool {
    matches!(picture.modifier, None | Some(DrmModifier::Linear))
}

#[cfg(test)]
mod tests {
    use drm_fourcc::DrmFourcc;
    use proptest::prelude::*;

    use super::*;

    const LINEAR: Option<DrmModifier> = Some(DrmModifier::Linear);

    fn check(
        width: u32,
        height: u32,
        format: DrmFourcc,
        modifier: Option<DrmModifier>,
        planes: &[FramePlane<usize>],
    ) -> Result<(), FrameError> {
        Picture { width, height, format, modifier }.check(planes)
    }

    const fn span(buffer: usize, offset: u32, pitch: u32) -> FramePlane<usize> {
        FramePlane { buffer, offset, pitch }
    }

    #[test]
    fn the_last_byte_counts_and_the_padding_behind_it_does_not() {
        let check = |len| check(100, 60, DrmFourcc::Xrgb8888, LINEAR, &[span(len, 64, 512)]);
        assert!(check(64 + 59 * 512 + 400).is_ok());
        let short = check(64 + 59 * 512 + 399);
        assert!(matches!(short, Err(FrameError::TooShort { plane: 0, end: 30672, len: 30671 })));
    }

    #[test]
    fn rows_do_not_overlap() {
        let check = |pitch| check(100, 1, DrmFourcc::Xrgb8888, None, &[span(4096, 0, pitch)]);
        assert!(check(400).is_ok());
        let short = check(399);
        assert!(matches!(short, Err(FrameError::Pitch { plane: 0, pitch: 399, row_bytes: 400 })));
        assert!(matches!(check(1 << 31), Err(FrameError::Pitch { .. })));
    }

    #[test]
    fn the_second_plane_is_checked_as_well() {
        let check = |planes: &[FramePlane<usize>]| check(64, 64, DrmFourcc::Nv12, LINEAR, planes);
        assert!(check(&[span(6144, 0, 64), span(6144, 4096, 64)]).is_ok());
        let late = check(&[span(6144, 0, 64), span(6144, 4097, 64)]);
        assert!(matches!(late, Err(FrameError::TooShort { plane: 1, .. })));
        let one = check(&[span(6144, 0, 64)]);
        assert!(matches!(one, Err(FrameError::Planes { got: 1, wanted: 2 })));
    }

    #[test]
    fn a_vendor_s_planes_begin_inside() {
        let tiled = Some(DrmModifier::I915_y_tiled_ccs);
        let check =
            |planes: &[FramePlane<usize>]| check(64, 64, DrmFourcc::Xrgb8888, tiled, planes);
        assert!(check(&[span(32768, 0, 256), span(32768, 32767, 128)]).is_ok());
        assert!(check(&[span(32768, 0, 256), span(32768, 32768, 128)]).is_err());
        assert!(check(&[span(32768, 0, 256); 5]).is_err());
        assert!(check(&[span(32768, 0, 0)]).is_err());
    }

    #[test]
    fn sides_and_formats_are_checked_first() {
        for (width, height) in [(0, 1), (1, 0), (1, MAX_SIDE + 1), (65636, 1)] {
            let answer = check(width, height, DrmFourcc::R8, LINEAR, &[span(1 << 30, 0, 1 << 16)]);
            assert!(matches!(answer, Err(FrameError::Side { .. })), "{width} x {height}");
        }
        let unknown = check(1, 1, DrmFourcc::Y416, LINEAR, &[span(4096, 0, 8)]);
        assert!(matches!(unknown, Err(FrameError::Format { .. })));
        let invalid = Some(DrmModifier::Invalid);
        let answer = check(1, 1, DrmFourcc::R8, invalid, &[span(4096, 0, 8)]);
        assert_eq!(answer, Err(FrameError::Modifier));
    }

    proptest! {
        /// What passes has every byte of every row inside; what fails has not.
        #[test]
        fn whatever_passes_lies_inside(
            width in 1..300u32,
            height in 1..300u32,
            len in 0..400_000usize,
            offset in 0..100_000u32,
            pitch in 0..2000u32,
        ) {
            let passes =
                check(width, height, DrmFourcc::Argb8888, None, &[span(len, offset, pitch)]).is_ok();
            let fits = pitch >= width * 4
                && (0..u64::from(height)).all(|row| {
                    u64::from(offset) + row * u64::from(pitch) + u64::from(width * 4) <= len as u64
                });
            prop_assert_eq!(passes, fits);
        }

        /// Any numbers are answered.
        #[test]
        fn nothing_overflows(width: u32, height: u32, len: usize, offset: u32, pitch: u32) {
            let _ = check(width, height, DrmFourcc::P010, None, &[span(len, offset, pitch); 2]);
        }

        /// A layout of our own passes in as many bytes as it says, in no fewer, and its rows are found.
        #[test]
        fn what_is_laid_out_fits(width in 1..300u32, height in 1..300u32, align in 0..300u32) {
            for format in [DrmFourcc::Xrgb8888, DrmFourcc::Nv12, DrmFourcc::Yuv420] {
                let frame = Picture::linear(width, height, format).lay_out(align)?;
                let in_bytes = |len: usize| {
                    let plane = |p: &FramePlane<()>| span(len, p.offset, p.pitch);
                    frame.picture.check(&frame.planes.iter().map(plane).collect::<Vec<_>>())
                };
                prop_assert_eq!(in_bytes(frame.len()), Ok(()));
                prop_assert!(in_bytes(frame.len() - 1).is_err());
                let bytes = vec![0; frame.len()];
                let map = iomap::BufMap::from_slice(&bytes);
                let found = (0..frame.planes.len()).map(|index| frame.rows(index, map));
                prop_assert!(found.into_iter().all(|rows| rows.is_ok()));
                let short = iomap::BufMap::from_slice(&bytes[..width as usize - 1]);
                prop_assert!(frame.rows(0, short).is_err());
            }
        }
    }
}
