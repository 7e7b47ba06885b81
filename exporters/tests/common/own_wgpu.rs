//! A program's own device of wgpu, of which this crate wants nothing but its public interface.

use exporters::Destination;
use exporters::upload::{CopyRegion, UploadError, UploadQueue, UploadTarget};
use exporters::wgpu::{OwnDevice, WgpuError, wgpu};
use libtest_mimic::Trial;
use wgpu::{BufferUsages, TextureDimension, TextureFormat, TextureUsages};

use super::common::{Outcome, Stop, check, noise, trial};
use super::upload::{fill, refusals};
use super::wgpu_program::{
    adapter, asked, buffer, device_of, open, read, texels, texture, validated,
};

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
    Some(match asked()?.as_str() {
        "filled" => filled(),
        "refused" => refused(),
        _ => mistake(),
    })
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
