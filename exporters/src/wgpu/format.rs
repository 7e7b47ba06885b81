//! wgpu's words beside DRM's and Vulkan's: formats, usages and states.

use ash::vk;
use wgpu::{BufferUsages, BufferUses, TextureFormat, TextureUsages, TextureUses};

use super::error::WgpuError;
use crate::frame::DrmFourcc;
use crate::vulkan;

/// A format that DRM has, by wgpu's name and Vulkan's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    pub(super) wgpu: TextureFormat,
    pub(super) vk: vk::Format,
    /// The formats of its planes, if it has several.
    pub(super) planes: &'static [vk::Format],
}

/// DRM's and wgpu's names of a format, and Vulkan's of its planes if it has several. DRM names a pixel's
/// bits from the highest to the lowest, wgpu its bytes in order.
const FORMATS: [(DrmFourcc, TextureFormat, &[vk::Format]); 13] = [
    (DrmFourcc::Xrgb8888, TextureFormat::Bgra8Unorm, &[]),
    (DrmFourcc::Argb8888, TextureFormat::Bgra8Unorm, &[]),
    (DrmFourcc::Xbgr8888, TextureFormat::Rgba8Unorm, &[]),
    (DrmFourcc::Abgr8888, TextureFormat::Rgba8Unorm, &[]),
    (DrmFourcc::Xbgr2101010, TextureFormat::Rgb10a2Unorm, &[]),
    (DrmFourcc::Abgr2101010, TextureFormat::Rgb10a2Unorm, &[]),
    (DrmFourcc::Xbgr16161616f, TextureFormat::Rgba16Float, &[]),
    (DrmFourcc::Abgr16161616f, TextureFormat::Rgba16Float, &[]),
    (DrmFourcc::R8, TextureFormat::R8Unorm, &[]),
    (DrmFourcc::Gr88, TextureFormat::Rg8Unorm, &[]),
    (DrmFourcc::R16, TextureFormat::R16Unorm, &[]),
    (DrmFourcc::Nv12, TextureFormat::NV12, &[vk::Format::R8_UNORM, vk::Format::R8G8_UNORM]),
    (DrmFourcc::P010, TextureFormat::P010, &[vk::Format::R16_UNORM, vk::Format::R16G16_UNORM]),
];

impl Format {
    /// The format that DRM calls so.
    pub(super) fn of(drm: DrmFourcc) -> Result<Self, WgpuError> {
        let known = FORMATS.iter().find(|(known, ..)| *known == drm);
        known
            .and_then(|&(_, wgpu, planes)| {
                Some(Self { wgpu, vk: vulkan::format::format(drm)?, planes })
            })
            .ok_or_else(|| WgpuError::Format {
                format: drm,
                takes: FORMATS.map(|(format, ..)| format.to_string()).join(", "),
            })
    }

    /// The formats that views of such an image may have, none if only its own.
    pub(super) fn views(&self) -> Vec<vk::Format> {
        match self.planes {
            [] => Vec::new(),
            planes => [&[self.vk], planes].concat(),
        }
    }
}

/// What a shared texture may be used for.
const TEXTURE: TextureUsages = TextureUsages::COPY_SRC
    .union(TextureUsages::COPY_DST)
    .union(TextureUsages::TEXTURE_BINDING)
    .union(TextureUsages::STORAGE_BINDING)
    .union(TextureUsages::RENDER_ATTACHMENT);

/// What a shared buffer may be used for. It is not mapped through wgpu, which did not allocate it.
const BUFFER: BufferUsages = BufferUsages::COPY_SRC
    .union(BufferUsages::COPY_DST)
    .union(BufferUsages::STORAGE)
    .union(BufferUsages::UNIFORM)
    .union(BufferUsages::VERTEX)
    .union(BufferUsages::INDEX);

/// Whether a shared texture may be used so.
pub(super) fn check_texture(usage: TextureUsages) -> Result<(), WgpuError> {
    if usage.is_empty() || !TEXTURE.contains(usage) {
        return Err(WgpuError::Usage {
            usage: named((usage - TEXTURE).iter_names().map(|(name, _)| name)),
            fix: "take copies, bindings and render attachments, one at least",
        });
    }
    Ok(())
}

/// Whether a shared buffer may be used so.
pub(super) fn check_buffer(usage: BufferUsages) -> Result<(), WgpuError> {
    if usage.is_empty() || !BUFFER.contains(usage) {
        return Err(WgpuError::Usage {
            usage: named((usage - BUFFER).iter_names().map(|(name, _)| name)),
            fix: "take copies, storage, uniforms, vertices and indices, one at least; the CPU maps \
                  the dma-buf itself",
        });
    }
    Ok(())
}

fn named<'a>(usages: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = usages.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" | ") }
}

