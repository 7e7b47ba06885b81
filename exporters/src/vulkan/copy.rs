//! A copy: what from, what to, and the commands for it.
//!
//! Memory that others use through the kernel belongs to the FOREIGN queue family between copies: each
//! begins by acquiring it and ends by releasing it (Vulkan, "Queue Family Ownership Transfer"). An image
//! is in the layout `GENERAL` meanwhile and stays in it, so that its contents are kept. What is a program's own passes
//! once each way (`handover`), by the first copy and by [`record_end`].
//!
//! # Safety
//!
//! The law of this module: what a copy is recorded for lies inside both its sides, which [`Copy`]'s
//! makers check.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::Arc;

use ash::vk;
use ash::vk::{AccessFlags, PipelineStageFlags};

use super::buffer::Buffer;
use super::commands::{Passed, barrier, begin, end};
use super::device::Device;
use super::error::VulkanError;
use super::format::{self, aspect};
use super::handover::{Holding, Step};
use super::image::Image;
use super::layout::ImageUse;
use super::region::ImageRegion;
use crate::frame::{self, Frame};
use crate::upload::CopyRegion;
use crate::{Absent, DmaBuf};

/// A side of a copy, kept until the copy is done.
#[derive(Debug)]
pub(super) enum Side {
    Buffer(Arc<Buffer>),
    Image(Arc<Image>),
    Region(Arc<ImageRegion>),
}

impl Side {
    pub(super) fn device(&self) -> &Device {
        match self {
            Self::Buffer(buffer) => buffer.device(),
            Self::Image(image) => image.device(),
            Self::Region(region) => region.device(),
        }
    }

    /// How it passes to the copies and back, if it is a program's own.
    pub(super) fn holding(&self) -> Option<&Holding> {
        match self {
            Self::Buffer(buffer) => buffer.holding(),
            Self::Image(_) => None,
            Self::Region(region) => Some(&region.holding),
        }
    }

    /// The dma-bufs behind it that others may have.
    pub(super) fn dma_bufs(&self) -> Vec<&DmaBuf> {
        match self {
            Self::Buffer(buffer) => buffer.shared.get().into_iter().collect(),
            Self::Image(image) => image.shared(),
            Self::Region(_) => Vec::new(),
        }
    }

    fn is_host_visible(&self) -> bool {
        match self {
            Self::Buffer(buffer) => buffer.is_host_visible(),
            Self::Image(image) => image.is_host_visible(),
            // Its texels are not where the CPU would look for them.
            Self::Region(_) => false,
        }
    }

    /// The barrier of a step on its way, with these accesses before and after.
    fn step(&self, step: Step, src: AccessFlags, dst: AccessFlags) -> Passed {
        let mut passed = Passed::default();
        match self {
            Self::Buffer(buffer) => {
                let ignored = (vk::QUEUE_FAMILY_IGNORED, vk::QUEUE_FAMILY_IGNORED);
                let (from, to) = step.families.unwrap_or(ignored);
                passed.buffers.push(
                    vk::BufferMemoryBarrier::default()
                        .buffer(buffer.ash())
                        .offset(buffer.ash_offset())
                        .size(buffer.len() as u64)
                        .src_queue_family_index(from)
                        .dst_queue_family_index(to)
                        .src_access_mask(src)
                        .dst_access_mask(dst),
                );
            }
            Self::Image(_) => {}
            Self::Region(region) => {
                let barrier = region.barrier(step);
                passed.images.push(barrier.src_access_mask(src).dst_access_mask(dst));
            }
        }
        passed
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
    Texels(Texels),
}

/// The boxes of a region, by where their bytes lie.
#[derive(Debug)]
struct Texels {
    /// In the source, where the device copies them from.
    direct: Vec<vk::BufferImageCopy>,
    /// At no multiple of what the device asks for: copied first, and from there then.
    aligned: Option<Aligned>,
}

#[derive(Debug)]
struct Aligned {
    scratch: Arc<Buffer>,
    first: Vec<vk::BufferCopy>,
    then: Vec<vk::BufferImageCopy>,
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

