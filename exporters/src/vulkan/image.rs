//! Images over dma-bufs: pictures that a device draws, samples and copies, in a layout that others
//! know too.
//!
//! A picture comes in as a [`Frame`] ([`Device::import_image`]) and leaves as one ([`Image::export`]).
//! Its layout has a name, the *modifier* (`VK_EXT_image_drm_format_modifier`); which a device knows is
//! asked by [`Device::image_layouts`]. The planes lie in one dma-buf, or in several where the device
//! can have them so (*disjoint*).
//!
//! Whoever has the dma-buf has a right to the pixels too, so between two copies of this crate's an image
//! belongs to the FOREIGN queue family and is in the layout `GENERAL`, in which its contents are kept:
//! each copy acquires it and releases it again.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. A [`Bare`] owns its image, which is destroyed once, when it is dropped, before its memory is
//!    freed. Whoever submits work on an image keeps it until the work is done.
//! 2. An image's planes lie inside their memory: the frame was checked against the sizes of its
//!    dma-bufs, and the driver's own requirements too.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use ash::vk;
use ash::vk::ExternalMemoryFeatureFlags as External;
use ash::vk::ExternalMemoryHandleTypeFlags as Handle;
use drm_fourcc::DrmModifier;

use super::allocation::{Allocation, Need, Origin};
use super::device::Device;
use super::error::{VulkanError, failed};
use super::format::{self, memory_aspect};
use super::layout::{ImageUse, implicit};
use super::memory_types::{DEVICE_LOCAL, IMPORTED};
use crate::dmabuf::is_same;
use crate::frame::{self, Frame, FramePlane, Picture};
use crate::{Absent, DmaBuf};

/// A picture that a Vulkan device can use.
///
/// ```no_run
/// use std::sync::Arc;
/// use exporters::frame::{DrmModifier, Picture};
/// use exporters::vulkan::{Device, ImageUse, When};
///
/// let device = Device::open(None)?;
/// let picture: Picture = "640x480 XR24".parse()?;
/// let image = device.image(picture, &[DrmModifier::Linear], ImageUse::COPIES)?;
/// let shared = image.export()?; // for GBM, a display, another process
///
/// let pixels = Picture::linear(640, 480, picture.format).lay_out(4)?;
/// let buffer = Arc::new(device.allocate_host_visible(pixels.len())?);
/// let mut transfer = device.transfer()?;
/// let ticket = transfer.copy_to_image(&buffer, &pixels, &Arc::new(image), When::InTurn)?;
/// transfer.wait(ticket)?;
/// println!("{} in {} planes", shared.picture, shared.planes.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Image {
    bare: Bare,
    memory: Vec<Allocation>,
    /// How many there are in memory.
    planes: usize,
    uses: ImageUse,
    /// Where its planes are, if that was not left to the driver.
    planned: Option<Frame<()>>,
    /// What it is to others: from its import, or since its first export.
    frame: OnceLock<Frame>,
}

impl Image {
    /// What it shows; the modifier is always there.
    pub fn picture(&self) -> Picture {
        self.bare.picture
    }

    /// What it may be used for.
    pub fn uses(&self) -> ImageUse {
        self.uses
    }

    /// Its device.
    pub fn device(&self) -> &Device {
        &self.bare.device
    }

    /// The image for users of `ash` (see [`Device::ash`]), who must not destroy it nor use it past this
    /// value's life. It belongs to the family `VK_QUEUE_FAMILY_FOREIGN_EXT` and is in the layout
    /// `GENERAL`: acquire it from there, and release it to there.
    pub fn ash(&self) -> vk::Image {
        self.bare.image
    }

    /// The format by which Vulkan knows its pixels.
    pub fn ash_format(&self) -> vk::Format {
        self.bare.format
    }

