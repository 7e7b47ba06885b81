//! Images of Vulkan's over dma-bufs of every source, and dma-bufs of Vulkan's images.
//!
//! Each picture is written by one side and read by the other, row by row and to the last byte.

use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bufmap_bench::leaks::{Holdings, hold_no_more};
use bufmap_bench::validated::on_device;
use bufmap_bench::{Outcome, check};
use exporters::drm::{Card, Node};
use exporters::frame::{DrmFourcc, DrmModifier, Frame, FramePlane, Picture};
use exporters::vulkan::{Buffer, Device, Image, ImageUse, VulkanError, When};
use exporters::{DmaBuf, DmaHeap, Intent, Udmabuf, gbm};
use iomap::{Memory, PageSize};
use libtest_mimic::Failed;

const WIDTH: u32 = 100;
const HEIGHT: u32 = 60;

/// Formats of every sort: one byte a pixel to eight, bytes that pixels share, two planes and three.
const FORMATS: [DrmFourcc; 11] = [
    DrmFourcc::R8,
    DrmFourcc::Gr88,
    DrmFourcc::Rgb565,
    DrmFourcc::Xrgb8888,
    DrmFourcc::Abgr8888,
    DrmFourcc::Argb2101010,
    DrmFourcc::Abgr16161616f,
    DrmFourcc::Yuyv,
    DrmFourcc::Nv12,
    DrmFourcc::P010,
    DrmFourcc::Yuv420,
];

/// How long nothing must happen for a test to believe that nothing does.
const SHORT: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    bufmap_bench::run(
        "gpu",
        &[
            ("images_are_shared_in_layouts_that_are_listed", || on_device(listed)),
            ("images_show_the_frames_of_every_source", || on_device(every_source)),
            ("images_are_drawn_into_the_frames_of_every_source", || on_device(drawn)),
            ("images_have_planes_at_any_offsets", || on_device(placed)),
            ("images_of_vulkan_are_frames_to_others", || on_device(exported)),
            ("images_of_odd_layouts_are_exact_or_refused", || on_device(odd_layouts)),
            ("images_wait_for_their_turn", || on_device(in_turn)),
            ("images_that_cannot_be_are_refused_with_a_reason", || on_device(refused)),
            ("images_leave_nothing_behind", || on_device(leaks)),
        ],
    )
}

fn picture(format: DrmFourcc) -> Picture {
    Picture::linear(WIDTH, HEIGHT, format)
}

/// A byte of a picture: no two rows, planes or seeds are alike.
fn byte(seed: usize, plane: usize, y: usize, x: usize) -> u8 {
    (x * 7 + y * 31 + plane * 101 + seed * 13 + x / 256) as u8
}

/// Draws a frame by the CPU.
fn draw(frame: &Frame, seed: usize) -> Outcome {
    for (index, plane) in frame.planes.iter().enumerate() {
        let mapping = plane.buffer.map()?;
        let turn = mapping.begin_cpu_access(Intent::Write)?;
        let rows = frame.rows(index, turn.map())?;
        for y in 0..rows.rows() {
            let row = rows.row(y)?;
            let bytes: Vec<u8> = (0..row.len()).map(|x| byte(seed, index, y, x)).collect();
            row.copy_from_slice(0, &bytes)?;
        }
        turn.finish()?;
    }
    Ok(())
}

/// Checks that the CPU sees a frame as drawn.
fn is_drawn(frame: &Frame, seed: usize) -> Outcome {
    for (index, plane) in frame.planes.iter().enumerate() {
        let mapping = plane.buffer.map()?;
        let turn = mapping.begin_cpu_access(Intent::Read)?;
        let rows = frame.rows(index, turn.map())?;
        for y in 0..rows.rows() {
            let mut bytes = vec![0; rows.row(y)?.len()];
            rows.row(y)?.copy_to_slice(0, &mut bytes)?;
            let same = bytes.iter().enumerate().all(|(x, &here)| here == byte(seed, index, y, x));
            check(same, format!("{}: plane {index}, row {y}: {bytes:?}", frame.picture))?;
        }
        turn.finish()?;
    }
    Ok(())
}

