//! DRM's formats and Vulkan's: which are the same bytes.
//!
//! DRM names a pixel's parts from the highest bit of a little-endian word down, Vulkan from the first
//! byte up, or of its `PACK` formats from the highest bit. Alpha that is to be ignored has no name in
//! Vulkan: `XR24` is the same there as `AR24`. Formats whose parts Vulkan has in no such order (`RA24`,
//! `NV21`) are left out.

use ash::vk;
use ash::vk::Format as Vk;
use drm_fourcc::DrmFourcc::{self, *};

use crate::frame::{self, Picture, PlaneFormat};

/// Formats that both have, in DRM's name and Vulkan's.
pub(super) const FORMATS: [(DrmFourcc, Vk); 34] = [
    (R8, Vk::R8_UNORM),
    (Gr88, Vk::R8G8_UNORM),
    (R16, Vk::R16_UNORM),
    (Gr1616, Vk::R16G16_UNORM),
    (Rgb565, Vk::R5G6B5_UNORM_PACK16),
    (Bgr565, Vk::B5G6R5_UNORM_PACK16),
    (Xrgb1555, Vk::A1R5G5B5_UNORM_PACK16),
    (Argb1555, Vk::A1R5G5B5_UNORM_PACK16),
    (Rgba5551, Vk::R5G5B5A1_UNORM_PACK16),
    (Bgra5551, Vk::B5G5R5A1_UNORM_PACK16),
    (Rgba4444, Vk::R4G4B4A4_UNORM_PACK16),
    (Bgra4444, Vk::B4G4R4A4_UNORM_PACK16),
    (Rgb888, Vk::B8G8R8_UNORM),
    (Bgr888, Vk::R8G8B8_UNORM),
    (Xrgb8888, Vk::B8G8R8A8_UNORM),
    (Argb8888, Vk::B8G8R8A8_UNORM),
    (Xbgr8888, Vk::R8G8B8A8_UNORM),
    (Abgr8888, Vk::R8G8B8A8_UNORM),
    (Xrgb2101010, Vk::A2R10G10B10_UNORM_PACK32),
    (Argb2101010, Vk::A2R10G10B10_UNORM_PACK32),
    (Xbgr2101010, Vk::A2B10G10R10_UNORM_PACK32),
    (Abgr2101010, Vk::A2B10G10R10_UNORM_PACK32),
    (Xbgr16161616f, Vk::R16G16B16A16_SFLOAT),
    (Abgr16161616f, Vk::R16G16B16A16_SFLOAT),
    (Yuyv, Vk::G8B8G8R8_422_UNORM),
    (Uyvy, Vk::B8G8R8G8_422_UNORM),
    (Nv12, Vk::G8_B8R8_2PLANE_420_UNORM),
    (Nv16, Vk::G8_B8R8_2PLANE_422_UNORM),
    (P010, Vk::G10X6_B10X6R10X6_2PLANE_420_UNORM_3PACK16),
    (P012, Vk::G12X4_B12X4R12X4_2PLANE_420_UNORM_3PACK16),
    (P016, Vk::G16_B16R16_2PLANE_420_UNORM),
    (Yuv420, Vk::G8_B8_R8_3PLANE_420_UNORM),
    (Yuv422, Vk::G8_B8_R8_3PLANE_422_UNORM),
    (Yuv444, Vk::G8_B8_R8_3PLANE_444_UNORM),
];

/// Vulkan's name of a format, if it has one.
pub(crate) fn format(drm: DrmFourcc) -> Option<Vk> {
    FORMATS.iter().find(|(known, _)| *known == drm).map(|&(_, format)| format)
}

/// How a plane's texels are counted: a plane of several has its own, of a smaller picture; what shares
/// its bytes with a neighbour in a plane alone is a block of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Texels {
    /// The width and height in texels.
    pub(super) size: (u32, u32),
    /// The bytes of a block, and how many texels lie in one side by side.
    pub(super) block: (u32, u32),
}

