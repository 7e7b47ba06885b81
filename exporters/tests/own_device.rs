//! A program's own Vulkan device: adopted, copied into by this crate, and left as it was.

#[path = "common/adopted.rs"]
mod adopted;
mod common;
#[cfg(feature = "wgpu")]
#[path = "common/own_wgpu.rs"]
mod own_wgpu;
#[path = "common/program.rs"]
mod program;
#[path = "common/texture.rs"]
mod texture;
#[path = "common/upload.rs"]
mod upload;
#[cfg(feature = "wgpu")]
#[path = "common/wgpu_program.rs"]
mod wgpu_program;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use adopted::{COPIES, adopt, adopt_timeline, colour, destroy, level, range, timeline};
use common::{Outcome, Stop, check, noise, open_fds, run, trial};
use exporters::Destination;
use exporters::upload::UploadQueue;
use exporters::vulkan::ash::vk;
use exporters::vulkan::{
    Buffer, BufferRange, CopyRegion, Device, Handles, Handover, ImageRegion, Region, Transfer,
    VulkanError, Way, When,
};
use iomap::{Memory, PageSize};
use program::{ALL, BARE, BY_EXTENSION, NO_TIMELINES, Program, on, on_each};
use texture::{Texture, level_of};

fn main() -> ExitCode {
    #[cfg(feature = "wgpu")]
    if let Some(outcome) = own_wgpu::child() {
        return wgpu_program::answer(outcome);
    }
    let trials = vec![
        trial("every_call_works_on_a_program_s_own_device", || {
            on_each(every_call_works_on_a_program_s_own_device)
        }),
        trial("an_extension_that_is_off_is_a_step_down", an_extension_that_is_off_is_a_step_down),
        trial("copies_are_counted_without_timelines", copies_are_counted_without_timelines),
        trial("the_program_s_lock_is_held_during_submissions", || {
            on_each(the_program_s_lock_is_held_during_submissions)
        }),
        trial("a_lock_that_calls_nothing_is_told", a_lock_that_calls_nothing_is_told),
        trial("what_cannot_be_adopted_is_refused", what_cannot_be_adopted_is_refused),
        trial("a_range_of_a_program_s_buffer_is_filled", || {
            on_each(a_range_of_a_program_s_buffer_is_filled)
        }),
        trial("bad_ranges_are_refused", || on(ALL, bad_ranges_are_refused)),
        trial("levels_layers_and_depth_are_filled_in_any_pieces", || {
            on_each(levels_layers_and_depth_are_filled_in_any_pieces)
        }),
        trial("a_box_is_filled_and_nothing_beside_it", || {
            on_each(a_box_is_filled_and_nothing_beside_it)
        }),
        trial("stencil_is_filled_beside_depth", || on(ALL, stencil_is_filled_beside_depth)),
        trial("bad_regions_are_refused", || on(ALL, bad_regions_are_refused)),
        trial("what_is_another_family_s_passes_and_comes_back", || {
            on_each(what_is_another_family_s_passes_and_comes_back)
        }),
        trial("a_renderer_waits_for_a_value", a_renderer_waits_for_a_value),
        trial("a_copy_waits_for_a_renderer", a_copy_waits_for_a_renderer),
        trial("values_only_rise", || on(ALL, values_only_rise)),
        trial("transfers_share_a_region", || on_each(transfers_share_a_region)),
        trial("validation_sees_what_is_left_behind", validation_sees_what_is_left_behind),
        trial("a_queue_fills_targets_it_knows_nothing_of", || {
            on_each(a_queue_fills_targets_it_knows_nothing_of)
        }),
        trial("a_queue_refuses_what_is_not_its_own", || {
            on(ALL, a_queue_refuses_what_is_not_its_own)
        }),
        trial("no_descriptor_leaks", no_descriptor_leaks),
    ];
    #[cfg(feature = "wgpu")]
    let trials = trials.into_iter().chain(own_wgpu::trials()).collect();
    run(trials)
}

fn whole(len: usize) -> [CopyRegion; 1] {
    [CopyRegion { src_offset: 0, dst_offset: 0, len }]
}

/// A buffer of these bytes that the device copies from.
fn filled(device: &Device, bytes: &[u8]) -> Result<Arc<Buffer>, Stop> {
    let staging = device.staging(bytes.len())?;
    staging.buffer().cpu().ok_or("the CPU fills it")?.copy_from_slice(0, bytes)?;
    Ok(staging.buffer().clone())
}

fn read(device: &Device, buffer: &Arc<Buffer>) -> Result<Vec<u8>, Stop> {
    let mut out = vec![0; buffer.len()];
    device.transfer()?.read_back(buffer, 0, &mut out)?;
    Ok(out)
}

