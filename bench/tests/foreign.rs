//! Programs that this project did not write, on the machine's real drivers: kmscube, which draws by Mesa
//! and shows by itself, and GStreamer, which shows and reads our dma-bufs and whose pictures we take.

use std::fs;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use bufmap_bench::dma_buf::inode;
use bufmap_bench::drm_file::DrmFile;
use bufmap_bench::leaks::{dma_bufs, dma_bufs_are};
use bufmap_bench::monitor::{Colours, Monitor, colours};
use bufmap_bench::programs::Program;
use bufmap_bench::{Outcome, check, comes_true};
use drm::control::Device as _;
use exporters::drm::{Card, Node};
use exporters::frame::{DrmFourcc, Picture, TestCard};
use exporters::{DmaBuf, DmaHeap, Frame, Intent};
use libtest_mimic::Failed;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::Signal;

fn main() -> ExitCode {
    bufmap_bench::run(
        "gpu",
        &[
            ("foreign_what_kmscube_shows_is_taken_as_dma_bufs", kmscube),
            ("foreign_what_gstreamer_shows_is_taken_as_dma_bufs", gstreamer_shows),
            ("foreign_gstreamer_reads_our_dma_bufs", gstreamer_reads),
            ("foreign_gstreamer_shows_our_dma_bufs_without_a_copy", gstreamer_shows_ours),
        ],
    )
}

const LONG: Duration = Duration::from_secs(60);
const WIDTH: usize = 640;
const HEIGHT: usize = 480;
const PICTURE: Picture = Picture::linear(WIDTH as u32, HEIGHT as u32, DrmFourcc::Xrgb8888);

/// A card that is asked what its displays show.
struct Asking(Card);

impl Asking {
    /// Looks at the console first: once somebody has, the kernel keeps a dma-buf of it.
    fn of(driver: &str) -> Result<Self, Failed> {
        let asking = Self(Card::find(driver, Node::Primary)?);
        asking.shown()?;
        Ok(asking)
    }

    /// What another process shows on the first display.
    fn shown(&self) -> Result<Option<Frame>, Failed> {
        let file = DrmFile(&self.0);
        let resources = file.resource_handles()?;
        let crtc = file.get_crtc(*resources.crtcs().first().ok_or("no CRTC")?)?;
        let Some(framebuffer) = crtc.framebuffer().filter(|_| crtc.mode().is_some()) else {
            return Ok(None);
        };
        Ok(Some(self.0.framebuffer_planes(framebuffer.into())?))
    }

    /// Waits until another process shows something of this kind, and returns its pixels.
    fn waits_for(&self, wanted: impl Fn(&[Colours]) -> bool) -> Result<Vec<Colours>, Failed> {
        let mut found = None;
        comes_true(LONG, || {
            let shown = self.shown()?.map(|frame| pixels(&frame)).transpose()?;
            found = shown.filter(|pixels| wanted(pixels));
            Ok(found.is_some())
        })?;
        found.ok_or_else(|| "it is never on the display".into())
    }
}

/// The pixels of a frame as the CPU reads them from its dma-buf.
fn pixels(frame: &Frame) -> Result<Vec<Colours>, Failed> {
    let named = frame.to_string();
    check(named.contains(" XR24") || named.contains(" AR24"), &named)?;
    let plane = &frame.planes[0];
    let mapping = plane.buffer.map()?;
    let access = mapping.begin_cpu_access(Intent::Read)?;
    let mut pixels = Vec::new();
    let mut row = vec![0; frame.picture.width as usize * 4];
    for y in 0..frame.picture.height as usize {
        let at = plane.offset as usize + y * plane.pitch as usize;
        access.map().copy_to_slice(at, &mut row)?;
        pixels.extend(colours(&row));
    }
    access.finish()?;
    Ok(pixels)
}

