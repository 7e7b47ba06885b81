//! A copy: what from, what to, and the commands for it.
//!
//! Memory that others use through the kernel belongs to the FOREIGN queue family between copies: each
//! begins by acquiring it and ends by releasing it (Vulkan, "Queue Family Ownership Transfer"). An image
//! is in the layout `GENERAL` meanwhile and stays in it, so that its contents are kept.
//!
//! # Safety
//!
//! The law of this module: what a copy is recorded for lies inside both its sides, which [`Copy`]'s
//! makers check.
#![allow(unsafe_code)]

use std::sync::Arc;

use ash::vk;
use ash::vk::{AccessFlags, PipelineStageFlags};

use super::buffer::Buffer;
use super::device::Device;
use super::error::{VulkanError, failed};
use super::format::{Texels, aspect};
use super::image::Image;
use super::layout::ImageUse;
use crate::frame::{self, Frame};
use crate::{Absent, DmaBuf};

/// A part of one buffer to be copied to a part of another. Offsets and lengths are in bytes and
/// need no alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CopyRegion {
    /// Where it begins in the source.
    pub src_offset: usize,
    /// Where it begins in the destination.
    pub dst_offset: usize,
    /// How long it is. Zero copies nothing.
    pub len: usize,
}

/// A side of a copy, kept until the copy is done.
#[derive(Debug)]
pub(super) enum Side {
    Buffer(Arc<Buffer>),
    Image(Arc<Image>),
}

impl Side {
    fn device(&self) -> &Device {
        match self {
            Self::Buffer(buffer) => buffer.device(),
            Self::Image(image) => image.device(),
        }
    }

    /// The dma-bufs behind it that others may have.
    pub(super) fn dma_bufs(&self) -> Vec<&DmaBuf> {
        match self {
            Self::Buffer(buffer) => buffer.shared.get().into_iter().collect(),
            Self::Image(image) => image.shared(),
        }
    }

    fn is_host_visible(&self) -> bool {
        match self {
            Self::Buffer(buffer) => buffer.raw.memory.is_host_visible(),
            Self::Image(image) => image.is_host_visible(),
        }
    }
}

/// A copy that may be recorded.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) src: Side,
    pub(super) dst: Side,
    pieces: Pieces,
}

#[derive(Debug)]
enum Pieces {
    Bytes(Vec<vk::BufferCopy>),
    Pixels(Vec<vk::BufferImageCopy>),
}

impl Copy {
    /// From buffer to buffer.
    pub(super) fn bytes(
        src: &Arc<Buffer>,
        dst: &Arc<Buffer>,
        regions: &[CopyRegion],
    ) -> Result<Self, VulkanError> {
        let pieces = Pieces::Bytes(check(src, dst, regions)?);
        Ok(Self { src: Side::Buffer(src.clone()), dst: Side::Buffer(dst.clone()), pieces })
    }

    /// From a buffer, in which the picture lies as `layout` says, to an image.
    pub(super) fn to_image(
        src: &Arc<Buffer>,
        layout: &Frame<()>,
        dst: &Arc<Image>,
    ) -> Result<Self, VulkanError> {
        let pieces = Pieces::Pixels(pixels(src, layout, dst, ImageUse::COPY_TO)?);
        Ok(Self { src: Side::Buffer(src.clone()), dst: Side::Image(dst.clone()), pieces })
    }

    /// The other way round.
    pub(super) fn from_image(
        src: &Arc<Image>,
        dst: &Arc<Buffer>,
        layout: &Frame<()>,
    ) -> Result<Self, VulkanError> {
        let pieces = Pieces::Pixels(pixels(dst, layout, src, ImageUse::COPY_FROM)?);
        Ok(Self { src: Side::Image(src.clone()), dst: Side::Buffer(dst.clone()), pieces })
    }

