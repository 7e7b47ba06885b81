//! What can go wrong with Vulkan, each with its remedy.

use ash::vk;

use crate::Absent;
use crate::dmabuf::DmaBufError;
use crate::frame::{FrameError, Picture};
use crate::outside::outside;
use crate::sync_file::SyncFileError;
use crate::udmabuf::UdmabufError;

/// Why Vulkan did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VulkanError {
    /// `libvulkan.so.1` is not there.
    #[error("Vulkan's loader cannot be loaded: {why}; install it (Debian, Ubuntu: libvulkan1)")]
    NoLoader {
        /// The dynamic linker's words.
        why: String,
    },
    /// The loader is there and found no driver, or the drivers found no device.
    #[error(
        "Vulkan finds no device: {why}; install a driver (Debian, Ubuntu: mesa-vulkan-drivers, which \
         has one that needs no GPU), or unset VK_DRIVER_FILES if it names none"
    )]
    NoDevice {
        /// What the loader answered.
        why: &'static str,
    },
    /// No device goes by this index or name.
    #[error("no usable Vulkan device is called `{selector}`; there are: {}", have.join(", "), selector = outside(selector))]
    NoSuchDevice {
        /// What was asked for.
        selector: String,
        /// What there is.
        have: Vec<String>,
    },
    /// The loader or the device is too old.
    #[error("{what} needs {since}; update the driver or take another device")]
    Unsupported {
        /// What was wanted.
        what: String,
        /// The first version that has it.
        since: &'static str,
    },
    /// Something this machine or device does not offer.
    #[error(transparent)]
    Unavailable(Absent),
    /// A length outside what the device takes in one buffer or one allocation.
    #[error("a buffer of {len} bytes: this device takes 1 to {max} bytes; make several buffers")]
    Length {
        /// What was asked for, in bytes.
        len: usize,
        /// The longest, in bytes.
        max: usize,
    },
    /// The device's memory is too small or too full.
    #[error("device memory: {asked} bytes asked, {free} free at most; free some or load in parts")]
    OutOfMemory {
        /// What was asked for, in bytes.
        asked: u64,
        /// What is free, in bytes: the driver's estimate, or the heap's size if it has none.
        free: u64,
    },
    /// More than there is, of a device that shares the system's memory.
    #[error(transparent)]
    SystemMemory(#[from] iomap::Shortage),
    /// Memory whose address or length is not a multiple of what the device imports.
    #[error(
        "memory of {len} bytes cannot be imported: address and length must be multiples of {alignment}"
    )]
    Alignment {
        /// The memory's length in bytes.
        len: usize,
        /// `minImportedHostPointerAlignment`, in bytes.
        alignment: usize,
    },
    /// The device needs more room for a buffer of this length than there is behind it.
    #[error("a dma-buf of {len} bytes is too short: the device needs {need} for such a buffer")]
    TooShort {
        /// What there is, in bytes.
        len: usize,
        /// What the device needs, in bytes.
        need: u64,
    },
    /// A region outside its buffer.
    #[error("{len} bytes at {offset:#x} of the {side} reach past its end ({buffer_len} bytes)")]
    OutOfBounds {
        /// The source or the destination.
        side: &'static str,
        /// Where the region begins, in bytes.
        offset: usize,
        /// How long it is, in bytes.
        len: usize,
        /// The buffer's length in bytes.
        buffer_len: usize,
    },
    /// A copy within one buffer whose source and destination overlap.
    #[error("source and destination of a copy within one buffer overlap; copy in two steps")]
    Overlap,
    /// A region of an image that cannot be copied into.
    #[error("region of an image: {0}")]
    Region(Absent),
    /// A part of an image region that divides what belongs together.
    #[error(
        "{len} bytes at {offset:#x} of an image region do not begin and end at multiples of {granule} bytes \
         (ImageRegion::granule)"
    )]
    Cut {
        /// Where the part begins, in bytes.
        offset: usize,
        /// How long it is, in bytes.
        len: usize,
        /// The bytes that belong together.
        granule: usize,
    },
    /// Something of the program's own that was given back to it.
    #[error("it was given back to the program at the end of its copies (finish); adopt it anew")]
    GivenBack,
    /// A value that a timeline semaphore cannot be signalled with.
    #[error(
        "a timeline semaphore that has, or is to have, the value {above} cannot be signalled with {value}: take a \
         higher one, up to {most}"
    )]
    Value {
        /// What was asked for.
        value: u64,
        /// What it has, or was asked to have before.
        above: u64,
        /// The highest that the device takes (`maxTimelineSemaphoreValueDifference`).
        most: u64,
    },
    /// A buffer or an image that belongs to another device.
    #[error(
        "the buffer, image or semaphore is another device's; share it by a dma-buf or a sync file"
    )]
    OtherDevice,
    /// A buffer that may be moved under a device which was given its address.
    #[error(
        "{device}: its driver may move the buffer, and VFIO type1 is never told: another device would \
         go on writing to where it was, whoever has that memory then; take memory that is known to \
         stay (pages of this process that the GPU imports, a BAR of a device bound to vfio-pci), or \
         opt in by Buffer::assume_it_stays if this driver keeps it in place"
    )]
    MayMove {
        /// The Vulkan device's name.
        device: String,
    },
    /// A ticket that another transfer gave out.
    #[error("the ticket is another transfer's; wait where the copy was made")]
    OtherTransfer,
    /// A picture that cannot be an image of the device, or not be copied.
    #[error("{picture} as an image of {device}: {why}")]
    NoImage {
        /// The device's name.
        device: String,
        /// The picture.
        picture: Picture,
        /// What stands in the way.
        why: Absent,
    },
    /// A frame that cannot be what it is said to be.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A fence could not be waited for: it is no sync file, say.
    #[error(transparent)]
    SyncFile(#[from] SyncFileError),
    /// Making a dma-buf of the memory failed.
    #[error(transparent)]
    Udmabuf(#[from] UdmabufError),
    /// A dma-buf failed.
    #[error(transparent)]
    DmaBuf(#[from] DmaBufError),
    /// The lock of a program's queue did not call what it was given, so that nothing was submitted.
    #[error("the queue's lock returned without a call of what it was given (QueueLock::locked)")]
    NotSubmitted,
    /// A Vulkan call failed.
    #[error("{call} failed: {result}")]
    Call {
        /// The function's name.
        call: &'static str,
        /// What it returned.
        result: vk::Result,
    },
}

/// Names the call that failed, for `map_err`.
pub(crate) fn failed(call: &'static str) -> impl Fn(vk::Result) -> VulkanError {
    move |result| VulkanError::Call { call, result }
}
