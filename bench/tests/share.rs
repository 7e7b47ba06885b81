//! The examples that share frames, as processes of their own, on real drivers.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use bufmap_bench::display::Display;
use bufmap_bench::leaks::{dma_bufs, dma_bufs_are};
use bufmap_bench::monitor::{Monitor, colours};
use bufmap_bench::programs::{Ended, Program, example};
use bufmap_bench::{Outcome, check};
use exporters::frame::{DrmFourcc, FramePlane, Picture, TestCard};
use exporters::socket::{Link, Listener, MAX_FDS, Sink, Text};
use exporters::{DmaHeap, Intent};
use libtest_mimic::Failed;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Signal, Uid};

fn main() -> ExitCode {
    bufmap_bench::run(
        "gpu",
        &[
            ("share_frames_of_every_source_and_with_every_importer", matrix),
            ("share_what_an_importer_cannot_take_is_refused_on_both_sides", refusals),
            ("share_pictures_of_several_planes_and_odd_sizes", pictures),
            ("share_a_slow_writer_is_waited_for_and_tears_if_not", slow_writer),
            ("share_a_killed_process_leaves_the_other_an_error_and_nothing_else", killed),
            ("share_a_process_that_hangs_is_left", hangs),
            ("share_ctrl_c_removes_the_socket", interrupted),
            ("share_hostile_exporters_are_refused", hostile_exporters),
            ("share_hostile_importers_are_refused", hostile_importers),
            ("share_frames_are_seen_on_the_screen_and_then_what_was_before", scan_out),
        ],
    )
}

const SOCKET: &str = "/tmp/share";
const LONG: Duration = Duration::from_secs(60);
const SMALL: &str = "80x60 XR24 LINEAR";

/// An example, whose use of Vulkan Khronos' validation layer watches: it prints what is wrong.
fn watched(name: &str) -> Result<Command, Failed> {
    let mut example = example(name)?;
    example.arg(SOCKET).envs([
        ("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation"),
        ("VK_KHRONOS_VALIDATION_VALIDATE_SYNC", "1"),
    ]);
    Ok(example)
}

fn export(arguments: &[&str]) -> Result<Program, Failed> {
    let mut export = watched("dmabuf_export")?;
    for default in [["--frames", "4"], ["--rate", "0"]] {
        if !arguments.contains(&default[0]) {
            export.args(default);
        }
    }
    Program::start(&mut export, arguments)
}

fn import(arguments: &[&str]) -> Result<Program, Failed> {
    Program::start(&mut watched("dmabuf_import")?, arguments)
}

/// Fails the test unless a program ended so, having said these words somewhere.
fn ended(what: &str, ended: &Ended, status: i32, words: &str) -> Outcome {
    let said = format!("{}{}", ended.printed, ended.complaint);
    check(!said.contains("VUID") && !said.contains("SYNC-HAZARD"), format!("{what}: {said}"))?;
    check(ended.status == Some(status) && said.contains(words), format!("{what}: {ended:?}"))
}

/// Runs both to their good end, however long a busy machine takes to load a driver.
fn pair(exporter: &[&str], importer: &[&str]) -> Outcome {
    let patience = ["--patience", "60"];
    let exporter_runs = export(&[exporter, &patience].concat())?;
    let importer_runs = import(&[importer, &patience].concat())?;
    let importer_ended = importer_runs.ends(LONG)?;
    let exporter_ended = exporter_runs.ends(LONG)?;
    let what = format!("{exporter:?} to {importer:?}");
    ended(&what, &importer_ended, 0, "every pixel right")
        .and(ended(&what, &exporter_ended, 0, "frames in"))
        .map_err(|e| format!("{e:?}; {importer_ended:?}; {exporter_ended:?}").into())
}

/// Runs a test and holds the kernel to have as many dma-bufs after it as before.
fn without_leaks(test: impl FnOnce() -> Outcome) -> Outcome {
    let before = dma_bufs()?;
    test()?;
    dma_bufs_are(before, LONG)
}

