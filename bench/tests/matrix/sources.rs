//! Who makes frames: each source of buffers, drawing in its own way.

use std::any::Any;
use std::sync::Arc;

use bufmap::pci::driver;
use bufmap_bench::card;
use bufmap_bench::drive::Drive;
use exporters::drm::{Card, Node};
use exporters::frame::{Frame, FramePlane, Picture, TestCard};
use exporters::gbm::{self, Usage};
use exporters::vfio::{Bar, Container};
use exporters::vulkan::{CopyRegion, ImageUse, When};
use exporters::wgpu::{self as shared_wgpu, wgpu};
use exporters::{DmaHeap, Export, Exporter, Intent, P2pmem, SystemMemory, Udmabuf};
use iomap::{Memory, PageSize};
use libtest_mimic::Failed;

use crate::devices;

/// What a source made: the frame, and what must be kept so that it stays.
pub struct Drawn {
    pub frame: Frame,
    _kept: Box<dyn Any>,
}

pub type Draw = fn(Picture, &TestCard) -> Result<Drawn, Failed>;

/// A source and the name that the table has for it.
pub type Source = (&'static str, Draw);

/// The sources of a machine.
pub fn of(machine: &str) -> &'static [Source] {
    match machine {
        "vfio" => &[("BAR by VFIO", bar)],
        "switch" => &[("peer memory", peer_memory)],
        _ => &OF_GPU,
    }
}

const OF_GPU: [Source; 13] = [
    ("memfd", |picture, card| bytes(&SystemMemory::default(), picture, card)),
    ("udmabuf", |picture, card| bytes(&Udmabuf::open()?, picture, card)),
    ("dma-heap", |picture, card| bytes(&DmaHeap::open("system")?, picture, card)),
    ("DRM vgem", |picture, card| dumb("vgem", picture, card)),
    ("DRM virtio-gpu", |picture, card| dumb("virtio_gpu", picture, card)),
    ("DRM bochs", |picture, card| dumb("bochs-drm", picture, card)),
    ("GBM vgem", |picture, card| bo("vgem", picture, card)),
    ("GBM virtio-gpu", |picture, card| bo("virtio_gpu", picture, card)),
    ("GBM bochs", |picture, card| bo("bochs-drm", picture, card)),
    ("Vulkan buffer", vulkan_buffer),
    ("Vulkan image", vulkan_image),
    ("wgpu buffer", wgpu_buffer),
    ("wgpu texture", wgpu_texture),
];

/// How far rows are apart where a source leaves it to us: what wgpu copies by.
pub const ALIGN: u32 = 256;

fn bytes(from: &dyn Exporter, picture: Picture, card: &TestCard) -> Result<Drawn, Failed> {
    let layout = picture.lay_out(ALIGN)?;
    let export = from.export(layout.len())?;
    let frame = layout.over(export.dma_buf()?)?;
    by_cpu(frame, export, card)
}

/// The memory of a card that its own driver does not have.
fn bar(picture: Picture, card: &TestCard) -> Result<Drawn, Failed> {
    let address = card::card()?;
    driver::bind(address, "vfio-pci")?;
    let device = Arc::new(Container::new()?).open(&address.to_string())?;
    bytes(&Bar::new(&device, 2)?, picture, card)
}

/// The memory that a drive has for its peers.
fn peer_memory(picture: Picture, card: &TestCard) -> Result<Drawn, Failed> {
    let provider = Drive::with_serial("provider")?.address()?.to_string();
    bytes(&P2pmem::open(&provider)?, picture, card)
}

fn dumb(driver: &str, picture: Picture, card: &TestCard) -> Result<Drawn, Failed> {
    let dumb = Card::find(driver, Node::Primary)?.dumb_buffer(picture.width, picture.height, 32)?;
    let pitch = dumb.pitch() as u32;
    let export = Export::from(dumb);
    let buffer = export.dma_buf()?.clone();
    let frame = Frame { picture, planes: vec![FramePlane { buffer, offset: 0, pitch }] };
    by_cpu(frame, export, card)
}

fn by_cpu(frame: Frame, export: Export, card: &TestCard) -> Result<Drawn, Failed> {
    let access = export.cpu()?.begin(Intent::Write)?;
    card.draw(0, &frame.rows(0, access.map())?)?;
    access.finish()?;
    Ok(Drawn { frame, _kept: Box::new(export) })
}

