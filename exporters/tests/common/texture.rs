//! Images and buffers of the program's own, and what is in them.

use exporters::vulkan::ash::vk;

use super::common::{Stop, check};
use super::program::Program;

/// A buffer of the program's, which its CPU sees.
pub struct ProgramBuffer {
    pub raw: vk::Buffer,
    memory: vk::DeviceMemory,
    len: usize,
}

/// An image of the program's.
pub struct Texture {
    pub image: vk::Image,
    memory: vk::DeviceMemory,
    pub format: vk::Format,
    /// Of level 0.
    pub extent: [u32; 3],
    pub layers: u32,
}

/// The sides of a mip level.
pub fn level_of(extent: [u32; 3], level: u32) -> [u32; 3] {
    extent.map(|side| (side >> level).max(1))
}

#[allow(unsafe_code)]
impl Program {
    /// A buffer in coherent memory, zeroed.
    pub fn buffer(&self, len: usize, usage: vk::BufferUsageFlags) -> Result<ProgramBuffer, Stop> {
        let create = vk::BufferCreateInfo::default().size(len as u64).usage(usage);
        // SAFETY: the program's own objects, used as Vulkan asks.
        let (raw, memory) = unsafe {
            let raw = self.device.create_buffer(&create, None)?;
            let need = self.device.get_buffer_memory_requirements(raw);
            let seen =
                vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
            let memory = self.memory(need, seen)?;
            self.device.bind_buffer_memory(raw, memory, 0)?;
            (raw, memory)
        };
        let buffer = ProgramBuffer { raw, memory, len };
        self.write(&buffer, &vec![0; len])?;
        Ok(buffer)
    }

    /// What its CPU sees.
    pub fn read(&self, buffer: &ProgramBuffer) -> Result<Vec<u8>, Stop> {
        let mut bytes = vec![0; buffer.len];
        let flags = vk::MemoryMapFlags::empty();
        // SAFETY: mapped for the length of the copy, by nobody else.
        unsafe {
            let from = self.device.map_memory(buffer.memory, 0, vk::WHOLE_SIZE, flags)?;
            std::ptr::copy_nonoverlapping(from.cast(), bytes.as_mut_ptr(), buffer.len);
            self.device.unmap_memory(buffer.memory);
        }
        Ok(bytes)
    }