/// A picture in bytes that a copy takes or gives, drawn or to be compared.
fn laid_out(picture: Picture) -> Result<Frame<()>, Failed> {
    Ok(picture.lay_out(16)?)
}

/// Has a device read an image, and checks that it sees what is drawn and touches nothing beside it.
fn shows(device: &Device, image: &Arc<Image>, seed: usize) -> Outcome {
    let layout = laid_out(picture(image.picture().format))?;
    let mut bytes = vec![0xEE; layout.len()];
    device.transfer()?.read_image(image, &layout, &mut bytes)?;
    compare(&layout, &mut bytes, seed)
}

fn compare(layout: &Frame<()>, bytes: &mut [u8], seed: usize) -> Outcome {
    for (index, plane) in layout.planes.iter().enumerate() {
        let map = iomap::BufMap::from_mut_slice(bytes);
        let rows = layout.rows(index, map)?;
        for y in 0..rows.rows() {
            let row = rows.row(y)?;
            let mut here = vec![0; row.len()];
            row.copy_to_slice(0, &mut here)?;
            let same = here.iter().enumerate().all(|(x, &here)| here == byte(seed, index, y, x));
            let at = format!("plane {index} at {}, row {y}", plane.offset);
            check(same, format!("{}: {at}: {here:?}", layout.picture))?;
            row.fill(0xEE)?;
        }
    }
    let untouched = bytes.iter().all(|&byte| byte == 0xEE);
    check(untouched, format!("{}: bytes between the rows were written", layout.picture))
}

/// A buffer with a drawn picture, and where it lies there.
fn drawn_buffer(
    device: &Device,
    format: DrmFourcc,
    seed: usize,
) -> Result<(Arc<Buffer>, Frame<()>), Failed> {
    let layout = laid_out(picture(format))?;
    let memory =
        Arc::new(Memory::memfd("drawn", layout.len().next_multiple_of(4096), PageSize::Base)?);
    for index in 0..layout.planes.len() {
        let rows = layout.rows(index, memory.map())?;
        for y in 0..rows.rows() {
            let row = rows.row(y)?;
            let bytes: Vec<u8> = (0..row.len()).map(|x| byte(seed, index, y, x)).collect();
            row.copy_from_slice(0, &bytes)?;
        }
    }
    Ok((Arc::new(device.import_memory(memory)?), layout))
}

fn from_heap(len: usize) -> Result<DmaBuf, Failed> {
    Ok(DmaHeap::open("system")?.allocate(len)?)
}

fn from_memfd(len: usize) -> Result<DmaBuf, Failed> {
    let memory = Arc::new(Memory::memfd("frame", len.next_multiple_of(4096), PageSize::Base)?);
    let shared = Udmabuf::open()?.share(memory)?;
    Ok(shared.dma_bufs()[0].clone())
}

/// A frame of a dumb buffer's, whose rows are as far apart as its driver has them.
fn from_card(driver: &str, format: DrmFourcc) -> Result<Frame, Failed> {
    let card = Card::find(driver, Node::Primary)?;
    let dumb = card.dumb_buffer(WIDTH, HEIGHT, 32)?;
    let buffer = dumb.buffer().dma_buf()?.clone();
    let plane = FramePlane { buffer, offset: 0, pitch: dumb.pitch() as u32 };
    let frame = Frame { picture: picture(format), planes: vec![plane] };
    frame.check()?;
    Ok(frame)
}

fn from_gbm(driver: &str) -> Result<Frame, Failed> {
    let card = Card::find(driver, Node::Primary)?;
    let device = gbm::Device::open(card.path())?;
    let (usage, linear) = (gbm::Usage::empty(), [DrmModifier::Linear]);
    let bo = device.create_with(WIDTH, HEIGHT, DrmFourcc::Xrgb8888, &linear, usage)?;
    Ok(bo.export()?)
}

