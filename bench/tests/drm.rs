//! DRM on three real drivers: vgem, virtio-gpu and bochs.

use std::fs::File;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use bufmap_bench::display::Display;
use bufmap_bench::dma_buf::{bytes, fill};
use bufmap_bench::drive::pattern;
use bufmap_bench::drm_file::DrmFile;
use bufmap_bench::leaks::{Holdings, dma_bufs};
use bufmap_bench::monitor::{Monitor, colours};
use bufmap_bench::random::Random;
use bufmap_bench::sync_file::is_done;
use bufmap_bench::{Outcome, check};
use drm::Device as _;
use drm::buffer::DrmFourcc;
use drm::control::Device as _;
use exporters::drm::{Card, DrmError, Gem, Node, export_handle, nodes};
use exporters::frame::{FramePlane, Picture};
use exporters::{DmaBuf, DmaHeap, Exporter, Intent, Provider, Udmabuf};
use libtest_mimic::Failed;
use rustix::io::Errno;

/// The drivers of the machine's cards.
const DRIVERS: [&str; 3] = ["vgem", "virtio_gpu", "bochs-drm"];

/// Not a whole number of pages.
const LEN: usize = (64 << 10) + 8;

/// The cards that import others' buffers. Virtio-gpu takes its own alone, without blob resources.
const IMPORTERS: [&str; 2] = ["vgem", "bochs-drm"];

const SHORT: Duration = Duration::from_millis(50);
/// Less than the ten seconds after which the kernel signals a fence of vgem's itself.
const LONG: Duration = Duration::from_secs(8);

fn main() -> ExitCode {
    bufmap_bench::run(
        "gpu",
        &[
            ("drm_cards_say_what_they_can", cards),
            ("drm_what_is_not_there_is_absent_with_a_reason", absences),
            ("drm_dumb_buffers_are_pictures", pictures),
            ("drm_dumb_buffers_are_exports", exports),
            ("drm_every_card_imports_every_exporter_s_buffer", matrix),
            ("drm_handles_are_shared_and_counted", counted),
            ("drm_threads_that_import_and_drop_keep_their_handles", threads),
            ("drm_a_program_s_own_handle_becomes_a_dma_buf", own_handles),
            ("drm_a_syncobj_waits_for_what_is_put_in", syncobjs),
            ("drm_a_fence_goes_from_one_driver_to_another_and_back", fences_travel),
            ("drm_timelines_count_points", timelines),
            ("drm_an_imported_buffer_is_seen_on_the_screen", scan_out),
            ("drm_a_framebuffer_s_planes_are_dma_bufs", planes),
            ("drm_a_thousand_cycles_leave_nothing", leaks),
        ],
    )
}

fn primary(driver: &str) -> Result<Card, Failed> {
    Ok(Card::find(driver, Node::Primary)?)
}

fn errno(answer: &Result<impl Sized, DrmError>) -> Option<Errno> {
    match answer {
        Err(DrmError::Kernel { source, .. }) => Errno::from_io_error(source),
        _ => None,
    }
}

fn cards() -> Outcome {
    let found = nodes()?;
    let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    let expected = ["card0", "card1", "card2", "renderD128", "renderD129"];
    check(names == expected, format!("{names:?}"))?;
    for path in &found {
        let card = Card::open(path)?;
        let render = path.display().to_string().contains("render");
        check(render == (card.node() == Node::Render), path.display())?;
        check(DRIVERS.contains(&card.driver()), card.driver())?;
        let can = [
            card.dumb_buffers(),
            card.prime_import(),
            card.prime_export(),
            card.syncobjs(),
            card.timelines(),
        ]
        .map(|can| can.is_ok());
        let fences = card.driver() == "virtio_gpu";
        check(can == [!render, true, true, fences, fences], format!("{card:?}: {can:?}"))?;
    }
    // The first to open a node that has displays is their master, and a card is not: others may be.
    let first = primary("bochs-drm")?;
    let display_server = DrmFile(File::options().read(true).write(true).open(first.path())?);
    Ok(display_server.acquire_master_lock()?)
}

