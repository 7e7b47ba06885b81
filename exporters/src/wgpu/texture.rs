//! Textures of wgpu over frames.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. An [`Image`] owns its image, and its memory, which is freed after it. It is destroyed before its
//!    device (law 1 of `device`), and after wgpu's handles on it, each of which owns a share.
//! 2. wgpu learns of an image what it was made with: its size, format and usage.
//! 3. Outside a turn the image is the foreign queue family's and its layout `GENERAL`; wgpu gets it in
//!    the layout of the state that `resting` names, and leaves it so.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use ash::vk;
use ash::vk::{AccessFlags, ImageLayout, PipelineStageFlags};
use wgpu::hal::api::Vulkan;

use super::device::{Device, Hal, beyond};
use super::error::{WgpuError, lacks};
use super::format::{self, Format};
use super::memory::{HANDLE, Memory};
use super::turn::{Handle, Raw, Shared, Turn};
use crate::frame::{DrmFourcc, DrmModifier, Frame, FramePlane, MAX_PLANES, Picture};
use crate::vulkan::error::failed;
use crate::vulkan::layout::modifiers;
use crate::{DmaBuf, Intent};

/// A texture that wgpu shares with others as a [`Frame`].
///
/// It is made by [`Device::import_texture`] or [`Device::create_texture`]. wgpu uses it in turns
/// ([`acquire`](Self::acquire)).
pub struct SharedTexture {
    image: Arc<Image>,
    frame: Frame,
    format: Format,
    usage: wgpu::TextureUsages,
    taken: bool,
    device: Device,
}

impl Device {
    /// Makes a frame a texture of wgpu, with what is in it.
    ///
    /// All its planes must lie in one dma-buf. Of several planes are only `NV12` and `P010`, which need
    /// wgpu's features of that name, and compression data where the modifier has it. Formats without
    /// alpha (`XR24`) have one in wgpu, and what it reads there is whatever lies in those bytes. Colours
    /// are as they lie: no conversion from sRGB.
    ///
    /// # Errors
    /// [`WgpuError::Frame`] if the planes do not fit their dma-buf; [`WgpuError::Format`],
    /// [`WgpuError::Usage`]; [`WgpuError::Layout`] with the reason if the layout is implicit, the planes
    /// lie in several dma-bufs, or the driver does not take this format in this layout for this usage;
    /// [`WgpuError::Unavailable`] for a format whose feature the device was not opened with;
    /// [`WgpuError::Vulkan`] if the driver needs more room than there is
    /// ([`VulkanError::TooShort`](crate::vulkan::VulkanError::TooShort)) or refuses this exporter's
    /// buffers.
    pub fn import_texture(
        &self,
        frame: &Frame,
        usage: wgpu::TextureUsages,
    ) -> Result<SharedTexture, WgpuError> {
        frame.check()?;
        let picture = frame.picture;
        let format = self.texture_format(picture.format, usage)?;
        let Some(modifier) = picture.modifier else {
            return Err(layout(picture, "its layout is implicit", "export it with a modifier"));
        };
        let dma_buf = one_dma_buf(frame)?;
        let hal = self.hal();
        let wish = Wish { format, usage: format::image_usage(usage), picture };
        let planes = wish.planes(hal, modifier, vk::ExternalMemoryFeatureFlags::IMPORTABLE)?;
        if planes != frame.planes.len() {
            let why = format!("the driver has {planes} planes for it, not {}", frame.planes.len());
            return Err(layout(picture, why, "describe all its planes"));
        }
        let layouts: Vec<_> = frame
            .planes
            .iter()
            .map(|plane| vk::SubresourceLayout {
                offset: plane.offset.into(),
                row_pitch: plane.pitch.into(),
                ..Default::default()
            })
            .collect();
        let mut explicit = vk::ImageDrmFormatModifierExplicitCreateInfoEXT::default()
            .drm_format_modifier(modifier.into())
            .plane_layouts(&layouts);
        let image = Image::new(hal, &wish, resting(usage), &mut explicit, |need, only_for| {
            Memory::import(hal, dma_buf, need, only_for)
        })?;
        Ok(SharedTexture {
            image: Arc::new(image),
            frame: frame.clone(),
            format,
            usage,
            taken: false,
            device: self.clone(),
        })
    }