/// Frames of every source that this machine has, each with its name.
fn sources() -> Result<Vec<(String, Frame)>, Failed> {
    let mut frames = Vec::new();
    for format in FORMATS {
        let (close, far) = (picture(format).lay_out(4)?, picture(format).lay_out(256)?);
        frames.push((format!("heap, {format}"), far.over(&from_heap(far.len())?)?));
        frames.push((format!("udmabuf, {format}"), close.over(&from_memfd(close.len())?)?));
    }
    for driver in ["vgem", "virtio_gpu", "bochs-drm"] {
        for format in [DrmFourcc::Xrgb8888, DrmFourcc::Abgr8888] {
            let frame = from_card(driver, format)?;
            frames.push((format!("dumb buffer of {driver}, {format}"), frame));
        }
        frames.push((format!("gbm on {driver}"), from_gbm(driver)?));
    }
    Ok(frames)
}

/// Whether two frames are the same planes by the same descriptors.
fn is_same(one: &Frame, other: &Frame) -> bool {
    let place =
        |plane: &FramePlane<DmaBuf>| (plane.buffer.as_fd().as_raw_fd(), plane.offset, plane.pitch);
    one.picture == other.picture && one.planes.iter().map(place).eq(other.planes.iter().map(place))
}

fn imported(device: &Device, frame: &Frame) -> Result<Arc<Image>, VulkanError> {
    Ok(Arc::new(device.import_image(frame, ImageUse::COPIES)?))
}

fn listed(device: &Device) -> Outcome {
    let layouts = device.image_layouts()?;
    for format in FORMATS {
        let linear = layouts
            .iter()
            .find(|layout| (layout.format, layout.modifier) == (format, DrmModifier::Linear))
            .ok_or_else(|| format!("no linear {format}"))?;
        let planes = picture(format).lay_out(1)?.planes.len();
        let shared = linear.imports && linear.exports && linear.uses.contains(ImageUse::COPIES);
        check(shared && linear.planes == planes, format!("{linear:?}"))?;
        // It says that it has, and crashes.
        check(!linear.disjoint, format!("{linear:?}"))?;
    }
    let unknown = layouts.iter().find(|layout| layout.format == DrmFourcc::Rgba8888);
    check(unknown.is_none(), format!("{unknown:?}"))
}

fn every_source(device: &Device) -> Outcome {
    for (seed, (name, frame)) in sources()?.into_iter().enumerate() {
        draw(&frame, seed)?;
        let image = imported(device, &frame).map_err(|e| format!("{name}: {e}"))?;
        check(image.picture() == frame.picture, format!("{name}: {:?}", image.picture()))?;
        let told = shows(device, &image, seed);
        told.map_err(|e| format!("{name}: {}", e.message().unwrap_or_default()))?;
        // Neither the import nor the copy changed anything.
        is_drawn(&frame, seed)?;
        // What is drawn later is seen too, so nothing was copied.
        draw(&frame, seed + 1)?;
        shows(device, &image, seed + 1)?;
        check(is_same(&image.export()?, &frame), format!("{name}: an import is another frame"))?;
    }
    Ok(())
}

fn drawn(device: &Device) -> Outcome {
    let mut transfer = device.transfer()?;
    for (seed, (name, frame)) in sources()?.into_iter().enumerate() {
        draw(&frame, seed)?;
        let (src, layout) = drawn_buffer(device, frame.picture.format, seed + 5)?;
        let image = imported(device, &frame)?;
        let ticket = transfer.copy_to_image(&src, &layout, &image, When::InTurn)?;
        transfer.wait(ticket)?;
        drop(image);
        let told = is_drawn(&frame, seed + 5);
        told.map_err(|e| format!("{name}: {}", e.message().unwrap_or_default()))?;
    }
    Ok(())
}