fn absences() -> Outcome {
    let answer = Card::find("nouveau", Node::Render).map(|_| ());
    let told = answer.expect_err("there is no such card").to_string();
    check(told.contains("renderD128 is of vgem") && told.contains("modprobe nouveau"), told)?;

    let render = Card::find("vgem", Node::Render)?;
    let told = render.dumb_buffer(64, 64, 32).expect_err("a render node").to_string();
    check(told.contains("open the device's primary node"), told)?;

    let vgem = primary("vgem")?;
    let told = vgem.syncobj().expect_err("vgem has none").to_string();
    check(told.contains("vgem") && told.contains("no sync objects"), told)?;
    let told = vgem.timeline().expect_err("vgem has none").to_string();
    check(told.contains("no timelines"), told)?;

    for len in [0, usize::MAX] {
        let answer = vgem.export(len).map(|_| ());
        let error = answer.expect_err("no buffer has this length");
        check(matches!(error.downcast_ref(), Some(DrmError::Length { .. })), &error)?;
        let told = error.to_string();
        check(told.starts_with("vgem: ") && told.contains("at least one byte"), told)?;
    }
    // The machine has less than this, and keeps what it has.
    for driver in DRIVERS {
        let answer = primary(driver)?.export((4 << 30) - 4096).map(|_| ());
        let told = answer.expect_err("there is not so much memory").to_string();
        check(told.contains("4294963200 bytes are needed") && told.contains("ask for less"), told)?;
    }
    let answer = vgem.dumb_buffer(0, 64, 32);
    check(errno(&answer) == Some(Errno::INVAL), format!("{answer:?}"))?;
    let memory = File::open("/dev/zero")?;
    let answer = export_handle(memory.as_fd(), NonZeroU32::MIN);
    check(errno(&answer) == Some(Errno::NOTTY), format!("{answer:?}"))
}

fn pictures() -> Outcome {
    for driver in DRIVERS {
        let card = primary(driver)?;
        // A width whose rows no driver's alignment divides.
        let picture = card.dumb_buffer(333, 77, 32)?;
        let shape = (picture.width(), picture.height(), picture.bits_per_pixel());
        check(shape == (333, 77, 32), format!("{shape:?}"))?;
        let (pitch, len) = (picture.pitch(), picture.buffer().len());
        check(pitch >= 333 * 4 && len >= pitch * 77, format!("{driver}: {pitch}, {len}"))?;

        let access = picture.buffer().cpu()?.begin(Intent::Write)?;
        let plane = picture.plane(access.map())?;
        for y in 0..77 {
            plane.row(y)?.copy_from_slice(0, &row(y))?;
        }
        access.finish()?;
        let dma_buf = picture.buffer().dma_buf()?;
        check(dma_buf.len() == len, format!("{driver}: {} of {len}", dma_buf.len()))?;
        let seen = bytes(dma_buf, len)?;
        for y in 0..77 {
            let here = &seen[y * pitch..][..333 * 4];
            check(here == row(y), format!("{driver}: row {y} is another"))?;
        }
    }
    Ok(())
}

/// A row of a picture in which no two rows are alike.
fn row(y: usize) -> Vec<u8> {
    (0..333 * 4).map(|x| (x * 7 + y * 13) as u8).collect()
}

fn exports() -> Outcome {
    for driver in DRIVERS {
        let card = primary(driver)?;
        check(card.name() == driver, card.name())?;
        let export = card.export(LEN)?;
        check(export.len() >= LEN && export.len() < LEN + (1 << 16), export.len())?;
        check(*export.provider() == Provider::Drm(driver.into()), export.provider())?;
        let why = export.phyrs().expect_err("a driver keeps its addresses to itself").to_string();
        check(why.contains("physical addresses") && why.contains(driver), why)?;

        let access = export.cpu()?.begin(Intent::ReadWrite)?;
        let mut first = [1; 16];
        access.map().copy_to_slice(0, &mut first)?;
        check(first == [0; 16], format!("{driver}: a new buffer has bytes in it: {first:?}"))?;
        access.map().copy_from_slice(0, &pattern(LEN))?;
        access.finish()?;
        check(bytes(export.dma_buf()?, LEN)? == pattern(LEN), format!("{driver}: other bytes"))?;
    }
    Ok(())
}

