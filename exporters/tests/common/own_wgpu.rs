//! A program's own device of wgpu, of which this crate wants nothing but its public interface.

use std::process::Command;

use exporters::Destination;
use exporters::upload::{CopyRegion, UploadError, UploadQueue, UploadTarget};
use exporters::wgpu::{OwnDevice, WgpuError, wgpu};
use libtest_mimic::Trial;
use wgpu::{BufferUsages, TextureDimension, TextureFormat, TextureUsages};

use super::common::{Outcome, Stop, check, need, noise, trial};
use super::upload::{fill, refusals};

/// Set for a child that runs one of these trials under the validation layer, which tells a file.
const CHILD: &str = "BUFMAP_TEST_OWN_WGPU";

pub fn trials() -> Vec<Trial> {
    vec![
        trial("wgpu_buffers_and_textures_are_filled", || validated("filled")),
        trial("wgpu_refuses_what_cannot_be_filled", || validated("refused")),
        trial("wgpu_mistakes_are_seen_by_the_layer", || match validated("mistake") {
            Err(Stop::Failed(said)) if said.contains("VUID") => Ok(()),
            Err(stop @ Stop::Absent(_)) => Err(stop),
            _ => Err(Stop::Failed("the layer overlooked a mistake".into())),
        }),
    ]
}

/// Runs what the parent asked for, if this is a child.
pub fn child() -> Option<Outcome> {
    let name = std::env::var(CHILD).ok()?;
    Some(match name.as_str() {
        "filled" => filled(),
        "refused" => refused(),
        _ => mistake(),
    })
}

/// Runs a trial in a process of its own, in which the loader puts the layer between wgpu and the driver.
fn validated(name: &str) -> Outcome {
    let directory = tempfile::tempdir()?;
    let said = directory.path().join("said");
    let settings = format!(
        "khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG\n\
         khronos_validation.report_flags = error,warn\n\
         khronos_validation.log_filename = {}\n",
        said.display()
    );
    std::fs::write(directory.path().join("vk_layer_settings.txt"), settings)?;
    let output = Command::new(std::env::current_exe()?)
        .env(CHILD, name)
        .env("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation")
        .env("VK_LAYER_SETTINGS_PATH", directory.path())
        .output()?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    if let Some(why) = told.lines().find_map(|line| line.strip_prefix("absent: ")) {
        return Err(Stop::Absent(why.to_owned()));
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    check(output.status.success(), format!("{told}{errors}"))?;
    let said = std::fs::read_to_string(said).unwrap_or_default();
    check(said.is_empty(), said)
}

/// Opens a device as a program does.
fn open() -> Result<(wgpu::Device, wgpu::Queue), Stop> {
    device_of(&adapter()?)
}

fn adapter() -> Result<wgpu::Adapter, Stop> {
    let mut wishes = wgpu::InstanceDescriptor::new_without_display_handle();
    wishes.backends = wgpu::Backends::VULKAN;
    let instance = wgpu::Instance::new(wishes);
    need(pollster(instance.request_adapter(&Default::default())))
}

/// A device, with block-compressed textures where it has them.
fn device_of(adapter: &wgpu::Adapter) -> Result<(wgpu::Device, wgpu::Queue), Stop> {
    let device = wgpu::DeviceDescriptor {
        required_features: adapter.features() & wgpu::Features::TEXTURE_COMPRESSION_BC,
        ..Default::default()
    };
    need(pollster(adapter.request_device(&device)))
}

/// wgpu's futures without a browser are ready when they are made.
fn pollster<F: Future>(future: F) -> F::Output {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("it is not ready"),
    }
}

fn buffer(device: &wgpu::Device, size: u64, usage: BufferUsages) -> wgpu::Buffer {
    let wishes = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
    device.create_buffer(&wishes)
}

fn texture(
    device: &wgpu::Device,
    (width, height, depth_or_array_layers): (u32, u32, u32),
    (dimension, format): (TextureDimension, TextureFormat),
    usage: TextureUsages,
) -> wgpu::Texture {
    device.create_texture(&wgpu::TextureDescriptor {
        label: None,
        size: wgpu::Extent3d { width, height, depth_or_array_layers },
        mip_level_count: 3,
        sample_count: 1,
        dimension,
        format,
        usage,
        view_formats: &[],
    })
}