fn bo(driver: &str, picture: Picture, card: &TestCard) -> Result<Drawn, Failed> {
    let node = Card::find(driver, Node::Primary)?;
    let device = gbm::Device::open(node.path())?;
    let Picture { width, height, format, modifier } = picture;
    let modifiers: Vec<_> = modifier.into_iter().collect();
    let mut bo = device.create_with(width, height, format, &modifiers, Usage::empty())?;
    card.draw(0, &bo.map(Intent::Write)?.plane())?;
    Ok(Drawn { frame: bo.export()?, _kept: Box::new(bo) })
}

/// Pages with the card, in a layout of ours, for a device to copy from.
pub fn pages(picture: Picture, card: &TestCard) -> Result<(Frame<()>, Arc<Memory>), Failed> {
    let layout = picture.lay_out(ALIGN)?;
    let memory = Memory::memfd("card", layout.len(), PageSize::Base)?;
    card.draw(0, &layout.rows(0, memory.map())?)?;
    Ok((layout, Arc::new(memory)))
}

fn vulkan_buffer(picture: Picture, card: &TestCard) -> Result<Drawn, Failed> {
    let (layout, memory) = pages(picture, card)?;
    let device = devices::vulkan()?;
    let buffer = Arc::new(device.allocate(memory.len(), true)?);
    let pages = Arc::new(device.import_memory(memory)?);
    let mut transfer = device.transfer()?;
    let all = CopyRegion { src_offset: 0, dst_offset: 0, len: layout.len() };
    let ticket = transfer.copy(&pages, &buffer, &[all])?;
    transfer.wait(ticket)?;
    let frame = layout.over(&buffer.export_dma_buf()?)?;
    Ok(Drawn { frame, _kept: Box::new(buffer) })
}

fn vulkan_image(picture: Picture, card: &TestCard) -> Result<Drawn, Failed> {
    let (layout, memory) = pages(picture, card)?;
    let device = devices::vulkan()?;
    let image = Arc::new(device.image(picture, &[], ImageUse::COPY_TO)?);
    let pages = Arc::new(device.import_memory(memory)?);
    let mut transfer = device.transfer()?;
    let ticket = transfer.copy_to_image(&pages, &layout, &image, When::AtOnce)?;
    transfer.wait(ticket)?;
    Ok(Drawn { frame: image.export()?, _kept: Box::new(image) })
}

fn wgpu_buffer(picture: Picture, card: &TestCard) -> Result<Drawn, Failed> {
    let (layout, memory) = pages(picture, card)?;
    let device = devices::of_wgpu()?;
    let len = layout.len().next_multiple_of(4) as u64;
    let mut buffer = device.create_buffer(len, wgpu::BufferUsages::COPY_DST)?;
    let mut bytes = vec![0; len as usize];
    memory.map().copy_to_slice(0, &mut bytes)?;
    let turn = buffer.acquire(Intent::Write)?;
    device.queue().write_buffer(&turn, 0, &bytes);
    turn.release()?;
    let frame = layout.over(buffer.dma_buf())?;
    Ok(Drawn { frame, _kept: Box::new(buffer) })
}

fn wgpu_texture(picture: Picture, card: &TestCard) -> Result<Drawn, Failed> {
    let device = devices::of_wgpu()?;
    let modifiers: Vec<_> = picture.modifier.into_iter().collect();
    let Picture { width, height, format, .. } = picture;
    let usage = wgpu::TextureUsages::COPY_DST;
    let mut texture = device.create_texture(width, height, format, &modifiers, usage)?;
    let turn = texture.acquire(Intent::Write)?;
    write_texture(&device, &turn, picture, card);
    turn.release()?;
    Ok(Drawn { frame: texture.frame().clone(), _kept: Box::new(texture) })
}

/// Has wgpu write a card into a texture.
pub fn write_texture(
    device: &shared_wgpu::Device,
    texture: &wgpu::Texture,
    Picture { width, height, .. }: Picture,
    card: &TestCard,
) {
    let rows: Vec<u8> = (0..height as usize).flat_map(|y| card.row(0, y)).collect();
    let layout = wgpu::TexelCopyBufferLayout {
        offset: 0,
        bytes_per_row: Some(width * 4),
        rows_per_image: None,
    };
    device.queue().write_texture(texture.as_image_copy(), &rows, layout, texture.size());
}
