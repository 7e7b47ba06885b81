//! Draws frames into dma-bufs and gives them to another process, which need not copy a pixel.
//!
//! In one terminal: `cargo run --example dmabuf_export -- /tmp/frames --source udmabuf`
//!
//! In another: `cargo run --example dmabuf_import -- /tmp/frames --to vulkan`

use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bufmap::exporters::drm::{Card, Gem, Node};
use bufmap::exporters::frame::{Picture, TestCard};
use bufmap::exporters::gbm::{self, Bo, Usage};
use bufmap::exporters::outside::{outside, report};
use bufmap::exporters::socket::{Free, Link, Listener, SocketError, Source};
use bufmap::exporters::vulkan::{Buffer, CopyRegion, Device, Ticket, Transfer};
use bufmap::exporters::{DmaHeap, Export, Exporter, Frame, Intent, Udmabuf};
use bufmap::iomap::{Memory, PageSize};
use clap::Parser;

/// Draw moving frames with their number in them, and give them to a process that connects
///
/// The frames go round: each is drawn, shown by the other process, and comes back. Start this program
/// first, then `dmabuf_import` or `kms_scanout` with the same path. It ends with status 0 once all
/// frames were taken, 1 if something failed (the other process ended, hangs, or cannot use the frames),
/// 2 if it was called wrongly, 130 after Ctrl-C; the socket's file is gone in any case.
#[derive(Parser)]
struct Arguments {
    /// The socket that is made for the other process to connect to
    socket: PathBuf,
    /// Where the memory comes from: udmabuf, dma-heap[:HEAP], gbm[:DRIVER], vulkan[:DEVICE],
    /// wgpu[:DEVICE] (cargo's --features wgpu), or a DRM driver such as vgem, virtio-gpu or bochs
    #[arg(long, default_value = "udmabuf")]
    source: Kind,
    /// What each frame is: its size, its format and its layout
    #[arg(long, default_value = "640x480 XR24 LINEAR")]
    picture: Picture,
    /// How many frames to draw; 0 goes on until Ctrl-C
    #[arg(long, default_value_t = 600)]
    frames: u64,
    /// How many frames go round
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=16))]
    pool: u64,
    /// How many frames a second; 0 goes as fast as they come back
    #[arg(long, default_value_t = 60)]
    rate: u32,
    /// How long to wait for the other process, in seconds, whatever it should do
    #[arg(long, default_value_t = 10)]
    patience: u64,
    /// Stop for so long in the middle of each frame, in milliseconds; of vgem it is given away before,
    /// with a fence that the other process has to wait for
    #[arg(long, default_value_t = 0)]
    slow: u64,
}

/// How long the other process has, after Ctrl-C, for the frames that it was given.
const FAREWELL: Duration = Duration::from_secs(2);

/// Set by Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

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
            eprintln!("dmabuf_export: {}", report(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { picture, rate, .. } = *arguments;
    let patience = Duration::from_secs(arguments.patience);
    let mut painter = arguments.source.painter(picture, arguments.pool as usize)?;
    let listener = Listener::bind(&arguments.socket)?;
    println!("{} of {} on {}", painter.frames()[0], arguments.source.0, outside(listener.path()));
    let link: Link = patiently(patience, |limit| listener.accept(limit))?;
    drop(listener);

    let frames = painter.frames().to_vec();
    let mut source = Source::offer(link, &frames, patience)?;
    let begun = Instant::now();
    let mut due = begun;
    let period = Duration::from_secs(1).checked_div(rate).unwrap_or_default();
    let mut number = 0;
    while (arguments.frames == 0 || number < arguments.frames) && !STOP.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // Who is late does not hurry: the display has its own pace.
        due = due.max(Instant::now()) + period;
        let free: Free = match patiently(patience, |limit| source.free(limit)) {
            Err(SocketError::TimedOut { .. }) if STOP.load(Ordering::Relaxed) => break,
            free => free?,
        };
        if let Some(fence) = &free.fence {
            fence.wait(patience)?;
        }
        let (slot, slow) = (free.slot, Duration::from_millis(arguments.slow));
        let mut free = Some(free);
        let mut ready = |fence: Option<BorrowedFd<'_>>| match free.take() {
            Some(free) => Ok(source.ready(free, fence, patience).map(drop)?),
            None => Ok(()),
        };
        painter.draw(slot, &TestCard::new(picture, number)?, slow, &mut ready)?;
        number += 1;
    }
    // Frames that are out may be looked at to the end, after Ctrl-C as well, but not for long.
    match STOP.load(Ordering::Relaxed) {
        true => source.finish(patience.min(FAREWELL))?,
        false => patiently(patience, |limit| source.finish(limit))?,
    }
    let took = begun.elapsed().as_secs_f64();
    println!("{number} frames in {took:.2} s: {:.1} a second", number as f64 / took);
    Ok(())
}