    pub(super) fn is_of(&self, device: &Device) -> bool {
        self.src.device() == device && self.dst.device() == device
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.pieces, Pieces::Bytes(regions) if regions.is_empty())
    }

    /// Records the copy, after all that was recorded for the queue before.
    ///
    /// # Safety
    /// `commands` is of the device's own queue family, and the caller's alone. Both sides are kept until
    /// it is done, if it is submitted.
    pub(super) unsafe fn record(
        &self,
        device: &Device,
        commands: vk::CommandBuffer,
    ) -> Result<(), VulkanError> {
        let (read, write) = (AccessFlags::TRANSFER_READ, AccessFlags::TRANSFER_WRITE);
        let (ours, theirs) = (device.queue_family(), device.foreign_family());
        // After the earlier copies, whose results this one may read or replace.
        let after =
            [vk::MemoryBarrier::default().src_access_mask(write).dst_access_mask(read | write)];
        let acquired = self.passed(theirs, ours, AccessFlags::empty(), read | write);
        let released = self.passed(ours, theirs, write, AccessFlags::empty());
        let to_host = [vk::MemoryBarrier::default()
            .src_access_mask(write)
            .dst_access_mask(AccessFlags::HOST_READ | AccessFlags::HOST_WRITE)];
        // SAFETY: the caller's promises, and the module's law for the pieces.
        unsafe {
            let (transfer, none) = (PipelineStageFlags::TRANSFER, Passed::default());
            begin(device, commands)?;
            barrier(device, commands, (transfer, transfer), &after, &acquired);
            self.copy(device, commands);
            if self.dst.is_host_visible() {
                barrier(device, commands, (transfer, PipelineStageFlags::HOST), &to_host, &none);
            }
            // On its own: ownership does not pass at the host's stage
            // (VUID-vkCmdPipelineBarrier-srcStageMask-09634).
            if !released.is_empty() {
                let end = PipelineStageFlags::BOTTOM_OF_PIPE;
                barrier(device, commands, (transfer, end), &[], &released);
            }
            end(device, commands)
        }
    }

    /// # Safety
    /// As [`record`](Self::record), which has begun.
    unsafe fn copy(&self, device: &Device, commands: vk::CommandBuffer) {
        let (ash, general) = (device.ash(), vk::ImageLayout::GENERAL);
        // SAFETY: the caller's promises, and the module's law.
        unsafe {
            match (&self.src, &self.dst, &self.pieces) {
                (Side::Buffer(src), Side::Buffer(dst), Pieces::Bytes(regions)) => {
                    ash.cmd_copy_buffer(commands, src.ash(), dst.ash(), regions);
                }
                (Side::Buffer(src), Side::Image(dst), Pieces::Pixels(planes)) => {
                    ash.cmd_copy_buffer_to_image(commands, src.ash(), dst.ash(), general, planes)
                }
                (Side::Image(src), Side::Buffer(dst), Pieces::Pixels(planes)) => {
                    ash.cmd_copy_image_to_buffer(commands, src.ash(), general, dst.ash(), planes)
                }
                _ => {}
            }
        }
    }

    /// Both sides, as far as others use them through the kernel, passed from one family to another.
    fn passed(&self, from: u32, to: u32, src: AccessFlags, dst: AccessFlags) -> Passed {
        let mut passed = Passed::default();
        let buffer = |buffer: &Arc<Buffer>| {
            vk::BufferMemoryBarrier::default()
                .buffer(buffer.ash())
                .size(vk::WHOLE_SIZE)
                .src_queue_family_index(from)
                .dst_queue_family_index(to)
                .src_access_mask(src)
                .dst_access_mask(dst)
        };
        match (&self.src, &self.dst) {
            (Side::Buffer(one), Side::Buffer(other)) if Arc::ptr_eq(one, other) => {
                passed.buffers.extend(one.is_shared().then(|| buffer(one)));
            }
            sides => {
                for side in [sides.0, sides.1] {
                    match side {
                        Side::Buffer(one) => {
                            passed.buffers.extend(one.is_shared().then(|| buffer(one)));
                        }
                        Side::Image(image) => passed.images.push(
                            general(image)
                                .old_layout(vk::ImageLayout::GENERAL)
                                .src_queue_family_index(from)
                                .dst_queue_family_index(to)
                                .src_access_mask(src)
                                .dst_access_mask(dst),
                        ),
                    }
                }
            }
        }
        passed
    }
}

