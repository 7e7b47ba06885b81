//! A program's own device of wgpu, in a process of its own under the validation layer.

use std::process::{Command, ExitCode};

use exporters::wgpu::wgpu;
use wgpu::{BufferUsages, TextureDimension, TextureFormat, TextureUsages};

use super::common::{Outcome, Stop, check, need};

/// Set for a child that runs a trial under the layer, which tells a file.
const CHILD: &str = "BUFMAP_TEST_OWN_WGPU";

/// What the parent asked for, if this is a child.
pub fn asked() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// The end of a child.
pub fn answer(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Absent(why)) => {
            println!("absent: {why}");
            ExitCode::SUCCESS
        }
        Err(Stop::Failed(why)) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a trial in a process of its own, in which the loader puts the layer between wgpu and the driver.
pub fn validated(name: &str) -> Outcome {
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
pub fn open() -> Result<(wgpu::Device, wgpu::Queue), Stop> {
    device_of(&adapter()?)
}

pub fn adapter() -> Result<wgpu::Adapter, Stop> {
    let mut wishes = wgpu::InstanceDescriptor::new_without_display_handle();
    wishes.backends = wgpu::Backends::VULKAN;
    let instance = wgpu::Instance::new(wishes);
    need(pollster(instance.request_adapter(&Default::default())))
}

/// A device, with block-compressed textures where it has them.
pub fn device_of(adapter: &wgpu::Adapter) -> Result<(wgpu::Device, wgpu::Queue), Stop> {
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

pub fn buffer(device: &wgpu::Device, size: u64, usage: BufferUsages) -> wgpu::Buffer {
    let wishes = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
    device.create_buffer(&wishes)
}

pub fn texture(
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
pub fn read(
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

/// The texels of a level without the padding of its rows.
pub fn texels(
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
