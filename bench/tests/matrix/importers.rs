//! Who takes frames: each importer, reading and writing in its own way.

use std::sync::Arc;

use exporters::dmabuf::Mapping;
use exporters::drm::{Card, Gem, Node};
use exporters::frame::{Frame, TestCard};
use exporters::gbm::{self, Bo, Usage};
use exporters::vulkan::{Buffer, CopyRegion, Image, ImageUse, Transfer, When};
use exporters::wgpu::{self as shared_wgpu, SharedBuffer, SharedTexture, wgpu};
use exporters::{Intent, frame};
use iomap::BufMap;
use libtest_mimic::Failed;

use crate::devices;
use crate::sources::{ALIGN, pages, write_texture};

/// Somebody who has imported a frame.
pub trait Importer {
    /// Compares the frame with the card that it should show.
    fn read(&mut self, card: &TestCard) -> Result<(), Failed>;

    /// Draws another card into it.
    fn write(&mut self, card: &TestCard) -> Result<(), Failed>;
}

type Import = fn(&Frame) -> Result<Box<dyn Importer>, Failed>;

/// The importers, by the names that the table has.
pub const IMPORTERS: [(&str, Import); 11] = [
    ("CPU", |frame| Ok(Box::new(Mapped::new(frame)?))),
    ("DRM vgem", |frame| by_drm("vgem", frame)),
    ("DRM virtio-gpu", |frame| by_drm("virtio_gpu", frame)),
    ("DRM bochs", |frame| by_drm("bochs-drm", frame)),
    ("GBM vgem", |frame| by_gbm("vgem", frame)),
    ("GBM virtio-gpu", |frame| by_gbm("virtio_gpu", frame)),
    ("GBM bochs", |frame| by_gbm("bochs-drm", frame)),
    ("Vulkan buffer", |frame| Ok(Box::new(Copied::new(frame)?))),
    ("Vulkan image", |frame| Ok(Box::new(AsImage::new(frame)?))),
    ("wgpu buffer", |frame| Ok(Box::new(InBuffer::new(frame)?))),
    ("wgpu texture", |frame| Ok(Box::new(InTexture::new(frame)?))),
];

/// The CPU, by the mapping of the dma-buf.
struct Mapped {
    frame: Frame,
    mapping: Mapping,
}

impl Mapped {
    fn new(frame: &Frame) -> Result<Self, Failed> {
        Ok(Self { frame: frame.clone(), mapping: frame.planes[0].buffer.map()? })
    }
}

impl Importer for Mapped {
    fn read(&mut self, card: &TestCard) -> Result<(), Failed> {
        let access = self.mapping.begin_cpu_access(Intent::Read)?;
        card.check(0, &self.frame.rows(0, access.map())?)?;
        Ok(access.finish()?)
    }

    fn write(&mut self, card: &TestCard) -> Result<(), Failed> {
        let access = self.mapping.begin_cpu_access(Intent::Write)?;
        card.draw(0, &self.frame.rows(0, access.map())?)?;
        Ok(access.finish()?)
    }
}

/// A driver that has made the dma-buf its own: what a dma-buf of that shows is what the driver has.
struct Handled {
    _gem: Gem,
    back: Mapped,
}

fn by_drm(driver: &str, frame: &Frame) -> Result<Box<dyn Importer>, Failed> {
    let gem = Card::find(driver, Node::Primary)?.import(&frame.planes[0].buffer)?;
    let mut again = frame.clone();
    again.planes[0].buffer = gem.dma_buf()?;
    Ok(Box::new(Handled { _gem: gem, back: Mapped::new(&again)? }))
}

impl Importer for Handled {
    fn read(&mut self, card: &TestCard) -> Result<(), Failed> {
        self.back.read(card)
    }

    fn write(&mut self, card: &TestCard) -> Result<(), Failed> {
        self.back.write(card)
    }
}

/// A picture of GBM's, whose map need not open the brackets of the dma-buf.
struct Picture {
    bo: Bo,
    mapping: Option<Mapping>,
}

