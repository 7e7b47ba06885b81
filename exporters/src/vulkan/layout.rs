//! In which formats and layouts a device has images that it shares, and what it does with them.
//!
//! # Safety
//!
//! The laws of this module: a device of whose layouts is asked has `VK_EXT_image_drm_format_modifier`,
//! and a structure that a query fills is as long as the query is told.
#![allow(unsafe_code)]

use ash::vk;
use ash::vk::ExternalMemoryFeatureFlags as External;
use ash::vk::ExternalMemoryHandleTypeFlags as Handle;
use ash::vk::FormatFeatureFlags as Features;
use ash::vk::ImageUsageFlags as Usage;
use drm_fourcc::{DrmFourcc, DrmModifier};

use super::device::Device;
use super::error::{VulkanError, failed};
use super::format::{self, FORMATS};
use crate::Absent;
use crate::frame::Picture;

bitflags::bitflags! {
    /// What an image is used for.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ImageUse: u32 {
        /// Copies from it.
        const COPY_FROM = 1 << 0;
        /// Copies to it.
        const COPY_TO = 1 << 1;
        /// Shaders sample it.
        const SAMPLED = 1 << 2;
        /// Shaders read and write it.
        const STORAGE = 1 << 3;
        /// It is drawn into.
        const RENDERING = 1 << 4;
        /// Copies from it and to it.
        const COPIES = Self::COPY_FROM.bits() | Self::COPY_TO.bits();
    }
}

/// Each use, what a layout must have for it, and what an image is made with.
const USES: [(ImageUse, Features, Usage); 5] = [
    (ImageUse::COPY_FROM, Features::TRANSFER_SRC, Usage::TRANSFER_SRC),
    (ImageUse::COPY_TO, Features::TRANSFER_DST, Usage::TRANSFER_DST),
    (ImageUse::SAMPLED, Features::SAMPLED_IMAGE, Usage::SAMPLED),
    (ImageUse::STORAGE, Features::STORAGE_IMAGE, Usage::STORAGE),
    (ImageUse::RENDERING, Features::COLOR_ATTACHMENT, Usage::COLOR_ATTACHMENT),
];

impl ImageUse {
    fn of(features: Features) -> Self {
        let has = USES.iter().filter(|(_, feature, _)| features.contains(*feature));
        has.fold(Self::empty(), |uses, (one, ..)| uses | *one)
    }

    pub(super) fn usage(self) -> Usage {
        let used = USES.iter().filter(|(one, ..)| self.contains(*one));
        used.fold(Usage::empty(), |usage, (.., one)| usage | *one)
    }
}

/// A format in a layout, as one device has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLayout {
    /// The pixels' format.
    pub format: DrmFourcc,
    /// How they lie.
    pub modifier: DrmModifier,
    /// How many planes a frame of it has: the format's, and what the modifier adds.
    pub planes: usize,
    /// What it may be used for.
    pub uses: ImageUse,
    /// Whether the planes may lie in dma-bufs of their own.
    pub disjoint: bool,
    /// Whether images come in as dma-bufs, for copies at least.
    pub imports: bool,
    /// Whether images leave as dma-bufs, for copies at least.
    pub exports: bool,
}

/// A layout that a driver knows for a format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    modifier: DrmModifier,
    pub(super) planes: usize,
    uses: ImageUse,
    pub(super) disjoint: bool,
}

/// What a device says of images of one kind.
pub(super) struct Limits {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) external: External,
}

impl Device {
    /// In which formats and layouts this device has images that may be shared, and what for: for each
    /// format that DRM and Vulkan both have, the modifiers in the driver's order.
    ///
    /// # Errors
    /// [`VulkanError::Unavailable`] without `VK_EXT_image_drm_format_modifier`; [`VulkanError::Call`].
    pub fn image_layouts(&self) -> Result<Vec<ImageLayout>, VulkanError> {
        self.has_modifiers()?;
        let mut layouts = Vec::new();
        for (format, _) in FORMATS {
            layouts.extend(self.layouts_of(format)?);
        }
        Ok(layouts)
    }

