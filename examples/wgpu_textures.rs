//! A program with its own device of wgpu streams textures into its own memory by a loader, on any backend and without a word
//! of `unsafe`: the small mip levels of all files first.
//!
//! Run it with `cargo run --features wgpu --example wgpu_textures -- wall.ktx2 floor.ktx2`; under Vulkan's validation layer
//! with `VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation` in the environment.

use std::error::Error;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bufmap::engine::{Buffer, Completions, Loader, Request};
use bufmap::exporters::wgpu::{OwnDevice, wgpu};

use bufmap::format::{self, Description, Texture, VkFormat};
use bufmap::transfer::Priority;
use wgpu::{TextureFormat, TextureUsages};

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<_> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = at_once(instance.request_adapter(&Default::default()))??;
    let wishes = wgpu::DeviceDescriptor {
        required_features: adapter.features() & wgpu::Features::TEXTURE_COMPRESSION_BC,
        ..Default::default()
    };
    let (device, queue) = at_once(adapter.request_device(&wishes))??;

    let own = OwnDevice::new(&device, &queue);
    let loader = Loader::new()?;
    let completions = Completions::new();
    let (mut textures, mut names) = (Vec::new(), Vec::new());
    for path in &paths {
        let levels = levels_of(path)?;
        let texture = device.create_texture(&texture_of(&levels)?);
        let file = loader.open(path)?;
        for (offset, len, level) in &levels {
            let target = Buffer::new(Arc::new(own.level(&texture, level.level)?))?;
            let priority = if level.level == 0 { Priority::Normal } else { Priority::High };
            let request = Request::new(&file, *offset..offset + len, &target, 0);
            let tag = names.len() as u64;
            loader.submit_to(request.priority(priority).tag(tag), &completions)?;
            names.push(format!("{}, level {}", path.display(), level.level));
        }
        textures.push(texture);
    }
    if names.is_empty() {
        return Err("name .ktx2 files".into());
    }

    for number in 0..names.len() {
        let done = completions.wait();
        let landed = done.outcome?;
        // What is submitted to the queue from here on sees the level.
        println!("{}: {} bytes", names[done.tag as usize], landed.bytes);
        for step in landed.step_downs.iter().filter(|_| number == 0) {
            println!("not by the path {}: {}", step.path, step.why);
        }
    }
    println!("{} textures are on {}", textures.len(), device.adapter_info().name);
    Ok(())
}

/// Where a mip level begins in its file, how long it is there, and what it is.
type Level = (u64, u64, Texture);

/// The mip levels of a file that can be used as they lie in it.
fn levels_of(path: &Path) -> Result<Vec<Level>, Box<dyn Error>> {
    let mut levels = Vec::new();
    for item in format::read(path, None)?.into_iter().flat_map(|opened| opened.contents.items) {
        if let Description::Texture(level) = item.description {
            level.image(item.len, 0, 0)?; // an error says why it cannot be used as it is
            levels.push((item.offset, item.len, level));
        }
    }
    Ok(levels)
}

/// The texture that has these levels.
fn texture_of(levels: &[Level]) -> Result<wgpu::TextureDescriptor<'static>, Box<dyn Error>> {
    let (_, _, top) = levels.iter().find(|(.., level)| level.level == 0).ok_or("no texture")?;
    let volume = top.depth > 1;
    Ok(wgpu::TextureDescriptor {
        label: Some("streamed"),
        size: wgpu::Extent3d {
            width: top.width,
            height: top.height,
            depth_or_array_layers: top.depth.max(top.layers * top.faces),
        },
        mip_level_count: levels.len() as u32,
        sample_count: 1,
        dimension: [wgpu::TextureDimension::D2, wgpu::TextureDimension::D3][usize::from(volume)],
        format: wgpu_format(top.format)?,
        usage: TextureUsages::TEXTURE_BINDING | TextureUsages::COPY_DST,
        view_formats: &[],
    })
}

/// The formats that this example knows by both names.
fn wgpu_format(format: VkFormat) -> Result<TextureFormat, String> {
    match format.name().as_deref() {
        Some("VK_FORMAT_R8_UNORM") => Ok(TextureFormat::R8Unorm),
        Some("VK_FORMAT_R8G8B8A8_UNORM") => Ok(TextureFormat::Rgba8Unorm),
        Some("VK_FORMAT_R8G8B8A8_SRGB") => Ok(TextureFormat::Rgba8UnormSrgb),
        Some("VK_FORMAT_BC1_RGBA_UNORM_BLOCK") => Ok(TextureFormat::Bc1RgbaUnorm),
        Some("VK_FORMAT_BC7_UNORM_BLOCK") => Ok(TextureFormat::Bc7RgbaUnorm),
        Some("VK_FORMAT_BC7_SRGB_BLOCK") => Ok(TextureFormat::Bc7RgbaUnormSrgb),
        other => Err(format!("format {} is not in this example's list: {other:?}", format.0)),
    }
}

/// What a future of wgpu has, which is ready when it is made outside a browser.
fn at_once<F: Future>(future: F) -> Result<F::Output, &'static str> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => Err("wgpu does not answer at once"),
    }
}