fn every_call_works_on_a_program_s_own_device(program: &Program, device: &Device) -> Outcome {
    let info = device.info();
    check(!info.name.is_empty() && info.index == 0, &info.name)?;
    check(device.queue_family() == program.family, device.queue_family())?;
    check(device.validation().is_none(), "the program's layer is the program's")?;
    let bytes = noise(5 << 20, 1);
    let src = filled(device, &bytes)?;
    let dst = Arc::new(device.allocate(bytes.len(), false)?);
    let mut transfer = device.transfer()?;
    for _ in 0..20 {
        let ticket = transfer.copy(&src, &dst, &whole(bytes.len()))?;
        transfer.wait(ticket)?;
        check(transfer.is_done(ticket)?, "waited for and not done")?;
    }
    check(read(device, &dst)? == bytes, "other bytes")?;
    // Several in flight, and dropped with them.
    for seed in 2..10 {
        let src = filled(device, &noise(1 << 20, seed))?;
        let _ = transfer.copy(&src, &dst, &whole(1 << 20))?;
    }
    drop(transfer);
    check(read(device, &dst)?[..1 << 20] == noise(1 << 20, 9), "a copy was cut short by a drop")?;
    match device.import_memory(Arc::new(Memory::memfd("own", 1 << 16, PageSize::Base)?)) {
        Ok(pages) => {
            check(program.wishes.extensions.len() > 1, "pages came without an extension")?;
            pages.cpu().ok_or("pages of the process")?.copy_from_slice(0, &bytes[..1 << 16])?;
            check(read(device, &Arc::new(pages))? == bytes[..1 << 16], "other pages")
        }
        Err(VulkanError::Unavailable(absent)) => {
            check(program.wishes.extensions.len() <= 1, &absent)?;
            check(absent.fix.contains("Device::adopt"), absent)
        }
        Err(error) => Err(error.into()),
    }
}

fn an_extension_that_is_off_is_a_step_down() -> Outcome {
    on(ALL, |_, device| {
        let staging = device.staging(1 << 20)?;
        match device.info().extension("VK_EXT_external_memory_host") {
            Err(absent) => Err(Stop::Absent(absent.to_string())),
            Ok(()) => {
                check(staging.pages().is_ok(), "imported pages are pages")?;
                check(*staging.buffer().way() != Way::Allocated, staging.buffer().way())
            }
        }
    })?;
    on(BARE, |_, device| {
        for (name, there) in &device.info().extensions {
            let absent = there.clone().expect_err("nothing is on");
            check(absent.why.contains(name), &absent)?;
        }
        check(device.info().host_import_alignment.is_none(), "an alignment without an import")?;
        check(device.sync_files().is_err(), "sync files without an extension")?;
        let refused = device.allocate(4096, true).map(drop);
        check(matches!(refused, Err(VulkanError::Unavailable(_))), format!("{refused:?}"))?;
        let staging = device.staging(1 << 20)?;
        check(*staging.buffer().way() == Way::Allocated, staging.buffer().way())?;
        // Of a software driver the memory is pages all the same, and the kernel is asked.
        let pages = iomap::Pinned::new(staging.buffer().cpu().ok_or("mapped")?).map(drop);
        check(pages.is_ok() == staging.pages().is_ok(), format!("{:?}", staging.pages()))?;
        let why = staging.not_imported().ok_or("a reason")?;
        check(why.why.contains("created without VK_EXT_external_memory_host"), why)
    })
}

fn copies_are_counted_without_timelines() -> Outcome {
    for (wishes, counts) in
        [(ALL, true), (BY_EXTENSION, true), (NO_TIMELINES, false), (BARE, false)]
    {
        let program = Program::open(wishes)?;
        let device = program.adopt()?;
        match device.timelines() {
            Ok(()) => check(counts, "a timeline without the feature")?,
            Err(absent) => {
                check(!counts, &absent)?;
                check(absent.why.contains("timelineSemaphore"), absent)?;
            }
        }
        // Long ones, so that the first is done long before the last.
        const LEN: usize = 32 << 20;
        let (src, dst) = (filled(&device, &noise(LEN, 3))?, device.allocate(LEN, false)?);
        let dst = Arc::new(dst);
        let mut transfer = device.transfer()?;
        let tickets = (0..10)
            .map(|_| transfer.copy(&src, &dst, &whole(LEN)))
            .collect::<Result<Vec<_>, _>>()?;
        check(!transfer.is_done(tickets[9])?, "done before anything was waited for")?;
        // The last is done after all others.
        transfer.wait(tickets[9])?;
        for ticket in tickets {
            check(transfer.is_done(ticket)?, "done out of order")?;
        }
        let mut other = device.transfer()?;
        let ticket = other.copy(&src, &dst, &whole(1))?;
        let refused = transfer.wait(ticket);
        check(matches!(refused, Err(VulkanError::OtherTransfer)), format!("{refused:?}"))?;
        other.wait(ticket)?;
        drop((src, dst, transfer, other, device));
        program.end()?;
    }
    Ok(())
}

/// One thread of the program submits frames meanwhile, and nobody meets anybody in the queue.
fn the_program_s_lock_is_held_during_submissions(program: &Program, device: &Device) -> Outcome {
    let (src, dst) = (filled(device, &noise(1 << 16, 3))?, device.allocate(1 << 16, false)?);
    let dst = Arc::new(dst);
    let mut transfer = device.transfer()?;
    let before = program.lock.taken();
    for _ in 0..10 {
        let _ = transfer.copy(&src, &dst, &whole(1 << 16))?;
    }
    check(program.lock.taken() == before + 10, "a submission without the lock")?;
    check(!program.lock.is_held(), "it was not given back")?;

    let (lock, over) = (&program.lock, AtomicBool::new(false));
    let blocked = std::thread::scope(|scope| -> Result<bool, Stop> {
        let copies = lock.with(|| {
            let copies = scope.spawn(|| {
                let ticket = transfer.copy(&src, &dst, &whole(1 << 16));
                over.store(true, Ordering::Release);
                ticket.and_then(|ticket| transfer.wait(ticket))
            });
            std::thread::sleep(std::time::Duration::from_millis(50));
            (copies, over.load(Ordering::Acquire))
        });
        copies.0.join().map_err(|_| "a panic")??;
        Ok(!copies.1)
    })?;
    check(blocked, "a copy was submitted while the program had the lock")
}