    /// Makes a texture of wgpu that others import as a frame, in one of these layouts, the driver
    /// chooses which; all zero.
    ///
    /// # Errors
    /// As [`import_texture`](Self::import_texture), [`WgpuError::Layout`] also if the driver exports no
    /// picture of this format and usage in any of `modifiers` (see [`modifiers`](Self::modifiers)), or the
    /// format has several planes.
    pub fn create_texture(
        &self,
        width: u32,
        height: u32,
        drm_format: DrmFourcc,
        modifiers: &[DrmModifier],
        usage: wgpu::TextureUsages,
    ) -> Result<SharedTexture, WgpuError> {
        let picture = Picture { width, height, format: drm_format, modifier: None };
        picture.check_format()?;
        let format = self.texture_format(drm_format, usage)?;
        if !format.planes.is_empty() {
            return Err(layout(picture, "it has several planes", "import such pictures only"));
        }
        let hal = self.hal();
        // It is cleared by a transfer.
        let image_usage = format::image_usage(usage) | vk::ImageUsageFlags::TRANSFER_DST;
        let wish = Wish { format, usage: image_usage, picture };
        let export = vk::ExternalMemoryFeatureFlags::EXPORTABLE;
        let offered: Vec<u64> = modifiers
            .iter()
            .filter(|&&modifier| wish.planes(hal, modifier, export).is_ok())
            .map(|&modifier| modifier.into())
            .collect();
        if offered.is_empty() {
            let why = "the driver exports such a picture in none of the layouts asked for";
            return Err(layout(picture, why, "ask for those of Device::modifiers"));
        }
        let mut list =
            vk::ImageDrmFormatModifierListCreateInfoEXT::default().drm_format_modifiers(&offered);
        let image = Image::new(hal, &wish, resting(usage), &mut list, |need, only_for| {
            Memory::exportable(hal, need, only_for)
        })?;
        let frame = image.frame(&wish)?;
        frame.check()?;
        self.finish(|commands| image.clear(commands))?;
        let (image, device) = (Arc::new(image), self.clone());
        Ok(SharedTexture { image, frame, format, usage, taken: false, device })
    }

    /// The layouts in which the driver exports pictures of a format and usage, for
    /// [`create_texture`](Self::create_texture).
    ///
    /// # Errors
    /// [`WgpuError::Format`], [`WgpuError::Usage`], [`WgpuError::Unavailable`].
    pub fn modifiers(
        &self,
        drm_format: DrmFourcc,
        usage: wgpu::TextureUsages,
    ) -> Result<Vec<DrmModifier>, WgpuError> {
        let format = self.texture_format(drm_format, usage)?;
        let picture = Picture::linear(1, 1, drm_format);
        let image_usage = format::image_usage(usage) | vk::ImageUsageFlags::TRANSFER_DST;
        let wish = Wish { format, usage: image_usage, picture };
        let export = vk::ExternalMemoryFeatureFlags::EXPORTABLE;
        let all = drm_layouts(self.hal(), format.vk).into_iter();
        Ok(all
            .map(|known| DrmModifier::from(known.drm_format_modifier))
            .filter(|&modifier| wish.planes(self.hal(), modifier, export).is_ok())
            .collect())
    }

    fn texture_format(
        &self,
        drm_format: DrmFourcc,
        usage: wgpu::TextureUsages,
    ) -> Result<Format, WgpuError> {
        format::check_texture(usage)?;
        let format = Format::of(drm_format)?;
        let missing = format.wgpu.required_features() - self.device().features();
        match missing.is_empty() {
            true => Ok(format),
            false => Err(beyond(&missing.to_string())),
        }
    }
}

impl SharedTexture {
    /// The frame, for others.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// wgpu's format of it.
    pub fn format(&self) -> wgpu::TextureFormat {
        self.format.wgpu
    }