fn placed(device: &Device) -> Outcome {
    for format in [DrmFourcc::Nv12, DrmFourcc::P010, DrmFourcc::Yuv420, DrmFourcc::Xrgb8888] {
        let layout = picture(format).lay_out(64)?;
        // Behind other bytes, planes in the other order, with room between.
        let room = from_heap(4 * layout.len().next_multiple_of(4096))?;
        let mut frame = layout.over(&room)?;
        let count = frame.planes.len();
        for (index, plane) in frame.planes.iter_mut().enumerate() {
            plane.offset = ((count - index) * layout.len().next_multiple_of(4096)) as u32;
        }
        frame.check()?;
        draw(&frame, 3)?;
        shows(device, &imported(device, &frame)?, 3)?;

        // By another descriptor for each plane, it is one buffer still.
        for plane in &mut frame.planes {
            let fd = plane.buffer.as_fd().try_clone_to_owned()?;
            plane.buffer = DmaBuf::new(fd)?;
        }
        shows(device, &imported(device, &frame)?, 3)?;
    }
    Ok(())
}

fn exported(device: &Device) -> Outcome {
    let other = Device::open_validated(None)?;
    let linear = [DrmModifier::Linear];
    for (seed, format) in FORMATS.into_iter().enumerate() {
        let implicit = Picture { modifier: None, ..picture(format) };
        let image = Arc::new(device.image(implicit, &linear, ImageUse::COPIES)?);
        check(image.picture() == picture(format), image.picture())?;
        // Drawn before it leaves, it is what leaves.
        let (src, layout) = drawn_buffer(device, format, seed)?;
        let mut transfer = device.transfer()?;
        let ticket = transfer.copy_to_image(&src, &layout, &image, When::AtOnce)?;
        transfer.wait(ticket)?;
        let frame = image.export()?;
        check(is_same(&image.export()?, &frame), "another frame the second time")?;
        is_drawn(&frame, seed)?;
        shows(&other, &imported(&other, &frame)?, seed)?;
        // Drawn by others, it is what Vulkan sees; first of all too.
        draw(&frame, seed + 7)?;
        shows(device, &image, seed + 7)?;
        drop((image, transfer));
        is_drawn(&frame, seed + 7)?;

        let fresh = Arc::new(device.image(picture(format), &[], ImageUse::COPIES)?);
        draw(&fresh.export()?, seed)?;
        shows(device, &fresh, seed)?;
    }
    // GBM takes it, and a display.
    let image = device.image(picture(DrmFourcc::Xrgb8888), &[], ImageUse::COPIES)?;
    let frame = image.export()?;
    draw(&frame, 2)?;
    let card = Card::find("bochs-drm", Node::Primary)?;
    let gbm = gbm::Device::open(Card::find("vgem", Node::Primary)?.path())?;
    let mut bo = gbm.import(&frame, gbm::Usage::empty())?;
    let map = bo.map(Intent::Read)?;
    let mut row = vec![0; WIDTH as usize * 4];
    map.plane().row(59)?.copy_to_slice(0, &mut row)?;
    let same = row.iter().enumerate().all(|(x, &here)| here == byte(2, 0, 59, x));
    check(same, "GBM sees another picture")?;
    card.import(&frame.planes[0].buffer)?;
    drop(other);
    Ok(())
}

/// Pitches and offsets that only some devices take.
fn odd_layouts(device: &Device) -> Outcome {
    let mut taken = 0;
    for (seed, format) in FORMATS.into_iter().enumerate() {
        let whole = picture(format).lay_out(1)?;
        for add in [0, 1, 2, 3, 4, 28] {
            let mut frame = whole.over(&from_heap(10 * whole.len() + 1000)?)?;
            for (index, plane) in frame.planes.iter_mut().enumerate() {
                plane.pitch += add;
                plane.offset = index as u32 * 2 * whole.len() as u32 + add;
            }
            frame.check()?;
            draw(&frame, seed)?;
            match imported(device, &frame) {
                Ok(image) => shows(device, &image, seed)?,
                Err(VulkanError::Call { .. } | VulkanError::NoImage { .. }) => continue,
                Err(other) => return Err(other.into()),
            }
            taken += 1;
        }
    }
    println!("{taken} of {} layouts were taken", FORMATS.len() * 6);
    check(taken > 0, "none was taken")
}