    /// The image as a frame: its modifier, and where its planes are in a dma-buf that holds the memory
    /// on its own. An import is the frame that it was imported from. Asked again, it is the same.
    ///
    /// # Errors
    /// [`VulkanError::Call`] if the driver fails, [`VulkanError::Frame`] if it describes what cannot
    /// be.
    pub fn export(&self) -> Result<Frame, VulkanError> {
        if let Some(frame) = self.frame.get() {
            return Ok(frame.clone());
        }
        let [memory] = self.memory.as_slice() else {
            return Err(self.bare.device.refuses(self.picture(), not_in_one()));
        };
        let dma_buf = memory.dma_buf()?;
        let frame = match &self.planned {
            Some(layout) => layout.over(&dma_buf)?,
            None => self.as_told(&dma_buf)?,
        };
        Ok(self.frame.get_or_init(|| frame).clone())
    }

    /// The planes where the driver says they are, if that can be.
    fn as_told(&self, dma_buf: &DmaBuf) -> Result<Frame, VulkanError> {
        let planes = (0..self.planes).map(|plane| self.bare.plane(plane, dma_buf));
        let frame = Frame { picture: self.picture(), planes: planes.collect::<Result<_, _>>()? };
        frame.check()?;
        let rest = |index| &frame.planes[index + 1..];
        let meets = |(index, plane): (usize, &FramePlane<DmaBuf>)| {
            rest(index).iter().any(|other| other.offset == plane.offset)
        };
        if frame.planes.iter().enumerate().any(meets) {
            return Err(self.bare.device.refuses(
                self.picture(),
                Absent::new(
                    "the driver says that two of its planes begin at the same byte",
                    "ask for LINEAR alone, or import a dma-buf that somebody else made",
                ),
            ));
        }
        Ok(frame)
    }

    /// The dma-bufs that it is to others, each once.
    pub(super) fn shared(&self) -> Vec<&DmaBuf> {
        let mut found: Vec<&DmaBuf> = Vec::new();
        for plane in self.frame.get().iter().flat_map(|frame| &frame.planes) {
            if !found.iter().any(|other| is_same(*other, &plane.buffer)) {
                found.push(&plane.buffer);
            }
        }
        found
    }

    /// Whether the CPU may look at its memory, so that copies into it must be made visible to it.
    pub(super) fn is_host_visible(&self) -> bool {
        self.memory.iter().any(Allocation::is_host_visible)
    }
}

impl Device {
    /// Makes a frame an image of the device. Its contents are kept: the device sees the pixels that are
    /// in the dma-bufs, and whoever else has them sees what the device writes.
    ///
    /// The frame is checked first ([`Frame::check`]), and its layout against what the device has
    /// ([`image_layouts`](Self::image_layouts)). The driver is given duplicates of the descriptors.
    ///
    /// ```no_run
    /// use exporters::DmaHeap;
    /// use exporters::frame::Picture;
    /// use exporters::vulkan::{Device, ImageUse};
    ///
    /// let layout = "1920x1080 NV12 LINEAR".parse::<Picture>()?.lay_out(256)?;
    /// let frame = layout.over(&DmaHeap::open("system")?.allocate(layout.len())?)?;
    /// let video = Device::open(None)?.import_image(&frame, ImageUse::COPIES)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`VulkanError::Unavailable`] without `VK_EXT_image_drm_format_modifier` or
    /// `VK_EXT_external_memory_dma_buf`; [`VulkanError::Frame`]; [`VulkanError::NoImage`], with the
    /// reason, of what the device has not; [`VulkanError::Call`] if the driver refuses these buffers.
    pub fn import_image(&self, frame: &Frame, uses: ImageUse) -> Result<Image, VulkanError> {
        self.has_modifiers()?;
        frame.check()?;
        let picture = frame.picture;
        let known = self.known_for(picture, uses)?;
        if frame.planes.len() != known.planes {
            return Err(self.refuses(picture, other_planes(frame.planes.len(), known.planes)));
        }
        let disjoint = frame.one_buffer().is_none();
        if disjoint && !known.disjoint {
            return Err(self.refuses(picture, not_in_one()));
        }
        let flags = if disjoint { vk::ImageCreateFlags::DISJOINT } else { <_>::default() };
        self.check_image(picture, uses, flags, External::IMPORTABLE)?;

        let bare = Bare::placed(self, picture, uses, flags, &frame.planes)?;
        let memory = match disjoint {
            false => vec![bare.import(&frame.planes[0].buffer, None)?],
            true => frame
                .planes
                .iter()
                .enumerate()
                .map(|(index, plane)| bare.import(&plane.buffer, Some(index)))
                .collect::<Result<_, _>>()?,
        };
        bare.bind(&memory)?;
        let frame = OnceLock::from(frame.clone());
        Ok(Image { bare, memory, planes: known.planes, uses, planned: None, frame })
    }