    /// Mesa's software driver (26.1) says that it has disjoint images, takes the names of their memory
    /// planes for other names, leaves all planes but the first without memory, and crashes in a copy.
    fn is_wrong_about_disjoint(&self) -> bool {
        self.info().driver.starts_with("llvmpipe")
    }

    pub(super) fn has_modifiers(&self) -> Result<(), VulkanError> {
        let needed = ["VK_EXT_image_drm_format_modifier", "VK_EXT_external_memory_dma_buf"];
        needed
            .iter()
            .try_for_each(|name| self.info().extension(name))
            .map_err(VulkanError::Unavailable)
    }

    /// The layouts of one format, none if Vulkan has no such format.
    fn layouts_of(&self, format: DrmFourcc) -> Result<Vec<ImageLayout>, VulkanError> {
        let Some(vk_format) = format::format(format) else { return Ok(Vec::new()) };
        let mut layouts = Vec::new();
        for known in self.known(vk_format) {
            let Known { modifier, planes, uses, disjoint } = known;
            let copies = uses & ImageUse::COPIES;
            let limits = self.image_limits(vk_format, modifier, copies, <_>::default())?;
            let external = limits.map_or(External::empty(), |limits| limits.external);
            let imports = external.contains(External::IMPORTABLE);
            let exports = external.contains(External::EXPORTABLE);
            layouts.push(ImageLayout {
                format,
                modifier,
                planes,
                uses,
                disjoint,
                imports,
                exports,
            });
        }
        Ok(layouts)
    }

    /// The layout of a picture here, if the device has it and it does for `uses`.
    pub(super) fn known_for(&self, picture: Picture, uses: ImageUse) -> Result<Known, VulkanError> {
        let modifier = picture.modifier.ok_or_else(|| self.refuses(picture, implicit()))?;
        let all = format::format(picture.format).map(|format| self.known(format));
        let all = all.unwrap_or_default();
        let Some(known) = all.iter().find(|known| known.modifier == modifier) else {
            let other = |known: &Known| Picture { modifier: Some(known.modifier), ..picture };
            let others: Vec<_> = all.iter().map(|known| other(known).to_string()).collect();
            let why = match others.as_slice() {
                [] => Absent::new("it has no such format to share", "convert the picture"),
                _ => Absent::new(
                    "it has this format not in this layout",
                    format!("have the picture made in one that it has: {}", others.join(", ")),
                ),
            };
            return Err(self.refuses(picture, why));
        };
        if !known.uses.contains(uses) {
            let why = Absent::new(
                format!("of {uses:?} it has only {:?} for it", known.uses & uses),
                "ask for those, and copy the picture into another layout for the rest",
            );
            return Err(self.refuses(picture, why));
        }
        Ok(*known)
    }

    /// What the driver says of images of one kind as dma-bufs; none if there are no such images.
    pub(super) fn image_limits(
        &self,
        format: vk::Format,
        modifier: DrmModifier,
        uses: ImageUse,
        flags: vk::ImageCreateFlags,
    ) -> Result<Option<Limits>, VulkanError> {
        let mut layout = vk::PhysicalDeviceImageDrmFormatModifierInfoEXT::default()
            .drm_format_modifier(modifier.into())
            .sharing_mode(vk::SharingMode::EXCLUSIVE);
        let mut shared =
            vk::PhysicalDeviceExternalImageFormatInfo::default().handle_type(Handle::DMA_BUF_EXT);
        let query = vk::PhysicalDeviceImageFormatInfo2::default()
            .format(format)
            .ty(vk::ImageType::TYPE_2D)
            .tiling(vk::ImageTiling::DRM_FORMAT_MODIFIER_EXT)
            .usage(uses.usage())
            .flags(flags)
            .push_next(&mut layout)
            .push_next(&mut shared);
        let mut external = vk::ExternalImageFormatProperties::default();
        let mut answer = vk::ImageFormatProperties2::default().push_next(&mut external);
        // SAFETY: the instance is alive, the device is one of its own and has the extension.
        let result = unsafe {
            self.instance().get_physical_device_image_format_properties2(
                self.physical(),
                &query,
                &mut answer,
            )
        };
        match result {
            Err(vk::Result::ERROR_FORMAT_NOT_SUPPORTED) => return Ok(None),
            result => result.map_err(failed("vkGetPhysicalDeviceImageFormatProperties2"))?,
        }
        let most = answer.image_format_properties.max_extent;
        Ok(Some(Limits {
            width: most.width,
            height: most.height,
            external: external.external_memory_properties.external_memory_features,
        }))
    }