/// A buffer of each source that a card might import.
fn sources() -> Result<Vec<(String, DmaBuf)>, Failed> {
    let mut sources = vec![
        ("udmabuf".to_owned(), Udmabuf::open()?.export(LEN)?.dma_buf()?.clone()),
        ("heap".to_owned(), DmaHeap::open("system")?.export(LEN)?.dma_buf()?.clone()),
    ];
    for driver in DRIVERS {
        sources.push((driver.to_owned(), primary(driver)?.export(LEN)?.dma_buf()?.clone()));
    }
    Ok(sources)
}

fn matrix() -> Outcome {
    for (index, (source, dma_buf)) in sources()?.into_iter().enumerate() {
        fill(&dma_buf, &pattern(LEN))?;
        for driver in DRIVERS {
            let cell = format!("{source} to {driver}");
            let card = primary(driver)?;
            let gem = match card.import(&dma_buf) {
                Ok(gem) => gem,
                Err(DrmError::Unavailable(why)) if driver == "virtio_gpu" && source != driver => {
                    let why = why.to_string();
                    check(why.contains("takes no dma-buf of") && why.contains("copy"), why)?;
                    continue;
                }
                Err(e) => return Err(format!("{cell}: {e}").into()),
            };
            let refuses = driver == "virtio_gpu" && source != driver;
            check(!refuses, format!("{cell}: refused until now, and this kernel has it"))?;
            let back = gem.dma_buf().map_err(|e| format!("{cell}, and back: {e}"))?;
            check(back.len() == dma_buf.len(), format!("{cell}: {} bytes", back.len()))?;
            check(bytes(&back, LEN)? == pattern(LEN), format!("{cell}: other bytes"))?;
            // And what is written on the way back is seen at the source.
            let mark = [index as u8 + 1; 64];
            fill(&back, &mark)?;
            check(bytes(&dma_buf, 64)? == mark, format!("{cell}: not the same memory"))?;
            fill(&dma_buf, &pattern(LEN)[..64])?;
        }
    }
    Ok(())
}

/// Whether a number is a handle on this card's file.
fn is_open(card: &Card, handle: NonZeroU32) -> Result<bool, Failed> {
    let answer = export_handle(card.as_fd(), handle);
    match &answer {
        Ok(_) => Ok(true),
        Err(_) if errno(&answer) == Some(Errno::NOENT) => Ok(false),
        Err(e) => Err(e.to_string().into()),
    }
}

fn counted() -> Outcome {
    let heap = DmaHeap::open("system")?;
    for driver in IMPORTERS {
        let card = primary(driver)?;
        let foreign = heap.allocate(LEN)?;
        let (first, second) = (card.import(&foreign)?, card.import(&foreign)?);
        let handle = first.handle();
        check(second.handle() == handle, format!("{driver}: two handles for one buffer"))?;
        drop(first);
        check(is_open(&card, handle)?, format!("{driver}: one user's drop closed the other's"))?;
        let third = second.clone();
        drop(second);
        third.dma_buf()?;
        drop(third);
        check(!is_open(&card, handle)?, format!("{driver}: the last drop did not close"))?;

        // In any order: a handle is open as long as anybody has it.
        let buffers = [heap.allocate(4096)?, heap.allocate(4096)?, heap.allocate(4096)?];
        let (mut held, mut random) = (Vec::<(usize, Gem)>::new(), Random(7));
        for _ in 0..300 {
            let at = random.below(buffers.len());
            if random.below(5) < 2 && !held.is_empty() {
                let (which, gem) = held.swap_remove(random.below(held.len()));
                let handle = gem.handle();
                drop(gem);
                let expected = held.iter().any(|(other, _)| *other == which);
                check(is_open(&card, handle)? == expected, format!("{driver}: {expected}"))?;
            } else {
                held.push((at, card.import(&buffers[at])?));
            }
        }
    }
    for driver in DRIVERS {
        // A buffer of its own, imported again where it was made.
        let card = primary(driver)?;
        let dumb = card.dumb_buffer(64, 64, 32)?;
        let handle = dumb.gem().handle();
        let own = card.import(dumb.buffer().dma_buf()?)?;
        check(own.handle() == handle, format!("{driver}: its own buffer under another handle"))?;
        drop(dumb);
        check(is_open(&card, handle)?, format!("{driver}: the maker's drop closed it"))?;
        drop(own);
        check(!is_open(&card, handle)?, format!("{driver}: still open"))?;
    }
    Ok(())
}

