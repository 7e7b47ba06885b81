//! What can be wrong with a frame.

use drm_fourcc::DrmFourcc;
use iomap::PlaneError;

use super::picture::{MAX_SIDE, Picture};
use crate::outside::outside;

/// Why a frame cannot be what it is said to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A side of zero pixels, or more than there may be.
    #[error("a picture of {width} x {height} pixels: each side is 1 to {max} pixels", max = MAX_SIDE)]
    Side {
        /// The width in pixels.
        width: u32,
        /// The height in pixels.
        height: u32,
    },
    /// A format whose rows are not known here, so that nothing about it could be checked.
    #[error("the rows of format {format} are not known here; take one of the formats of gbm.h")]
    Format {
        /// The format.
        format: DrmFourcc,
    },
    /// `DrmModifier::Invalid` as a modifier.
    #[error("DRM_FORMAT_MOD_INVALID is no layout; leave the modifier out where it is implicit")]
    Modifier,
    /// More or fewer planes than the format and the modifier have.
    #[error("{got} planes, and this format and modifier have {wanted}")]
    Planes {
        /// How many there are.
        got: usize,
        /// How many there must be.
        wanted: usize,
    },
    /// A pitch shorter than a row, or more than drivers and libraries count (2 GiB).
    #[error("plane {plane}: a pitch of {pitch} bytes where a row has {row_bytes}")]
    Pitch {
        /// The plane's number.
        plane: usize,
        /// The pitch in bytes.
        pitch: u32,
        /// The bytes of a row.
        row_bytes: u64,
    },
    /// A plane that reaches past the end of its buffer.
    #[error("plane {plane} ends at byte {end} of a buffer of {len} bytes")]
    TooShort {
        /// The plane's number.
        plane: usize,
        /// One past the plane's last byte.
        end: u64,
        /// The buffer's length in bytes.
        len: usize,
    },
    /// A layout without rows that the CPU could find.
    #[error("{picture}: only a LINEAR picture has rows for the CPU; let its driver convert it")]
    NotLinear {
        /// The picture.
        picture: Picture,
    },
    /// The rows do not fit a map.
    #[error(transparent)]
    Rows(#[from] PlaneError),
    /// A text that is no picture, format or modifier.
    #[error("`{text}` is no {what}", text = outside(text))]
    Text {
        /// What was read.
        text: String,
        /// What it should have been, with an example.
        what: &'static str,
    },
}