    /// Begins wgpu's turn, for reading or for writing too: waits for the others' fences, on the CPU,
    /// and acquires the memory.
    ///
    /// # Errors
    /// [`WgpuError::Busy`] if the others are not done in fifteen seconds;
    /// [`WgpuError::NeverGivenBack`] after a turn that was forgotten; [`WgpuError::Wgpu`].
    pub fn acquire(&mut self, intent: Intent) -> Result<Turn<'_, wgpu::Texture>, WgpuError> {
        let dma_buf = one_dma_buf(&self.frame)?;
        let shared = Shared { device: &self.device, raw: &*self.image, dma_buf };
        let picture = self.frame.picture;
        let wrapped = || wrap(&self.device, &self.image, picture, self.format, self.usage);
        Turn::begin(shared, &mut self.taken, intent, wrapped)
    }
}

/// wgpu's handle on an image.
fn wrap(
    device: &Device,
    image: &Arc<Image>,
    Picture { width, height, .. }: Picture,
    format: Format,
    usage: wgpu::TextureUsages,
) -> Result<wgpu::Texture, WgpuError> {
    let size = wgpu::Extent3d { width, height, depth_or_array_layers: 1 };
    let (state, _) = format::resting(usage);
    let descriptor = wgpu::TextureDescriptor {
        label: None,
        size,
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format: format.wgpu,
        usage,
        view_formats: &[],
    };
    let for_hal = wgpu::hal::TextureDescriptor {
        label: None,
        size,
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format: format.wgpu,
        usage: state,
        memory_flags: wgpu::hal::MemoryFlags::empty(),
        view_formats: Vec::new(),
    };
    let keep = Arc::clone(image);
    let device = device.device();
    // SAFETY: the guard is let go of before wgpu's next call.
    let texture = unsafe {
        device.as_hal::<Vulkan>().map(|hal| {
            hal.texture_from_raw(
                image.image,
                &for_hal,
                Some(Box::new(move || drop(keep))),
                wgpu::hal::vulkan::TextureMemory::External,
            )
        })
    };
    let texture = texture.ok_or_else(|| lacks("wgpu's device is not Vulkan's", "open another"))?;
    // SAFETY: law 2, law 3, and law 1: wgpu's handle keeps a share of the image until it is gone.
    Ok(unsafe { device.create_texture_from_hal::<Vulkan>(texture, &descriptor, state) })
}

impl fmt::Debug for SharedTexture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("SharedTexture");
        all.field("frame", &self.frame).field("usage", &self.usage).finish_non_exhaustive()
    }
}

impl Handle for wgpu::Texture {
    fn rest(&self, encoder: &mut wgpu::CommandEncoder) {
        let (state, _) = format::resting(self.usage());
        let transition = wgpu::TextureTransition { texture: self, selector: None, state };
        encoder.transition_resources(std::iter::empty(), [transition].into_iter());
    }

    fn destroy(&self) {
        wgpu::Texture::destroy(self);
    }
}

/// The layout in which wgpu gets and leaves an image (law 3).
fn resting(usage: wgpu::TextureUsages) -> ImageLayout {
    format::resting(usage).1
}

/// What an image is to be.
struct Wish {
    format: Format,
    usage: vk::ImageUsageFlags,
    picture: Picture,
}