fn threads() -> Outcome {
    let card = primary("vgem")?;
    let dma_buf = DmaHeap::open("system")?.allocate(4096)?;
    let end = Instant::now() + Duration::from_secs(2);
    let import_often = || -> Result<(), DrmError> {
        while Instant::now() < end {
            let gem = card.import(&dma_buf)?;
            gem.dma_buf()?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        // Two, so that the handle is often nobody's for a moment.
        let all = [(); 2].map(|()| scope.spawn(import_often));
        all.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done.map_err(Failed::from),
            Err(_) => Err("a thread panicked".into()),
        })
    })
}

fn own_handles() -> Outcome {
    for driver in DRIVERS {
        let path = primary(driver)?.path().to_owned();
        let own = DrmFile(File::options().read(true).write(true).open(&path)?);
        let dumb = own.create_dumb_buffer((64, 64), DrmFourcc::Xrgb8888, 32)?;
        let handle: NonZeroU32 = drm::buffer::Buffer::handle(&dumb).into();
        let dma_buf = export_handle(own.as_fd(), handle)?;
        fill(&dma_buf, &pattern(4096))?;
        drop(dma_buf);
        let again = export_handle(own.as_fd(), handle)?;
        check(bytes(&again, 4096)? == pattern(4096), format!("{driver}: another buffer"))?;
        own.destroy_dumb_buffer(dumb)?;
        let answer = export_handle(own.as_fd(), handle);
        check(errno(&answer) == Some(Errno::NOENT), format!("{answer:?}"))?;

        let card = Card::open(&path)?;
        let dumb = DrmFile(&card).create_dumb_buffer((64, 64), DrmFourcc::Xrgb8888, 32)?;
        let handle: NonZeroU32 = drm::buffer::Buffer::handle(&dumb).into();
        let gem = adopt(&card, handle);
        let other = card.import(&gem.dma_buf()?)?;
        check(other.handle() == handle, "another handle")?;
        drop(gem);
        check(is_open(&card, handle)?, format!("{driver}: closed under another's hands"))?;
        drop(other);
        check(!is_open(&card, handle)?, format!("{driver}: an adopted handle stays open"))?;
    }
    Ok(())
}

#[allow(unsafe_code)]
fn adopt(card: &Card, handle: NonZeroU32) -> Gem {
    // SAFETY: the caller has just made it on this card's file, and lets it go.
    unsafe { card.adopt(handle) }
}

fn timed_out(answer: Result<(), DrmError>) -> Outcome {
    check(matches!(answer, Err(DrmError::TimedOut { .. })), format!("{answer:?}"))
}