fn a_lock_that_calls_nothing_is_told() -> Outcome {
    let program = Program::open(ALL)?;
    let handles = Handles::new(&program.instance, program.physical, &program.device, ALL.version)
        .timeline_semaphores()
        .queue(program.family, program.queue, |_: &mut dyn FnMut()| ());
    // SAFETY: as the program was opened; nothing is submitted.
    #[allow(unsafe_code)]
    let device = unsafe { Device::adopt(handles) }?;
    let (src, dst) = (filled(&device, &noise(4096, 3))?, Arc::new(device.allocate(4096, false)?));
    let refused = device.transfer()?.copy(&src, &dst, &whole(4096));
    check(matches!(refused, Err(VulkanError::NotSubmitted)), format!("{refused:?}"))?;
    drop((src, dst, device));
    program.end()
}

fn what_cannot_be_adopted_is_refused() -> Outcome {
    let program = Program::open(ALL)?;
    let handles =
        |version| Handles::new(&program.instance, program.physical, &program.device, version);
    let lock = || std::sync::Mutex::new(());
    // SAFETY: as the program was opened; what is said less is true too.
    #[allow(unsafe_code)]
    let (old, idle, ours) = unsafe {
        (
            Device::adopt(handles(vk::API_VERSION_1_0).queue(
                program.family,
                program.queue,
                lock(),
            )),
            Device::adopt(handles(ALL.version)),
            Device::adopt(handles(ALL.version).queue(program.family, program.queue, lock())),
        )
    };
    check(matches!(old, Err(VulkanError::Unsupported { .. })), format!("{old:?}"))?;
    check(matches!(idle, Err(VulkanError::Unavailable(_))), format!("{idle:?}"))?;
    // A mutex is a lock too.
    let ours = ours?;
    let src = filled(&ours, &noise(4096, 3))?;
    check(read(&ours, &src)? == noise(4096, 3), "other bytes")?;
    drop((src, ours));
    program.end()
}

fn a_range_of_a_program_s_buffer_is_filled(program: &Program, device: &Device) -> Outcome {
    const LEN: usize = 100_000;
    let buffer = program.buffer(LEN, COPIES)?;
    let part = range(device, &buffer, (1001, 50_000), Handover::default())?;
    check(part.len() == 50_000 && *part.way() == Way::Lent, part.way())?;
    check((part.ash(), part.ash_offset()) == (buffer.raw, 1001), "another place")?;
    check(part.export_dma_buf().is_err() && part.steady().is_err(), "it is the program's")?;
    let bytes = noise(50_000, 21);
    let src = filled(device, &bytes)?;
    let mut transfer = device.transfer()?;
    for (at, len) in [(0, 17), (17, 30_000), (30_017, 19_983)] {
        let region = CopyRegion { src_offset: at, dst_offset: at, len };
        let _ = transfer.copy(&src, &part, &[region])?;
    }
    let done = transfer.finish(&part)?;
    transfer.wait(done)?;
    let seen = program.read(&buffer)?;
    check(seen[1001..51_001] == bytes, "other bytes")?;
    check(seen[..1001].iter().chain(&seen[51_001..]).all(|&byte| byte == 0), "its neighbours")?;
    // What passes from nobody to nobody may come again, and is read as well.
    let region = CopyRegion { src_offset: 5, dst_offset: 0, len: 100 };
    let _ = transfer.copy(&src, &part, &[region])?;
    let mut back = vec![0; 200];
    transfer.read_back(&part, 0, &mut back)?;
    check(back == [&bytes[5..105], &bytes[100..200]].concat(), "read otherwise")?;
    drop((part, transfer));
    program.free(buffer);
    Ok(())
}

fn bad_ranges_are_refused(program: &Program, device: &Device) -> Outcome {
    let buffer = program.buffer(4096, vk::BufferUsageFlags::TRANSFER_SRC)?;
    let adopt = |offset, len, usage| {
        let range = BufferRange::new(buffer.raw, offset, len, usage);
        // SAFETY: the program's buffer of this usage; what is longer is refused, or not copied.
        #[allow(unsafe_code)]
        unsafe {
            device.adopt_buffer(range)
        }
    };
    for (offset, len) in [(0, 0), (u64::MAX, 2)] {
        let refused = adopt(offset, len, COPIES);
        check(matches!(refused, Err(VulkanError::Length { .. })), format!("{refused:?}"))?;
    }
    let src = filled(device, &noise(4096, 3))?;
    let mut transfer = device.transfer()?;
    let source = adopt(0, 4096, vk::BufferUsageFlags::TRANSFER_SRC)?;
    match transfer.copy(&src, &source, &whole(4096)) {
        Err(VulkanError::Unavailable(absent)) => {
            check(absent.why.contains("without TRANSFER_DST"), absent)?;
        }
        other => return Err(Stop::Failed(format!("{other:?}"))),
    }
    // Two ranges of one buffer meet.
    let [one, other] = [adopt(0, 2048, COPIES)?, adopt(1024, 2048, COPIES)?];
    let refused = transfer.copy(&one, &other, &whole(2048));
    check(matches!(refused, Err(VulkanError::Overlap)), format!("{refused:?}"))?;
    let refused = transfer.copy(&src, &one, &whole(2049));
    check(matches!(refused, Err(VulkanError::OutOfBounds { .. })), format!("{refused:?}"))?;
    drop((source, one, other, transfer));
    program.free(buffer);
    Ok(())
}