/// Every source and every importer: what lies between them is the same, so not each pair.
fn matrix() -> Outcome {
    without_leaks(|| {
        let sources =
            ["udmabuf", "dma-heap", "vgem", "virtio-gpu", "bochs", "gbm", "vulkan", "wgpu"];
        let importers = ["drm:vgem", "drm:bochs", "gbm", "vulkan", "wgpu"];
        let pairs = sources.map(|source| (source, "cpu")).into_iter();
        for (source, importer) in pairs.chain(importers.map(|importer| ("udmabuf", importer))) {
            pair(&["--source", source, "--picture", SMALL], &["--to", importer])?;
        }
        pair(&["--source", "gbm", "--picture", SMALL], &["--to", "vulkan"])
    })
}

fn refusals() -> Outcome {
    without_leaks(|| {
        let exporter = export(&["--source", "udmabuf"])?;
        let importer = import(&["--to", "drm:virtio-gpu"])?;
        ended("importer", &importer.ends(LONG)?, 1, "takes no dma-buf of \"udmabuf\"")?;
        ended("exporter", &exporter.ends(LONG)?, 1, "it cannot use these frames")
    })?;
    for (arguments, words) in [
        (&["--picture", "640x480 xr24"][..], "is no format"),
        (&["--picture", "0x480 XR24 LINEAR"], "each side is 1 to"),
        (&["--picture", "640x480 XR24"], "only a LINEAR picture has rows"),
        (&["--source", "nouveau"], "no Primary node of the driver nouveau"),
        (&["--source", "dma-heap:none"], "/dev/dma_heap/none cannot be opened"),
    ] {
        let status = if words == "is no format" { 2 } else { 1 };
        ended("exporter", &export(arguments)?.ends(LONG)?, status, words)?;
    }
    let absent = import(&["--patience", "0"])?.ends(LONG)?;
    ended("importer", &absent, 1, "nobody listens on /tmp/share, for 0ns; start the exporter")?;
    let listener = Listener::bind(SOCKET)?;
    ended("exporter", &export(&[])?.ends(LONG)?, 1, "end the program that listens there")?;
    drop(listener);
    strangers()
}

/// An exporter of another user, whom one has to name.
fn strangers() -> Outcome {
    const NOBODY: u32 = 65534;
    let as_nobody = || -> Result<Listener, Failed> {
        rustix::thread::set_thread_uid(Uid::from_raw(NOBODY))?;
        Ok(Listener::bind(SOCKET)?)
    };
    let _listener = thread::scope(|scope| scope.spawn(as_nobody).join())
        .map_err(|_| Failed::from("a thread panicked"))??;
    let refused = import(&[])?.ends(LONG)?;
    ended("importer", &refused, 1, "a process of user 65534 listens there, and not of user 0")?;
    for user in ["65534", "anyone"] {
        let trusts = import(&["--patience", "1", "--user", user])?.ends(LONG)?;
        ended(
            "importer",
            &trusts,
            1,
            "waiting for a pool of frames: nothing came of it within 1s",
        )?;
    }
    Ok(())
}

fn pictures() -> Outcome {
    for (source, picture) in [
        ("dma-heap", "101x61 NV12 LINEAR"),
        ("udmabuf", "99x33 YU12 LINEAR"),
        ("vgem", "64x64 NV12 LINEAR"),
        ("bochs", "333x7 XR24 LINEAR"),
        ("vulkan", "31x200 RG16 LINEAR"),
        ("dma-heap", "1x1 R8 LINEAR"),
    ] {
        pair(&["--source", source, "--picture", picture], &["--to", "cpu"])?;
    }
    pair(&["--picture", "101x61 NV12 LINEAR"], &["--to", "vulkan"])?;
    // A layout that the driver keeps to itself is shared with that driver.
    pair(&["--source", "gbm", "--picture", "80x60 XR24"], &["--to", "gbm"])
}

fn slow_writer() -> Outcome {
    let slow = ["--source", "vgem", "--picture", SMALL, "--slow", "200"];
    pair(&slow, &["--to", "vulkan"])?;
    pair(&slow, &["--to", "cpu"])?;
    // Vulkan does not wait by itself, and this one is told not to.
    let (exporter, importer) = (export(&slow)?, import(&["--to", "vulkan", "--ignore-fences"])?);
    ended("importer", &importer.ends(LONG)?, 1, "in the place of")?;
    ended("exporter", &exporter.ends(LONG)?, 1, "the other process")
}