    /// The modifiers that the driver knows for a format, and what each is good for.
    fn known(&self, format: vk::Format) -> Vec<Known> {
        // SAFETY: the instance is alive, the device is one of its own, and by the module's laws it has the
        // extension.
        let all = unsafe { modifiers(self.instance(), self.physical(), format) };
        let known = |answer: &vk::DrmFormatModifierPropertiesEXT| {
            let features = answer.drm_format_modifier_tiling_features;
            Known {
                modifier: DrmModifier::from(answer.drm_format_modifier),
                planes: answer.drm_format_modifier_plane_count as usize,
                uses: ImageUse::of(features),
                disjoint: features.contains(Features::DISJOINT) && !self.is_wrong_about_disjoint(),
            }
        };
        all.iter().map(known).collect()
    }

    /// Why there is no such image.
    pub(super) fn refuses(&self, picture: Picture, why: Absent) -> VulkanError {
        VulkanError::NoImage { device: self.info().name.clone(), picture, why }
    }
}

/// The modifiers that a driver knows for a format.
///
/// # Safety
/// The instance is alive, the device is one of its own and has `VK_EXT_image_drm_format_modifier`.
pub(crate) unsafe fn modifiers(
    instance: &ash::Instance,
    device: vk::PhysicalDevice,
    format: vk::Format,
) -> Vec<vk::DrmFormatModifierPropertiesEXT> {
    let ask = |list: &mut vk::DrmFormatModifierPropertiesListEXT<'_>| {
        let mut answer = vk::FormatProperties2::default().push_next(list);
        // SAFETY: by the caller's promise; the list has room for as many as it says, or none and counts
        // them.
        unsafe { instance.get_physical_device_format_properties2(device, format, &mut answer) };
    };
    let mut count = vk::DrmFormatModifierPropertiesListEXT::default();
    ask(&mut count);
    let mut all = vec![<_>::default(); count.drm_format_modifier_count as usize];
    let mut list =
        vk::DrmFormatModifierPropertiesListEXT::default().drm_format_modifier_properties(&mut all);
    ask(&mut list);
    let filled = list.drm_format_modifier_count as usize;
    all.truncate(filled);
    all
}

/// Why a picture without a modifier is no image.
pub(super) fn implicit() -> Absent {
    Absent::new(
        "Vulkan takes no picture whose layout is known to its driver alone",
        "have it made with a modifier: LINEAR, or one of Device::image_layouts",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_made_for_what_its_layout_allows() {
        let features = Features::TRANSFER_SRC | Features::SAMPLED_IMAGE | Features::DISJOINT;
        let uses = ImageUse::of(features);
        assert_eq!(uses, ImageUse::COPY_FROM | ImageUse::SAMPLED);
        assert_eq!(uses.usage(), Usage::TRANSFER_SRC | Usage::SAMPLED);
        assert!(!uses.contains(ImageUse::COPIES));
        assert_eq!(ImageUse::all().usage().as_raw().count_ones(), 5);
    }
}
