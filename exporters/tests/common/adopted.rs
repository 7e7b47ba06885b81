//! A program's own buffers, images and semaphores, given to its adopted device.

use std::sync::Arc;

use exporters::vulkan::ash::vk;
use exporters::vulkan::{Buffer, BufferRange, Device, Handover, ImageRegion, Region, Timeline};

use super::common::Stop;
use super::program::Program;
use super::texture::{ProgramBuffer, Texture, level_of};

pub const COPIES: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::TRANSFER_SRC.as_raw() | vk::BufferUsageFlags::TRANSFER_DST.as_raw(),
);

/// A range of the program's buffer, as it was created.
pub fn range(
    device: &Device,
    buffer: &ProgramBuffer,
    (offset, len): (u64, usize),
    handover: Handover,
) -> Result<Arc<Buffer>, Stop> {
    let range = BufferRange::new(buffer.raw, offset, len, COPIES).handover(handover);
    // SAFETY: the program's buffer of this usage, at least as long, in use by nobody else.
    #[allow(unsafe_code)]
    Ok(unsafe { device.adopt_buffer(range) }?)
}

pub fn colour(texture: &Texture, level: u32) -> vk::ImageSubresourceLayers {
    vk::ImageSubresourceLayers::default()
        .aspect_mask(vk::ImageAspectFlags::COLOR)
        .mip_level(level)
        .layer_count(texture.layers)
}

pub fn level(texture: &Texture, level: u32) -> Region {
    let [width, height, depth] = level_of(texture.extent, level);
    let extent = vk::Extent3D { width, height, depth };
    Region::new(texture.image, texture.format, colour(texture, level), extent)
}

pub fn adopt(device: &Device, region: Region) -> Result<Arc<ImageRegion>, Stop> {
    // SAFETY: the program's image, as it was created, in use by nobody else.
    #[allow(unsafe_code)]
    Ok(unsafe { device.adopt_region(region) }?)
}

/// A timeline of the program's, at zero.
pub fn timeline(program: &Program) -> Result<vk::Semaphore, Stop> {
    let mut kind =
        vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
    let create = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
    // SAFETY: the device has timeline semaphores.
    #[allow(unsafe_code)]
    Ok(unsafe { program.device.create_semaphore(&create, None) }?)
}

pub fn destroy(program: &Program, semaphore: vk::Semaphore) {
    // SAFETY: nothing uses it any more.
    #[allow(unsafe_code)]
    unsafe {
        program.device.destroy_semaphore(semaphore, None);
    }
}

/// A timeline of the program's, for its adopted device to signal or to wait for.
pub fn adopt_timeline(device: &Device, semaphore: vk::Semaphore) -> Result<Arc<Timeline>, Stop> {
    // SAFETY: a timeline of the program's, which destroys it after all transfers, and signals it nowhere where it is signalled here.
    #[allow(unsafe_code)]
    Ok(unsafe { device.adopt_timeline(semaphore) }?)
}
