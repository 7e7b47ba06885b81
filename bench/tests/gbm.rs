//! Pictures from `libgbm` on three real drivers: virtio-gpu, bochs and vgem.

use std::env;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, OnceLock};

use bufmap_bench::dma_buf::inode;
use bufmap_bench::leaks::{Holdings, hold_no_more};
use bufmap_bench::{Outcome, check};
use exporters::drm::{Card, Node};
use exporters::frame::{DrmFourcc, DrmModifier, Frame, FrameError, FramePlane, Picture};
use exporters::gbm::{Bo, Device, GbmError, Region, Usage};
use exporters::{Intent, Udmabuf};
use iomap::{Access, BufMap, Memory, PageSize, Plane};
use libtest_mimic::Failed;

/// The drivers of the machine's three nodes.
const DRIVERS: [&str; 3] = ["vgem", "virtio_gpu", "bochs-drm"];

/// A picture's width, whose rows need padding, and its height, in pixels.
const WIDTH: u32 = 100;
const HEIGHT: u32 = 60;
const FORMAT: DrmFourcc = DrmFourcc::Xrgb8888;
const ROW: usize = WIDTH as usize * 4;

/// In the environment of a child that only opens this node and says how that went.
const OPEN: &str = "BUFMAP_GBM_OPEN";

fn main() -> ExitCode {
    if let Ok(node) = env::var(OPEN) {
        return match Device::open(node) {
            Ok(device) => {
                println!("{device:?}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                println!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    bufmap_bench::run(
        "gpu",
        &[
            ("a_device_says_what_it_takes", a_device_says_what_it_takes),
            ("what_is_not_there_is_a_reason", what_is_not_there),
            ("a_picture_drawn_through_the_map_is_in_the_dma_buf", drawn_through_the_map),
            ("a_picture_drawn_in_the_dma_buf_is_in_the_map", drawn_in_the_dma_buf),
            ("a_rectangle_is_mapped_alone", a_rectangle),
            ("a_picture_is_imported_by_every_device", imported_by_every_device),
            ("an_import_of_one_s_own_leaves_it_whole", import_of_one_s_own),
            ("an_import_begins_where_its_layout_says", an_import_s_offset),
            ("pages_of_a_memfd_are_a_picture", pages_of_a_memfd),
            ("a_layout_that_cannot_be_is_refused", lies),
            ("a_picture_that_cannot_be_is_refused", impossible),
            ("a_node_that_cannot_allocate_says_which_can", the_wrong_node),
            ("threads_share_a_device", threads),
            ("five_hundred_cycles_leave_nothing", cycles),
        ],
    )
}

fn open(driver: &str) -> Result<Device, Failed> {
    Ok(Device::open(Card::find(driver, Node::Primary)?.path())?)
}

/// The three devices, opened once: each loads a driver.
fn devices() -> Result<&'static [Device; 3], Failed> {
    static DEVICES: OnceLock<[Device; 3]> = OnceLock::new();
    if let Some(devices) = DEVICES.get() {
        return Ok(devices);
    }
    let [vgem, virtio, bochs] = DRIVERS.map(open);
    let devices = [vgem?, virtio?, bochs?];
    Ok(DEVICES.get_or_init(|| devices))
}

/// A picture of our own size, in a layout that is the driver's secret or a linear one.
fn picture(device: &Device, linear: bool) -> Result<Bo, GbmError> {
    match linear {
        true => {
            let linear = [DrmModifier::Linear];
            device.create_with(WIDTH, HEIGHT, FORMAT, &linear, Usage::empty())
        }
        false => device.create(WIDTH, HEIGHT, FORMAT, Usage::RENDERING),
    }
}

/// Row `y` of the picture that is drawn.
fn row(y: usize) -> Vec<u8> {
    (0..ROW).map(|x| (x * 7 + y * 31 + 1) as u8).collect()
}

fn draw(plane: &Plane<'_>) -> Outcome {
    for y in 0..plane.rows() {
        plane.row(y)?.copy_from_slice(0, &row(y)[..plane.row_bytes()])?;
    }
    Ok(())
}

/// Whether a plane's rows are the drawn picture's from row `first` on.
fn compare(plane: &Plane<'_>, first: usize) -> Outcome {
    let mut bytes = vec![0; plane.row_bytes()];
    for y in 0..plane.rows() {
        plane.row(y)?.copy_to_slice(0, &mut bytes)?;
        check(bytes == row(first + y), format!("row {y} is not row {} as drawn", first + y))?;
    }
    Ok(())
}

/// The rows of a frame's plane in the mapping of its dma-buf.
fn rows<'a>(map: BufMap<'a>, frame: &Frame) -> Result<Plane<'a>, Failed> {
    let FramePlane { offset, pitch, .. } = frame.planes[0];
    let map = map.offset(offset as usize)?;
    Ok(Plane::new(map, pitch as usize, ROW, frame.picture.height as usize)?)
}