/// Waits for so long, but no longer than until Ctrl-C.
fn patiently<T>(
    patience: Duration,
    mut wait: impl FnMut(Duration) -> Result<T, SocketError>,
) -> Result<T, SocketError> {
    let begun = Instant::now();
    loop {
        let error = match wait(patience.min(Duration::from_millis(50))) {
            Ok(came) => return Ok(came),
            Err(error) => error,
        };
        let waits = begun.elapsed() < patience && !STOP.load(Ordering::Relaxed);
        match error {
            SocketError::TimedOut { .. } if waits => {}
            SocketError::TimedOut { what, .. } => {
                return Err(SocketError::TimedOut { what, limit: patience });
            }
            error => return Err(error),
        }
    }
}

/// A source's name, as it is given.
#[derive(Clone, Debug)]
struct Kind(String);

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name.is_empty() {
            true => Err("name a source, such as udmabuf".to_owned()),
            false => Ok(Self(name.to_owned())),
        }
    }
}

impl Kind {
    /// Makes the frames.
    fn painter(&self, picture: Picture, count: usize) -> Result<Box<dyn Painter>, Failure> {
        let (name, which) = match self.0.split_once(':') {
            Some((name, which)) => (name, Some(which)),
            None => (self.0.as_str(), None),
        };
        Ok(match name {
            "udmabuf" => Box::new(Plain::exported(&Udmabuf::open()?, picture, count)?),
            "dma-heap" => {
                let heap = DmaHeap::open(which.unwrap_or("system"))?;
                Box::new(Plain::exported(&heap, picture, count)?)
            }
            "gbm" => Box::new(Drawn::new(which.unwrap_or("virtio-gpu"), picture, count)?),
            "vulkan" => Box::new(Copied::new(&Device::open(which)?, picture, count)?),
            #[cfg(feature = "wgpu")]
            "wgpu" => Box::new(by_wgpu::Textures::new(which, picture, count)?),
            #[cfg(not(feature = "wgpu"))]
            "wgpu" => return Err("run it with `cargo run --features wgpu --example …`".into()),
            driver => Box::new(Plain::dumb(&primary(driver)?, picture, count)?),
        })
    }
}

/// The primary node of a driver, which people write in more than one way.
fn primary(driver: &str) -> Result<Card, Failure> {
    let name = match driver {
        "virtio-gpu" => "virtio_gpu",
        "bochs" => "bochs-drm",
        name => name,
    };
    Ok(Card::find(name, Node::Primary)?)
}

/// Gives a frame away, with the fence of who still draws it, if somebody does.
type Ready<'a> = dyn FnMut(Option<BorrowedFd<'_>>) -> Result<(), Failure> + 'a;

/// Frames, and how they are drawn.
trait Painter {
    fn frames(&self) -> &[Frame];

    /// Draws a card into a frame, and calls `ready` once it may be given away: when it is drawn, or
    /// before that with a fence.
    fn draw(
        &mut self,
        slot: usize,
        card: &TestCard,
        slow: Duration,
        ready: &mut Ready<'_>,
    ) -> Result<(), Failure>;
}

/// Frames that the CPU draws, wherever they lie.
struct Plain {
    frames: Vec<Frame>,
    buffers: Vec<(Export, Option<Gem>)>,
}