fn by_gbm(driver: &str, frame: &Frame) -> Result<Box<dyn Importer>, Failed> {
    let node = Card::find(driver, Node::Primary)?;
    let bo = gbm::Device::open(node.path())?.import(frame, Usage::empty())?;
    // A dma-buf that the CPU cannot map has no cache of the CPU's to bring in order.
    Ok(Box::new(Picture { bo, mapping: frame.planes[0].buffer.map().ok() }))
}

impl Picture {
    fn turn(
        &mut self,
        intent: Intent,
        work: impl FnOnce(&iomap::Plane<'_>) -> Result<(), frame::CardError>,
    ) -> Result<(), Failed> {
        let turn = self.mapping.as_ref().map(|mapping| mapping.begin_cpu_access(intent));
        let turn = turn.transpose()?;
        work(&self.bo.map(intent)?.plane())?;
        Ok(turn.map_or(Ok(()), |turn| turn.finish())?)
    }
}

impl Importer for Picture {
    fn read(&mut self, card: &TestCard) -> Result<(), Failed> {
        self.turn(Intent::Read, |plane| card.check(0, plane))
    }

    fn write(&mut self, card: &TestCard) -> Result<(), Failed> {
        self.turn(Intent::Write, |plane| card.draw(0, plane))
    }
}

/// A Vulkan device that has imported the dma-buf as a buffer.
struct Copied {
    frame: Frame,
    buffer: Arc<Buffer>,
    transfer: Transfer,
}

impl Copied {
    fn new(frame: &Frame) -> Result<Self, Failed> {
        let device = devices::vulkan()?;
        let buffer = Arc::new(device.import_dma_buf(&frame.planes[0].buffer)?);
        Ok(Self { frame: frame.clone(), buffer, transfer: device.transfer()? })
    }
}

impl Importer for Copied {
    fn read(&mut self, card: &TestCard) -> Result<(), Failed> {
        let mut bytes = vec![0; self.buffer.len()];
        self.transfer.read_back(&self.buffer, 0, &mut bytes)?;
        Ok(card.check(0, &self.frame.rows(0, BufMap::from_slice(&bytes))?)?)
    }

    fn write(&mut self, card: &TestCard) -> Result<(), Failed> {
        let (layout, memory) = pages(self.frame.picture, card)?;
        let pages = Arc::new(self.transfer.device().import_memory(memory)?);
        let (from, to) = (layout.planes[0].pitch as usize, self.frame.planes[0].pitch as usize);
        let row = |y| CopyRegion { src_offset: y * from, dst_offset: y * to, len: from.min(to) };
        let rows: Vec<_> = (0..self.frame.picture.height as usize).map(row).collect();
        let ticket = self.transfer.copy(&pages, &self.buffer, &rows)?;
        Ok(self.transfer.wait(ticket)?)
    }
}

/// A Vulkan device that has imported the frame as an image.
struct AsImage {
    image: Arc<Image>,
    transfer: Transfer,
}

impl AsImage {
    fn new(frame: &Frame) -> Result<Self, Failed> {
        let device = devices::vulkan()?;
        let uses = ImageUse::COPIES;
        let image = Arc::new(device.import_image(frame, uses)?);
        Ok(Self { image, transfer: device.transfer()? })
    }
}

impl Importer for AsImage {
    fn read(&mut self, card: &TestCard) -> Result<(), Failed> {
        let layout = self.image.picture().lay_out(ALIGN)?;
        let mut bytes = vec![0; layout.len()];
        self.transfer.read_image(&self.image, &layout, &mut bytes)?;
        Ok(card.check(0, &layout.rows(0, BufMap::from_slice(&bytes))?)?)
    }