fn draw_in_dma_buf(frame: &Frame) -> Outcome {
    let mapping = frame.planes[0].buffer.map()?;
    let access = mapping.begin_cpu_access(Intent::Write)?;
    draw(&rows(access.map(), frame)?)?;
    Ok(access.finish()?)
}

fn a_device_says_what_it_takes() -> Outcome {
    for device in devices()? {
        check(device.backend() == "drm", device.backend())?;
        check(device.supports(FORMAT, Usage::RENDERING), format!("{device:?}"))?;
        check(!device.supports(DrmFourcc::Nv12, Usage::empty()), "software drivers have no NV12")?;
        let planes = |modifier| device.plane_count(FORMAT, modifier);
        check(planes(DrmModifier::Linear) == Some(1), format!("{device:?}"))?;
        check(planes(DrmModifier::I915_x_tiled).is_none(), format!("{device:?}"))?;
    }
    Ok(())
}

fn what_is_not_there() -> Outcome {
    let absent = Device::open("/dev/dri/card77");
    let told =
        matches!(&absent, Err(GbmError::Unavailable(absent)) if absent.why.contains("card77"));
    check(told, format!("{absent:?}"))?;
    // `libgbm` would make a device even of this.
    let null = Device::open("/dev/null");
    check(matches!(null, Err(GbmError::NotADrmNode { .. })), format!("{null:?}"))?;

    // A child whose linker finds an empty file in the library's place.
    let place = Path::new("/tmp/no-gbm");
    fs::create_dir_all(place)?;
    File::create(place.join("libgbm.so.1"))?;
    let child = |libraries: Option<&Path>| -> Result<(bool, String), Failed> {
        let mut child = Command::new(env::current_exe()?);
        child.env(OPEN, Card::find("vgem", Node::Primary)?.path());
        if let Some(libraries) = libraries {
            child.env("LD_LIBRARY_PATH", libraries);
        }
        let output = child.output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let (opened, said) = child(None)?;
    check(opened, format!("with the library: {said}"))?;
    let (opened, said) = child(Some(place))?;
    let told =
        said.contains("libgbm.so.1") && said.contains("install it (Debian, Ubuntu: libgbm1)");
    check(!opened && told, format!("without the library: {said}"))
}

fn drawn_through_the_map() -> Outcome {
    for (device, linear) in devices()?.iter().flat_map(|device| [(device, false), (device, true)]) {
        let mut bo = picture(device, linear)?;
        check(bo.modifier() == linear.then_some(DrmModifier::Linear), format!("{bo:?}"))?;
        check(
            (bo.width(), bo.height(), bo.format()) == (WIDTH, HEIGHT, FORMAT),
            "another picture",
        )?;
        let map = bo.map(Intent::Write)?;
        check(map.stride() >= ROW && map.map().access() == Access::ReadWrite, format!("{map:?}"))?;
        draw(&map.plane())?;
        drop(map);

        let frame = bo.export()?;
        check(frame.picture.modifier == bo.modifier(), format!("{frame:?}"))?;
        let [plane] = &frame.planes[..] else { return Err(format!("{frame:?}").into()) };
        check(plane.offset == 0 && plane.pitch as usize >= ROW, format!("{plane:?}"))?;
        check(inode(&plane.buffer)? == inode(&bo.export()?.planes[0].buffer)?, "two dma-bufs")?;
        let mapping = plane.buffer.map()?;
        let access = mapping.begin_cpu_access(Intent::Read)?;
        compare(&rows(access.map(), &frame)?, 0)?;
        access.finish()?;
    }
    Ok(())
}

fn drawn_in_the_dma_buf() -> Outcome {
    for device in devices()? {
        let mut bo = picture(device, true)?;
        draw_in_dma_buf(&bo.export()?)?;
        let map = bo.map(Intent::Read)?;
        check(map.map().access() == Access::ReadOnly, "a map for reading may be written")?;
        compare(&map.plane(), 0)?;
        drop(map);
        let map = bo.map(Intent::ReadWrite)?;
        compare(&map.plane(), 0)?;
    }
    Ok(())
}

fn a_rectangle() -> Outcome {
    let region = Region { x: 10, y: 20, width: 30, height: 5 };
    for device in devices()? {
        let mut bo = picture(device, true)?;
        draw(&bo.map(Intent::Write)?.plane())?;
        let map = bo.map_region(region, Intent::ReadWrite)?;
        let plane = map.plane();
        check((plane.row_bytes(), plane.rows()) == (30 * 4, 5), format!("{plane:?}"))?;
        let mut first = [0; 30 * 4];
        plane.row(0)?.copy_to_slice(0, &mut first)?;
        check(first == row(20)[40..160], "the rectangle begins elsewhere")?;
        plane.fill(0xee)?;
        drop(map);

        let map = bo.map(Intent::Read)?;
        for y in 0..HEIGHT as usize {
            let mut expected = row(y);
            if (20..25).contains(&y) {
                expected[40..160].fill(0xee);
            }
            let mut bytes = vec![0; ROW];
            map.plane().row(y)?.copy_to_slice(0, &mut bytes)?;
            check(bytes == expected, format!("row {y} beside the rectangle"))?;
        }
        drop(map);
        for (x, y, width, height) in
            [(0, 0, 0, 1), (0, 0, 1, 0), (71, 0, 30, 1), (0, 60, 1, 1), (1, 0, u32::MAX, 1)]
        {
            let answer = bo.map_region(Region { x, y, width, height }, Intent::Read).map(drop);
            check(matches!(answer, Err(GbmError::Region { .. })), format!("{answer:?}"))?;
        }
    }
    Ok(())
}

fn imported_by_every_device() -> Outcome {
    let devices = devices()?;
    for (source, linear) in devices.iter().flat_map(|device| [(device, false), (device, true)]) {
        let mut bo = picture(source, linear)?;
        draw(&bo.map(Intent::Write)?.plane())?;
        let frame = bo.export()?;
        for device in devices {
            let mut import = device.import(&frame, Usage::empty())?;
            check(import.modifier() == bo.modifier(), format!("{import:?}"))?;
            compare(&import.map(Intent::Read)?.plane(), 0)?;
            let again = import.export()?;
            let same = inode(&again.planes[0].buffer)? == inode(&frame.planes[0].buffer)?;
            check(same && again.planes[0].pitch == frame.planes[0].pitch, format!("{again:?}"))?;
        }
        // It outlives its maker.
        let mut import = devices[0].import(&frame, Usage::empty())?;
        drop((bo, frame));
        compare(&import.map(Intent::Read)?.plane(), 0)?;
    }
    Ok(())
}

fn import_of_one_s_own() -> Outcome {
    for device in devices()? {
        let mut bo = picture(device, true)?;
        draw(&bo.map(Intent::Write)?.plane())?;
        let frame = bo.export()?;
        let mut imports = [(); 2]
            .map(|()| device.import(&frame, Usage::empty()))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        drop(imports.pop());
        // Would get the number of the first one's handle, if that was closed with the import.
        let mut other = picture(device, true)?;
        other.map(Intent::Write)?.plane().fill(0xee)?;
        compare(&bo.map(Intent::Read)?.plane(), 0)?;
        compare(&imports[0].map(Intent::Read)?.plane(), 0)?;
        let same = inode(&bo.export()?.planes[0].buffer)? == inode(&frame.planes[0].buffer)?;
        check(same, "it is another buffer now")?;
        drop((bo, imports));
        let mut import = device.import(&frame, Usage::empty())?;
        compare(&import.map(Intent::Read)?.plane(), 0)?;
    }
    Ok(())
}

fn an_import_s_offset() -> Outcome {
    for device in devices()? {
        let mut bo = picture(device, true)?;
        draw(&bo.map(Intent::Write)?.plane())?;
        let mut frame = bo.export()?;
        frame.planes[0].offset = frame.planes[0].pitch;
        frame.picture.height -= 1;
        let mut import = device.import(&frame, Usage::empty())?;
        compare(&import.map(Intent::Read)?.plane(), 1)?;
        let again = import.export()?;
        check(again.planes[0].offset == frame.planes[0].offset, "the offset is lost")?;
    }
    Ok(())
}

fn pages_of_a_memfd() -> Outcome {
    let stride = 448;
    let memory = Arc::new(Memory::memfd("picture", 32768, PageSize::Base)?);
    let rows = Plane::new(memory.map(), stride, ROW, HEIGHT as usize)?;
    draw(&rows)?;
    let shared = Udmabuf::open()?.share(Arc::clone(&memory))?;
    let buffer = shared.dma_bufs()[0].clone();
    let planes = vec![FramePlane { buffer, offset: 0, pitch: stride as u32 }];
    let frame = Frame { picture: Picture::linear(WIDTH, HEIGHT, FORMAT), planes };
    for device in devices()? {
        let mut import = device.import(&frame, Usage::empty())?;
        let map = import.map(Intent::ReadWrite)?;
        compare(&map.plane(), 0)?;
        map.plane().row(0)?.write(0, 0x5a5a_5a5a_u32)?;
        drop(map);
        check(memory.map().read::<u32>(0)? == 0x5a5a_5a5a, "the memfd has another pixel")?;
        memory.map().copy_from_slice(0, &row(0))?;
    }
    Ok(())
}

fn lies() -> Outcome {
    type Lie = fn(&mut Frame);
    type Refusal = fn(&GbmError) -> bool;
    let lies: [(&str, Lie, Refusal); 9] = [
        (
            "rows that overlap",
            |l| l.planes[0].pitch = 399,
            |e| matches!(e, GbmError::Frame(FrameError::Pitch { pitch: 399, row_bytes: 400, .. })),
        ),
        (
            "a stride too long",
            |l| l.planes[0].pitch = 4096,
            |e| matches!(e, GbmError::Frame(FrameError::TooShort { plane: 0, .. })),
        ),
        (
            "rows past the end",
            |l| l.picture.height = 65,
            |e| matches!(e, GbmError::Frame(FrameError::TooShort { .. })),
        ),
        (
            "an offset past the end",
            |l| l.planes[0].offset = 1 << 20,
            |e| matches!(e, GbmError::Frame(FrameError::TooShort { .. })),
        ),
        (
            "an implicit layout past the end",
            |l| (l.picture.height, l.picture.modifier) = (65, None),
            |e| matches!(e, GbmError::Frame(FrameError::TooShort { .. })),
        ),
        (
            "a plane too many",
            |l| l.planes.push(l.planes[0].clone()),
            |e| matches!(e, GbmError::Frame(FrameError::Planes { got: 2, wanted: 1 })),
        ),
        (
            "no plane",
            |l| l.planes.clear(),
            |e| matches!(e, GbmError::Frame(FrameError::Planes { got: 0, wanted: 1 })),
        ),
        (
            "another vendor's tiles",
            |l| l.picture.modifier = Some(DrmModifier::I915_x_tiled),
            |e| matches!(e, GbmError::Layout { modifier: DrmModifier::I915_x_tiled, .. }),
        ),
        (
            "no modifier as a modifier",
            |l| l.picture.modifier = Some(DrmModifier::Invalid),
            |e| matches!(e, GbmError::Frame(FrameError::Modifier)),
        ),
    ];
    for device in devices()? {
        let bo = picture(device, true)?;
        let true_frame = bo.export()?;
        let len = true_frame.planes[0].buffer.len();
        check(len < 65 * true_frame.planes[0].pitch as usize, format!("{len} bytes"))?;
        for (name, lie, refusal) in &lies {
            let mut frame = true_frame.clone();
            lie(&mut frame);
            let answer = device.import(&frame, Usage::empty());
            check(answer.as_ref().is_err_and(refusal), format!("{name}: {answer:?}"))?;
        }
    }
    Ok(())
}

fn impossible() -> Outcome {
    for device in devices()? {
        // Mesa keeps a height in 16 bits: 65636 rows would become 100.
        for (width, height) in [(0, 1), (1, 0), (32768, 1), (1, 32768), (64, 65636)] {
            let answer = device.create(width, height, FORMAT, Usage::empty());
            check(
                matches!(answer, Err(GbmError::Frame(FrameError::Side { .. }))),
                format!("{answer:?}"),
            )?;
        }
        let refused = |answer: Result<Bo, GbmError>| match answer {
            Err(GbmError::Refused { .. }) => Ok(()),
            other => Err(Failed::from(format!("{other:?}"))),
        };
        refused(device.create(32767, 32767, FORMAT, Usage::empty()))?;
        refused(device.create(WIDTH, HEIGHT, DrmFourcc::Nv12, Usage::empty()))?;
        let with = |modifiers: &[DrmModifier]| {
            device.create_with(WIDTH, HEIGHT, FORMAT, modifiers, Usage::empty())
        };
        refused(with(&[DrmModifier::I915_x_tiled]))?;
        for modifiers in [&[][..], &[DrmModifier::Linear, DrmModifier::Invalid]] {
            let answer = with(modifiers);
            check(matches!(answer, Err(GbmError::Modifiers { .. })), format!("{answer:?}"))?;
        }
        let unknown = device.create(WIDTH, HEIGHT, DrmFourcc::Y416, Usage::empty());
        check(
            matches!(unknown, Err(GbmError::Frame(FrameError::Format { .. }))),
            format!("{unknown:?}"),
        )?;
    }
    Ok(())
}

fn the_wrong_node() -> Outcome {
    let device = Device::open("/dev/dri/renderD128")?;
    match picture(&device, false) {
        Err(error @ GbmError::Refused { .. }) => {
            check(error.to_string().contains("primary node"), error)
        }
        other => Err(format!("{other:?}").into()),
    }
}

fn threads() -> Outcome {
    let [device, ..] = devices()?;
    let work = || -> Result<(), String> {
        for _ in 0..25 {
            let mut bo = picture(device, true).map_err(|e| e.to_string())?;
            let map = bo.map(Intent::Write).map_err(|e| e.to_string())?;
            draw(&map.plane()).map_err(|e| format!("{e:?}"))?;
            drop(map);
            let frame = bo.export().map_err(|e| e.to_string())?;
            let mut import = device.import(&frame, Usage::empty()).map_err(|e| e.to_string())?;
            let map = import.map(Intent::Read).map_err(|e| e.to_string())?;
            compare(&map.plane(), 0).map_err(|e| format!("{e:?}"))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => Ok(result?),
            Err(_) => Err("a thread panicked".into()),
        })
    })
}