impl Texels {
    /// Those of a plane of a picture of this size, which is one of `planes`.
    pub(super) fn new((width, height): (u32, u32), plane: PlaneFormat, planes: usize) -> Self {
        let PlaneFormat { bytes, across, down } = plane;
        match planes {
            1 => Self { size: (width, height), block: (bytes, across) },
            _ => Self { size: (width.div_ceil(across), height.div_ceil(down)), block: (bytes, 1) },
        }
    }

    /// A row's length in texels where rows are `pitch` bytes apart, which must be whole blocks.
    pub(super) fn row_length(self, pitch: u32) -> Option<u32> {
        let (bytes, texels) = self.block;
        pitch.is_multiple_of(bytes).then(|| pitch / bytes * texels)
    }
}

/// Whether a picture's blocks of pixels are whole ones.
pub(super) fn is_whole(picture: Picture) -> bool {
    frame::planes(picture).is_ok_and(|planes| {
        planes.iter().all(|plane| {
            picture.width.is_multiple_of(plane.across) && picture.height.is_multiple_of(plane.down)
        })
    })
}

/// The name of one plane of `planes` of a format, in copies.
pub(super) fn aspect(plane: usize, planes: usize) -> vk::ImageAspectFlags {
    use vk::ImageAspectFlags as Aspect;
    match (planes, plane) {
        (1, _) => Aspect::COLOR,
        (_, 0) => Aspect::PLANE_0,
        (_, 1) => Aspect::PLANE_1,
        _ => Aspect::PLANE_2,
    }
}

/// The name of one plane in memory, of which a modifier may have more than the format.
pub(super) fn memory_aspect(plane: usize) -> vk::ImageAspectFlags {
    use vk::ImageAspectFlags as Aspect;
    match plane {
        0 => Aspect::MEMORY_PLANE_0_EXT,
        1 => Aspect::MEMORY_PLANE_1_EXT,
        2 => Aspect::MEMORY_PLANE_2_EXT,
        _ => Aspect::MEMORY_PLANE_3_EXT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_known_to_frames_as_well() {
        for (drm, _) in FORMATS {
            let planes = frame::planes(Picture::linear(4, 4, drm));
            assert!(planes.is_ok(), "{drm}");
        }
        assert_eq!(format(Xrgb8888), Some(Vk::B8G8R8A8_UNORM));
        assert_eq!(format(Nv21), None);
    }

    #[test]
    fn half_a_block_is_no_image() {
        let whole = |width, height, drm| is_whole(Picture::linear(width, height, drm));
        assert!(whole(101, 61, R8) && whole(100, 60, Nv12) && whole(100, 61, Yuyv));
        assert!(!whole(101, 60, Nv12) && !whole(100, 61, Nv12) && !whole(101, 60, Yuyv));
        assert!(!whole(100, 61, Yuv420) && whole(101, 61, Yuv444));
    }

    #[test]
    fn planes_are_counted_in_their_own_texels() {
        let texels = |drm, index: usize| {
            let planes = frame::planes(Picture::linear(100, 60, drm)).expect("a known format");
            Texels::new((100, 60), planes[index], planes.len())
        };
        assert_eq!(texels(Nv12, 0), Texels { size: (100, 60), block: (1, 1) });
        assert_eq!(texels(Nv12, 1), Texels { size: (50, 30), block: (2, 1) });
        assert_eq!(texels(Yuyv, 0), Texels { size: (100, 60), block: (4, 2) });
        assert_eq!(texels(Nv12, 1).row_length(128), Some(64));
        assert_eq!(texels(Yuyv, 0).row_length(256), Some(128));
        assert_eq!(texels(Xrgb8888, 0).row_length(402), None);
        assert_eq!(
            [aspect(0, 1), aspect(1, 2)],
            [vk::ImageAspectFlags::COLOR, vk::ImageAspectFlags::PLANE_1]
        );
    }
}