    fn write(&mut self, card: &TestCard) -> Result<(), Failed> {
        let (layout, memory) = pages(self.image.picture(), card)?;
        let pages = Arc::new(self.transfer.device().import_memory(memory)?);
        let ticket = self.transfer.copy_to_image(&pages, &layout, &self.image, When::InTurn)?;
        Ok(self.transfer.wait(ticket)?)
    }
}

/// A buffer of wgpu's.
struct InBuffer {
    device: shared_wgpu::Device,
    frame: Frame,
    buffer: SharedBuffer,
}

impl InBuffer {
    fn new(frame: &Frame) -> Result<Self, Failed> {
        let device = devices::of_wgpu()?;
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = device.import_buffer(&frame.planes[0].buffer, usage)?;
        Ok(Self { device, frame: frame.clone(), buffer })
    }
}

impl Importer for InBuffer {
    fn read(&mut self, card: &TestCard) -> Result<(), Failed> {
        let len = self.buffer.len();
        let turn = self.buffer.acquire(Intent::Read)?;
        let bytes = read_back(&self.device, len, |encoder, target| {
            encoder.copy_buffer_to_buffer(&turn, 0, target, 0, len);
        })?;
        turn.release()?;
        Ok(card.check(0, &self.frame.rows(0, BufMap::from_slice(&bytes))?)?)
    }

    fn write(&mut self, card: &TestCard) -> Result<(), Failed> {
        let pitch = u64::from(self.frame.planes[0].pitch);
        let turn = self.buffer.acquire(Intent::Write)?;
        for y in 0..self.frame.picture.height {
            let row = card.row(0, y as usize);
            self.device.queue().write_buffer(&turn, u64::from(y) * pitch, &row);
        }
        Ok(turn.release()?)
    }
}

/// A texture of wgpu's.
struct InTexture {
    device: shared_wgpu::Device,
    frame: Frame,
    texture: SharedTexture,
}

impl InTexture {
    fn new(frame: &Frame) -> Result<Self, Failed> {
        let device = devices::of_wgpu()?;
        let usage = wgpu::TextureUsages::COPY_SRC | wgpu::TextureUsages::COPY_DST;
        let texture = device.import_texture(frame, usage)?;
        Ok(Self { device, frame: frame.clone(), texture })
    }
}

impl Importer for InTexture {
    fn read(&mut self, card: &TestCard) -> Result<(), Failed> {
        let layout = self.frame.picture.lay_out(ALIGN)?;
        let pitch = layout.planes[0].pitch;
        let len = u64::from(pitch) * u64::from(self.frame.picture.height);
        let turn = self.texture.acquire(Intent::Read)?;
        let bytes = read_back(&self.device, len, |encoder, buffer| {
            let layout = wgpu::TexelCopyBufferLayout {
                offset: 0,
                bytes_per_row: Some(pitch),
                rows_per_image: None,
            };
            let target = wgpu::TexelCopyBufferInfo { buffer, layout };
            encoder.copy_texture_to_buffer(turn.as_image_copy(), target, turn.size());
        })?;
        turn.release()?;
        Ok(card.check(0, &layout.rows(0, BufMap::from_slice(&bytes))?)?)
    }

    fn write(&mut self, card: &TestCard) -> Result<(), Failed> {
        let turn = self.texture.acquire(Intent::Write)?;
        write_texture(&self.device, &turn, self.frame.picture, card);
        Ok(turn.release()?)
    }
}

/// What wgpu copies into a buffer that it maps.
fn read_back(
    device: &shared_wgpu::Device,
    len: u64,
    copy: impl FnOnce(&mut wgpu::CommandEncoder, &wgpu::Buffer),
) -> Result<Vec<u8>, Failed> {
    let target = device.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: len,
        usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
        mapped_at_creation: false,
    });
    let mut encoder = device.device().create_command_encoder(&Default::default());
    copy(&mut encoder, &target);
    device.queue().submit([encoder.finish()]);
    target.map_async(wgpu::MapMode::Read, .., |_| {});
    device.device().poll(wgpu::PollType::wait_indefinitely())?;
    Ok(target.get_mapped_range(..)?.to_vec())
}