/// The block of a format in bytes and texels.
fn block(format: vk::Format) -> (usize, [u32; 2]) {
    match format {
        vk::Format::R8_UNORM => (1, [1, 1]),
        vk::Format::R16_UNORM => (2, [1, 1]),
        vk::Format::R8G8B8A8_UNORM => (4, [1, 1]),
        vk::Format::R16G16B16A16_SFLOAT => (8, [1, 1]),
        vk::Format::BC1_RGBA_UNORM_BLOCK => (8, [4, 4]),
        vk::Format::BC7_SRGB_BLOCK => (16, [4, 4]),
        other => unreachable!("{other:?}"),
    }
}

const FORMATS: [vk::Format; 6] = [
    vk::Format::R8_UNORM,
    vk::Format::R16_UNORM,
    vk::Format::R8G8B8A8_UNORM,
    vk::Format::R16G16B16A16_SFLOAT,
    vk::Format::BC1_RGBA_UNORM_BLOCK,
    vk::Format::BC7_SRGB_BLOCK,
];

/// The sides of a level in blocks, layers as depth.
fn blocks_of(texture: &Texture, level: u32) -> [usize; 3] {
    let [width, height, depth] = level_of(texture.extent, level);
    let (_, [across, down]) = block(texture.format);
    [width.div_ceil(across), height.div_ceil(down), depth.max(texture.layers)].map(|n| n as usize)
}

/// Where the bytes are cut, and the order of the pieces.
fn pieces(len: usize, granule: usize, seed: u64) -> Vec<(usize, usize)> {
    let draws = noise(8 * 6, seed);
    let mut cuts: Vec<_> = draws
        .chunks_exact(8)
        .map(|draw| u64::from_le_bytes(draw.try_into().expect("eight")) as usize % len)
        .map(|at| at / granule * granule)
        .chain([0, len])
        .collect();
    cuts.sort_unstable();
    let mut pieces: Vec<_> = cuts
        .windows(2)
        .map(|pair| (pair[0], pair[1] - pair[0]))
        .filter(|piece| piece.1 > 0)
        .collect();
    pieces.reverse();
    pieces
}

/// Fills a region piece by piece, each at an offset of its own in the source, and several in one copy.
fn fill(transfer: &mut Transfer, region: &Arc<ImageRegion>, bytes: &[u8], seed: u64) -> Outcome {
    let device = region.device().clone();
    for (at, len) in pieces(bytes.len(), region.granule(), seed) {
        // As unaligned as it can be.
        let shift = (seed as usize * 3 + at) % 13;
        let src = filled(&device, &[&vec![0xee; shift], &bytes[at..at + len]].concat())?;
        let half = len / region.granule() / 2 * region.granule();
        let copies = [(0, half), (half, len - half)].map(|(from, len)| CopyRegion {
            src_offset: shift + from,
            dst_offset: at + from,
            len,
        });
        let _ = transfer.copy_to_region(&src, region, &copies, When::AtOnce)?;
    }
    Ok(())
}

fn levels_layers_and_depth_are_filled_in_any_pieces(program: &Program, device: &Device) -> Outcome {
    let mut seed = 1;
    let mut transfer = device.transfer()?;
    for format in FORMATS {
        let shapes = [([101, 61, 1], 7, 1), ([37, 20, 1], 4, 5), ([33, 18, 7], 3, 1)];
        for (extent, levels, layers) in shapes {
            let kind = [vk::ImageType::TYPE_2D, vk::ImageType::TYPE_3D][usize::from(extent[2] > 1)];
            if !program.has(format, kind) {
                println!("without {format:?} in {kind:?}");
                continue;
            }
            let texture = program.texture(format, extent, levels, layers)?;
            for index in 0..levels {
                seed += 1;
                let region = adopt(device, level(&texture, index))?;
                let len = blocks_of(&texture, index).iter().product::<usize>() * block(format).0;
                check(region.len() == len, format!("{format:?}: {} for {len}", region.len()))?;
                check(region.granule() == block(format).0, region.granule())?;
                let bytes = noise(len, seed);
                fill(&mut transfer, &region, &bytes, seed)?;
                let done = transfer.finish_region(&region)?;
                transfer.wait(done)?;
                let aspect = vk::ImageAspectFlags::COLOR;
                let layout = vk::ImageLayout::SHADER_READ_ONLY_OPTIMAL;
                let seen = program.texels(&texture, (index, aspect), layout, len, None)?;
                check(seen == bytes, format!("level {index} of {format:?} {extent:?} x {layers}"))?;
            }
            program.free_texture(texture);
        }
    }
    Ok(())
}

