//! Shows dma-bufs on a display, by its own page flips, and puts back what was there.
//!
//! `cargo run --example kms_scanout -- --card bochs` draws the frames itself. To show those of another
//! process, start `dmabuf_export` first, then
//! `cargo run --example kms_scanout -- --card bochs --from /tmp/frames`.

use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bufmap::exporters::drm::{Card, Framebuffer, Node};
use bufmap::exporters::frame::{FramePlane, Picture, TestCard};
use bufmap::exporters::outside::{outside, report};
use bufmap::exporters::socket::{Farewell, Link, Peer, Sink, SocketError};
use bufmap::exporters::{DmaHeap, Export, Exporter, Frame, Intent, SyncFile, Udmabuf};
use clap::Parser;
use drm::Device as _;
use drm::control::{Device as _, Event, Mode, PageFlipFlags, connector, crtc};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Show frames on a display straight from their dma-bufs
///
/// The card must be free: no display server may have its displays, so run this on a text console or on a
/// card that nobody uses. What the display showed before is shown again at the end. It ends with status 0
/// once all frames were shown, 1 if something failed, 2 if it was called wrongly, 130 after Ctrl-C.
#[derive(Parser)]
struct Arguments {
    /// The card: a driver's name, such as bochs or virtio-gpu, or a node, such as /dev/dri/card0
    #[arg(long)]
    card: String,
    /// Show the frames of a dmabuf_export that listens on this socket
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["source", "picture"])]
    from: Option<PathBuf>,
    /// Where the memory of frames of its own comes from: udmabuf, dma-heap or a DRM driver; the card's
    /// own if it is left out
    #[arg(long)]
    source: Option<String>,
    /// What each frame is: its size, for which the display has a mode, its format and its layout
    #[arg(long, default_value = "640x480 XR24 LINEAR")]
    picture: Picture,
    /// How many frames to show; 0 goes on until there are no more, or until Ctrl-C
    #[arg(long, default_value_t = 0)]
    frames: u64,
    /// Leave the last frame on the display until Ctrl-C
    #[arg(long)]
    hold: bool,
    /// How long to wait for the exporter or the display, in seconds
    #[arg(long, default_value_t = 10)]
    patience: u64,
    /// Whose exporter to take frames of: the number of a user, `same` (this one) or `anyone`
    #[arg(long, default_value = "same")]
    user: Peer,
}

/// Set by Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

/// How soon Ctrl-C is noticed.
const SLICE: Duration = Duration::from_millis(50);

type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed)) {
        Ok(()) => run(&arguments),
        Err(error) => Err(error.into()),
    };
    match ended {
        _ if STOP.load(Ordering::Relaxed) => ExitCode::from(130),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kms_scanout: {}", report(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let patience = Duration::from_secs(arguments.patience);
    let card = card(&arguments.card)?;
    let mut feed = match &arguments.from {
        Some(socket) => {
            let link = Link::connect_to(socket, arguments.user, patience)?;
            Feed::Peer(Sink::accept(link, patience)?)
        }
        None => own(&card, arguments.source.as_deref(), arguments.picture)?,
    };
    let shown = show(&card, &mut feed, arguments, patience);
    if let Feed::Peer(sink) = feed {
        let farewell = if shown.is_ok() { Farewell::Done } else { Farewell::Refused };
        // It may have gone, with or without a word; what went wrong here is told first.
        let _ = sink.leave(farewell, patience);
    }
    shown
}

/// Shows all frames and returns once the display is as it was.
fn show(
    card: &Card,
    feed: &mut Feed,
    arguments: &Arguments,
    patience: Duration,
) -> Result<(), Failure> {
    let framebuffers = framebuffers(card, feed.frames())?;
    let Picture { width, height, .. } = feed.frames()[0].picture;
    let mut display = Display::of(card, (width, height))?;
    println!("{} on {}", feed.frames()[0], display.describe());
    let begun = Instant::now();
    let (mut count, mut on_display) = (0, None);
    while (arguments.frames == 0 || count < arguments.frames) && !STOP.load(Ordering::Relaxed) {
        let Some((slot, number)) = feed.next(count, patience)? else { break };
        display.flip(&framebuffers[slot], patience)?;
        count += 1;
        if let Some((before, _)) = on_display.replace((slot, number)) {
            feed.release(before, patience)?;
        }
    }
    let took = begun.elapsed().as_secs_f64();
    println!("{count} frames in {took:.2} s: {:.1} a second", count as f64 / took);
    if let Some((_, number)) = on_display.filter(|_| arguments.hold) {
        println!("frame {number} stays until Ctrl-C");
        while !STOP.load(Ordering::Relaxed) {
            thread::sleep(SLICE);
        }
    }
    display.restore()
}

