//! What can go wrong between wgpu and a dma-buf, each with its remedy.

use std::time::Duration;

use crate::Absent;
use crate::dmabuf::DmaBufError;
use crate::frame::{DrmFourcc, FrameError, Picture};
use crate::vulkan::VulkanError;

/// Why a buffer or texture could not be shared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WgpuError {
    /// The Vulkan beneath: no loader, no device, a call that failed, a dma-buf that is too short.
    #[error(transparent)]
    Vulkan(#[from] VulkanError),
    /// Something that this device does not offer, or was not opened with.
    #[error(transparent)]
    Unavailable(Absent),
    /// A frame that cannot be what it is said to be.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A dma-buf failed.
    #[error(transparent)]
    DmaBuf(#[from] DmaBufError),
    /// A format without a counterpart in wgpu.
    #[error("wgpu has no texture format for {format}; it takes {takes}")]
    Format {
        /// The format.
        format: DrmFourcc,
        /// Those it takes.
        takes: String,
    },
    /// A picture that the driver or wgpu cannot take as it lies.
    #[error("{picture} cannot be a texture: {why}; {fix}")]
    Layout {
        /// The picture.
        picture: Picture,
        /// What stands in the way.
        why: String,
        /// What to do.
        fix: &'static str,
    },
    /// A usage that memory shared with others cannot have.
    #[error("usage {usage} is not for shared memory; {fix}")]
    Usage {
        /// What was asked for and cannot be, in wgpu's words; `none` if nothing was asked for.
        usage: String,
        /// What to do.
        fix: &'static str,
    },
    /// The dma-buf's fences did not signal: whoever uses it has not finished.
    #[error(
        "others still use the dma-buf after {waited:?}: a device or process that shares it hangs, or \
         holds it for longer; try again later"
    )]
    Busy {
        /// How long was waited.
        waited: Duration,
    },
    /// An earlier turn was forgotten, or did not end well: the memory was never given back.
    #[error(
        "the memory is still wgpu's: a turn was forgotten (std::mem::forget), or its end failed; import \
         it anew"
    )]
    NeverGivenBack,
    /// A part of what is to be filled, or of a slot, that is not inside it or divides what belongs together.
    #[error(
        "{len} bytes at {offset:#x} of {of} are not inside, or do not begin and end at multiples of {granule} bytes"
    )]
    Cut {
        /// Where the part begins, in bytes.
        offset: usize,
        /// How long it is, in bytes.
        len: usize,
        /// The bytes that belong together.
        granule: usize,
        /// How many there are in all.
        of: usize,
    },
    /// wgpu refused, or its device is lost.
    #[error("wgpu, while {doing}: {why}")]
    Wgpu {
        /// What was being done.
        doing: &'static str,
        /// wgpu's words.
        why: String,
    },
}

/// A thing that this device lacks.
pub(super) fn lacks(why: impl Into<String>, fix: &'static str) -> WgpuError {
    WgpuError::Unavailable(Absent::new(why.into(), fix))
}