/// Gives a new image its first layout and releases it to whoever comes next.
///
/// # Safety
/// As [`Copy::record`].
pub(super) unsafe fn record_first_layout(
    image: &Image,
    commands: vk::CommandBuffer,
) -> Result<(), VulkanError> {
    let device = image.device();
    let (ours, theirs) = (device.queue_family(), device.foreign_family());
    let passed = Passed {
        images: vec![
            general(image)
                .old_layout(vk::ImageLayout::GENERAL)
                .src_queue_family_index(ours)
                .dst_queue_family_index(theirs),
        ],
        ..<_>::default()
    };
    let first = Passed {
        images: vec![
            general(image)
                .old_layout(vk::ImageLayout::UNDEFINED)
                .src_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
                .dst_queue_family_index(vk::QUEUE_FAMILY_IGNORED),
        ],
        ..<_>::default()
    };
    use PipelineStageFlags as Stage;
    // SAFETY: the caller's promises.
    unsafe {
        begin(device, commands)?;
        barrier(device, commands, (Stage::TOP_OF_PIPE, Stage::TRANSFER), &[], &first);
        barrier(device, commands, (Stage::TRANSFER, Stage::BOTTOM_OF_PIPE), &[], &passed);
        end(device, commands)
    }
}

/// Memory that passes from one queue family to another.
#[derive(Default)]
struct Passed {
    buffers: Vec<vk::BufferMemoryBarrier<'static>>,
    images: Vec<vk::ImageMemoryBarrier<'static>>,
}

impl Passed {
    fn is_empty(&self) -> bool {
        self.buffers.is_empty() && self.images.is_empty()
    }
}

/// A whole image, in the layout in which others may use it too. All planes together have the aspect
/// `COLOR` (VUID-VkImageMemoryBarrier-image-09241).
fn general(image: &Image) -> vk::ImageMemoryBarrier<'static> {
    let all = vk::ImageSubresourceRange::default()
        .aspect_mask(vk::ImageAspectFlags::COLOR)
        .level_count(1)
        .layer_count(1);
    vk::ImageMemoryBarrier::default()
        .image(image.ash())
        .subresource_range(all)
        .new_layout(vk::ImageLayout::GENERAL)
}

/// # Safety
/// As [`Copy::record`].
unsafe fn begin(device: &Device, commands: vk::CommandBuffer) -> Result<(), VulkanError> {
    let begin =
        vk::CommandBufferBeginInfo::default().flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
    // SAFETY: the caller's promises.
    unsafe { device.ash().begin_command_buffer(commands, &begin) }
        .map_err(failed("vkBeginCommandBuffer"))
}

/// # Safety
/// As [`Copy::record`].
unsafe fn end(device: &Device, commands: vk::CommandBuffer) -> Result<(), VulkanError> {
    // SAFETY: the caller's promises.
    unsafe { device.ash().end_command_buffer(commands) }.map_err(failed("vkEndCommandBuffer"))
}