    /// Makes an image in the device's own memory that may leave as a dma-buf ([`Image::export`]), in
    /// that one of `modifiers` that the driver likes best. A modifier of the picture's own is one more.
    ///
    /// Its first contents are anything.
    ///
    /// # Errors
    /// [`VulkanError::Unavailable`] without `VK_EXT_image_drm_format_modifier` or
    /// `VK_EXT_external_memory_dma_buf`; [`VulkanError::Frame`] for a picture that cannot be;
    /// [`VulkanError::NoImage`], with the reason, of what the device has not;
    /// [`VulkanError::OutOfMemory`].
    pub fn image(
        &self,
        picture: Picture,
        modifiers: &[DrmModifier],
        uses: ImageUse,
    ) -> Result<Image, VulkanError> {
        self.has_modifiers()?;
        picture.check_format()?;
        let asked = modifiers.iter().copied().chain(picture.modifier);
        let (mut taken, mut refusal) = (Vec::new(), None);
        let flags = vk::ImageCreateFlags::empty();
        for modifier in asked {
            let picture = Picture { modifier: Some(modifier), ..picture };
            let checked = self
                .known_for(picture, uses)
                .and_then(|_| self.check_image(picture, uses, flags, External::EXPORTABLE));
            match checked {
                Ok(()) => taken.push(u64::from(modifier)),
                Err(why) => refusal = Some(why),
            }
        }
        if taken.is_empty() {
            return Err(refusal.unwrap_or_else(|| self.refuses(picture, implicit())));
        }
        // Of what it does not take as planned, the driver decides.
        let placed = planned(picture, &taken).and_then(|layout| {
            let bare = Bare::placed(self, layout.picture, uses, flags, &layout.planes).ok()?;
            Some((bare, Some(layout)))
        });
        let (bare, planned) = match placed {
            Some(placed) => placed,
            None => (Bare::chosen(self, picture, uses, &taken)?, None),
        };
        let memory =
            vec![Allocation::new(self, bare.need(None), DEVICE_LOCAL, Some(Origin::Export))?];
        bare.bind(&memory)?;
        let planes = self.known_for(bare.picture, uses)?.planes;
        let image = Image { bare, memory, planes, uses, planned, frame: OnceLock::new() };
        self.transfer()?.lay_out(&image)?;
        Ok(image)
    }

    /// Whether the driver has images of one kind that come or go as dma-bufs, as large as this.
    fn check_image(
        &self,
        picture: Picture,
        uses: ImageUse,
        flags: vk::ImageCreateFlags,
        feature: External,
    ) -> Result<(), VulkanError> {
        let format = format::format(picture.format).unwrap_or_default();
        let modifier = picture.modifier.unwrap_or(DrmModifier::Linear);
        let limits = self.image_limits(format, modifier, uses, flags)?;
        let Some(limits) = limits.filter(|limits| limits.external.contains(feature)) else {
            return Err(self.refuses(
                picture,
                Absent::new(
                    "the driver shares no such images by dma-bufs",
                    "take another layout or format, or ask for fewer uses",
                ),
            ));
        };
        if picture.width > limits.width || picture.height > limits.height {
            return Err(self.refuses(
                picture,
                Absent::new(
                    format!("its images have up to {} x {} pixels", limits.width, limits.height),
                    "take a smaller picture",
                ),
            ));
        }
        // VUID-VkImageCreateInfo-format-04712 and -04713: blocks of pixels are whole.
        if !format::is_whole(picture) {
            return Err(self.refuses(picture, Absent::new(
                "Vulkan has such formats only with an even width, and where half of the rows have \
                 colour, an even height",
                "round the sides up",
            )));
        }
        Ok(())
    }
}