/// The card of a driver, whose name people write in more than one way, or of a node.
fn card(name: &str) -> Result<Card, Failure> {
    Ok(match name {
        "virtio-gpu" => Card::find("virtio_gpu", Node::Primary)?,
        "bochs" => Card::find("bochs-drm", Node::Primary)?,
        path if path.contains('/') => Card::open(path)?,
        driver => Card::find(driver, Node::Primary)?,
    })
}

/// Where frames come from.
enum Feed {
    /// Drawn here, in buffers of some source.
    Own { frames: Vec<Frame>, buffers: Vec<Export> },
    /// Another process's.
    Peer(Sink),
}

/// Two frames in memory of a source, or in the card's own.
fn own(on: &Card, source: Option<&str>, picture: Picture) -> Result<Feed, Failure> {
    let (mut frames, mut buffers) = (Vec::new(), Vec::new());
    let source: Option<Box<dyn Exporter>> = match source {
        None => None,
        Some("udmabuf") => Some(Box::new(Udmabuf::open()?)),
        Some("dma-heap") => Some(Box::new(DmaHeap::open("system")?)),
        Some(driver) => Some(Box::new(card(driver)?)),
    };
    for _ in 0..2 {
        let mut layout = picture.lay_out(64)?;
        let buffer = match &source {
            Some(source) => source.export(layout.len())?,
            None => {
                let dumb = on.dumb_buffer(picture.width, picture.height, 32)?;
                layout.planes[0].pitch = dumb.pitch().try_into()?;
                dumb.into()
            }
        };
        frames.push(layout.over(buffer.dma_buf()?)?);
        buffers.push(buffer);
    }
    Ok(Feed::Own { frames, buffers })
}

impl Feed {
    fn frames(&self) -> &[Frame] {
        match self {
            Self::Own { frames, .. } => frames,
            Self::Peer(sink) => sink.frames(),
        }
    }

    /// The next frame, written: its slot and its number.
    fn next(&mut self, count: u64, patience: Duration) -> Result<Option<(usize, u64)>, Failure> {
        match self {
            Self::Own { frames, buffers } => {
                let slot = count as usize % frames.len();
                let test_card = TestCard::new(frames[slot].picture, count)?;
                let access = buffers[slot].cpu()?.begin(Intent::Write)?;
                for index in 0..frames[slot].planes.len() {
                    test_card.draw(index, &frames[slot].rows(index, access.map())?)?;
                }
                access.finish()?;
                Ok(Some((slot, count)))
            }
            Self::Peer(sink) => {
                let Some(ready) = patiently(patience, |limit| sink.next(limit))? else {
                    return Ok(None);
                };
                if let Some(fence) = &ready.fence {
                    fence.wait(patience)?;
                }
                for plane in &sink.frames()[ready.slot].planes {
                    SyncFile::new(plane.buffer.export_sync_file(Intent::Read)?)?.wait(patience)?;
                }
                Ok(Some((ready.slot, ready.number)))
            }
        }
    }

    /// A frame is no longer on the display.
    fn release(&mut self, slot: usize, patience: Duration) -> Result<(), Failure> {
        match self {
            Self::Own { .. } => Ok(()),
            Self::Peer(sink) => Ok(sink.release(slot, None, patience)?),
        }
    }
}

/// Waits for so long, but no longer than until Ctrl-C.
fn patiently<T>(
    patience: Duration,
    mut wait: impl FnMut(Duration) -> Result<T, SocketError>,
) -> Result<T, SocketError> {
    let begun = Instant::now();
    loop {
        let error = match wait(patience.min(SLICE)) {
            Ok(came) => return Ok(came),
            Err(error) => error,
        };
        let waits = begun.elapsed() < patience && !STOP.load(Ordering::Relaxed);
        match error {
            SocketError::TimedOut { .. } | SocketError::NoListener { .. } if waits => {}
            SocketError::TimedOut { what, .. } => {
                return Err(SocketError::TimedOut { what, limit: patience });
            }
            SocketError::NoListener { path, .. } => {
                return Err(SocketError::NoListener { path, limit: patience });
            }
            error => return Err(error),
        }
    }
}

/// The frames as the card shows them: imported, with no copy of their own.
fn framebuffers(card: &Card, frames: &[Frame]) -> Result<Vec<Framebuffer>, Failure> {
    let framebuffer = |frame: &Frame| {
        let import = |plane: &FramePlane<_>| card.import(&plane.buffer);
        let gems = frame.planes.iter().map(import).collect::<Result<Vec<_>, _>>()?;
        let mut planes = Vec::new();
        for (FramePlane { offset, pitch, .. }, gem) in frame.planes.iter().zip(&gems) {
            planes.push(FramePlane { buffer: gem, offset: *offset, pitch: *pitch });
        }
        // A driver without modifiers takes linear pictures by leaving the modifier out.
        let implicit = Picture { modifier: None, ..frame.picture };
        let made = card.framebuffer(frame.picture, &planes);
        Ok(made.or_else(|_| card.framebuffer(implicit, &planes))?)
    };
    frames.iter().map(framebuffer).collect()
}