fn killed() -> Outcome {
    let endless = ["--picture", SMALL, "--frames", "0", "--rate", "30", "--patience", "8"];
    without_leaks(|| {
        for (source, to, points) in [
            ("udmabuf", "cpu", &[0, 20, 100, 400][..]),
            ("vgem", "drm:bochs", &[50, 200]),
            ("gbm", "vulkan", &[1500]),
        ] {
            for &after in points {
                for first in ["exporter", "importer"] {
                    let mut exporter = export(&[&endless[..], &["--source", source]].concat())?;
                    exporter.says("LINEAR")?;
                    let importer = import(&["--to", to, "--patience", "8"])?;
                    thread::sleep(Duration::from_millis(after));
                    let what = format!("{first}, {source} to {to}, after {after} ms");
                    let (dead, left) = match first {
                        "exporter" => (exporter, importer),
                        _ => (importer, exporter),
                    };
                    dead.signal(Signal::KILL)?;
                    check(dead.ends(LONG)?.status.is_none(), &what)?;
                    let left = left.ends(LONG)?;
                    // If nobody had connected yet, there is nobody to connect to.
                    let told =
                        ["the other process is gone", "nothing came of it", "nobody listens on"]
                            .iter()
                            .any(|words| left.complaint.contains(words));
                    check(left.status == Some(1) && told, format!("{what}: {left:?}"))?;
                }
            }
        }
        // In the middle of a frame, whose fence the kernel then signals as if it were drawn.
        let slow = [&endless[..], &["--source", "vgem", "--slow", "2000"]].concat();
        let mut exporter = export(&slow)?;
        exporter.says("LINEAR")?;
        let mut importer = import(&["--patience", "30"])?;
        importer.says("to cpu")?;
        thread::sleep(Duration::from_millis(500));
        exporter.signal(Signal::KILL)?;
        exporter.ends(LONG)?;
        ended("importer", &importer.ends(LONG)?, 1, "is gone; start it again; its last frame: ")
    })?;
    // A socket whose exporter died stands in nobody's way.
    let mut dead = export(&[])?;
    dead.says("LINEAR")?;
    dead.signal(Signal::KILL)?;
    dead.ends(LONG)?;
    check(Path::new(SOCKET).exists(), "a dead process has removed a file")?;
    pair(&["--picture", SMALL], &[])
}

fn hangs() -> Outcome {
    let exporter = ["--picture", SMALL, "--frames", "0", "--patience", "2"];
    for first in ["exporter", "importer"] {
        let mut exporter = export(&exporter)?;
        let mut importer = import(&["--patience", "2"])?;
        exporter.says("LINEAR")?;
        importer.says("to cpu")?;
        thread::sleep(Duration::from_millis(100));
        let (stopped, left) = match first {
            "exporter" => (exporter, importer),
            _ => (importer, exporter),
        };
        stopped.signal(Signal::STOP)?;
        let begun = Instant::now();
        ended(first, &left.ends(LONG)?, 1, "within 2s; the other process hangs, or is too slow")?;
        check(begun.elapsed() < Duration::from_secs(10), format!("{:?}", begun.elapsed()))?;
    }
    Ok(())
}

fn interrupted() -> Outcome {
    let mut alone = export(&["--frames", "0"])?;
    alone.says("LINEAR")?;
    check(Path::new(SOCKET).exists(), "no socket")?;
    alone.signal(Signal::INT)?;
    let alone = alone.ends(LONG)?;
    check(alone.status == Some(130), format!("{alone:?}"))?;
    check(!Path::new(SOCKET).exists(), "the socket's file is still there")?;

    // An exporter that is told to end has its frames taken to the last, however slowly.
    let exporter = export(&["--frames", "0", "--picture", SMALL])?;
    let mut importer = import(&["--slow", "150"])?;
    importer.says("to cpu")?;
    thread::sleep(Duration::from_millis(300));
    exporter.signal(Signal::INT)?;
    let exporter = exporter.ends(LONG)?;
    check(exporter.status == Some(130), format!("{exporter:?}"))?;
    ended("importer", &importer.ends(LONG)?, 0, "every pixel right")?;

    let exporter = export(&["--frames", "0", "--picture", SMALL])?;
    let mut importer = import(&[])?;
    importer.says("to cpu")?;
    importer.signal(Signal::INT)?;
    let importer = importer.ends(LONG)?;
    check(importer.status == Some(130), format!("{importer:?}"))?;
    ended("exporter", &exporter.ends(LONG)?, 1, "the other process")
}