fn kmscube() -> Outcome {
    let asking = Asking::of("virtio_gpu")?;
    let before = dma_bufs()?;
    let mut monitor = Monitor::open()?;
    let node = asking.0.path().display().to_string();
    let mut kmscube = Program::start(&mut Command::new("kmscube"), &["-D", &node])?;
    kmscube.says("OpenGL ES 2.x information")?;
    // Once there is a cube in the place of the console, it turns until it is stopped.
    let first = asking.waits_for(|pixels| colours_in(pixels) > 500)?;
    asking.waits_for(|pixels| colours_in(pixels) > 500 && pixels != first)?;
    kmscube.signal(Signal::STOP)?;
    thread::sleep(Duration::from_millis(500));
    let frame = asking.shown()?.ok_or("a dark display")?;
    let taken = pixels(&frame)?;
    check(colours_in(&taken) > 500, "no cube once it holds still")?;
    monitor.shows("virtio_gpu", frame.picture.width as usize, &taken)?;
    drop((frame, kmscube));
    dma_bufs_are(before, LONG)
}

/// How many different pixels there are among one in sixteen.
fn colours_in(pixels: &[Colours]) -> usize {
    let mut different: Vec<_> = pixels.iter().step_by(16).collect();
    different.sort_unstable();
    different.dedup();
    different.len()
}

fn gst(arguments: &[&str]) -> Result<Program, Failed> {
    Program::start(Command::new("gst-launch-1.0").arg("-q"), arguments)
}

fn gst_ends(program: Program) -> Outcome {
    let ended = program.ends(LONG)?;
    check(ended.status == Some(0), format!("{ended:?}"))
}

/// Zone plates: every pixel is another than its neighbours, and none changes from frame to frame.
const PATTERN: [&str; 5] = ["videotestsrc", "pattern=zone-plate", "kx2=20", "ky2=20", "kt=0"];
const RAW: &str = "video/x-raw,format=BGRx,width=640,height=480,framerate=30/1";
const SINK: [&str; 4] =
    ["kmssink", "driver-name=bochs-drm", "force-modesetting=true", "sync=false"];

fn gstreamer_shows() -> Outcome {
    let file = ["num-buffers=1", "!", RAW, "!", "filesink", "location=/tmp/pattern"];
    gst_ends(gst(&[&PATTERN[..], &file].concat())?)?;
    let wanted = colours(&fs::read("/tmp/pattern")?);
    check(wanted.len() == WIDTH * HEIGHT, wanted.len())?;

    let asking = Asking::of("bochs-drm")?;
    let before = dma_bufs()?;
    let shows = gst(&[&PATTERN[..], &["!", RAW, "!"], &SINK].concat())?;
    asking.waits_for(|pixels| pixels == wanted)?;
    Monitor::open()?.shows("bochs-drm", WIDTH, &wanted)?;
    shows.signal(Signal::INT)?;
    shows.ends(LONG)?;
    dma_bufs_are(before, LONG)
}

/// GStreamer's own way to pass file descriptors between processes: what its element `unixfdsink` says
/// to `unixfdsrc` (`gstunixfd.h` of gst-plugins-bad, since 1.24).
struct UnixFd(UnixStream);

const NEW_BUFFER: u32 = 0;
const RELEASE_BUFFER: u32 = 1;
const CAPS: u32 = 2;
const EOS: u32 = 3;

/// `MEMORY_TYPE_DMABUF`, in the place after the flags; one memory; no metadata.
const ONE_DMA_BUF: [u8; 4] = [1, 1, 0, 0];

impl UnixFd {
    fn tell(&self, command: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Outcome {
        let bytes =
            [&command.to_ne_bytes()[..], &(payload.len() as u32).to_ne_bytes(), payload].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            check(control.push(SendAncillaryMessage::ScmRights(fds)), "no room")?;
        }
        let sent = rustix::net::sendmsg(
            &self.0,
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        check(sent == bytes.len(), sent)
    }

    /// Gives a dma-buf's first bytes to be shown or read.
    fn give(&self, id: u64, dma_buf: &DmaBuf, len: usize) -> Outcome {
        let mut payload = Vec::new();
        // Its number, no times, no offsets in the stream, no flags, and where it is in the memory.
        for word in [id, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX] {
            payload.extend(word.to_ne_bytes());
        }
        payload.extend(0u32.to_ne_bytes());
        payload.extend(ONE_DMA_BUF);
        for word in [len as u64, 0] {
            payload.extend(word.to_ne_bytes());
        }
        self.tell(NEW_BUFFER, &payload, &[dma_buf.as_fd()])
    }

    /// Waits until a buffer comes back, and says which.
    fn comes_back(&mut self) -> Result<u64, Failed> {
        let mut message = [0; 16];
        self.0.read_exact(&mut message)?;
        let word = |at: usize| u64::from_ne_bytes(message[at..at + 8].try_into().unwrap_or([0; 8]));
        let header = u64::from(RELEASE_BUFFER) | 8 << 32;
        check(word(0) == header, format!("{message:?}"))?;
        Ok(word(8))
    }
}

/// A pipeline that gets our frames, and the way to give them.
fn given_to(pipeline: &[&str], caps: &str) -> Result<(Program, UnixFd), Failed> {
    const SOCKET: &str = "/tmp/unixfd";
    let _ = fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET)?;
    let source = ["unixfdsrc", "socket-path=/tmp/unixfd", "!"];
    let program = gst(&[&source[..], pipeline].concat())?;
    let (stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(LONG))?;
    let to = UnixFd(stream);
    to.tell(CAPS, &[caps.as_bytes(), &[0]].concat(), &[])?;
    Ok((program, to))
}

