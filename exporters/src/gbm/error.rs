//! What can go wrong with GBM, each with its remedy.

use std::io;

use drm_fourcc::{DrmFourcc, DrmModifier};
use iomap::PlaneError;

use super::MAX_SIDE;
use super::bo::Region;
use crate::Absent;
use crate::dmabuf::DmaBufError;

/// Why GBM did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GbmError {
    /// `libgbm.so.1` or the DRM node is not there, or not for this user.
    #[error(transparent)]
    Unavailable(Absent),
    /// The library is too old.
    #[error("libgbm has no {symbol}; {since} has all that is used here: update it")]
    Unsupported {
        /// The function that is missing.
        symbol: &'static str,
        /// A version that has all that is used here.
        since: &'static str,
    },
    /// The file is something else. `libgbm` itself would take any character device.
    #[error("{node} is no DRM node; open one in /dev/dri")]
    NotADrmNode {
        /// What was opened.
        node: String,
    },
    /// A side of zero pixels, or more than there may be.
    #[error("a picture of {width} x {height} pixels: each side is 1 to {max} pixels", max = MAX_SIDE)]
    Side {
        /// The width asked for, in pixels.
        width: u32,
        /// The height asked for, in pixels.
        height: u32,
    },
    /// No modifier, or `DrmModifier::Invalid`, in a list of those that are allowed.
    #[error(
        "{modifiers:?} is no choice of modifiers: name one at least, and for an implicit layout use \
         Device::create"
    )]
    Modifiers {
        /// The list.
        modifiers: Vec<DrmModifier>,
    },
    /// The driver chose a modifier that was not allowed.
    #[error("the driver laid the picture out as {got:?}, which is not one of {asked:?}")]
    OtherModifier {
        /// What was allowed.
        asked: Vec<DrmModifier>,
        /// What came out.
        got: DrmModifier,
    },
    /// A format whose rows are not known here, so that nothing about it could be checked.
    #[error("the rows of format {format} are not known here; take a format that is in gbm.h")]
    Format {
        /// The format.
        format: DrmFourcc,
    },
    /// A layout with more or fewer planes than its format and modifier have.
    #[error("{got} planes, and this format and modifier have {wanted}")]
    Planes {
        /// How many there are.
        got: usize,
        /// How many there must be.
        wanted: usize,
    },
    /// A format and modifier that the device does not take.
    #[error("{node} does not take {format} with {modifier:?}; ask Device::plane_count first")]
    Layout {
        /// The device.
        node: String,
        /// The format.
        format: DrmFourcc,
        /// The modifier.
        modifier: DrmModifier,
    },
    /// A stride shorter than a row, or more than `libgbm` can be told.
    #[error("plane {plane}: a stride of {stride} bytes where a row has {row_bytes}")]
    Stride {
        /// The plane's number.
        plane: usize,
        /// The stride in bytes.
        stride: u32,
        /// The bytes of a row.
        row_bytes: u64,
    },
    /// A plane that reaches past the end of its dma-buf.
    #[error("plane {plane} ends at byte {end} of a dma-buf of {len} bytes")]
    TooShort {
        /// The plane's number.
        plane: usize,
        /// One past the plane's last byte.
        end: u64,
        /// The dma-buf's length in bytes.
        len: usize,
    },
    /// A rectangle that is empty or reaches past the picture's edge.
    #[error("{region:?} is no part of a picture of {width} x {height} pixels")]
    Region {
        /// The rectangle.
        region: Region,
        /// The picture's width in pixels.
        width: u32,
        /// The picture's height in pixels.
        height: u32,
    },
    /// A format whose pixels are not one after the other in one plane.
    #[error(
        "{format} has no single plane of whole pixels, which is all that GBM maps; map the dma-buf \
         of each plane"
    )]
    Planar {
        /// The format.
        format: DrmFourcc,
    },
    /// The driver refused.
    #[error("{call} of {what} on {node}: {}; {fix}", reason(source))]
    Refused {
        /// The function's name.
        call: &'static str,
        /// What was asked.
        what: String,
        /// The device.
        node: String,
        /// The driver's answer. Drivers often give none: then it is number zero.
        source: io::Error,
        /// What may help.
        fix: &'static str,
    },
    /// The rows of a mapping do not fit it.
    #[error(transparent)]
    Rows(#[from] PlaneError),
    /// A dma-buf failed.
    #[error(transparent)]
    DmaBuf(#[from] DmaBufError),
}

/// What an error number says, if it says anything.
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(0) => "refused without a reason".to_owned(),
        _ => error.to_string(),
    }
}