/// Memory of the system's that belongs to no file, KiB: what these drivers' pictures are made of.
fn shmem_kib() -> Result<u64, Failed> {
    let info = fs::read_to_string("/proc/meminfo")?;
    let line = info.lines().find_map(|line| line.strip_prefix("Shmem:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    Ok(number.ok_or("no Shmem in /proc/meminfo")?.parse()?)
}

fn cycles() -> Outcome {
    let [vgem, virtio, _] = devices()?;
    let cycle = |number: u32| -> Outcome {
        let device = if number.is_multiple_of(2) { vgem } else { virtio };
        let mut bo = device.create(256, 256, FORMAT, Usage::RENDERING)?;
        bo.map(Intent::Write)?.plane().fill(number as u8)?;
        let frame = bo.export()?;
        // In every order of drops.
        let mut import = virtio.import(&frame, Usage::empty())?;
        if number.is_multiple_of(3) {
            drop(bo);
        }
        let pixel = import.map(Intent::Read)?.map().read::<u8>(0)?;
        check(pixel == number as u8, format!("cycle {number} shows {pixel}"))
    };
    (0..10).try_for_each(cycle)?;
    let shmem = shmem_kib()?;
    hold_no_more(Holdings::now, 0..500, cycle)?;
    let grown = shmem_kib()?.saturating_sub(shmem);
    // 500 pictures of 256 KiB are 125 MiB.
    check(grown < 4096, format!("{grown} KiB of pictures are left"))?;
    // Nor does a device leave anything; what its driver's threads keep, they keep once.
    hold_no_more(|| Ok(Holdings::now()?.fds), 1..4, |_| open("vgem").map(drop))
}