fn syncobjs() -> Outcome {
    let card = Card::find("virtio_gpu", Node::Render)?;
    let object = card.syncobj()?;
    let empty = object.export_sync_file();
    check(matches!(empty, Err(DrmError::NoFence { .. })), format!("{empty:?}"))?;
    let begun = Instant::now();
    timed_out(object.wait(SHORT))?;
    let waited = begun.elapsed();
    check(waited >= SHORT && waited < LONG, format!("{waited:?} of {SHORT:?}"))?;

    // One that waits before there is a fence is woken by it.
    thread::scope(|scope| -> Outcome {
        let waiter = scope.spawn(|| object.wait(LONG));
        thread::sleep(SHORT);
        object.signal()?;
        Ok(waiter.join().map_err(|_| "a thread panicked")??)
    })?;
    object.wait(Duration::ZERO)?;
    let done = object.export_sync_file()?;
    check(is_done(&done)?, "a signalled object's sync file is not")?;
    object.reset()?;
    timed_out(object.wait(Duration::ZERO))?;

    // The sync file goes into an object of another open file.
    let other = Card::find("virtio_gpu", Node::Primary)?.syncobj()?;
    other.import_sync_file(done.as_fd())?;
    other.wait(Duration::ZERO)?;
    let nothing = File::open("/dev/null")?;
    let answer = other.import_sync_file(nothing.as_fd());
    check(errno(&answer) == Some(Errno::INVAL), format!("{answer:?}"))?;

    // A box that is shared is one box.
    let same = Card::find("virtio_gpu", Node::Primary)?.shared_syncobj(object.share()?.as_fd())?;
    timed_out(same.wait(Duration::ZERO))?;
    object.signal()?;
    same.wait(Duration::ZERO)?;
    let answer = card.shared_syncobj(done.as_fd()).map(|_| ());
    check(errno(&answer) == Some(Errno::INVAL), format!("{answer:?}"))
}

fn fences_travel() -> Outcome {
    let writer = primary("vgem")?;
    let picture = writer.dumb_buffer(64, 64, 32)?;
    let dma_buf = picture.buffer().dma_buf()?;
    let card = Card::find("virtio_gpu", Node::Render)?;
    let written = card.syncobj()?;

    written.import_sync_file(dma_buf.export_sync_file(Intent::Read)?.as_fd())?;
    written.wait(Duration::ZERO)?;

    let writing = picture.gem().begin_write()?;
    written.import_sync_file(dma_buf.export_sync_file(Intent::Read)?.as_fd())?;
    timed_out(written.wait(SHORT))?;

    // From the sync object onto a buffer of another source: its readers wait for the writer too.
    let copy = DmaHeap::open("system")?.allocate(4096)?;
    copy.import_sync_file(written.export_sync_file()?.as_fd(), Intent::Write)?;
    let pending = copy.export_sync_file(Intent::Read)?;
    check(!is_done(&pending)?, "the fence was lost on its way")?;
    let timeline = card.timeline()?;
    timeline.import_sync_file(3, pending.as_fd())?;
    timed_out(timeline.wait(3, SHORT))?;

    writing.end()?;
    written.wait(LONG)?;
    timeline.wait(3, LONG)?;
    check(is_done(&pending)?, "the writer is done, and the copy's readers still wait")
}

fn timelines() -> Outcome {
    let card = Card::find("virtio_gpu", Node::Render)?;
    let timeline = card.timeline()?;
    check(timeline.point()? == 0, timeline.point()?)?;
    timeline.signal(7)?;
    check(timeline.point()? == 7, timeline.point()?)?;
    timeline.wait(6, Duration::ZERO)?;
    timeline.wait(7, Duration::ZERO)?;
    timed_out(timeline.wait(8, SHORT))?;
    timed_out(timeline.wait_available(8, Duration::ZERO))?;
    let answer = timeline.export_sync_file(8);
    check(matches!(answer, Err(DrmError::NoFence { .. })), format!("{answer:?}"))?;
    check(is_done(&timeline.export_sync_file(7)?)?, "a point that is past is not done")?;

    // A point whose fence is there and not yet signalled.
    let writer = primary("vgem")?;
    let picture = writer.dumb_buffer(64, 64, 32)?;
    let writing = picture.gem().begin_write()?;
    let pending = card.syncobj()?;
    let empty = timeline.put(9, &pending);
    check(matches!(empty, Err(DrmError::NoFence { .. })), format!("{empty:?}"))?;
    let fence = picture.buffer().dma_buf()?.export_sync_file(Intent::Read)?;
    pending.import_sync_file(fence.as_fd())?;
    timeline.put(9, &pending)?;
    timeline.wait_available(9, Duration::ZERO)?;
    timed_out(timeline.wait(9, Duration::ZERO))?;
    check(timeline.point()? == 7, timeline.point()?)?;
    let ninth = timeline.export_sync_file(9)?;
    check(!is_done(&ninth)?, "a point to come is done")?;
    let taken = card.syncobj()?;
    timeline.take(9, &taken)?;
    timed_out(taken.wait(Duration::ZERO))?;

    writing.end()?;
    timeline.wait(9, LONG)?;
    taken.wait(LONG)?;
    check(is_done(&ninth)? && timeline.point()? == 9, timeline.point()?)?;

    // Handles of two files are not to be mixed, and a file descriptor is the way between them.
    let elsewhere = Card::open(card.path())?;
    let strange = timeline.put(10, &elsewhere.syncobj()?);
    check(matches!(strange, Err(DrmError::OtherFile { .. })), format!("{strange:?}"))?;
    let strange = timeline.take(9, &elsewhere.syncobj()?);
    check(matches!(strange, Err(DrmError::OtherFile { .. })), format!("{strange:?}"))?;
    let same = elsewhere.shared_timeline(timeline.share()?.as_fd())?;
    same.signal(12)?;
    timeline.wait(12, Duration::ZERO).map_err(Failed::from)
}