fn a_box_is_filled_and_nothing_beside_it(program: &Program, device: &Device) -> Outcome {
    let mut transfer = device.transfer()?;
    for (seed, format) in (100..).zip(FORMATS) {
        // A part of three of five layers, and a part of a volume that reaches its far edge.
        let cases = [
            ([40, 28, 1], 5, [8, 4, 0], [20, 12, 1], (1, 3)),
            ([37, 26, 6], 1, [16, 12, 2], [21, 14, 4], (0, 1)),
        ];
        for (extent, layers, offset, size, (base, count)) in cases {
            let kind = [vk::ImageType::TYPE_2D, vk::ImageType::TYPE_3D][usize::from(extent[2] > 1)];
            if !program.has(format, kind) {
                println!("without {format:?} in {kind:?}");
                continue;
            }
            let texture = program.texture(format, extent, 1, layers)?;
            let [columns, rows, slices] = blocks_of(&texture, 0);
            let (bytes, [across, down]) = block(format);
            let mut expected = noise(columns * rows * slices * bytes, seed);
            let during = vk::ImageLayout::TRANSFER_DST_OPTIMAL;
            let all = level(&texture, 0).layouts(vk::ImageLayout::UNDEFINED, during);
            let all = adopt(device, all)?;
            fill(&mut transfer, &all, &expected, seed)?;
            let _ = transfer.finish_region(&all)?;

            let subresource = colour(&texture, 0).base_array_layer(base).layer_count(count);
            let [x, y, z] = offset.map(|at: u32| at as i32);
            let [width, height, depth] = size;
            let extent = vk::Extent3D { width, height, depth };
            let part = Region::new(texture.image, format, subresource, extent)
                .at(vk::Offset3D { x, y, z })
                .layouts(during, during);
            let part = adopt(device, part)?;
            let texels = noise(part.len(), seed + 50);
            fill(&mut transfer, &part, &texels, seed)?;
            let done = transfer.finish_region(&part)?;
            transfer.wait(done)?;

            let [left, top] = [offset[0] / across, offset[1] / down].map(|n| n as usize);
            let [wide, high] = [width.div_ceil(across), height.div_ceil(down)].map(|n| n as usize);
            let first = (offset[2] + base) as usize;
            let mut rest = texels.as_slice();
            for slice in first..first + depth.max(count) as usize {
                for row in top..top + high {
                    let at = ((slice * rows + row) * columns + left) * bytes;
                    let (now, later) = rest.split_at(wide * bytes);
                    expected[at..at + wide * bytes].copy_from_slice(now);
                    rest = later;
                }
            }
            check(rest.is_empty(), "the box has another length")?;
            let aspect = vk::ImageAspectFlags::COLOR;
            let seen = program.texels(&texture, (0, aspect), during, expected.len(), None)?;
            check(seen == expected, format!("{format:?}: a box of {extent:?} at {offset:?}"))?;
            program.free_texture(texture);
        }
    }
    Ok(())
}

fn stencil_is_filled_beside_depth(program: &Program, device: &Device) -> Outcome {
    use vk::ImageAspectFlags as Aspect;
    let format = vk::Format::D32_SFLOAT_S8_UINT;
    if !program.has(format, vk::ImageType::TYPE_2D) {
        return Err(Stop::Absent(format!("the device has no {format:?}")));
    }
    let texture = program.texture(format, [33, 17, 1], 1, 1)?;
    let mut transfer = device.transfer()?;
    let general = vk::ImageLayout::GENERAL;
    let mut before = vk::ImageLayout::UNDEFINED;
    let depths = (0..33 * 17).flat_map(|n| (n as f32 / 1000.0).to_le_bytes());
    let planes = [(Aspect::DEPTH, depths.collect()), (Aspect::STENCIL, noise(33 * 17, 5))];
    for (aspect, bytes) in &planes {
        let subresource = colour(&texture, 0).aspect_mask(*aspect);
        let extent = vk::Extent3D { width: 33, height: 17, depth: 1 };
        let region = Region::new(texture.image, format, subresource, extent);
        let region = adopt(device, region.layouts(before, general))?;
        fill(&mut transfer, &region, bytes, 7)?;
        let done = transfer.finish_region(&region)?;
        transfer.wait(done)?;
        before = general;
    }
    for (aspect, bytes) in &planes {
        let seen = program.texels(&texture, (0, *aspect), general, bytes.len(), None)?;
        check(seen == *bytes, format!("{aspect:?} is otherwise"))?;
    }
    program.free_texture(texture);
    Ok(())
}