impl Wish {
    /// How many planes the driver has for it in a layout, if it takes it at all
    /// (VUID-VkImageCreateInfo-pNext-00990, -tiling-02261 and the limits of the format).
    fn planes(
        &self,
        hal: &Hal,
        modifier: DrmModifier,
        feature: vk::ExternalMemoryFeatureFlags,
    ) -> Result<usize, WgpuError> {
        let refused = |why: String| layout(self.picture, why, "take another layout or usage");
        let known = drm_layouts(hal, self.format.vk);
        let known = known.iter().find(|known| known.drm_format_modifier == u64::from(modifier));
        let known =
            known.ok_or_else(|| refused("the driver does not know the layout".to_owned()))?;

        let views = self.format.views();
        let mut list = vk::ImageFormatListCreateInfo::default().view_formats(&views);
        let mut external = vk::PhysicalDeviceExternalImageFormatInfo::default().handle_type(HANDLE);
        let mut tiling = vk::PhysicalDeviceImageDrmFormatModifierInfoEXT::default()
            .drm_format_modifier(modifier.into())
            .sharing_mode(vk::SharingMode::EXCLUSIVE);
        let mut query = vk::PhysicalDeviceImageFormatInfo2::default()
            .format(self.format.vk)
            .ty(vk::ImageType::TYPE_2D)
            .tiling(vk::ImageTiling::DRM_FORMAT_MODIFIER_EXT)
            .usage(self.usage)
            .flags(self.flags())
            .push_next(&mut external)
            .push_next(&mut tiling);
        if !views.is_empty() {
            query = query.push_next(&mut list);
        }
        let mut offered = vk::ExternalImageFormatProperties::default();
        let mut answer = vk::ImageFormatProperties2::default().push_next(&mut offered);
        // SAFETY: the instance is alive, the device is one of its own and has the extensions.
        let asked = unsafe {
            hal.instance.get_physical_device_image_format_properties2(
                hal.physical,
                &query,
                &mut answer,
            )
        };
        match asked {
            Ok(()) => {}
            Err(vk::Result::ERROR_FORMAT_NOT_SUPPORTED) => {
                return Err(refused(format!("the driver has no such images for {:?}", self.usage)));
            }
            Err(error) => {
                let call = "vkGetPhysicalDeviceImageFormatProperties2";
                return Err(failed(call)(error).into());
            }
        }
        let vk::Extent3D { width, height, .. } = answer.image_format_properties.max_extent;
        if !offered.external_memory_properties.external_memory_features.contains(feature) {
            return Err(refused(format!("the driver has no dma-bufs ({feature:?}) for it")));
        }
        if self.picture.width > width || self.picture.height > height {
            return Err(refused(format!(
                "the driver has at most {width} x {height} pixels for it"
            )));
        }
        Ok(known.drm_format_modifier_plane_count as usize)
    }

    /// As wgpu makes an image whose planes it views one by one.
    fn flags(&self) -> vk::ImageCreateFlags {
        match self.format.planes {
            [] => vk::ImageCreateFlags::empty(),
            _ => vk::ImageCreateFlags::MUTABLE_FORMAT | vk::ImageCreateFlags::EXTENDED_USAGE,
        }
    }
}

/// The layouts that the driver knows for a format.
fn drm_layouts(hal: &Hal, format: vk::Format) -> Vec<vk::DrmFormatModifierPropertiesEXT> {
    // SAFETY: the instance is alive, the device is one of its own and has the extension.
    unsafe { modifiers(&hal.instance, hal.physical, format) }
}

/// A Vulkan image and its memory.
struct Image {
    hal: Arc<Hal>,
    image: vk::Image,
    /// The layout in which wgpu gets and leaves it.
    resting: ImageLayout,
    memory: Option<Memory>,
}