const WIDTH: usize = 640;
const HEIGHT: usize = 480;
const PITCH: usize = WIDTH * 4;
const PICTURE: Picture =
    Picture { width: 640, height: 480, format: DrmFourcc::Xrgb8888, modifier: None };

/// A picture's bytes as XR24: no two rows or columns are alike, nor two seeds.
fn xr24(seed: usize) -> Vec<u8> {
    let places = (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (x, y)));
    places
        .flat_map(|(x, y)| {
            let [red, green, blue] = [x + seed, y * 3 + seed, x / 256 + y / 256 * 16 + seed * 64];
            [blue as u8, green as u8, red as u8, 0]
        })
        .collect()
}

fn scan_out() -> Outcome {
    let mut monitor = Monitor::open()?;
    for driver in ["bochs-drm", "virtio_gpu"] {
        let display = Display::of(driver)?;
        let mut seed = 0;
        for (source, dma_buf) in frames()? {
            let Ok(gem) = display.card.import(&dma_buf) else {
                check(driver == "virtio_gpu" && source != driver, format!("{source} to {driver}"))?;
                continue;
            };
            seed += 1;
            fill(&dma_buf, &xr24(seed))?;
            let planes = [FramePlane { buffer: &gem, offset: 0, pitch: PITCH as u32 }];
            let framebuffer = display.card.framebuffer(PICTURE, &planes)?;
            drop(gem); // the framebuffer keeps it
            display.show(&framebuffer)?;
            monitor.shows(driver, WIDTH, &colours(&xr24(seed)))?;
        }
        check(seed == if driver == "virtio_gpu" { 1 } else { 5 }, format!("{seed} shown"))?;
    }
    Ok(())
}

/// A frame of each source, unwritten.
fn frames() -> Result<Vec<(String, DmaBuf)>, Failed> {
    let len = PITCH * HEIGHT;
    let mut frames = vec![
        ("udmabuf".to_owned(), Udmabuf::open()?.export(len)?.dma_buf()?.clone()),
        ("heap".to_owned(), DmaHeap::open("system")?.export(len)?.dma_buf()?.clone()),
    ];
    for driver in DRIVERS {
        let dumb = primary(driver)?.dumb_buffer(640, 480, 32)?;
        check(dumb.pitch() == PITCH, format!("{driver}: a pitch of {}", dumb.pitch()))?;
        frames.push((driver.to_owned(), dumb.buffer().dma_buf()?.clone()));
    }
    Ok(frames)
}

