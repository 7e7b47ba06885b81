//! A program made with plain `ash` streams the mip levels of a texture into its own image by a loader, and the file's bytes
//! into its own buffer, and waits for all of it on the GPU.
//!
//! Run it with `cargo run --example ash_textures -- texture.ktx2`; under the validation layer with
//! `VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation` in the environment.
#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "what a program's own Vulkan takes"
)]

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bufmap::engine::{Buffer, Loader, Request};
use bufmap::exporters::vulkan::ash::{Entry, ext, vk};
use bufmap::exporters::vulkan::{BufferRange, Device, Handles, Handover, Region};
use bufmap::format::{self, Description};
use bufmap::transfer::Priority;

/// What is not supercompressed goes into the image as it lies in the file.
fn main() -> Result<(), Box<dyn Error>> {
    let path = PathBuf::from(std::env::args_os().nth(1).ok_or("name a .ktx2 file")?);
    let mut levels = Vec::new();
    let opened = format::read(&path, None)?;
    for item in opened.into_iter().flat_map(|opened| opened.contents.items) {
        if let Description::Texture(level) = item.description {
            level.image(item.len, 0, 0)?; // an error says why it cannot be used as it is
            levels.push((item.offset, item.len, level));
        }
    }
    let (_, _, top) = levels.iter().find(|(.., level)| level.level == 0).ok_or("no texture")?;

    // The program's own device: one queue, which it draws with under a lock of its own.
    let entry = unsafe { Entry::load() }?;
    let app = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
    let instance = vk::InstanceCreateInfo::default().application_info(&app);
    let instance = unsafe { entry.create_instance(&instance, None) }?;
    let physical = unsafe { instance.enumerate_physical_devices() }?[0];
    let supported = unsafe { instance.get_physical_device_features(physical) };
    let features = vk::PhysicalDeviceFeatures::default()
        .texture_compression_bc(supported.texture_compression_bc == vk::TRUE);
    let mut timelines =
        vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
    let queues =
        [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
    // With this a drive may write straight into what is uploaded; without, there is a step down.
    let offered = unsafe { instance.enumerate_device_extension_properties(physical) }?;
    let imports = ext::external_memory_host::NAME;
    let has = offered.iter().any(|one| one.extension_name_as_c_str() == Ok(imports));
    let extensions: Vec<_> = has.then_some(imports).into_iter().collect();
    let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
    let create = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&names)
        .enabled_features(&features)
        .push_next(&mut timelines);
    let device = unsafe { instance.create_device(physical, &create, None) }?;
    let queue = unsafe { device.get_device_queue(0, 0) };
    let lock = Arc::new(Mutex::new(()));

    // Its image, its buffer, and the semaphores that its frames wait for: one for each, because they land in any order.
    let kind = [vk::ImageType::TYPE_2D, vk::ImageType::TYPE_3D][usize::from(top.depth > 1)];
    let texture_format = vk::Format::from_raw(top.format.0 as i32);
    let (width, height, depth) = (top.width, top.height, top.depth);
    let image = vk::ImageCreateInfo::default()
        .image_type(kind)
        .format(texture_format)
        .extent(vk::Extent3D { width, height, depth })
        .mip_levels(levels.len() as u32)
        .array_layers(top.layers * top.faces)
        .samples(vk::SampleCountFlags::TYPE_1)
        .usage(vk::ImageUsageFlags::SAMPLED | vk::ImageUsageFlags::TRANSFER_DST);
    let image = unsafe { device.create_image(&image, None) }?;
    let needed = unsafe { device.get_image_memory_requirements(image) };
    let allocate = |needed: vk::MemoryRequirements| unsafe {
        let index = needed.memory_type_bits.trailing_zeros();
        let info = vk::MemoryAllocateInfo::default().memory_type_index(index);
        device.allocate_memory(&info.allocation_size(needed.size), None)
    };
    let image_memory = allocate(needed)?;
    unsafe { device.bind_image_memory(image, image_memory, 0) }?;
    let usage = vk::BufferUsageFlags::STORAGE_BUFFER | vk::BufferUsageFlags::TRANSFER_DST;
    let len = path.metadata()?.len();
    let buffer = vk::BufferCreateInfo::default().size(len).usage(usage);
    let buffer = unsafe { device.create_buffer(&buffer, None) }?;
    let buffer_memory = allocate(unsafe { device.get_buffer_memory_requirements(buffer) })?;
    unsafe { device.bind_buffer_memory(buffer, buffer_memory, 0) }?;
    let timeline = || {
        let kind = vk::SemaphoreType::TIMELINE;
        let mut kind = vk::SemaphoreTypeCreateInfo::default().semaphore_type(kind);
        let semaphore = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        unsafe { device.create_semaphore(&semaphore, None) }
    };
    let semaphores = (0..=levels.len()).map(|_| timeline()).collect::<Result<Vec<_>, _>>()?;

    {
        let theirs = lock.clone();
        let handles = Handles::new(&instance, physical, &device, vk::API_VERSION_1_2)
            .extensions(&extensions)
            .timeline_semaphores()
            .queue(0, queue, move |submit: &mut dyn FnMut()| {
                let _guard = theirs.lock();
                submit();
            });
        // SAFETY: all of it is as it was created above, and destroyed below, after this block.
        let adopted = unsafe { Device::adopt(handles) }?;
        let signalling = |index: usize| {
            let timeline = unsafe { adopted.adopt_timeline(semaphores[index]) }?;
            Ok::<_, Box<dyn Error>>(Handover::default().signalling(&timeline, 1))
        };
        let loader = Loader::new()?;
        let file = loader.open(&path)?;
        let mut tickets = Vec::new();
        for (index, (offset, len, level)) in levels.iter().enumerate() {
            let subresource = vk::ImageSubresourceLayers::default()
                .aspect_mask(vk::ImageAspectFlags::COLOR)
                .mip_level(level.level)
                .layer_count(level.layers * level.faces);
            let (width, height, depth) = (level.width, level.height, level.depth);
            let extent = vk::Extent3D { width, height, depth };
            let region = Region::new(image, texture_format, subresource, extent);
            // SAFETY: the level of the image above, which nobody uses before it is done.
            let region = unsafe { adopted.adopt_region(region.handover(signalling(index)?)) }?;
            let target = Buffer::new(Arc::new(region))?;
            let priority = if level.level == 0 { Priority::Normal } else { Priority::High };
            let request = Request::new(&file, *offset..offset + len, &target, 0).priority(priority);
            tickets.push((format!("level {}", level.level), loader.submit(request)?));
        }
        let range = BufferRange::new(buffer, 0, len as usize, usage);
        // SAFETY: the buffer above, which nobody uses before it is done.
        let range = unsafe { adopted.adopt_buffer(range.handover(signalling(levels.len())?)) }?;
        let target = Buffer::new(Arc::new(range))?;
        let all = Request::new(&file, 0..len, &target, 0).priority(Priority::Low);
        tickets.push(("the buffer".into(), loader.submit(all)?));
        drop(target);

        // The program draws without them meanwhile, and each ticket says what came of it.
        for (name, ticket) in tickets {
            let landed = ticket.wait()?;
            println!("{name}: {} bytes", landed.bytes);
            for step in &landed.step_downs {
                println!("    not by the path {}: {}", step.path, step.why);
            }
        }

        // A frame that uses all of it begins when the semaphores say that it has landed. With a queue of its own for the
        // copies (`Handles::queue`) the program would submit it before the tickets are done.
        let values = vec![1; semaphores.len()];
        let stages = vec![vk::PipelineStageFlags::FRAGMENT_SHADER; semaphores.len()];
        let mut timeline =
            vk::TimelineSemaphoreSubmitInfo::default().wait_semaphore_values(&values);
        let frame = vk::SubmitInfo::default()
            .wait_semaphores(&semaphores)
            .wait_dst_stage_mask(&stages)
            .push_next(&mut timeline);
        let guard = lock.lock();
        unsafe { device.queue_submit(queue, &[frame], vk::Fence::null()) }?;
        drop(guard);
        // The program may go on; this one ends, and waits until the device is idle.
        unsafe { device.device_wait_idle() }?;
        println!("{} levels and {len} bytes of a buffer have landed", levels.len());
    }

    unsafe {
        semaphores.iter().for_each(|semaphore| device.destroy_semaphore(*semaphore, None));
        device.destroy_buffer(buffer, None);
        device.free_memory(buffer_memory, None);
        device.destroy_image(image, None);
        device.free_memory(image_memory, None);
        device.destroy_device(None);
        instance.destroy_instance(None);
    }
    Ok(())
}