impl Plain {
    /// In memory of a source that gives bytes.
    fn exported(from: &dyn Exporter, picture: Picture, count: usize) -> Result<Self, Failure> {
        let layout = picture.lay_out(256)?;
        let mut plain = Self { frames: Vec::new(), buffers: Vec::new() };
        for _ in 0..count {
            let export = from.export(layout.len())?;
            plain.frames.push(layout.over(export.dma_buf()?)?);
            plain.buffers.push((export, None));
        }
        Ok(plain)
    }

    /// In a card's dumb buffers, whose pitch the driver chooses. Its formats are those that are one
    /// plane of whole pixels; others are laid out in bytes.
    fn dumb(card: &Card, picture: Picture, count: usize) -> Result<Self, Failure> {
        let mut layout = picture.lay_out(1)?;
        let pixel = layout.planes[0].pitch / picture.width;
        if layout.planes.len() > 1 || layout.planes[0].pitch != pixel * picture.width {
            return Self::exported(card, picture, count);
        }
        let mut plain = Self { frames: Vec::new(), buffers: Vec::new() };
        for _ in 0..count {
            let dumb = card.dumb_buffer(picture.width, picture.height, pixel * 8)?;
            layout.planes[0].pitch = dumb.pitch().try_into()?;
            let gem = dumb.gem().clone();
            let export = Export::from(dumb);
            plain.frames.push(layout.over(export.dma_buf()?)?);
            plain.buffers.push((export, Some(gem)));
        }
        Ok(plain)
    }
}

impl Painter for Plain {
    fn frames(&self) -> &[Frame] {
        &self.frames
    }

    fn draw(
        &mut self,
        slot: usize,
        card: &TestCard,
        slow: Duration,
        ready: &mut Ready<'_>,
    ) -> Result<(), Failure> {
        let (frame, (export, gem)) = (&self.frames[slot], &self.buffers[slot]);
        let access = export.cpu()?.begin(Intent::Write)?;
        // A fence of one's own goes on the buffer after the bracket has begun, or it would be waited
        // for there.
        let writing = match gem.as_ref().filter(|gem| gem.card().driver() == "vgem") {
            None => None,
            Some(gem) => {
                let writing = gem.begin_write()?;
                ready(Some(frame.planes[0].buffer.export_sync_file(Intent::Read)?.as_fd()))?;
                Some(writing)
            }
        };
        thread::sleep(slow);
        for index in 0..frame.planes.len() {
            card.draw(index, &frame.rows(index, access.map())?)?;
        }
        access.finish()?;
        match writing {
            Some(writing) => Ok(writing.end()?),
            None => ready(None),
        }
    }
}

/// Frames of a GBM device, drawn through its maps.
struct Drawn {
    frames: Vec<Frame>,
    bos: Vec<Bo>,
}

impl Drawn {
    fn new(driver: &str, picture: Picture, count: usize) -> Result<Self, Failure> {
        let device = gbm::Device::open(primary(driver)?.path())?;
        let Picture { width, height, format, modifier } = picture;
        let bo = |_| match modifier {
            Some(modifier) => {
                device.create_with(width, height, format, &[modifier], Usage::empty())
            }
            None => device.create(width, height, format, Usage::RENDERING),
        };
        let bos = (0..count).map(bo).collect::<Result<Vec<_>, _>>()?;
        let frames = bos.iter().map(Bo::export).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { frames, bos })
    }
}

impl Painter for Drawn {
    fn frames(&self) -> &[Frame] {
        &self.frames
    }

    fn draw(
        &mut self,
        slot: usize,
        card: &TestCard,
        slow: Duration,
        ready: &mut Ready<'_>,
    ) -> Result<(), Failure> {
        let map = self.bos[slot].map(Intent::Write)?;
        thread::sleep(slow);
        card.draw(0, &map.plane())?;
        drop(map); // which may copy the pixels to where they belong
        ready(None)
    }
}