/// What is in a buffer that may be copied from.
fn read(
    (device, queue): (&wgpu::Device, &wgpu::Queue),
    record: impl FnOnce(&mut wgpu::CommandEncoder, &wgpu::Buffer),
    len: u64,
) -> Result<Vec<u8>, Stop> {
    let back = buffer(device, len, BufferUsages::COPY_DST | BufferUsages::MAP_READ);
    let mut encoder = device.create_command_encoder(&Default::default());
    record(&mut encoder, &back);
    queue.submit([encoder.finish()]);
    back.map_async(wgpu::MapMode::Read, .., |_| ());
    device.poll(wgpu::PollType::wait_indefinitely())?;
    Ok(back.get_mapped_range(..)?.to_vec())
}

fn filled() -> Outcome {
    let (device, queue) = open()?;
    let (both, own) = ((&device, &queue), OwnDevice::new(&device, &queue));
    let mut uploads = own.uploads(3, 9000)?;
    check(uploads.slot_len() == 12288, "not whole pages")?;

    let vertices = buffer(&device, 100_000, BufferUsages::COPY_DST | BufferUsages::COPY_SRC);
    let range = own.buffer(&vertices, 404..80_404)?;
    let bytes = noise(80_000, 3);
    fill(&mut uploads, range.upload()?, &bytes)?;
    let all = |encoder: &mut wgpu::CommandEncoder, back: &wgpu::Buffer| {
        encoder.copy_buffer_to_buffer(&vertices, 0, back, 0, 100_000);
    };
    let seen = read(both, all, 100_000)?;
    check(seen[404..80_404] == bytes, "other bytes")?;
    check(seen[..404].iter().chain(&seen[80_404..]).all(|&byte| byte == 0), "its neighbours")?;

    let (flat, deep) = (TextureDimension::D2, TextureDimension::D3);
    let compressed = device.features().contains(wgpu::Features::TEXTURE_COMPRESSION_BC);
    for (index, (sides, kind)) in [
        ((101, 61, 1), (flat, TextureFormat::Rgba8Unorm)),
        ((64, 32, 5), (flat, TextureFormat::R8Unorm)),
        ((33, 17, 9), (deep, TextureFormat::Rgba16Float)),
        ((100, 60, 3), (flat, TextureFormat::Bc1RgbaUnorm)),
        ((20, 12, 1), (flat, TextureFormat::Bc7RgbaUnorm)),
    ]
    .into_iter()
    .enumerate()
    {
        if kind.1.is_compressed() && !compressed {
            println!("without {:?}", kind.1);
            continue;
        }
        let texture =
            texture(&device, sides, kind, TextureUsages::COPY_DST | TextureUsages::COPY_SRC);
        for level in 0..3 {
            let target = own.level(&texture, level)?;
            let bytes = noise(UploadTarget::len(&target), index as u64 * 3 + u64::from(level) + 9);
            fill(&mut uploads, target.upload()?, &bytes)?;
            check(texels(both, &texture, level)? == bytes, format!("level {level} of {kind:?}"))?;
        }
    }
    Ok(())
}

/// The texels of a level without the padding of its rows.
fn texels(
    both: (&wgpu::Device, &wgpu::Queue),
    texture: &wgpu::Texture,
    level: u32,
) -> Result<Vec<u8>, Stop> {
    let format = texture.format();
    let (across, down) = format.block_dimensions();
    let size = texture.size().mip_level_size(level, texture.dimension());
    let physical = size.physical_size(format);
    let row = physical.width / across * format.block_copy_size(None).ok_or("no block")?;
    let (rows, pitch) = (physical.height / down, row.next_multiple_of(256));
    let copy = |encoder: &mut wgpu::CommandEncoder, back: &wgpu::Buffer| {
        let source = wgpu::TexelCopyTextureInfo { mip_level: level, ..texture.as_image_copy() };
        let layout = wgpu::TexelCopyBufferLayout {
            offset: 0,
            bytes_per_row: Some(pitch),
            rows_per_image: Some(rows),
        };
        let into = wgpu::TexelCopyBufferInfo { buffer: back, layout };
        encoder.copy_texture_to_buffer(source, into, physical);
    };
    let len = u64::from(pitch) * u64::from(rows * physical.depth_or_array_layers);
    let padded = read(both, copy, len)?;
    Ok(padded.chunks(pitch as usize).flat_map(|padded| &padded[..row as usize]).copied().collect())
}