fn in_turn(device: &Device) -> Outcome {
    let card = Card::find("vgem", Node::Primary)?;
    let dumb = card.dumb_buffer(WIDTH, HEIGHT, 32)?;
    let buffer = dumb.buffer().dma_buf()?.clone();
    let plane = FramePlane { buffer: buffer.clone(), offset: 0, pitch: dumb.pitch() as u32 };
    let frame = Frame { picture: picture(DrmFourcc::Xrgb8888), planes: vec![plane] };
    draw(&frame, 1)?;
    let image = imported(device, &frame)?;
    let layout = laid_out(frame.picture)?;
    let dst = Arc::new(device.allocate_host_visible(layout.len())?);
    let mut transfer = device.transfer()?;
    let mapping = buffer.map()?;
    let turn = mapping.begin_cpu_access(Intent::Write)?;
    let writing = dumb.gem().begin_write()?;
    thread::scope(|scope| -> Outcome {
        let reader = scope.spawn(|| {
            let ticket = transfer.copy_from_image(&image, &dst, &layout, When::InTurn)?;
            transfer.wait(ticket)
        });
        thread::sleep(SHORT);
        let early = reader.is_finished();
        let rows = frame.rows(0, turn.map())?;
        for y in 0..rows.rows() {
            let row: Vec<u8> = (0..WIDTH as usize * 4).map(|x| byte(8, 0, y, x)).collect();
            rows.row(y)?.copy_from_slice(0, &row)?;
        }
        writing.end()?;
        reader.join().map_err(|_| "a thread panicked")??;
        check(!early, "it did not wait for the writer")
    })?;
    let mut bytes = vec![0; layout.len()];
    dst.cpu().ok_or("it is visible")?.copy_to_slice(0, &mut bytes)?;
    let rows = layout.planes[0].pitch as usize;
    let same = (0..HEIGHT as usize)
        .all(|y| (0..WIDTH as usize * 4).all(|x| bytes[y * rows + x] == byte(8, 0, y, x)));
    check(same, "it does not see the frame that it waited for")
}