fn bad_regions_are_refused(program: &Program, device: &Device) -> Outcome {
    let texture = program.texture(vk::Format::R8G8B8A8_UNORM, [16, 16, 1], 1, 2)?;
    let extent = |width, height, depth| vk::Extent3D { width, height, depth };
    let (image, rgba) = (texture.image, vk::Format::R8G8B8A8_UNORM);
    let two = colour(&texture, 0);
    let depth = two.aspect_mask(vk::ImageAspectFlags::DEPTH);
    let planes = vk::Format::G8_B8R8_2PLANE_420_UNORM;
    for (region, why) in [
        (Region::new(image, rgba, two, extent(0, 16, 1)), "no region"),
        (Region::new(image, rgba, two.layer_count(0), extent(16, 16, 1)), "no region"),
        (Region::new(image, rgba, two, extent(16, 16, 2)), "a depth of 2"),
        (Region::new(image, rgba, depth, extent(16, 16, 1)), "no blocks of the aspect DEPTH"),
        (Region::new(image, planes, two, extent(16, 16, 1)), "no blocks of the aspect COLOR"),
        (Region::new(image, rgba, two, extent(u32::MAX, u32::MAX, 1)), "no region"),
    ] {
        // SAFETY: refused before it is used.
        #[allow(unsafe_code)]
        let refused = unsafe { device.adopt_region(region) };
        match refused {
            Err(VulkanError::Region(absent)) => check(absent.why.contains(why), absent)?,
            other => return Err(Stop::Failed(format!("{why}: {other:?}"))),
        }
    }

    let region = adopt(device, level(&texture, 0))?;
    let src = filled(device, &noise(4096, 3))?;
    let mut transfer = device.transfer()?;
    let mut copy = |src_offset, dst_offset, len| {
        let copies = [CopyRegion { src_offset, dst_offset, len }];
        transfer.copy_to_region(&src, &region, &copies, When::AtOnce).map(drop)
    };
    for (at, len) in [(2, 16), (0, 18), (1, 1)] {
        let refused = copy(0, at, len);
        check(matches!(refused, Err(VulkanError::Cut { granule: 4, .. })), format!("{refused:?}"))?;
    }
    for (from, at, len) in [(0, 2044, 8), (0, 2048, 4), (4095, 0, 4), (0, usize::MAX, 4)] {
        let refused = copy(from, at, len);
        check(matches!(refused, Err(VulkanError::OutOfBounds { .. })), format!("{refused:?}"))?;
    }
    copy(0, 0, 2048)?;
    copy(0, 2048, 0)?;
    let done = transfer.finish_region(&region)?;
    transfer.wait(done)?;
    let copies = [CopyRegion { src_offset: 0, dst_offset: 0, len: 4 }];
    let late = transfer.copy_to_region(&src, &region, &copies, When::AtOnce);
    check(matches!(late, Err(VulkanError::GivenBack)), format!("{late:?}"))?;
    let twice = transfer.finish_region(&region);
    check(matches!(twice, Err(VulkanError::GivenBack)), format!("{twice:?}"))?;
    let other = program.adopt()?;
    let refused = other.transfer()?.finish_region(&region);
    check(matches!(refused, Err(VulkanError::OtherDevice)), format!("{refused:?}"))?;
    drop((region, transfer, other));
    program.free_texture(texture);
    Ok(())
}

/// The family that every device has beside those of its queues.
fn what_is_another_family_s_passes_and_comes_back(program: &Program, device: &Device) -> Outcome {
    let theirs = vk::QUEUE_FAMILY_EXTERNAL;
    let handover = || Handover::default().acquired_from(theirs).released_to(theirs);
    let buffer = program.buffer(4096, COPIES)?;
    let pass = |from, to, next| {
        vk::BufferMemoryBarrier::default()
            .buffer(buffer.raw)
            .size(vk::WHOLE_SIZE)
            .src_queue_family_index(from)
            .dst_queue_family_index(to)
            .dst_access_mask(next)
    };
    let submit = |barrier: vk::BufferMemoryBarrier<'static>| {
        program.submit(None, |device, commands| {
            let (all, none) = (vk::PipelineStageFlags::ALL_COMMANDS, vk::DependencyFlags::empty());
            // SAFETY: the program's own buffer, in nobody's use.
            #[allow(unsafe_code)]
            unsafe {
                device.cmd_pipeline_barrier(commands, all, all, none, &[], &[barrier], &[]);
            }
        })
    };
    submit(pass(program.family, theirs, vk::AccessFlags::empty()))?;
    let lent = range(device, &buffer, (0, 4096), handover())?;
    let bytes = noise(4096, 31);
    let src = filled(device, &bytes)?;
    let mut transfer = device.transfer()?;
    for at in [0, 2048] {
        let region = CopyRegion { src_offset: at, dst_offset: at, len: 2048 };
        let _ = transfer.copy(&src, &lent, &[region])?;
    }
    let done = transfer.finish(&lent)?;
    transfer.wait(done)?;
    let late = transfer.copy(&src, &lent, &whole(1));
    check(matches!(late, Err(VulkanError::GivenBack)), format!("{late:?}"))?;
    submit(pass(theirs, program.family, vk::AccessFlags::MEMORY_READ))?;
    check(program.read(&buffer)? == bytes, "other bytes")?;

    // One that nothing was copied into is given back all the same.
    let texture = program.texture(vk::Format::R8G8B8A8_UNORM, [16, 16, 1], 1, 1)?;
    let region =
        adopt(device, level(&texture, 0).handover(Handover::default().released_to(theirs)))?;
    let done = transfer.finish_region(&region)?;
    transfer.wait(done)?;
    drop(region);
    // And one whose last layout is that of copies.
    let during = vk::ImageLayout::TRANSFER_DST_OPTIMAL;
    let other = program.texture(vk::Format::R8G8B8A8_UNORM, [16, 16, 1], 1, 1)?;
    let region = level(&other, 0).layouts(vk::ImageLayout::UNDEFINED, during);
    let region = adopt(device, region)?;
    let done = transfer.finish_region(&region)?;
    transfer.wait(done)?;
    // The layer complains if it is in another.
    program.texels(&other, (0, vk::ImageAspectFlags::COLOR), during, 1024, None)?;
    drop((lent, region, transfer));
    program.free_texture(other);
    program.free_texture(texture);
    program.free(buffer);
    Ok(())
}

