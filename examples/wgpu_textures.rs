//! A program with its own device of wgpu has the mip levels of a texture uploaded into its own texture, on any backend
//! and without a word of `unsafe`.
//!
//! Run it with `cargo run --features wgpu --example wgpu_textures -- texture.ktx2`; under Vulkan's validation layer with
//! `VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation` in the environment.

use std::error::Error;
use std::fs::File;
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bufmap::exporters::upload::{CopyRegion, UploadQueue, UploadTarget};
use bufmap::exporters::wgpu::{OwnDevice, wgpu};
use bufmap::format::{self, Description, VkFormat};
use wgpu::{TextureFormat, TextureUsages};

fn main() -> Result<(), Box<dyn Error>> {
    let path = PathBuf::from(std::env::args_os().nth(1).ok_or("name a .ktx2 file")?);
    let (file, mut levels) = (File::open(&path)?, Vec::new());
    let opened = format::read(&path, None)?;
    for item in opened.into_iter().flat_map(|opened| opened.contents.items) {
        if let Description::Texture(level) = item.description {
            level.image(item.len, 0, 0)?; // an error says why it cannot be used as it is
            levels.push((item.offset, item.len as usize, level));
        }
    }
    let (_, _, top) = levels.iter().find(|(.., level)| level.level == 0).ok_or("no texture")?;

    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = at_once(instance.request_adapter(&Default::default()))??;
    let wishes = wgpu::DeviceDescriptor {
        required_features: adapter.features() & wgpu::Features::TEXTURE_COMPRESSION_BC,
        ..Default::default()
    };
    let (device, queue) = at_once(adapter.request_device(&wishes))??;
    let volume = top.depth > 1;
    let texture = device.create_texture(&wgpu::TextureDescriptor {
        label: Some("tiles"),
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
    });

    let own = OwnDevice::new(&device, &queue);
    let mut uploads = own.uploads(4, 1 << 20)?;
    for absent in uploads.step_downs() {
        println!("a step down: {absent}");
    }
    for (offset, len, level) in &levels {
        let target = own.level(&texture, level.level)?;
        let piece = uploads.slot_len() / target.granule() * target.granule();
        let mut bytes = vec![0; piece];
        for start in (0..*len).step_by(piece.max(1)) {
            let bytes = &mut bytes[..piece.min(len - start)];
            // A loader would read past the page cache, straight into the slot, which is pages.
            file.read_exact_at(bytes, offset + start as u64)?;
            let slot = uploads.wait_for_slot()?;
            slot.map().copy_from_slice(0, bytes)?;
            let region = CopyRegion { src_offset: 0, dst_offset: start, len: bytes.len() };
            let _ = uploads.copy(slot, &target, &[region])?;
        }
        // What is submitted to the same queue after this sees the level. Only to say so is it waited for here.
        let done = uploads.finish(&target)?;
        uploads.wait(done)?;
        println!("level {}: {len} bytes", level.level);
    }
    println!("{} levels are on {}", levels.len(), device.adapter_info().name);
    Ok(())
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