/// An image without memory.
#[derive(Debug)]
struct Bare {
    device: Device,
    image: vk::Image,
    picture: Picture,
    format: vk::Format,
}

/// Where the planes of a picture lie that is to be linear and has several: that is not left to the
/// driver, as Mesa's software driver then says that all of them lie at the beginning.
fn planned(picture: Picture, modifiers: &[u64]) -> Option<Frame<()>> {
    let several = frame::planes(picture).is_ok_and(|planes| planes.len() > 1);
    let linear = modifiers.iter().all(|&modifier| modifier == DrmModifier::Linear.into());
    let picture = Picture { modifier: Some(DrmModifier::Linear), ..picture };
    if several && linear { picture.lay_out(256).ok() } else { None }
}

impl Bare {
    /// With planes where they are said to be.
    fn placed<B>(
        device: &Device,
        picture: Picture,
        uses: ImageUse,
        flags: vk::ImageCreateFlags,
        planes: &[FramePlane<B>],
    ) -> Result<Self, VulkanError> {
        let place = |plane: &FramePlane<B>| {
            let (offset, pitch) = (plane.offset.into(), plane.pitch.into());
            vk::SubresourceLayout::default().offset(offset).row_pitch(pitch)
        };
        let places: Vec<_> = planes.iter().map(place).collect();
        let modifier = picture.modifier.unwrap_or(DrmModifier::Linear);
        let mut explicit = vk::ImageDrmFormatModifierExplicitCreateInfoEXT::default()
            .drm_format_modifier(modifier.into())
            .plane_layouts(&places);
        Self::new(device, picture, uses, flags, &mut explicit)
    }

    /// Laid out by the driver, in one of these modifiers.
    fn chosen(
        device: &Device,
        picture: Picture,
        uses: ImageUse,
        modifiers: &[u64],
    ) -> Result<Self, VulkanError> {
        let mut list =
            vk::ImageDrmFormatModifierListCreateInfoEXT::default().drm_format_modifiers(modifiers);
        let mut bare = Self::new(device, picture, uses, <_>::default(), &mut list)?;
        bare.picture.modifier = Some(bare.modifier()?);
        Ok(bare)
    }

    fn new(
        device: &Device,
        picture: Picture,
        uses: ImageUse,
        flags: vk::ImageCreateFlags,
        layout: &mut impl vk::ExtendsImageCreateInfo,
    ) -> Result<Self, VulkanError> {
        let format = format::format(picture.format).unwrap_or_default();
        let extent = vk::Extent3D { width: picture.width, height: picture.height, depth: 1 };
        let mut shared =
            vk::ExternalMemoryImageCreateInfo::default().handle_types(Handle::DMA_BUF_EXT);
        let create = vk::ImageCreateInfo::default()
            .flags(flags)
            .image_type(vk::ImageType::TYPE_2D)
            .format(format)
            .extent(extent)
            .mip_levels(1)
            .array_layers(1)
            .samples(vk::SampleCountFlags::TYPE_1)
            .tiling(vk::ImageTiling::DRM_FORMAT_MODIFIER_EXT)
            .usage(uses.usage())
            .sharing_mode(vk::SharingMode::EXCLUSIVE)
            .initial_layout(vk::ImageLayout::UNDEFINED)
            .push_next(layout)
            .push_next(&mut shared);
        // SAFETY: the device is alive and has the extension; it said that it has such images.
        let image =
            unsafe { device.ash().create_image(&create, None) }.map_err(failed("vkCreateImage"))?;
        Ok(Self { device: device.clone(), image, picture, format })
    }