impl Image {
    fn new(
        hal: &Arc<Hal>,
        wish: &Wish,
        resting: ImageLayout,
        tiling: &mut impl vk::ExtendsImageCreateInfo,
        memory: impl FnOnce(
            vk::MemoryRequirements,
            vk::MemoryDedicatedAllocateInfo<'_>,
        ) -> Result<Memory, WgpuError>,
    ) -> Result<Self, WgpuError> {
        let Picture { width, height, .. } = wish.picture;
        let views = wish.format.views();
        let mut list = vk::ImageFormatListCreateInfo::default().view_formats(&views);
        let mut external = vk::ExternalMemoryImageCreateInfo::default().handle_types(HANDLE);
        let mut create = vk::ImageCreateInfo::default()
            .flags(wish.flags())
            .image_type(vk::ImageType::TYPE_2D)
            .format(wish.format.vk)
            .extent(vk::Extent3D { width, height, depth: 1 })
            .mip_levels(1)
            .array_layers(1)
            .samples(vk::SampleCountFlags::TYPE_1)
            .tiling(vk::ImageTiling::DRM_FORMAT_MODIFIER_EXT)
            .usage(wish.usage)
            .push_next(&mut external)
            .push_next(tiling);
        if !views.is_empty() {
            create = create.push_next(&mut list);
        }
        // SAFETY: the device is alive and has the extension; `Wish::planes` has asked for just this.
        let image =
            unsafe { hal.ash.create_image(&create, None) }.map_err(failed("vkCreateImage"))?;
        let mut made = Self { hal: Arc::clone(hal), image, resting, memory: None };
        // SAFETY: the image is ours and alive, its planes are not disjoint.
        let need = unsafe { hal.ash.get_image_memory_requirements(image) };
        let only_for = vk::MemoryDedicatedAllocateInfo::default().image(image);
        let memory = made.memory.insert(memory(need, only_for)?);
        // SAFETY: image and memory are ours, fresh and made for each other.
        unsafe { hal.ash.bind_image_memory(image, memory.raw, 0) }
            .map_err(failed("vkBindImageMemory"))?;
        Ok(made)
    }

    /// How it lies in its memory, which leaves as a dma-buf.
    fn frame(&self, wish: &Wish) -> Result<Frame, WgpuError> {
        let memory = self.memory.as_ref();
        let dma_buf =
            memory.ok_or_else(|| lacks("the image has no memory", "make another"))?.dma_buf()?;
        let mut chosen = vk::ImageDrmFormatModifierPropertiesEXT::default();
        // SAFETY: the image is ours, with a layout that the driver chose among modifiers.
        unsafe {
            self.hal.modifiers.get_image_drm_format_modifier_properties(self.image, &mut chosen)
        }
        .map_err(failed("vkGetImageDrmFormatModifierPropertiesEXT"))?;
        let modifier = DrmModifier::from(chosen.drm_format_modifier);
        let picture = Picture { modifier: Some(modifier), ..wish.picture };
        let export = vk::ExternalMemoryFeatureFlags::EXPORTABLE;
        let count = wish.planes(&self.hal, modifier, export)?.min(MAX_PLANES);
        let aspects = [
            vk::ImageAspectFlags::MEMORY_PLANE_0_EXT,
            vk::ImageAspectFlags::MEMORY_PLANE_1_EXT,
            vk::ImageAspectFlags::MEMORY_PLANE_2_EXT,
            vk::ImageAspectFlags::MEMORY_PLANE_3_EXT,
        ];
        let too_far = |_| layout(picture, "a plane lies beyond 4 GiB", "make a smaller picture");
        let plane = |aspect| {
            let plane = vk::ImageSubresource::default().aspect_mask(aspect);
            // SAFETY: the image is ours and has such a plane.
            let place = unsafe { self.hal.ash.get_image_subresource_layout(self.image, plane) };
            Ok(FramePlane {
                buffer: dma_buf.clone(),
                offset: u32::try_from(place.offset).map_err(too_far)?,
                pitch: u32::try_from(place.row_pitch).map_err(too_far)?,
            })
        };
        let planes =
            aspects.into_iter().take(count).map(plane).collect::<Result<_, WgpuError>>()?;
        Ok(Frame { picture, planes })
    }

    /// Clears a new image and gives it to the others.
    fn clear(&self, commands: vk::CommandBuffer) {
        let cleared = ImageLayout::TRANSFER_DST_OPTIMAL;
        let fresh = vk::ImageMemoryBarrier::default()
            .old_layout(ImageLayout::UNDEFINED)
            .new_layout(cleared)
            .src_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
            .dst_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
            .dst_access_mask(AccessFlags::TRANSFER_WRITE);
        self.pass(commands, fresh);
        let zero = vk::ClearColorValue::default();
        // SAFETY: the image may be cleared, is in this layout, and lives until the commands are
        // done, which its maker waits for.
        unsafe {
            self.hal.ash.cmd_clear_color_image(commands, self.image, cleared, &zero, &[WHOLE]);
        }
        self.give(commands, cleared);
    }