    pub fn write(&self, buffer: &ProgramBuffer, bytes: &[u8]) -> Result<(), Stop> {
        check(bytes.len() <= buffer.len, "too long")?;
        let flags = vk::MemoryMapFlags::empty();
        // SAFETY: as above.
        unsafe {
            let to = self.device.map_memory(buffer.memory, 0, vk::WHOLE_SIZE, flags)?;
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast(), bytes.len());
            self.device.unmap_memory(buffer.memory);
        }
        Ok(())
    }

    pub fn free(&self, buffer: ProgramBuffer) {
        // SAFETY: nothing uses it any more.
        unsafe {
            self.device.destroy_buffer(buffer.raw, None);
            self.device.free_memory(buffer.memory, None);
        }
    }

    /// Whether the device has such images for copies and shaders.
    pub fn has(&self, format: vk::Format, kind: vk::ImageType) -> bool {
        let usage = usage(format);
        let (tiling, flags) = (vk::ImageTiling::OPTIMAL, vk::ImageCreateFlags::empty());
        // SAFETY: the physical device is the instance's.
        unsafe {
            self.instance.get_physical_device_image_format_properties(
                self.physical,
                format,
                kind,
                tiling,
                usage,
                flags,
            )
        }
        .is_ok()
    }

    /// An image for copies and shaders, of three dimensions if it is deeper than 1.
    pub fn texture(
        &self,
        format: vk::Format,
        extent: [u32; 3],
        levels: u32,
        layers: u32,
    ) -> Result<Texture, Stop> {
        let [width, height, depth] = extent;
        let kind = if depth > 1 { vk::ImageType::TYPE_3D } else { vk::ImageType::TYPE_2D };
        let create = vk::ImageCreateInfo::default()
            .image_type(kind)
            .format(format)
            .extent(vk::Extent3D { width, height, depth })
            .mip_levels(levels)
            .array_layers(layers)
            .samples(vk::SampleCountFlags::TYPE_1)
            .usage(usage(format));
        // SAFETY: as above.
        let (image, memory) = unsafe {
            let image = self.device.create_image(&create, None)?;
            let need = self.device.get_image_memory_requirements(image);
            let memory = self.memory(need, vk::MemoryPropertyFlags::DEVICE_LOCAL)?;
            self.device.bind_image_memory(image, memory, 0)?;
            (image, memory)
        };
        Ok(Texture { image, memory, format, extent, layers })
    }

    pub fn free_texture(&self, texture: Texture) {
        // SAFETY: nothing uses it any more.
        unsafe {
            self.device.destroy_image(texture.image, None);
            self.device.free_memory(texture.memory, None);
        }
    }

    /// The texels of a level, all its layers, which is in `layout` and stays in it: `len` bytes, read by the program's
    /// queue after a timeline has reached a value.
    pub fn texels(
        &self,
        texture: &Texture,
        (level, aspect): (u32, vk::ImageAspectFlags),
        layout: vk::ImageLayout,
        len: usize,
        after: Option<(vk::Semaphore, u64)>,
    ) -> Result<Vec<u8>, Stop> {
        let buffer = self.buffer(len, vk::BufferUsageFlags::TRANSFER_DST)?;
        let [width, height, depth] = level_of(texture.extent, level);
        let layers = vk::ImageSubresourceLayers::default()
            .aspect_mask(aspect)
            .mip_level(level)
            .layer_count(texture.layers);
        let whole = vk::BufferImageCopy::default()
            .image_subresource(layers)
            .image_extent(vk::Extent3D { width, height, depth });
        let source = vk::ImageLayout::TRANSFER_SRC_OPTIMAL;
        let both = vk::ImageAspectFlags::DEPTH | vk::ImageAspectFlags::STENCIL;
        let combined = texture.format == vk::Format::D32_SFLOAT_S8_UINT;
        let range = vk::ImageSubresourceRange {
            aspect_mask: if combined { both } else { aspect },
            base_mip_level: level,
            level_count: 1,
            base_array_layer: 0,
            layer_count: texture.layers,
        };
        let pass = |from, to| {
            vk::ImageMemoryBarrier::default()
                .image(texture.image)
                .subresource_range(range)
                .old_layout(from)
                .new_layout(to)
                .src_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
                .dst_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
                .src_access_mask(vk::AccessFlags::MEMORY_WRITE)
                .dst_access_mask(vk::AccessFlags::MEMORY_READ | vk::AccessFlags::MEMORY_WRITE)
        };
        self.submit(after, |device, commands| {
            let (all, none) = (vk::PipelineStageFlags::ALL_COMMANDS, vk::DependencyFlags::empty());
            // SAFETY: as above.
            unsafe {
                let before = [pass(layout, source)];
                device.cmd_pipeline_barrier(commands, all, all, none, &[], &[], &before);
                device.cmd_copy_image_to_buffer(
                    commands,
                    texture.image,
                    source,
                    buffer.raw,
                    &[whole],
                );
                let after = [pass(source, layout)];
                device.cmd_pipeline_barrier(commands, all, all, none, &[], &[], &after);
            }
        })?;
        let bytes = self.read(&buffer)?;
        self.free(buffer);
        Ok(bytes)
    }

    /// Runs commands on the program's queue, under its lock, after a timeline has reached a value.
    pub fn submit(
        &self,
        after: Option<(vk::Semaphore, u64)>,
        record: impl FnOnce(&exporters::vulkan::ash::Device, vk::CommandBuffer),
    ) -> Result<(), Stop> {
        let device = &self.device;
        let pool = vk::CommandPoolCreateInfo::default().queue_family_index(self.family);
        let (waits, values): (Vec<_>, Vec<_>) = after.into_iter().unzip();
        let stages = vec![vk::PipelineStageFlags::ALL_COMMANDS; waits.len()];
        let mut timeline =
            vk::TimelineSemaphoreSubmitInfo::default().wait_semaphore_values(&values);
        // SAFETY: as above; the commands are done before the pool is destroyed.
        unsafe {
            let pool = device.create_command_pool(&pool, None)?;
            let allocate =
                vk::CommandBufferAllocateInfo::default().command_pool(pool).command_buffer_count(1);
            let commands = device.allocate_command_buffers(&allocate)?;
            device.begin_command_buffer(commands[0], &<_>::default())?;
            record(device, commands[0]);
            device.end_command_buffer(commands[0])?;
            let fence = device.create_fence(&<_>::default(), None)?;
            let mut submit = vk::SubmitInfo::default()
                .command_buffers(&commands)
                .wait_semaphores(&waits)
                .wait_dst_stage_mask(&stages);
            if after.is_some() {
                submit = submit.push_next(&mut timeline);
            }
            self.lock.with(|| device.queue_submit(self.queue, &[submit], fence))?;
            device.wait_for_fences(&[fence], true, u64::MAX)?;
            device.destroy_fence(fence, None);
            device.destroy_command_pool(pool, None);
        }
        Ok(())
    }

    /// # Safety
    /// As `vkAllocateMemory`.
    unsafe fn memory(
        &self,
        need: vk::MemoryRequirements,
        flags: vk::MemoryPropertyFlags,
    ) -> Result<vk::DeviceMemory, Stop> {
        // SAFETY: the instance is alive.
        let kinds = unsafe { self.instance.get_physical_device_memory_properties(self.physical) };
        let fits = |&(index, kind): &(usize, &vk::MemoryType)| {
            need.memory_type_bits & (1 << index) != 0 && kind.property_flags.contains(flags)
        };
        let found = kinds.memory_types_as_slice().iter().enumerate().find(fits);
        let (index, _) = found.ok_or("no such memory")?;
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(need.size)
            .memory_type_index(index as u32);
        // SAFETY: the caller's promise.
        Ok(unsafe { self.device.allocate_memory(&info, None) }?)
    }
}

fn usage(format: vk::Format) -> vk::ImageUsageFlags {
    let copies = vk::ImageUsageFlags::TRANSFER_SRC | vk::ImageUsageFlags::TRANSFER_DST;
    match format {
        vk::Format::D32_SFLOAT_S8_UINT => copies | vk::ImageUsageFlags::DEPTH_STENCIL_ATTACHMENT,
        _ => copies | vk::ImageUsageFlags::SAMPLED,
    }
}