fn refused() -> Outcome {
    let adapter = adapter()?;
    let ((device, queue), (other, its_queue)) = (device_of(&adapter)?, device_of(&adapter)?);
    let own = OwnDevice::new(&device, &queue);
    let lacking = |refused: Result<(), WgpuError>, word: &str| match refused {
        Err(WgpuError::Unavailable(absent)) => check(absent.to_string().contains(word), absent),
        other => Err(Stop::Failed(format!("{word}: {other:?}"))),
    };
    let vertices = buffer(&device, 4096, BufferUsages::COPY_DST);
    #[allow(clippy::reversed_empty_ranges, reason = "it is refused")]
    for bad in [0..4097, 1..5, 0..6, 4096..4096, 8..4] {
        lacking(own.buffer(&vertices, bad).map(drop), "multiples of 4")?;
    }
    let source = buffer(&device, 4096, BufferUsages::COPY_SRC);
    lacking(own.buffer(&source, 0..4096).map(drop), "COPY_DST")?;
    let kind = (TextureDimension::D2, TextureFormat::Rgba8Unorm);
    let bound = texture(&device, (16, 16, 1), kind, TextureUsages::TEXTURE_BINDING);
    lacking(own.level(&bound, 0).map(drop), "COPY_DST")?;
    let rgba = texture(&device, (16, 16, 1), kind, TextureUsages::COPY_DST);
    lacking(own.level(&rgba, 3).map(drop), "3 mip levels")?;
    let kind = (TextureDimension::D2, TextureFormat::Depth24PlusStencil8);
    let both = texture(&device, (16, 16, 1), kind, TextureUsages::COPY_DST);
    lacking(own.level(&both, 0).map(drop), "one run of rows")?;

    let theirs = buffer(&other, 4096, BufferUsages::COPY_DST);
    let foreign = OwnDevice::new(&other, &its_queue).buffer(&theirs, 0..4096)?;
    let mut uploads = own.uploads(2, 4096)?;
    refusals(&mut uploads, &own.buffer(&vertices, 0..4096)?, &foreign)?;
    refusals(&mut uploads, &own.level(&rgba, 0)?, &foreign)?;
    for (dst_offset, len) in [(2, 4), (0, 6), (4094, 4), (4096, 4)] {
        let slot = uploads.wait_for_slot()?;
        let region = CopyRegion { src_offset: 0, dst_offset, len };
        let refused = uploads.copy(slot, &own.buffer(&vertices, 0..4096)?, &[region]);
        let refused = refused.expect_err("it divides what belongs together, or is outside");
        let cut = matches!(refused.downcast_ref(), Some(WgpuError::Cut { granule: 4, .. }));
        check(cut, format!("{dst_offset} {len}: {refused}"))?;
    }
    // wgpu's own answer is an error and no panic: the buffer is another device's than was said, or is gone.
    let (mixed, gone) = (own.buffer(&theirs, 0..4096)?, own.buffer(&vertices, 0..4096)?);
    vertices.destroy();
    for target in [&mixed, &gone] {
        let slot = uploads.wait_for_slot()?;
        let all = CopyRegion { src_offset: 0, dst_offset: 0, len: 4096 };
        let refused = uploads.copy(slot, target, &[all]);
        check(matches!(refused, Err(UploadError::Device { .. })), format!("{refused:?}"))?;
    }
    check(uploads.sync_file().is_err(), "wgpu has sync files")
}

/// What wgpu does not see.
fn mistake() -> Outcome {
    let (device, _queue) = open()?;
    let no_usage = exporters::vulkan::ash::vk::BufferCreateInfo::default().size(16);
    // SAFETY: a mistake on purpose that every driver survives: the buffer is destroyed unused.
    #[allow(unsafe_code)]
    unsafe {
        let hal = device.as_hal::<wgpu::hal::api::Vulkan>().ok_or("it is Vulkan")?;
        let buffer = hal.raw_device().create_buffer(&no_usage, None)?;
        hal.raw_device().destroy_buffer(buffer, None);
    }
    Ok(())
}