fn refused(device: &Device) -> Outcome {
    let heap = from_heap(1 << 20)?;
    let over =
        |picture: Picture| -> Result<Frame, Failed> { Ok(picture.lay_out(64)?.over(&heap)?) };
    let refusal = |frame: &Frame, uses| match device.import_image(frame, uses) {
        Err(error) => Ok(error.to_string()),
        Ok(image) => Err(Failed::from(format!("{image:?}"))),
    };
    let says = |frame: &Frame, words: &[&str]| {
        let told = refusal(frame, ImageUse::COPIES)?;
        check(words.iter().all(|&word| told.contains(word)), told)
    };
    let plain = over(picture(DrmFourcc::Xrgb8888))?;
    let with = |modifier| {
        let picture = Picture { modifier, ..plain.picture };
        Frame { picture, planes: plain.planes.clone() }
    };
    says(&with(None), &["known to its driver alone", "LINEAR"])?;
    says(&with(Some(DrmModifier::I915_x_tiled)), &["100x60 XR24", "not in this layout", "LINEAR"])?;
    says(&with(Some(DrmModifier::Invalid)), &["DRM_FORMAT_MOD_INVALID"])?;
    says(&over(picture(DrmFourcc::Rgba8888))?, &["RA24", "no such format"])?;
    let nv12 = over(Picture::linear(101, 60, DrmFourcc::Nv12))?;
    says(&nv12, &["an even width", "round the sides up"])?;
    let mut short = plain.clone();
    short.planes[0].offset = 1 << 20;
    says(&short, &["ends at byte"])?;
    let mut large = over(Picture::linear(32_000, 8, DrmFourcc::R8))?;
    says(&large, &["its images have up to"])?;
    large.planes.push(large.planes[0].clone());
    says(&large, &["2 planes"])?;
    let mut apart = over(picture(DrmFourcc::Nv12))?;
    apart.planes[1].buffer = from_heap(1 << 20)?;
    says(&apart, &["only in one dma-buf", "at offsets"])?;
    let told = refusal(&over(picture(DrmFourcc::Nv12))?, ImageUse::STORAGE)?;
    check(told.contains("STORAGE"), told)?;

    let told = |result: Result<Image, VulkanError>| match result {
        Err(error) => Ok(error.to_string()),
        Ok(image) => Err(Failed::from(format!("{image:?}"))),
    };
    let tiled = [DrmModifier::I915_x_tiled];
    let implicit = Picture { modifier: None, ..plain.picture };
    let words = told(device.image(implicit, &tiled, ImageUse::COPIES))?;
    check(words.contains("not in this layout"), words)?;
    let words = told(device.image(implicit, &[], ImageUse::COPIES))?;
    check(words.contains("LINEAR"), words)?;
    let words = told(device.image(Picture::linear(0, 1, DrmFourcc::R8), &[], ImageUse::COPIES))?;
    check(words.contains("0 x 1"), words)?;

    // Copies: another picture, a layout that is not inside, an image that is not for it.
    let image = imported(device, &plain)?;
    let (src, layout) = drawn_buffer(device, DrmFourcc::Xrgb8888, 1)?;
    let mut transfer = device.transfer()?;
    let mut copy = |layout: &Frame<()>, image: &Arc<Image>| match transfer.copy_to_image(
        &src,
        layout,
        image,
        When::AtOnce,
    ) {
        Err(error) => Ok(error.to_string()),
        Ok(_) => Err(Failed::from("it was copied")),
    };
    let words = copy(&laid_out(picture(DrmFourcc::Abgr8888))?, &image)?;
    check(words.contains("converts nothing"), words)?;
    let wide = Picture::linear(WIDTH, HEIGHT, DrmFourcc::Xrgb8888).lay_out(4096)?;
    let words = copy(&wide, &image)?;
    check(words.contains("ends at byte"), words)?;
    let mut odd = layout.clone();
    odd.planes[0].offset = 2;
    odd.planes[0].pitch = 400;
    let words = copy(&odd, &image)?;
    check(words.contains("multiples of 4"), words)?;
    let sampled = Arc::new(device.import_image(&plain, ImageUse::SAMPLED)?);
    let words = copy(&layout, &sampled)?;
    check(words.contains("it was made for"), words)?;
    let other = Device::open(None)?;
    let words = copy(&layout, &imported(&other, &plain)?)?;
    check(words.contains("another device"), words)?;
    let mut bytes = vec![0; layout.len() - 1];
    let answer = transfer.read_image(&image, &layout, &mut bytes);
    check(matches!(answer, Err(VulkanError::OutOfBounds { .. })), format!("{answer:?}"))
}

fn leaks(device: &Device) -> Outcome {
    let frame = {
        let layout = picture(DrmFourcc::Nv12).lay_out(64)?;
        layout.over(&from_heap(layout.len())?)?
    };
    let (src, layout) = drawn_buffer(device, DrmFourcc::Nv12, 1)?;
    let cycle = || -> Outcome {
        let image = imported(device, &frame)?;
        let mut transfer = device.transfer()?;
        let _ = transfer.copy_to_image(&src, &layout, &image, When::InTurn)?;
        drop(image);
        let own = device.image(picture(DrmFourcc::Xrgb8888), &[], ImageUse::COPIES)?;
        own.export()?;
        // What is refused leaves nothing either.
        let other = Picture { width: WIDTH * 2, ..frame.picture };
        let long = Frame { picture: other, planes: frame.planes.clone() };
        check(device.import_image(&long, ImageUse::COPIES).is_err(), "it does not fit")
    };
    hold_no_more(|| Ok(Holdings::now()?.fds), 10..60, |_| cycle())
}