/// Sends what no end of ours would.
fn send(link: &Link, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Outcome {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        check(control.push(SendAncillaryMessage::ScmRights(fds)), "no room")?;
    }
    rustix::net::sendmsg(link, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// How long an example waits: what is not about that does not depend on how fast the machine is.
fn patience(words: &str) -> &'static str {
    if words.starts_with("within 1s") { "1" } else { "20" }
}

fn hostile_exporters() -> Outcome {
    let picture = Picture::linear(64, 16, DrmFourcc::Xrgb8888);
    let pool = |offset, pitch| {
        let frames = vec![vec![FramePlane { buffer: 0, offset, pitch }]];
        Text::Pool { picture, frames, fds: 1 }.encode()
    };
    let (buffer, null) = (DmaHeap::open("system")?.allocate(4096)?, File::open("/dev/null")?);
    let good = pool(0, 256);
    let mut newer = good.clone();
    newer[4] = 9;
    let ready = |slot| Text::Ready { slot, number: 0, fence: false }.encode();
    let buffer = [buffer.as_fd()];
    type Case<'a> = (&'a str, Vec<(&'a [u8], &'a [BorrowedFd<'a>])>);
    let (past, newer) = (pool(1, 256), newer);
    let (too_many, no_slot) = (vec![null.as_fd(); MAX_FDS + 1], ready(7));
    let null = [null.as_fd()];
    let cases: Vec<Case<'_>> = vec![
        ("0 file descriptors came with a message that has 1", vec![(&good, &[])]),
        ("more file descriptors came", vec![(&good, &too_many)]),
        ("is no dma-buf but /dev/null", vec![(&good, &null)]),
        ("plane 0 ends at byte 4097 of a buffer of 4096 bytes", vec![(&past, &buffer)]),
        ("the peer speaks version 9", vec![(&newer, &buffer)]),
        ("says that it has 56 bytes and has 55", vec![(&good[..55], &buffer)]),
        ("begins with 0x54544547", vec![(b"GETTHEFRAMES", &[])]),
        ("a message of more than", vec![(&[0; 4096], &[])]),
        ("slot 7 of a pool of 1 frames", vec![(&good, &buffer), (&no_slot, &[])]),
        ("a second pool came", vec![(&good, &buffer), (&good, &buffer)]),
        ("within 1s; the other process hangs", vec![]),
        ("within 1s; the other process hangs", vec![(&good, &buffer)]),
    ];
    without_leaks(|| {
        for (words, messages) in &cases {
            let listener = Listener::bind(SOCKET)?;
            let importer = import(&["--patience", patience(words)])?;
            let link = listener.accept(LONG)?;
            messages.iter().try_for_each(|(bytes, fds)| send(&link, bytes, fds))?;
            ended(words, &importer.ends(LONG)?, 1, words)?;
        }
        Ok(())
    })
}

fn hostile_importers() -> Outcome {
    let null = File::open("/dev/null")?;
    let release = |slot, fence| Text::Released { slot, fence }.encode();
    type Case<'a> = (&'a str, Vec<u8>, Vec<BorrowedFd<'a>>);
    let cases: Vec<Case<'_>> = vec![
        ("slot 3 of a pool of 3 frames", release(3, false), vec![]),
        ("is no sync file but /dev/null", release(0, true), vec![null.as_fd()]),
        ("begins with 0x", b"{\"release\": 0}".to_vec(), vec![]),
        ("a frame came where", Text::Ready { slot: 0, number: 0, fence: false }.encode(), vec![]),
        ("more file descriptors came", release(0, true), vec![null.as_fd(); MAX_FDS + 1]),
        ("within 1s; the other process hangs", vec![], vec![]),
    ];
    without_leaks(|| {
        for (words, bytes, fds) in &cases {
            let endless = ["--picture", SMALL, "--frames", "0", "--patience", patience(words)];
            let exporter = export(&endless)?;
            let link = Link::connect(SOCKET, LONG)?;
            // Until its first frame is out there is nothing to release.
            let mut sink = Sink::accept(link, LONG)?;
            for _ in 0..3 {
                sink.next(LONG)?;
            }
            if !bytes.is_empty() {
                send(sink.link(), bytes, fds)?;
            }
            ended(words, &exporter.ends(LONG)?, 1, words)?;
        }
        Ok(())
    })
}

const WIDTH: usize = 640;
const HEIGHT: usize = 480;
const PICTURE: Picture = Picture::linear(WIDTH as u32, HEIGHT as u32, DrmFourcc::Xrgb8888);

/// Holds what a screen shows against a test card, pixel by pixel.
fn seen(monitor: &mut Monitor, device: &str, number: u64) -> Outcome {
    let card = TestCard::new(PICTURE, number)?;
    let rows: Vec<u8> = (0..HEIGHT).flat_map(|y| card.row(0, y)).collect();
    monitor.shows(device, WIDTH, &colours(&rows))
}

fn scan_out() -> Outcome {
    let mut monitor = Monitor::open()?;
    for (driver, device) in [("bochs", "bochs-drm"), ("virtio-gpu", "virtio_gpu")] {
        // What is there before: a test card with a number that no program of ours shows.
        let display = Display::of(device)?;
        let before = display.card.dumb_buffer(PICTURE.width, PICTURE.height, 32)?;
        let access = before.buffer().cpu()?.begin(Intent::Write)?;
        TestCard::new(PICTURE, 12_345_678)?.draw(0, &before.plane(access.map())?)?;
        access.finish()?;
        let plane = FramePlane { buffer: before.gem(), offset: 0, pitch: before.pitch() as u32 };
        let implicit = Picture { modifier: None, ..PICTURE };
        let framebuffer = display.card.framebuffer(implicit, &[plane])?;
        display.show(&framebuffer)?;

        // While another has the displays, they are not to be had.
        let scan_out = |arguments: &[&str]| -> Result<Program, Failed> {
            Program::start(example("kms_scanout")?.args(["--card", driver]), arguments)
        };
        ended(driver, &scan_out(&["--frames", "1"])?.ends(LONG)?, 1, "another program has")?;
        display.let_go()?;
        seen(&mut monitor, device, 12_345_678)?;

        let mut sources = vec![None];
        if driver == "bochs" {
            sources.extend([Some("dma-heap"), Some("vgem")]);
        }
        for source in sources {
            let from = source.map_or(vec![], |source| vec!["--source", source]);
            let shows = ["--frames", "2", "--hold"];
            let mut scan_out = scan_out(&[&shows[..], &from].concat())?;
            scan_out.says("frame 1 stays until Ctrl-C")?;
            seen(&mut monitor, device, 1)?;
            scan_out.signal(Signal::INT)?;
            let what = format!("{source:?} on {driver}");
            check(scan_out.ends(LONG)?.status == Some(130), &what)?;
            seen(&mut monitor, device, 12_345_678).map_err(|e| format!("{what}: {e:?}"))?;
        }

        // Another process's frames, which go round: each is on the screen and comes back.
        let sources = if driver == "bochs" { &["udmabuf", "gbm"][..] } else { &["virtio-gpu"] };
        for source in sources {
            let exporter = export(&["--source", source, "--frames", "5", "--patience", "60"])?;
            let mut scan_out = scan_out(&["--from", SOCKET, "--hold"])?;
            scan_out.says("frame 4 stays until Ctrl-C")?;
            seen(&mut monitor, device, 4)?;
            scan_out.signal(Signal::INT)?;
            check(scan_out.ends(LONG)?.status == Some(130), source)?;
            ended(source, &exporter.ends(LONG)?, 0, "5 frames in")?;
            seen(&mut monitor, device, 12_345_678).map_err(|e| format!("{source}: {e:?}"))?;
        }
        // An exporter that dies leaves the screen as it was before, too.
        let exporter = export(&["--source", "virtio-gpu", "--frames", "0", "--rate", "5"])?;
        let mut scan_out = scan_out(&["--from", SOCKET])?;
        scan_out.says("640 x 480 at")?;
        thread::sleep(Duration::from_secs(1));
        exporter.signal(Signal::KILL)?;
        ended(driver, &scan_out.ends(LONG)?, 1, "the other process is gone")?;
        seen(&mut monitor, device, 12_345_678)?;
    }
    Ok(())
}