/// Frames in a Vulkan device's memory, to which it copies them itself.
struct Copied {
    frames: Vec<Frame>,
    layout: Frame<()>,
    buffers: Vec<Arc<Buffer>>,
    pages: Arc<Memory>,
    staging: Arc<Buffer>,
    transfer: Transfer,
    /// The copy that may still read the pages.
    copied: Option<Ticket>,
}

impl Copied {
    fn new(device: &Device, picture: Picture, count: usize) -> Result<Self, Failure> {
        let layout = picture.lay_out(256)?;
        let len = layout.len().next_multiple_of(PageSize::Base.bytes());
        let pages = Arc::new(Memory::memfd("frame", len, PageSize::Base)?);
        let (mut frames, mut buffers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let buffer = Arc::new(device.allocate(len, true)?);
            frames.push(layout.over(&buffer.export_dma_buf()?)?);
            buffers.push(buffer);
        }
        let staging = Arc::new(device.import_memory(pages.clone())?);
        let transfer = device.transfer()?;
        Ok(Self { frames, layout, buffers, pages, staging, transfer, copied: None })
    }
}

impl Painter for Copied {
    fn frames(&self) -> &[Frame] {
        &self.frames
    }

    fn draw(
        &mut self,
        slot: usize,
        card: &TestCard,
        slow: Duration,
        ready: &mut Ready<'_>,
    ) -> Result<(), Failure> {
        if let Some(before) = self.copied.take() {
            self.transfer.wait(before)?;
        }
        for index in 0..self.layout.planes.len() {
            card.draw(index, &self.layout.rows(index, self.pages.map())?)?;
        }
        thread::sleep(slow);
        let all = CopyRegion { src_offset: 0, dst_offset: 0, len: self.layout.len() };
        let copied = self.transfer.copy(&self.staging, &self.buffers[slot], &[all])?;
        if self.transfer.device().sync_files().is_err() {
            self.transfer.wait(copied)?;
            return ready(None);
        }
        // The frame goes while the device copies, with the copy's fence; none if it is done already.
        let fence = self.transfer.sync_file()?;
        self.copied = Some(copied);
        ready(fence.as_ref().map(AsFd::as_fd))
    }
}

#[cfg(feature = "wgpu")]
mod by_wgpu {
    use bufmap::exporters::wgpu::{Device, SharedTexture, wgpu};

    use super::*;

    /// Frames that wgpu writes as textures.
    pub struct Textures {
        device: Device,
        picture: Picture,
        frames: Vec<Frame>,
        textures: Vec<SharedTexture>,
    }

    impl Textures {
        pub fn new(
            selector: Option<&str>,
            picture: Picture,
            count: usize,
        ) -> Result<Self, Failure> {
            let device = Device::open(selector, &wgpu::DeviceDescriptor::default())?;
            let Picture { width, height, format, modifier } = picture;
            let usage = wgpu::TextureUsages::COPY_DST;
            let modifiers = match modifier {
                Some(modifier) => vec![modifier],
                None => device.modifiers(format, usage)?,
            };
            let texture = |_| device.create_texture(width, height, format, &modifiers, usage);
            let textures = (0..count).map(texture).collect::<Result<Vec<_>, _>>()?;
            let frames = textures.iter().map(|texture| texture.frame().clone()).collect();
            Ok(Self { device, picture, frames, textures })
        }
    }

    impl Painter for Textures {
        fn frames(&self) -> &[Frame] {
            &self.frames
        }

        fn draw(
            &mut self,
            slot: usize,
            card: &TestCard,
            slow: Duration,
            ready: &mut Ready<'_>,
        ) -> Result<(), Failure> {
            let rows: Vec<_> = (0..self.picture.height as usize).map(|y| card.row(0, y)).collect();
            let layout = wgpu::TexelCopyBufferLayout {
                offset: 0,
                bytes_per_row: rows.first().map(|row| row.len() as u32),
                rows_per_image: None,
            };
            let turn = self.textures[slot].acquire(Intent::Write)?;
            thread::sleep(slow);
            let queue = self.device.queue();
            queue.write_texture(turn.as_image_copy(), &rows.concat(), layout, turn.size());
            turn.release()?;
            ready(None)
        }
    }
}
