//! A region of an image of a program's own, as something that is copied into: a mip level or a part of it, of one array
//! layer or several.
//!
//! To who fills it, it is a run of [`len`](ImageRegion::len) bytes: the texels as the file packs them (`blocks`). A copy
//! of a part of the run becomes one to five `VkBufferImageCopy`, so that parts need not be rows. Where the bytes lie
//! in the source at no multiple of a block and of four, which `vkCmdCopyBufferToImage` asks for, the device copies
//! them first to where they do; the CPU moves nothing.
//!
//! # Safety
//!
//! The law of this module: image and region are what who adopted them promised.
#![allow(unsafe_code)]

use std::sync::Arc;

use ash::vk;

use super::device::Device;
use super::error::VulkanError;
use super::handover::{Handover, Holding, Layouts, Step};
use super::texel::{self, Block};
use crate::Absent;
use crate::blocks::{Blocks, Part};

/// Which region of an image of a program's own is to be filled, and how the image passes to the copies and back: for
/// [`Device::adopt_region`].
#[derive(Clone, Debug)]
#[must_use = "it is copied into when a device has adopted it"]
pub struct Region {
    image: vk::Image,
    format: vk::Format,
    subresource: vk::ImageSubresourceLayers,
    offset: vk::Offset3D,
    extent: vk::Extent3D,
    layouts: Layouts,
    handover: Handover,
}

impl Region {
    /// The `extent` texels at the beginning of a mip level, of each of the array layers that `subresource` names. The
    /// extent is in texels of that level, of compressed formats too: a level of 5 x 5 texels is 2 x 2 blocks of BC7.
    ///
    /// The image is in the layout `UNDEFINED` before, so that what the level held may be lost, and
    /// `SHADER_READ_ONLY_OPTIMAL` after.
    pub fn new(
        image: vk::Image,
        format: vk::Format,
        subresource: vk::ImageSubresourceLayers,
        extent: vk::Extent3D,
    ) -> Self {
        use vk::ImageLayout as Layout;
        Self {
            image,
            format,
            subresource,
            offset: vk::Offset3D::default(),
            extent,
            layouts: Layouts::new(Layout::UNDEFINED, Layout::SHADER_READ_ONLY_OPTIMAL),
            handover: Handover::default(),
        }
    }

    /// It begins here in the level.
    pub fn at(mut self, offset: vk::Offset3D) -> Self {
        self.offset = offset;
        self
    }

    /// The layout that the level is in before the first copy, and the one that it is left in at the end. They are the
    /// whole level's: where several regions of one are filled at the same time, the program puts the level into
    /// `TRANSFER_DST_OPTIMAL` or `GENERAL`, which is both layouts of each, and nothing changes.
    pub fn layouts(mut self, before: vk::ImageLayout, after: vk::ImageLayout) -> Self {
        self.layouts = Layouts::new(before, after);
        self
    }

    /// The queue family that it comes from and the one it goes to, and what is signalled at the end.
    pub fn handover(mut self, handover: Handover) -> Self {
        self.handover = handover;
        self
    }
}

/// A region of an image of a program's own, to be copied into.
#[derive(Debug)]
pub struct ImageRegion {
    device: Device,
    region: Region,
    block: Block,
    blocks: Blocks,
    granule: usize,
    len: usize,
    pub(super) holding: Holding,
}

