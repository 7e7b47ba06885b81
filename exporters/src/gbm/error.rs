//! What can go wrong with GBM, each with its remedy.

use std::io;

use drm_fourcc::{DrmFourcc, DrmModifier};
use iomap::PlaneError;

use super::region::Region;
use crate::Absent;
use crate::dmabuf::DmaBufError;
use crate::frame::FrameError;

/// Why GBM did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// A frame that cannot be what it is said to be.
    #[error(transparent)]
    Frame(#[from] FrameError),
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
    /// A frame with more or fewer planes than the device wants.
    #[error("{got} planes, and the device has {wanted} for this format and modifier")]
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