/// The usage of the image behind a texture.
pub(super) fn image_usage(usage: TextureUsages) -> vk::ImageUsageFlags {
    use vk::ImageUsageFlags as Vk;
    [
        (TextureUsages::COPY_SRC, Vk::TRANSFER_SRC),
        (TextureUsages::COPY_DST, Vk::TRANSFER_DST),
        (TextureUsages::TEXTURE_BINDING, Vk::SAMPLED),
        (TextureUsages::STORAGE_BINDING, Vk::STORAGE),
        (TextureUsages::RENDER_ATTACHMENT, Vk::COLOR_ATTACHMENT),
    ]
    .into_iter()
    .filter(|&(ours, _)| usage.contains(ours))
    .fold(Vk::empty(), |all, (_, theirs)| all | theirs)
}

/// The usage of the Vulkan buffer behind a buffer.
pub(super) fn buffer_usage(usage: BufferUsages) -> vk::BufferUsageFlags {
    use vk::BufferUsageFlags as Vk;
    [
        (BufferUsages::COPY_SRC, Vk::TRANSFER_SRC),
        (BufferUsages::COPY_DST, Vk::TRANSFER_DST),
        (BufferUsages::STORAGE, Vk::STORAGE_BUFFER),
        (BufferUsages::UNIFORM, Vk::UNIFORM_BUFFER),
        (BufferUsages::VERTEX, Vk::VERTEX_BUFFER),
        (BufferUsages::INDEX, Vk::INDEX_BUFFER),
    ]
    .into_iter()
    .filter(|&(ours, _)| usage.contains(ours))
    .fold(Vk::empty(), |all, (_, theirs)| all | theirs)
}

/// The state in which a texture passes between wgpu and the barriers here, and its layout: one that
/// its usage allows.
pub(super) fn resting(usage: TextureUsages) -> (TextureUses, vk::ImageLayout) {
    [
        (
            TextureUsages::TEXTURE_BINDING,
            TextureUses::RESOURCE,
            vk::ImageLayout::SHADER_READ_ONLY_OPTIMAL,
        ),
        (TextureUsages::COPY_SRC, TextureUses::COPY_SRC, vk::ImageLayout::TRANSFER_SRC_OPTIMAL),
        (TextureUsages::COPY_DST, TextureUses::COPY_DST, vk::ImageLayout::TRANSFER_DST_OPTIMAL),
        (
            TextureUsages::RENDER_ATTACHMENT,
            TextureUses::COLOR_TARGET,
            vk::ImageLayout::COLOR_ATTACHMENT_OPTIMAL,
        ),
    ]
    .into_iter()
    .find(|&(ours, ..)| usage.contains(ours))
    .map_or((TextureUses::STORAGE_READ_WRITE, vk::ImageLayout::GENERAL), |(_, state, layout)| {
        (state, layout)
    })
}

/// The state in which a buffer passes between wgpu and the barriers here.
pub(super) fn resting_buffer(usage: BufferUsages) -> BufferUses {
    [
        (BufferUsages::COPY_SRC, BufferUses::COPY_SRC),
        (BufferUsages::COPY_DST, BufferUses::COPY_DST),
        (BufferUsages::STORAGE, BufferUses::STORAGE_READ_WRITE),
        (BufferUsages::UNIFORM, BufferUses::UNIFORM),
        (BufferUsages::VERTEX, BufferUses::VERTEX),
    ]
    .into_iter()
    .find(|&(ours, _)| usage.contains(ours))
    .map_or(BufferUses::INDEX, |(_, state)| state)
}

#[cfg(test)]
mod tests {
    use wgpu::hal::vulkan::conv;

    use super::*;
    use crate::frame;

    #[test]
    fn a_pixel_has_as_many_bytes_in_wgpu_as_in_drm() {
        for (drm, wgpu, planes) in FORMATS {
            if planes.is_empty() {
                assert_eq!(wgpu.block_copy_size(None), frame::pixel_bytes(drm), "{drm}");
            }
            assert_eq!(Format::of(drm).map(|format| format.wgpu).ok(), Some(wgpu), "{drm}");
        }
    }

    #[test]
    fn a_state_has_the_layout_that_wgpu_gives_it() {
        for usage in TEXTURE.iter() {
            let (state, layout) = resting(usage);
            let theirs = conv::derive_image_layout(state, TextureFormat::Rgba8Unorm);
            assert_eq!(theirs, layout, "{usage:?}");
            let image = conv::map_texture_usage(state);
            assert!(image_usage(usage).contains(image), "{usage:?}");
        }
        for usage in BUFFER.iter() {
            let buffer = conv::map_buffer_usage(resting_buffer(usage));
            assert_eq!(buffer_usage(usage), buffer, "{usage:?}");
        }
    }
}