/// The frame is submitted while the copies are under way, and no thread waits between.
fn a_renderer_waits_for_a_value() -> Outcome {
    for wishes in [ALL, BY_EXTENSION] {
        on(wishes, |program, device| {
            let semaphore = timeline(program)?;
            let adopted = adopt_timeline(device, semaphore)?;
            let texture = program.texture(vk::Format::R8G8B8A8_UNORM, [512, 512, 1], 1, 1)?;
            let mut transfer = device.transfer()?;
            for round in 0..5 {
                let handover = Handover::default().signalling(&adopted, 10 * round + 10);
                let region = adopt(device, level(&texture, 0).handover(handover))?;
                let bytes = noise(region.len(), round + 3);
                fill(&mut transfer, &region, &bytes, round)?;
                let _ = transfer.finish_region(&region)?;
                let after = Some((semaphore, 10 * round + 10));
                let (aspect, layout) =
                    (vk::ImageAspectFlags::COLOR, vk::ImageLayout::SHADER_READ_ONLY_OPTIMAL);
                let seen = program.texels(&texture, (0, aspect), layout, bytes.len(), after)?;
                check(seen == bytes, format!("frame {round} shows something else"))?;
                check(adopted.value()? == 10 * round + 10, "another value")?;
            }
            let ticket = transfer.signal(&adopted, 1000)?;
            transfer.wait(ticket)?;
            check(adopted.value()? == 1000, "the value was not reached")?;
            drop((adopted, transfer));
            program.free_texture(texture);
            destroy(program, semaphore);
            Ok(())
        })?;
    }
    on(NO_TIMELINES, |_, device| {
        // SAFETY: refused before it is used.
        #[allow(unsafe_code)]
        match unsafe { device.adopt_timeline(vk::Semaphore::null()) } {
            Err(VulkanError::Unavailable(absent)) => {
                check(absent.why.contains("timelineSemaphore"), absent)
            }
            other => Err(Stop::Failed(format!("{other:?}"))),
        }
    })
}

fn a_copy_waits_for_a_renderer() -> Outcome {
    on(ALL, |program, device| {
        let semaphore = timeline(program)?;
        let adopted = adopt_timeline(device, semaphore)?;
        let texture = program.texture(vk::Format::R8G8B8A8_UNORM, [64, 64, 1], 1, 1)?;
        let region = adopt(device, level(&texture, 0))?;
        let src = filled(device, &noise(region.len(), 3))?;
        let mut transfer = device.transfer()?;
        let all = whole(region.len());
        let ticket = transfer.copy_to_region(&src, &region, &all, When::Reached(&adopted, 5))?;
        std::thread::sleep(std::time::Duration::from_millis(50));
        check(!transfer.is_done(ticket)?, "it did not wait")?;
        let signal = vk::SemaphoreSignalInfo::default().semaphore(semaphore).value(5);
        // SAFETY: the value is higher than all before it.
        #[allow(unsafe_code)]
        unsafe {
            program.device.signal_semaphore(&signal)?;
        }
        transfer.wait(ticket)?;
        let done = transfer.finish_region(&region)?;
        transfer.wait(done)?;
        drop((region, adopted, transfer));
        program.free_texture(texture);
        destroy(program, semaphore);
        Ok(())
    })
}

fn values_only_rise(program: &Program, device: &Device) -> Outcome {
    let semaphore = timeline(program)?;
    let adopted = adopt_timeline(device, semaphore)?;
    let mut transfer = device.transfer()?;
    let refused = transfer.signal(&adopted, 0);
    check(matches!(refused, Err(VulkanError::Value { .. })), format!("{refused:?}"))?;
    let _ = transfer.signal(&adopted, 3)?;
    for value in [0, 2, 3] {
        let refused = transfer.signal(&adopted, value);
        let lower = matches!(refused, Err(VulkanError::Value { above: 3, .. }));
        check(lower, format!("{value}: {refused:?}"))?;
    }
    let other = program.adopt()?;
    let refused = other.transfer()?.signal(&adopted, 4);
    check(matches!(refused, Err(VulkanError::OtherDevice)), format!("{refused:?}"))?;
    let ticket = transfer.signal(&adopted, 4)?;
    transfer.wait(ticket)?;
    check(adopted.value()? == 4, "it has another value")?;
    drop((adopted, transfer, other));
    destroy(program, semaphore);
    Ok(())
}