fn planes() -> Outcome {
    let display = Display::of("bochs-drm")?;
    let heap = DmaHeap::open("system")?;
    // The picture begins at the second row of its buffer.
    let dma_buf = heap.allocate(PITCH * (HEIGHT + 1))?;
    let picture = [vec![0xAA; PITCH], xr24(9)].concat();
    fill(&dma_buf, &picture)?;
    let gem = display.card.import(&dma_buf)?;
    let plane = FramePlane { buffer: &gem, offset: PITCH as u32, pitch: PITCH as u32 };
    let framebuffer = display.card.framebuffer(PICTURE, &[plane])?;
    display.show(&framebuffer)?;
    Monitor::open()?.shows("bochs-drm", WIDTH, &colours(&xr24(9)))?;

    // Whoever may ask the display what it shows has its buffers.
    let elsewhere = Card::open(display.card.path())?;
    let shown = DrmFile(&elsewhere).get_crtc(display.crtc)?.framebuffer().ok_or("a dark screen")?;
    let before = first_free(&elsewhere)?;
    let found = elsewhere.framebuffer_planes(shown.into())?;
    check(found.to_string().starts_with("640x480 XR24 "), &found)?;
    let [plane] = &found.planes[..] else { return Err(found.to_string().into()) };
    let place = (plane.offset as usize, plane.pitch as usize);
    check(place == (PITCH, PITCH), format!("{place:?}"))?;
    check(bytes(&plane.buffer, picture.len())? == picture, "another buffer")?;
    check(first_free(&elsewhere)? == before, "a handle was left open")?;

    // What no framebuffer is made of.
    let other = elsewhere.import(&dma_buf)?;
    let plane = FramePlane { buffer: &other, offset: 0, pitch: PITCH as u32 };
    let strange = display.card.framebuffer(PICTURE, &[plane]);
    check(matches!(strange, Err(DrmError::OtherFile { .. })), format!("{strange:?}"))?;
    let plane = FramePlane { buffer: &gem, offset: 0, pitch: PITCH as u32 };
    for count in [0, 5] {
        let answer = display.card.framebuffer(PICTURE, &vec![plane; count]);
        let refused = matches!(answer, Err(DrmError::Planes { count: told, .. }) if told == count);
        check(refused, format!("{count}: {answer:?}"))?;
    }
    let past = FramePlane { offset: 2 * PITCH as u32, ..plane };
    let answer = display.card.framebuffer(PICTURE, &[past]);
    check(errno(&answer) == Some(Errno::INVAL), format!("{answer:?}"))?;
    drop(framebuffer);
    let answer = elsewhere.framebuffer_planes(shown.into());
    check(errno(&answer) == Some(Errno::NOENT), format!("{answer:?}"))
}

/// The first handle that is free on a card's file.
fn first_free(card: &Card) -> Result<NonZeroU32, Failed> {
    Ok(card.dumb_buffer(64, 1, 32)?.gem().handle())
}

fn leaks() -> Outcome {
    let cards: [Card; 3] = [primary("vgem")?, primary("virtio_gpu")?, primary("bochs-drm")?];
    let [vgem, virtio, bochs] = &cards;
    let cycle = || -> Result<[NonZeroU32; 3], Failed> {
        let picture = vgem.dumb_buffer(64, 64, 32)?;
        let dma_buf = picture.buffer().dma_buf()?;
        let (there, twice) = (bochs.import(dma_buf)?, bochs.import(dma_buf)?);
        let own = virtio.dumb_buffer(64, 64, 32)?;
        let again = virtio.import(own.buffer().dma_buf()?)?;
        drop(own);
        let access = picture.buffer().cpu()?.begin(Intent::Write)?;
        access.map().write(0, 1u8)?;
        access.finish()?;
        let (object, timeline) = (virtio.syncobj()?, virtio.timeline()?);
        object.import_sync_file(dma_buf.export_sync_file(Intent::Read)?.as_fd())?;
        timeline.put(1, &object)?;
        timeline.export_sync_file(1)?;
        drop(there);
        bochs.export(4096)?;
        Ok([picture.gem().handle(), twice.handle(), again.handle()])
    };
    let handles = cycle()?;
    let (held, buffers) = (Holdings::now()?, dma_bufs()?);
    for _ in 0..1000 {
        let now = cycle()?;
        // The kernel gives the lowest number that is free.
        check(now == handles, format!("handles {now:?} where {handles:?} were free"))?;
    }
    check(Holdings::now()? == held, format!("{held:?} before, {:?} now", Holdings::now()?))?;
    check(dma_bufs()? == buffers, format!("{buffers} dma-bufs before, {} now", dma_bufs()?))
}