    /// From a buffer to a region of an image, whose bytes `scratch` has memory for where they lie wrongly in the source.
    pub(super) fn to_region(
        src: &Arc<Buffer>,
        dst: &Arc<ImageRegion>,
        regions: &[CopyRegion],
        scratch: impl FnOnce(usize) -> Result<Arc<Buffer>, VulkanError>,
    ) -> Result<Self, VulkanError> {
        usable(src, vk::BufferUsageFlags::TRANSFER_SRC)?;
        let alignment = dst.alignment();
        let (mut direct, mut first, mut then) = (Vec::new(), Vec::new(), Vec::new());
        let mut end = 0_usize;
        for region in regions {
            check_bounds("source", src, region.src_offset, region.len)?;
            for part in dst.parts(region.dst_offset, region.len)? {
                let at = region.src_offset + (part.at - region.dst_offset);
                let offset = src.ash_offset() + at as u64;
                if offset.is_multiple_of(alignment as u64) {
                    direct.push(dst.copy(&part, offset));
                    continue;
                }
                let (len, dst_offset) = (dst.len_of(&part), end.next_multiple_of(alignment));
                first.push(vk::BufferCopy {
                    src_offset: offset,
                    dst_offset: dst_offset as u64,
                    size: len as u64,
                });
                then.push(dst.copy(&part, dst_offset as u64));
                end = dst_offset + len;
            }
        }
        let aligned = match end {
            0 => None,
            len => Some(Aligned { scratch: scratch(len)?, first, then }),
        };
        let pieces = Pieces::Texels(Texels { direct, aligned });
        Ok(Self { src: Side::Buffer(src.clone()), dst: Side::Region(dst.clone()), pieces })
    }

    /// The memory that it needs beside its sides, to be used again when it is done.
    pub(super) fn scratch(&self) -> Option<&Arc<Buffer>> {
        match &self.pieces {
            Pieces::Texels(Texels { aligned: Some(aligned), .. }) => Some(&aligned.scratch),
            _ => None,
        }
    }

    /// Its sides that are a program's own, each once.
    pub(super) fn lent(&self) -> impl Iterator<Item = (&Side, &Holding)> {
        let holding = |side| Side::holding(side).map(|holding| (side, holding));
        let (src, dst) = (holding(&self.src), holding(&self.dst));
        let same = matches!((src, dst), (Some((_, one)), Some((_, other))) if ptr::eq(one, other));
        src.into_iter().chain(dst.filter(|_| !same))
    }

    pub(super) fn is_of(&self, device: &Device) -> bool {
        self.src.device() == device && self.dst.device() == device
    }

    pub(super) fn is_empty(&self) -> bool {
        match &self.pieces {
            Pieces::Bytes(regions) => regions.is_empty(),
            Pieces::Pixels(planes) => planes.is_empty(),
            Pieces::Texels(texels) => texels.direct.is_empty() && texels.aligned.is_none(),
        }
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
            for (side, holding) in self.lent() {
                if let Some(step) = holding.take()? {
                    take(device, commands, side, step);
                }
            }
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
                (Side::Buffer(src), Side::Region(dst), Pieces::Texels(texels)) => {
                    let (image, layout) = (dst.ash(), dst.layout());
                    let Texels { direct, aligned } = texels;
                    if let Some(Aligned { scratch, first, then }) = aligned {
                        let transfer = PipelineStageFlags::TRANSFER;
                        let copied = [vk::MemoryBarrier::default()
                            .src_access_mask(AccessFlags::TRANSFER_WRITE)
                            .dst_access_mask(AccessFlags::TRANSFER_READ)];
                        let (scratch, none) = (scratch.ash(), Passed::default());
                        ash.cmd_copy_buffer(commands, src.ash(), scratch, first);
                        barrier(device, commands, (transfer, transfer), &copied, &none);
                        ash.cmd_copy_buffer_to_image(commands, scratch, image, layout, then);
                    }
                    if !direct.is_empty() {
                        ash.cmd_copy_buffer_to_image(commands, src.ash(), image, layout, direct);
                    }
                }
                _ => {}
            }
        }
    }

    /// Both sides, as far as others use them through the kernel, passed from one family to another.
    fn passed(&self, from: u32, to: u32, src: AccessFlags, dst: AccessFlags) -> Passed {
        let mut passed = Passed::default();
        let (families, accesses) = ((from, to), (src, dst));
        match (&self.src, &self.dst) {
            (Side::Buffer(one), Side::Buffer(other)) if Arc::ptr_eq(one, other) => {
                passed.add_shared(one, families, accesses);
            }
            sides => {
                for side in [sides.0, sides.1] {
                    match side {
                        Side::Buffer(one) => passed.add_shared(one, families, accesses),
                        Side::Image(image) => passed.images.push(
                            general(image)
                                .old_layout(vk::ImageLayout::GENERAL)
                                .src_queue_family_index(from)
                                .dst_queue_family_index(to)
                                .src_access_mask(src)
                                .dst_access_mask(dst),
                        ),
                        Side::Region(_) => {}
                    }
                }
            }
        }
        passed
    }
}