/// # Safety
/// As [`Copy::record`], between [`begin`] and [`end`].
unsafe fn barrier(
    device: &Device,
    commands: vk::CommandBuffer,
    (from, to): (PipelineStageFlags, PipelineStageFlags),
    memory: &[vk::MemoryBarrier<'_>],
    passed: &Passed,
) {
    let flags = vk::DependencyFlags::empty();
    let Passed { buffers, images } = passed;
    // SAFETY: the caller's promises.
    unsafe {
        device.ash().cmd_pipeline_barrier(commands, from, to, flags, memory, buffers, images);
    }
}

/// The planes of a picture in Vulkan's form, each inside both the buffer and the image.
fn pixels(
    buffer: &Arc<Buffer>,
    layout: &Frame<()>,
    image: &Arc<Image>,
    side: ImageUse,
) -> Result<Vec<vk::BufferImageCopy>, VulkanError> {
    let (here, there) = (layout.picture, image.picture());
    let refuse = |why| Err(image.device().refuses(there, why));
    if (here.width, here.height, here.format) != (there.width, there.height, there.format) {
        return refuse(Absent::new(
            format!("the buffer has {here}, and a copy converts nothing"),
            "lay the same picture out in the buffer",
        ));
    }
    if !image.uses().contains(side) {
        return refuse(Absent::new(
            format!("it was made for {:?}", image.uses()),
            "make it for copies as well",
        ));
    }
    let sized = layout.planes.iter().map(|plane| plane.in_buffer(buffer.len()));
    here.check(&sized.collect::<Vec<_>>())?;
    let formats = frame::planes(here)?;
    let mut copies = Vec::new();
    for (index, (plane, &format)) in layout.planes.iter().zip(formats).enumerate() {
        let texels = Texels::new((here.width, here.height), format, formats.len());
        // VUID-vkCmdCopyBufferToImage-dstImage-07975 and -commandBuffer-07737.
        let (Some(row_length), true) = (
            texels.row_length(plane.pitch),
            plane.offset.is_multiple_of(format.bytes) && plane.offset.is_multiple_of(4),
        ) else {
            return refuse(Absent::new(
                format!(
                    "plane {index} in the buffer begins at {} with rows {} apart, which are no \
                     multiples of 4 and of {} bytes",
                    plane.offset, plane.pitch, format.bytes
                ),
                "lay the picture out at multiples of 16 (Picture::lay_out)",
            ));
        };
        let (width, height) = texels.size;
        let aspect = aspect(index, formats.len());
        let what = vk::ImageSubresourceLayers::default().aspect_mask(aspect).layer_count(1);
        copies.push(
            vk::BufferImageCopy::default()
                .buffer_offset(plane.offset.into())
                .buffer_row_length(row_length)
                .image_subresource(what)
                .image_extent(vk::Extent3D { width, height, depth: 1 }),
        );
    }
    Ok(copies)
}

/// The regions in Vulkan's form, without empty ones (VUID-VkBufferCopy-size-01988), each inside both
/// buffers (VUID-vkCmdCopyBuffer-srcOffset-00113, -dstOffset-00114, -size-00115, -size-00116).
fn check(
    src: &Arc<Buffer>,
    dst: &Arc<Buffer>,
    regions: &[CopyRegion],
) -> Result<Vec<vk::BufferCopy>, VulkanError> {
    for region in regions {
        check_bounds("source", src, region.src_offset, region.len)?;
        check_bounds("destination", dst, region.dst_offset, region.len)?;
    }
    if Arc::ptr_eq(src, dst) && overlap(regions) {
        return Err(VulkanError::Overlap);
    }
    let copies = regions.iter().filter(|region| region.len > 0).map(|region| vk::BufferCopy {
        src_offset: region.src_offset as u64,
        dst_offset: region.dst_offset as u64,
        size: region.len as u64,
    });
    Ok(copies.collect())
}

pub(super) fn check_bounds(
    side: &'static str,
    buffer: &Buffer,
    offset: usize,
    len: usize,
) -> Result<(), VulkanError> {
    if offset <= buffer.len() && len <= buffer.len() - offset {
        return Ok(());
    }
    Err(VulkanError::OutOfBounds { side, offset, len, buffer_len: buffer.len() })
}

/// Whether any source meets any destination (VUID-vkCmdCopyBuffer-pRegions-00117).
fn overlap(regions: &[CopyRegion]) -> bool {
    regions.iter().any(|a| {
        regions
            .iter()
            .any(|b| a.src_offset < b.dst_offset + b.len && b.dst_offset < a.src_offset + a.len)
    })
}