impl Device {
    /// Takes a region of an image of the program's own, which is never destroyed here.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use exporters::vulkan::ash::vk;
    /// use exporters::vulkan::{CopyRegion, Device, Region, Transfer, VulkanError, When};
    ///
    /// /// Fills mip level 2 of a texture of 1024 x 1024 texels.
    /// fn fill(
    ///     device: &Device,
    ///     transfer: &mut Transfer,
    ///     texture: vk::Image,
    ///     texels: &[u8],
    /// ) -> Result<(), VulkanError> {
    ///     let level = vk::ImageSubresourceLayers::default()
    ///         .aspect_mask(vk::ImageAspectFlags::COLOR)
    ///         .mip_level(2)
    ///         .layer_count(1);
    ///     let extent = vk::Extent3D { width: 256, height: 256, depth: 1 };
    ///     let region = Region::new(texture, vk::Format::BC7_SRGB_BLOCK, level, extent);
    ///     // SAFETY: the program's image of this format, created for transfers into it, and not in use.
    ///     let region = unsafe { device.adopt_region(region) }?;
    ///
    ///     let staging = device.staging(region.len())?;
    ///     staging.buffer().cpu().expect("for the CPU").copy_from_slice(0, texels).expect("as long");
    ///     let all = CopyRegion { src_offset: 0, dst_offset: 0, len: region.len() };
    ///     let _ = transfer.copy_to_region(staging.buffer(), &region, &[all], When::AtOnce)?;
    ///     let done = transfer.finish_region(&region)?;
    ///     transfer.wait(done)
    /// }
    /// ```
    ///
    /// # Safety
    /// Each with the chapter of the Vulkan specification that asks for it:
    ///
    /// * The image is this device's, of the format, created with `VK_IMAGE_USAGE_TRANSFER_DST_BIT` and one sample a
    ///   texel, bound to memory, and not protected ("Images", "Resource Memory Association").
    /// * It has the level and the layers; the region lies inside the level, and its offset and extent are multiples of
    ///   the format's blocks or end at the level's edge. Of a queue family whose `minImageTransferGranularity` is
    ///   zero the region is a whole level, of any other they are multiples of it too ("Copying Data Between Buffers
    ///   and Images").
    /// * The image is destroyed only after the answer's last share and the transfers into it ("Object Lifetime").
    /// * When the first copy begins, the level is in the layout that is said to be before, and belongs to the family
    ///   of the copies, or was released to it ("Image Layout Transitions", "Queue Family Ownership Transfer").
    /// * From then until the end is done nobody else uses the layers of this level, but for copies into other regions
    ///   of them where no layout changes ("Synchronization and Cache Control").
    ///
    /// # Errors
    /// [`VulkanError::Region`], with the reason, for a region that cannot be.
    pub unsafe fn adopt_region(&self, region: Region) -> Result<Arc<ImageRegion>, VulkanError> {
        let aspect = region.subresource.aspect_mask;
        let refused = |why: String, fix: &'static str| VulkanError::Region(Absent::new(why, fix));
        let block = texel::block(region.format, aspect).ok_or_else(|| {
            refused(
                format!("{:?} has no blocks of the aspect {aspect:?} in rows", region.format),
                "take one aspect of a format of one plane",
            )
        })?;
        let family = self.queue().properties;
        if aspect != vk::ImageAspectFlags::COLOR
            && !family.queue_flags.contains(vk::QueueFlags::GRAPHICS)
        {
            // VUID-vkCmdCopyBufferToImage-commandBuffer-07739.
            return Err(refused(
                format!("queue family {} copies no {aspect:?}", self.queue_family()),
                "give a queue that draws (Handles::queue)",
            ));
        }
        let vk::Extent3D { width, height, depth } = region.extent;
        let layers = region.subresource.layer_count;
        if depth > 1 && layers > 1 {
            return Err(refused(
                format!("it has {layers} layers and a depth of {depth}"),
                "an image of three dimensions has one layer (VUID-VkImageCreateInfo-imageType-00961)",
            ));
        }
        let [across, down] = block.texels;
        let size = [width.div_ceil(across), height.div_ceil(down), depth.max(layers)];
        let blocks = Blocks { bytes: block.bytes, size };
        let empty = [width, height, depth, layers].contains(&0);
        let len = blocks.len().filter(|_| !empty).ok_or_else(|| {
            refused(
                format!("{width} x {height} x {depth} texels in {layers} layers are no region"),
                "each side is at least 1, and the whole no longer than an address can count",
            )
        })?;
        let granule = granule(blocks, family.min_image_transfer_granularity, len);
        let Region { handover, layouts, .. } = region.clone();
        if handover.end().is_some_and(|end| !end.is_of(self)) {
            return Err(VulkanError::OtherDevice);
        }
        let holding = Holding::new(handover, self.queue_family(), Some(layouts));
        let device = self.clone();
        Ok(Arc::new(ImageRegion { device, region, block, blocks, granule, len, holding }))
    }
}

/// What a part of the run must be a multiple of, in bytes: a block where the queue copies any, else rows, slices or
/// all.
fn granule(blocks: Blocks, queue: vk::Extent3D, len: usize) -> usize {
    match (queue.width, queue.height, queue.depth) {
        (1, 1, 1) => blocks.bytes,
        (0, ..) | (_, 0, _) | (.., 0) => len,
        (_, rows, 1) => blocks.row().saturating_mul(rows as usize),
        (.., slices) => {
            blocks.row().saturating_mul(blocks.size[1] as usize).saturating_mul(slices as usize)
        }
    }
}

