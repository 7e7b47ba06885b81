//! Takes frames from another process and looks at each pixel of them.
//!
//! Start `dmabuf_export` first, then `cargo run --example dmabuf_import -- /tmp/frames --to vulkan`.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bufmap::exporters::dmabuf::Mapping;
use bufmap::exporters::drm::{Card, Gem, Node};
use bufmap::exporters::frame::TestCard;
use bufmap::exporters::gbm::{self, Bo, Usage};
use bufmap::exporters::outside::report;
use bufmap::exporters::socket::{Farewell, Link, Peer, Ready, Sink, SocketError};
use bufmap::exporters::vulkan::{Buffer, Device, Transfer};
use bufmap::exporters::{DmaBuf, DmaBufError, Frame, Intent, SyncFile};
use bufmap::iomap::BufMap;
use clap::Parser;

/// Take the frames of a `dmabuf_export`, and compare each pixel with what should be there
///
/// Every frame is imported once, by the CPU or by a device, and read again each time it is shown; the
/// pixels are never copied on their way. It ends with status 0 once the exporter has no more frames, or
/// after as many as were asked for; 1 if a pixel was wrong or something failed (the exporter ended,
/// hangs, or gives what cannot be); 2 if it was called wrongly; 130 after Ctrl-C.
#[derive(Parser)]
struct Arguments {
    /// The exporter's socket
    socket: PathBuf,
    /// Who reads the frames: cpu, drm:DRIVER (vgem, bochs, …), gbm[:DRIVER], vulkan[:DEVICE] or
    /// wgpu[:DEVICE] (cargo's --features wgpu); a display shows them by kms_scanout --from
    #[arg(long, default_value = "cpu")]
    to: String,
    /// How many frames to look at; 0 goes on until there are no more
    #[arg(long, default_value_t = 0)]
    frames: u64,
    /// How long to wait for the exporter, in seconds, whatever it should do
    #[arg(long, default_value_t = 10)]
    patience: u64,
    /// Whose exporter to take frames of: the number of a user, `same` (this one) or `anyone`
    #[arg(long, default_value = "same")]
    user: Peer,
    /// Look at the pixels without waiting for who draws them: with a slow exporter frames are torn
    #[arg(long)]
    ignore_fences: bool,
    /// Stop for so long before a frame is given back, in milliseconds
    #[arg(long, default_value_t = 0)]
    slow: u64,
}

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
            eprintln!("dmabuf_import: {}", report(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let patience = Duration::from_secs(arguments.patience);
    let link =
        patiently(patience, |limit| Link::connect_to(&arguments.socket, arguments.user, limit))?;
    let mut sink = Sink::accept(link, patience)?;
    let mut reader = match reader(&arguments.to, sink.frames()) {
        Ok(reader) => reader,
        Err(error) => {
            // The exporter learns that it is not its fault; if it is gone already, so be it.
            let _ = sink.leave(Farewell::Refused, patience);
            return Err(error);
        }
    };
    println!("{} to {}", sink.frames()[0], arguments.to);
    let begun = Instant::now();
    let mut seen = 0;
    while (arguments.frames == 0 || seen < arguments.frames) && !STOP.load(Ordering::Relaxed) {
        let Some(ready) = patiently(patience, |limit| sink.next(limit))? else { break };
        if !arguments.ignore_fences {
            wait_for_writers(&ready, &sink.frames()[ready.slot], patience)?;
        }
        let card = TestCard::new(sink.picture(), ready.number)?;
        reader.check(ready.slot, &card).map_err(|wrong| unless_gone(&mut sink, wrong))?;
        thread::sleep(Duration::from_millis(arguments.slow));
        sink.release(ready.slot, None, patience)?;
        seen += 1;
    }
    match sink.leave(Farewell::Done, patience) {
        // It has said goodbye itself, and need not hear ours.
        Ok(()) | Err(SocketError::Gone | SocketError::Left { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let took = begun.elapsed().as_secs_f64();
    println!("{seen} frames in {took:.2} s: {:.1} a second, every pixel right", seen as f64 / took);
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

/// Waits until the frame is written: by the fence that came with it, and by those on its buffers.
fn wait_for_writers(ready: &Ready, frame: &Frame, patience: Duration) -> Result<(), Failure> {
    if let Some(fence) = &ready.fence {
        fence.wait(patience)?;
    }
    for plane in &frame.planes {
        match plane.buffer.export_sync_file(Intent::Read) {
            // Before Linux 6.0 nobody can ask, and the brackets and drivers wait by themselves.
            Err(DmaBufError::Unsupported { .. }) => {}
            fences => SyncFile::new(fences?)?.wait(patience)?,
        }
    }
    Ok(())
}

/// What is to be said of a wrong frame. The fence of a process that dies is signalled as if its work were
/// done, sometimes before its socket closes: then the frame is not wrong but was never finished.
fn unless_gone(sink: &mut Sink, wrong: Failure) -> Failure {
    loop {
        match sink.next(Duration::from_secs(1)) {
            Ok(Some(_)) => {}
            Err(gone @ SocketError::Gone) => {
                return format!("{gone}; its last frame: {wrong}").into();
            }
            _ => return wrong,
        }
    }
}

/// Makes the frames somebody's, by the name that was given.
fn reader(to: &str, frames: &[Frame]) -> Result<Box<dyn Reader>, Failure> {
    let (name, which) = match to.split_once(':') {
        Some((name, which)) => (name, Some(which)),
        None => (to, None),
    };
    Ok(match (name, which) {
        ("cpu", None) => Box::new(Mapped::new(frames)?),
        ("drm", Some(driver)) => Box::new(Handled::new(&primary(driver)?, frames)?),
        ("gbm", which) => {
            let device = gbm::Device::open(primary(which.unwrap_or("virtio-gpu"))?.path())?;
            let import = |frame| device.import(frame, Usage::empty());
            let bos = frames.iter().map(import).collect::<Result<_, _>>()?;
            Box::new(Pictures { bos, turns: Mapped::new(frames)? })
        }
        ("vulkan", which) => Box::new(Copied::new(&Device::open(which)?, frames)?),
        #[cfg(feature = "wgpu")]
        ("wgpu", which) => Box::new(by_wgpu::Textures::new(which, frames)?),
        #[cfg(not(feature = "wgpu"))]
        ("wgpu", _) => return Err("run it with `cargo run --features wgpu --example …`".into()),
        _ => return Err(format!("no importer is called {to}; see --help").into()),
    })
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

/// Somebody who has imported the frames.
trait Reader {
    /// Compares a frame with what it should show.
    fn check(&mut self, slot: usize, card: &TestCard) -> Result<(), Failure>;
}

/// The CPU, by the mappings of the dma-bufs.
struct Mapped {
    frames: Vec<Frame>,
    /// One for each plane of each frame.
    mappings: Vec<Vec<Mapping>>,
}

impl Mapped {
    fn new(frames: &[Frame]) -> Result<Self, Failure> {
        let map = |frame: &Frame| frame.planes.iter().map(|plane| plane.buffer.map()).collect();
        let mappings = frames.iter().map(map).collect::<Result<_, DmaBufError>>()?;
        Ok(Self { frames: frames.to_vec(), mappings })
    }
}

impl Reader for Mapped {
    fn check(&mut self, slot: usize, card: &TestCard) -> Result<(), Failure> {
        let frame = &self.frames[slot];
        for (index, mapping) in self.mappings[slot].iter().enumerate() {
            let access = mapping.begin_cpu_access(Intent::Read)?;
            card.check(index, &frame.rows(index, access.map())?)?;
            access.finish()?;
        }
        Ok(())
    }
}

/// A DRM driver that has made the dma-bufs its own, and dma-bufs of them again: what those show is what
/// the driver has.
struct Handled {
    _gems: Vec<Gem>,
    back: Mapped,
}

impl Handled {
    fn new(card: &Card, frames: &[Frame]) -> Result<Self, Failure> {
        let mut gems = Vec::new();
        let mut frames = frames.to_vec();
        for plane in frames.iter_mut().flat_map(|frame| &mut frame.planes) {
            let gem = card.import(&plane.buffer)?;
            plane.buffer = gem.dma_buf()?;
            gems.push(gem);
        }
        Ok(Self { _gems: gems, back: Mapped::new(&frames)? })
    }
}

impl Reader for Handled {
    fn check(&mut self, slot: usize, card: &TestCard) -> Result<(), Failure> {
        self.back.check(slot, card)
    }
}

/// A GBM device that has imported the frames as pictures.
struct Pictures {
    bos: Vec<Bo>,
    /// For the dma-bufs' brackets, which `libgbm` need not open.
    turns: Mapped,
}

impl Reader for Pictures {
    fn check(&mut self, slot: usize, card: &TestCard) -> Result<(), Failure> {
        let begin = |mapping| Mapping::begin_cpu_access(mapping, Intent::Read);
        let _turns = self.turns.mappings[slot].iter().map(begin).collect::<Result<Vec<_>, _>>()?;
        let map = self.bos[slot].map(Intent::Read)?;
        Ok(card.check(0, &map.plane())?)
    }
}

/// A Vulkan device that has imported the dma-bufs as buffers, and copies their bytes for the CPU.
struct Copied {
    frames: Vec<Frame>,
    /// One for each plane of each frame.
    buffers: Vec<Vec<Arc<Buffer>>>,
    transfer: Transfer,
}

impl Copied {
    fn new(device: &Device, frames: &[Frame]) -> Result<Self, Failure> {
        let import = |dma_buf: &DmaBuf| device.import_dma_buf(dma_buf).map(Arc::new);
        let all = |frame: &Frame| frame.planes.iter().map(|plane| import(&plane.buffer)).collect();
        let buffers = frames.iter().map(all).collect::<Result<_, _>>()?;
        Ok(Self { frames: frames.to_vec(), buffers, transfer: device.transfer()? })
    }
}

impl Reader for Copied {
    fn check(&mut self, slot: usize, card: &TestCard) -> Result<(), Failure> {
        let frame = &self.frames[slot];
        for (index, buffer) in self.buffers[slot].iter().enumerate() {
            let mut bytes = vec![0; buffer.len()];
            self.transfer.read_back(buffer, 0, &mut bytes)?;
            card.check(index, &frame.rows(index, BufMap::from_slice(&bytes))?)?;
        }
        Ok(())
    }
}

#[cfg(feature = "wgpu")]
mod by_wgpu {
    use bufmap::exporters::wgpu::{Device, SharedTexture, wgpu};

    use super::*;

    /// Frames that wgpu has imported as textures, and copies for the CPU.
    pub struct Textures {
        device: Device,
        textures: Vec<SharedTexture>,
    }

    impl Textures {
        pub fn new(selector: Option<&str>, frames: &[Frame]) -> Result<Self, Failure> {
            let device = Device::open(selector, &wgpu::DeviceDescriptor::default())?;
            let import = |frame| device.import_texture(frame, wgpu::TextureUsages::COPY_SRC);
            let textures = frames.iter().map(import).collect::<Result<_, _>>()?;
            Ok(Self { device, textures })
        }
    }

    impl Reader for Textures {
        fn check(&mut self, slot: usize, card: &TestCard) -> Result<(), Failure> {
            let texture = &mut self.textures[slot];
            // wgpu copies to rows that begin at multiples of 256 bytes.
            let layout = texture.frame().picture.lay_out(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT)?;
            let pitch = layout.planes[0].pitch;
            let rows = texture.frame().picture.height;
            let target = self.device.device().create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: u64::from(pitch) * u64::from(rows),
                usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
                mapped_at_creation: false,
            });
            let into = wgpu::TexelCopyBufferInfo {
                buffer: &target,
                layout: wgpu::TexelCopyBufferLayout {
                    offset: 0,
                    bytes_per_row: Some(pitch),
                    rows_per_image: None,
                },
            };
            let turn = texture.acquire(Intent::Read)?;
            let mut encoder = self.device.device().create_command_encoder(&Default::default());
            encoder.copy_texture_to_buffer(turn.as_image_copy(), into, turn.size());
            self.device.queue().submit([encoder.finish()]);
            turn.release()?;
            target.map_async(wgpu::MapMode::Read, .., |_| {});
            self.device.device().poll(wgpu::PollType::wait_indefinitely())?;
            let bytes = target.get_mapped_range(..)?;
            Ok(card.check(0, &layout.rows(0, BufMap::from_slice(&bytes))?)?)
        }
    }
}