    fn give(&self, commands: vk::CommandBuffer, from: ImageLayout) {
        let to_outside = vk::ImageMemoryBarrier::default()
            .old_layout(from)
            .new_layout(ImageLayout::GENERAL)
            .src_queue_family_index(self.hal.family)
            .dst_queue_family_index(vk::QUEUE_FAMILY_FOREIGN_EXT)
            .src_access_mask(AccessFlags::MEMORY_WRITE);
        self.pass(commands, to_outside);
    }

    fn pass(&self, commands: vk::CommandBuffer, barrier: vk::ImageMemoryBarrier<'_>) {
        let barrier = barrier.image(self.image).subresource_range(WHOLE);
        // SAFETY: the commands are being recorded; the image lives until they are done, because
        // wgpu's handle, which they are submitted with, has a share of it.
        unsafe {
            self.hal.ash.cmd_pipeline_barrier(
                commands,
                PipelineStageFlags::ALL_COMMANDS,
                PipelineStageFlags::ALL_COMMANDS,
                vk::DependencyFlags::empty(),
                &[],
                &[],
                &[barrier],
            );
        }
    }
}

/// All of an image, whose planes are not disjoint.
const WHOLE: vk::ImageSubresourceRange = vk::ImageSubresourceRange {
    aspect_mask: vk::ImageAspectFlags::COLOR,
    base_mip_level: 0,
    level_count: 1,
    base_array_layer: 0,
    layer_count: 1,
};

impl Raw for Image {
    fn acquire(&self, commands: vk::CommandBuffer) {
        // Not from `UNDEFINED`, which would leave it to the driver whether the contents are kept.
        let from_outside = vk::ImageMemoryBarrier::default()
            .old_layout(ImageLayout::GENERAL)
            .new_layout(self.resting)
            .src_queue_family_index(vk::QUEUE_FAMILY_FOREIGN_EXT)
            .dst_queue_family_index(self.hal.family)
            .dst_access_mask(AccessFlags::MEMORY_READ | AccessFlags::MEMORY_WRITE);
        self.pass(commands, from_outside);
    }

    fn release(&self, commands: vk::CommandBuffer, kept: bool) {
        self.give(commands, if kept { self.resting } else { ImageLayout::UNDEFINED });
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: law 1; nothing uses it any more. Its memory is freed afterwards.
        unsafe { self.hal.ash.destroy_image(self.image, None) };
    }
}

/// The one dma-buf in which all planes lie. wgpu has no images whose planes lie in several.
fn one_dma_buf(frame: &Frame) -> Result<&DmaBuf, WgpuError> {
    frame.one_buffer().ok_or_else(|| {
        let fix = "lay it out in one (Picture::lay_out)";
        layout(frame.picture, "its planes lie in several dma-bufs", fix)
    })
}

fn layout(picture: Picture, why: impl Into<String>, fix: &'static str) -> WgpuError {
    WgpuError::Layout { picture, why: why.into(), fix }
}

#[cfg(test)]
mod tests {
    use super::super::listener::{OURS, Pass, listener, passes};
    use super::*;

    #[test]
    fn an_image_comes_with_its_contents_and_goes_back_with_them() {
        let resting = ImageLayout::SHADER_READ_ONLY_OPTIMAL;
        let image = Image { hal: listener(), image: vk::Image::null(), resting, memory: None };
        let theirs = vk::QUEUE_FAMILY_FOREIGN_EXT;
        let pass = |families, layouts| vec![Pass { families, layouts: Some(layouts) }];
        assert_eq!(
            passes(|commands| image.acquire(commands)),
            pass([theirs, OURS], [ImageLayout::GENERAL, resting])
        );
        assert_eq!(
            passes(|commands| image.release(commands, true)),
            pass([OURS, theirs], [resting, ImageLayout::GENERAL])
        );
        assert_eq!(
            passes(|commands| image.release(commands, false)),
            pass([OURS, theirs], [ImageLayout::UNDEFINED, ImageLayout::GENERAL])
        );
    }
}