#[allow(clippy::len_without_is_empty, reason = "a region has at least one block")]
impl ImageRegion {
    /// How many bytes fill it: rows of blocks without a gap, slice after slice, layer after layer.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The bytes that belong together: parts of the run begin and end at multiples of so many, or at its end. A block
    /// of the format, where the queue's family copies any (`minImageTransferGranularity`).
    pub fn granule(&self) -> usize {
        self.granule
    }

    /// Its device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub(super) fn ash(&self) -> vk::Image {
        self.region.image
    }

    /// The layout in which it is copied into.
    pub(super) fn layout(&self) -> vk::ImageLayout {
        self.region.layouts.during
    }

    /// What the bytes of a part must begin at a multiple of in the source
    /// (VUID-vkCmdCopyBufferToImage-dstImage-07975 and -07978, -commandBuffer-07737).
    pub(super) fn alignment(&self) -> usize {
        let block = self.block.bytes;
        [1, 2, 4].into_iter().map(|times| block * times).find(|n| n.is_multiple_of(4)).unwrap_or(4)
    }

    /// The boxes of `len` bytes of the run from `offset` on.
    pub(super) fn parts(&self, offset: usize, len: usize) -> Result<Vec<Part>, VulkanError> {
        let (side, buffer_len) = ("image region", self.len);
        let end = offset
            .checked_add(len)
            .filter(|&end| end <= buffer_len)
            .ok_or(VulkanError::OutOfBounds { side, offset, len, buffer_len })?;
        let fits = |at: usize| at.is_multiple_of(self.granule) || at == self.len;
        let parts = self.blocks.split(offset..end).filter(|_| fits(offset) && fits(end));
        parts.ok_or(VulkanError::Cut { offset, len, granule: self.granule })
    }

    /// How many bytes a box has.
    pub(super) fn len_of(&self, part: &Part) -> usize {
        part.len(self.block.bytes)
    }

    /// A box in Vulkan's form, whose bytes begin at an offset of the source without a gap.
    pub(super) fn copy(&self, part: &Part, offset: u64) -> vk::BufferImageCopy {
        let Region { subresource, offset: start, extent, .. } = self.region;
        let [across, down] = self.block.texels;
        let ([x, y, z], [columns, rows, slices]) = (part.origin, part.size);
        let (x, y) = (x * across, y * down);
        // The last block of a row or column may reach past the edge.
        let width = columns.saturating_mul(across).min(extent.width - x);
        let height = rows.saturating_mul(down).min(extent.height - y);
        let mut copy = vk::BufferImageCopy {
            buffer_offset: offset,
            image_subresource: subresource,
            image_offset: start,
            image_extent: vk::Extent3D { width, height, depth: 1 },
            ..Default::default()
        };
        copy.image_offset.x += x as i32;
        copy.image_offset.y += y as i32;
        if subresource.layer_count > 1 {
            copy.image_subresource.base_array_layer += z;
            copy.image_subresource.layer_count = slices;
        } else {
            copy.image_offset.z += z as i32;
            copy.image_extent.depth = slices;
        }
        copy
    }

    /// The barrier of a step, but for its accesses.
    pub(super) fn barrier(&self, step: Step) -> vk::ImageMemoryBarrier<'static> {
        let Region { image, format, subresource, .. } = self.region;
        let all = vk::ImageSubresourceRange {
            // VUID-VkImageMemoryBarrier-image-03320.
            aspect_mask: texel::aspects(format, subresource.aspect_mask),
            base_mip_level: subresource.mip_level,
            level_count: 1,
            base_array_layer: subresource.base_array_layer,
            layer_count: subresource.layer_count,
        };
        let (before, after) = step.layouts.unwrap_or((self.layout(), self.layout()));
        let ignored = (vk::QUEUE_FAMILY_IGNORED, vk::QUEUE_FAMILY_IGNORED);
        let (from, to) = step.families.unwrap_or(ignored);
        vk::ImageMemoryBarrier::default()
            .image(image)
            .subresource_range(all)
            .old_layout(before)
            .new_layout(after)
            .src_queue_family_index(from)
            .dst_queue_family_index(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_copies_few_boxes_has_a_coarse_granule() {
        let blocks = Blocks { bytes: 8, size: [10, 20, 3] };
        let granule = |width, height, depth| {
            super::granule(blocks, vk::Extent3D { width, height, depth }, 4800)
        };
        assert_eq!(granule(1, 1, 1), 8);
        assert_eq!(granule(8, 8, 1), 8 * 80);
        assert_eq!(granule(8, 1, 1), 80);
        assert_eq!(granule(8, 8, 2), 2 * 1600);
        assert_eq!(granule(0, 0, 0), 4800);
    }
}