/// The level passes with the first copy, whoever's it is: the layer complains of a second.
fn transfers_share_a_region(program: &Program, device: &Device) -> Outcome {
    let sampled = vk::ImageLayout::SHADER_READ_ONLY_OPTIMAL;
    let texture = program.texture(vk::Format::R8G8B8A8_UNORM, [64, 64, 1], 1, 1)?;
    let first = adopt(device, level(&texture, 0))?;
    let mut transfer = device.transfer()?;
    fill(&mut transfer, &first, &noise(first.len(), 3), 3)?;
    let mut done = transfer.finish_region(&first)?;
    for round in 0..20 {
        transfer.wait(done)?;
        let region = adopt(device, level(&texture, 0).layouts(sampled, sampled))?;
        let bytes = noise(region.len(), 40 + round);
        let src = filled(device, &bytes)?;
        let quarter = region.len() / 4;
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|scope| -> Outcome {
            let part = |index: usize| {
                let (src, region, start) = (&src, &region, &start);
                move || -> Result<(), VulkanError> {
                    let mut transfer = device.transfer()?;
                    let at = index * quarter;
                    let copies = [CopyRegion { src_offset: at, dst_offset: at, len: quarter }];
                    start.wait();
                    let ticket = transfer.copy_to_region(src, region, &copies, When::AtOnce)?;
                    transfer.wait(ticket)
                }
            };
            let threads: Vec<_> = (0..4).map(|index| scope.spawn(part(index))).collect();
            for thread in threads {
                thread.join().map_err(|_| "a panic")??;
            }
            Ok(())
        })?;
        done = transfer.finish_region(&region)?;
        transfer.wait(done)?;
        let aspect = vk::ImageAspectFlags::COLOR;
        let seen = program.texels(&texture, (0, aspect), sampled, bytes.len(), None)?;
        check(seen == bytes, format!("round {round}: a part is missing"))?;
    }
    drop((first, transfer));
    program.free_texture(texture);
    Ok(())
}

/// The other trials stand on the layer counting what is left.
fn validation_sees_what_is_left_behind() -> Outcome {
    let program = Program::open(ALL)?;
    if program.said().is_none() {
        program.end()?;
        return Err(Stop::Absent("the validation layer is not installed".into()));
    }
    let device = program.adopt()?;
    let buffer = device.allocate(4096, false)?;
    std::mem::forget((device, buffer));
    match program.end() {
        Err(Stop::Failed(said)) => check(said.contains("VkBuffer"), said),
        _ => Err(Stop::Failed("the layer overlooked a buffer that is left".into())),
    }
}

fn a_queue_fills_targets_it_knows_nothing_of(program: &Program, device: &Device) -> Outcome {
    let mut queue = device.uploads(3, 9000)?;
    check(UploadQueue::slot_len(&queue) == 12288, "not whole pages")?;
    let buffer = program.buffer(100_000, COPIES)?;
    let lent = range(device, &buffer, (404, 80_001), Handover::default())?;
    let bytes = noise(80_001, 3);
    upload::fill(&mut queue, lent.upload()?, &bytes)?;
    let seen = program.read(&buffer)?;
    check(seen[404..80_405] == bytes, "other bytes")?;
    let texture = program.texture(vk::Format::R8G8B8A8_UNORM, [101, 61, 1], 3, 2)?;
    for index in 0..3 {
        let region = adopt(device, level(&texture, index))?;
        check(region.cpu_map().is_err() && region.gpu().is_err(), "nobody else knows it")?;
        let bytes = noise(region.len(), 50 + u64::from(index));
        upload::fill(&mut queue, region.upload()?, &bytes)?;
        let (aspect, layout) =
            (vk::ImageAspectFlags::COLOR, vk::ImageLayout::SHADER_READ_ONLY_OPTIMAL);
        let seen = program.texels(&texture, (index, aspect), layout, bytes.len(), None)?;
        check(seen == bytes, format!("level {index} is otherwise"))?;
    }
    let downs = queue.step_downs();
    let expected = match program.wishes.extensions.len() {
        0 => 2,
        1 => 1,
        _ => usize::from(!program.wishes.timelines),
    };
    check(downs.len() == expected, format!("{downs:?}"))?;
    drop((lent, queue));
    program.free_texture(texture);
    program.free(buffer);
    Ok(())
}

fn a_queue_refuses_what_is_not_its_own(program: &Program, device: &Device) -> Outcome {
    let other = program.adopt()?;
    let foreign = Arc::new(other.allocate(4096, false)?);
    let mut queue = device.uploads(2, 4096)?;
    let texture = program.texture(vk::Format::R8G8B8A8_UNORM, [16, 16, 1], 1, 1)?;
    let region = adopt(device, level(&texture, 0))?;
    let buffer = Arc::new(device.allocate(4096, false)?);
    upload::refusals(&mut queue, &region, &foreign)?;
    upload::refusals(&mut queue, &buffer, &foreign)?;
    if device.sync_files().is_err() {
        check(queue.sync_file().is_err(), "a sync file without the extension")?;
    }
    drop((region, buffer, foreign, queue, other));
    program.free_texture(texture);
    Ok(())
}

fn no_descriptor_leaks() -> Outcome {
    let cycle = || {
        on(ALL, |_, device| {
            let src = filled(device, &noise(1 << 16, 9))?;
            let dst = Arc::new(device.allocate(1 << 16, false)?);
            let _ = device.transfer()?.copy(&src, &dst, &whole(1 << 16))?;
            Ok(())
        })
    };
    cycle()?;
    let before = open_fds();
    for _ in 0..10 {
        cycle()?;
    }
    check(open_fds() == before, format!("{before} descriptors became {}", open_fds()))
}