/// A card's file, on which displays are set.
struct Setting(Card);

impl AsFd for Setting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl drm::Device for Setting {}
impl drm::control::Device for Setting {}

/// A display that shows our frames, and what it showed before.
struct Display {
    on: Setting,
    connector: connector::Handle,
    crtc: crtc::Handle,
    mode: Mode,
    before: crtc::Info,
    /// The connectors that showed it.
    connectors: Vec<connector::Handle>,
    is_set: bool,
}

impl Display {
    /// A connected display with a mode of this size.
    fn of(card: &Card, size: (u32, u32)) -> Result<Self, Failure> {
        let on = Setting(card.clone());
        on.acquire_master_lock().map_err(|e| {
            format!("{}: {e}: another program has its displays; end it first", outside(card.path()))
        })?;
        let resources = on.resource_handles()?;
        let mut sizes = Vec::new();
        for &handle in resources.connectors() {
            let info = on.get_connector(handle, true)?;
            let of_mode = |mode: &Mode| (u32::from(mode.size().0), u32::from(mode.size().1));
            let Some(mode) = info.modes().iter().find(|mode| of_mode(mode) == size) else {
                sizes.extend(info.modes().iter().map(of_mode));
                continue;
            };
            let encoders = info.current_encoder().into_iter().chain(info.encoders().to_vec());
            for encoder in encoders {
                let encoder = on.get_encoder(encoder)?;
                let fitting = resources.filter_crtcs(encoder.possible_crtcs());
                let Some(crtc) = encoder.crtc().or(fitting.first().copied()) else { continue };
                let before = on.get_crtc(crtc)?;
                let connectors = showing(&on, crtc, resources.connectors())?;
                let (connector, mode) = (handle, *mode);
                let is_set = false;
                return Ok(Self { on, connector, crtc, mode, before, connectors, is_set });
            }
        }
        sizes.sort_unstable();
        sizes.dedup();
        let path = outside(card.path());
        Err(format!("{path}: no display of {} x {}; there are {sizes:?}", size.0, size.1).into())
    }

    fn describe(&self) -> String {
        let (width, height) = self.mode.size();
        let path = outside(self.on.0.path());
        format!(
            "{path} ({}), {width} x {height} at {} Hz",
            self.on.0.driver(),
            self.mode.vrefresh()
        )
    }

    /// Shows a framebuffer, and returns once the display has taken it and let go of the one before.
    fn flip(&mut self, framebuffer: &Framebuffer, patience: Duration) -> Result<(), Failure> {
        let id = framebuffer.id().into();
        if !self.is_set {
            self.on.set_crtc(self.crtc, Some(id), (0, 0), &[self.connector], Some(self.mode))?;
            self.is_set = true;
            return Ok(());
        }
        self.on.page_flip(self.crtc, id, PageFlipFlags::EVENT, None)?;
        let begun = Instant::now();
        while begun.elapsed() < patience && !STOP.load(Ordering::Relaxed) {
            let slice = Timespec::try_from(SLICE)?;
            if poll(&mut [PollFd::new(&self.on, PollFlags::IN)], Some(&slice))? == 0 {
                continue;
            }
            let flipped =
                |event: Event| matches!(event, Event::PageFlip(flip) if flip.crtc == self.crtc);
            if self.on.receive_events()?.any(flipped) {
                return Ok(());
            }
        }
        match STOP.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(format!("the display has not flipped within {patience:?}").into()),
        }
    }

    /// Shows what was there before.
    fn restore(mut self) -> Result<(), Failure> {
        self.put_back().map_err(|e| format!("what was on the display is not to be had: {e}").into())
    }

    fn put_back(&mut self) -> std::io::Result<()> {
        if !std::mem::take(&mut self.is_set) {
            return Ok(());
        }
        let (framebuffer, mode) = (self.before.framebuffer(), self.before.mode());
        let connectors = if mode.is_some() { self.connectors.as_slice() } else { &[] };
        self.on.set_crtc(self.crtc, framebuffer, self.before.position(), connectors, mode)
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        // Whoever wants to know calls `restore`.
        let _ = self.put_back();
        let _ = self.on.release_master_lock();
    }
}

/// The connectors that show a CRTC's picture.
fn showing(
    on: &Setting,
    crtc: crtc::Handle,
    connectors: &[connector::Handle],
) -> std::io::Result<Vec<connector::Handle>> {
    let mut showing = Vec::new();
    for &connector in connectors {
        let encoder = on.get_connector(connector, false)?.current_encoder();
        if let Some(encoder) = encoder
            && on.get_encoder(encoder)?.crtc() == Some(crtc)
        {
            showing.push(connector);
        }
    }
    Ok(showing)
}