/// So many frames in dma-bufs, each with its number in it.
fn cards(count: u64) -> Result<Vec<Frame>, Failed> {
    let layout = PICTURE.lay_out(64)?;
    let heap = DmaHeap::open("system")?;
    let card = |number| -> Result<Frame, Failed> {
        let frame = layout.over(&heap.allocate(layout.len())?)?;
        let mapping = frame.planes[0].buffer.map()?;
        let access = mapping.begin_cpu_access(Intent::Write)?;
        TestCard::new(PICTURE, number)?.draw(0, &frame.rows(0, access.map())?)?;
        access.finish()?;
        Ok(frame)
    };
    (0..count).map(card).collect()
}

const DMA_BUF_CAPS: &str = "video/x-raw(memory:DMABuf), format=(string)DMA_DRM, \
    drm-format=(string)XR24, width=(int)640, height=(int)480, framerate=(fraction)30/1";

fn gstreamer_reads() -> Outcome {
    let before = dma_bufs()?;
    let (reads, mut to) = given_to(&["filesink", "location=/tmp/read"], DMA_BUF_CAPS)?;
    let frames = cards(3)?;
    let len = WIDTH * HEIGHT * 4;
    for (id, frame) in frames.iter().enumerate() {
        to.give(id as u64, &frame.planes[0].buffer, len)?;
    }
    // It keeps the last one.
    for id in 0..2 {
        let back = to.comes_back()?;
        check(back == id, back)?;
    }
    to.tell(EOS, &[], &[])?;
    gst_ends(reads)?;
    let read = fs::read("/tmp/read")?;
    check(read.len() == 3 * len, read.len())?;
    for (number, bytes) in read.chunks_exact(len).enumerate() {
        let card = TestCard::new(PICTURE, number as u64)?;
        let rows = bytes.chunks_exact(WIDTH * 4).enumerate();
        let other = rows.filter(|(y, row)| card.row(0, *y) != *row).count();
        check(other == 0, format!("frame {number}: {other} rows are others"))?;
    }
    drop(frames);
    dma_bufs_are(before, LONG)
}

fn gstreamer_shows_ours() -> Outcome {
    let asking = Asking::of("bochs-drm")?;
    let before = dma_bufs()?;
    let mut monitor = Monitor::open()?;
    let (shows, mut to) = given_to(&SINK, DMA_BUF_CAPS)?;
    let frames = cards(4)?;
    for (number, frame) in frames.iter().enumerate() {
        let ours = &frame.planes[0].buffer;
        to.give(number as u64, ours, WIDTH * HEIGHT * 4)?;
        let is_shown = || -> Result<bool, Failed> {
            let shown = asking.shown()?;
            Ok(shown.is_some_and(|shown| inode(&shown.planes[0].buffer).ok() == inode(ours).ok()))
        };
        let is_shown = comes_true(LONG, is_shown)?;
        check(is_shown, format!("frame {number}: the display shows another buffer than ours"))?;
        let card = TestCard::new(PICTURE, number as u64)?;
        let rows: Vec<u8> = (0..HEIGHT).flat_map(|y| card.row(0, y)).collect();
        monitor.shows("bochs-drm", WIDTH, &colours(&rows))?;
    }
    to.tell(EOS, &[], &[])?;
    gst_ends(shows)?;
    // What it kept to show came back in its order.
    for id in 0..3 {
        let back = to.comes_back()?;
        check(back == id, back)?;
    }
    drop(frames);
    dma_bufs_are(before, LONG)
}