/// Gives something of a program's own back: to its queue family, in its layout. What no copy took is taken first.
///
/// # Safety
/// As [`Copy::record`].
pub(super) unsafe fn record_end(
    device: &Device,
    commands: vk::CommandBuffer,
    side: &Side,
    (taken, given): (Option<Step>, Option<Step>),
) -> Result<(), VulkanError> {
    // SAFETY: the caller's promises.
    unsafe {
        begin(device, commands)?;
        if let Some(step) = taken {
            take(device, commands, side, step);
        }
        if let Some(step) = given {
            give(device, commands, side, step);
        }
        end(device, commands)
    }
}

/// # Safety
/// As [`Copy::record`], between [`begin`] and [`end`].
unsafe fn give(device: &Device, commands: vk::CommandBuffer, side: &Side, step: Step) {
    let next = match step.families {
        // A release makes nothing visible to anybody: the acquire does.
        Some(_) => AccessFlags::empty(),
        None => AccessFlags::MEMORY_READ | AccessFlags::MEMORY_WRITE,
    };
    let given = side.step(step, AccessFlags::TRANSFER_WRITE, next);
    let stages = (PipelineStageFlags::TRANSFER, PipelineStageFlags::ALL_COMMANDS);
    // SAFETY: the caller's promises.
    unsafe { barrier(device, commands, stages, &[], &given) };
}

/// Takes something of a program's own: from its queue family, out of its layout.
///
/// # Safety
/// As [`Copy::record`], between [`begin`] and [`end`].
unsafe fn take(device: &Device, commands: vk::CommandBuffer, side: &Side, step: Step) {
    let before = match step.families {
        Some(_) => AccessFlags::empty(),
        None => AccessFlags::MEMORY_WRITE,
    };
    let copies = AccessFlags::TRANSFER_READ | AccessFlags::TRANSFER_WRITE;
    let taken = side.step(step, before, copies);
    let stages = (PipelineStageFlags::ALL_COMMANDS, PipelineStageFlags::TRANSFER);
    // SAFETY: the caller's promises.
    unsafe { barrier(device, commands, stages, &[], &taken) };
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
    let usages = [vk::BufferUsageFlags::TRANSFER_SRC, vk::BufferUsageFlags::TRANSFER_DST];
    usable(buffer, usages[usize::from(side == ImageUse::COPY_FROM)])?;
    let sized = layout.planes.iter().map(|plane| plane.in_buffer(buffer.len()));
    here.check(&sized.collect::<Vec<_>>())?;
    let formats = frame::planes(here)?;
    let mut copies = Vec::new();
    for (index, (plane, &format)) in layout.planes.iter().zip(formats).enumerate() {
        let offset = buffer.ash_offset() + u64::from(plane.offset);
        let texels = format::Texels::new((here.width, here.height), format, formats.len());
        // VUID-vkCmdCopyBufferToImage-dstImage-07975 and -commandBuffer-07737.
        let (Some(row_length), true) = (
            texels.row_length(plane.pitch),
            offset.is_multiple_of(format.bytes.into()) && offset.is_multiple_of(4),
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
                .buffer_offset(offset)
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
    usable(src, vk::BufferUsageFlags::TRANSFER_SRC)?;
    usable(dst, vk::BufferUsageFlags::TRANSFER_DST)?;
    for region in regions {
        check_bounds("source", src, region.src_offset, region.len)?;
        check_bounds("destination", dst, region.dst_offset, region.len)?;
    }
    let copies = regions.iter().filter(|region| region.len > 0).map(|region| vk::BufferCopy {
        src_offset: src.ash_offset() + region.src_offset as u64,
        dst_offset: dst.ash_offset() + region.dst_offset as u64,
        size: region.len as u64,
    });
    let copies: Vec<_> = copies.collect();
    if src.ash() == dst.ash() && overlap(&copies) {
        return Err(VulkanError::Overlap);
    }
    Ok(copies)
}

/// Whether a buffer was created for a side of a copy (VUID-vkCmdCopyBuffer-srcBuffer-00118, -dstBuffer-00120).
fn usable(buffer: &Buffer, side: vk::BufferUsageFlags) -> Result<(), VulkanError> {
    if buffer.usage().contains(side) {
        return Ok(());
    }
    Err(VulkanError::Unavailable(Absent::new(
        format!("the program's buffer was created for {:?}, without {side:?}", buffer.usage()),
        "create it with that usage, and say so (BufferRange::new)",
    )))
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
fn overlap(copies: &[vk::BufferCopy]) -> bool {
    copies.iter().any(|a| {
        copies
            .iter()
            .any(|b| a.src_offset < b.dst_offset + b.size && b.dst_offset < a.src_offset + a.size)
    })
}