    /// Imports the memory of all planes, or of one.
    fn import(&self, dma_buf: &DmaBuf, plane: Option<usize>) -> Result<Allocation, VulkanError> {
        let origin = Origin::DmaBuf(dma_buf);
        Allocation::new(&self.device, self.need(plane), IMPORTED, Some(origin))
    }

    /// What the memory of all planes needs, or that of one. All together it is for this image alone; one
    /// plane's cannot be (VUID-VkMemoryDedicatedAllocateInfo-image-01797).
    fn need(&self, plane: Option<usize>) -> Need {
        let mut one = vk::ImagePlaneMemoryRequirementsInfo::default();
        let mut query = vk::ImageMemoryRequirementsInfo2::default().image(self.image);
        if let Some(plane) = plane {
            one = one.plane_aspect(memory_aspect(plane));
            query = query.push_next(&mut one);
        }
        let mut answer = vk::MemoryRequirements2::default();
        // SAFETY: the image is ours and alive (law 1).
        unsafe { self.device.ash().get_image_memory_requirements2(&query, &mut answer) };
        let dedicated =
            plane.is_none().then(|| vk::MemoryDedicatedAllocateInfo::default().image(self.image));
        Need { requirements: answer.memory_requirements, dedicated }
    }

    fn bind(&self, memory: &[Allocation]) -> Result<(), VulkanError> {
        let mut planes: Vec<_> = (0..memory.len())
            .map(|plane| vk::BindImagePlaneMemoryInfo::default().plane_aspect(memory_aspect(plane)))
            .collect();
        let disjoint = memory.len() > 1;
        let binds: Vec<_> = memory
            .iter()
            .zip(&mut planes)
            .map(|(memory, plane)| {
                let bind =
                    vk::BindImageMemoryInfo::default().image(self.image).memory(memory.memory);
                if disjoint { bind.push_next(plane) } else { bind }
            })
            .collect();
        // SAFETY: image and memory are ours, fresh and of one device.
        unsafe { self.device.ash().bind_image_memory2(&binds) }
            .map_err(failed("vkBindImageMemory2"))
    }

    /// The modifier that the driver chose.
    fn modifier(&self) -> Result<DrmModifier, VulkanError> {
        let mut answer = vk::ImageDrmFormatModifierPropertiesEXT::default();
        let functions = self.device.image_modifiers()?;
        // SAFETY: the image is ours and has a modifier.
        unsafe { functions.get_image_drm_format_modifier_properties(self.image, &mut answer) }
            .map_err(failed("vkGetImageDrmFormatModifierPropertiesEXT"))?;
        Ok(answer.drm_format_modifier.into())
    }

    /// Where a plane lies in the memory.
    fn plane(&self, plane: usize, dma_buf: &DmaBuf) -> Result<FramePlane<DmaBuf>, VulkanError> {
        let what = vk::ImageSubresource::default().aspect_mask(memory_aspect(plane));
        // SAFETY: the image is ours, has a modifier, and as many memory planes.
        let place = unsafe { self.device.ash().get_image_subresource_layout(self.image, what) };
        match (u32::try_from(place.offset), u32::try_from(place.row_pitch)) {
            (Ok(offset), Ok(pitch)) => Ok(FramePlane { buffer: dma_buf.clone(), offset, pitch }),
            _ => Err(self.device.refuses(
                self.picture,
                Absent::new(
                    format!(
                        "plane {plane} begins at {}, its rows are {} apart",
                        place.offset, place.row_pitch
                    ),
                    "take a smaller picture",
                ),
            )),
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // SAFETY: law 1.
        unsafe { self.device.ash().destroy_image(self.image, None) };
    }
}

fn other_planes(got: usize, wanted: usize) -> Absent {
    Absent::new(
        format!("it has {wanted} planes for such a picture, and the frame has {got}"),
        "describe all planes that the modifier has",
    )
}

fn not_in_one() -> Absent {
    Absent::new(
        "it has the planes of such a picture only in one dma-buf",
        "put the planes into one buffer, at offsets",
    )
}
