//! Memory and fences that go from one device to another: exported, imported, waited for.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use drm_fourcc::DrmFourcc;
use exporters::frame::Picture;
use exporters::vulkan::{Buffer, CopyRegion, Device, ImageUse, VulkanError, When};
use exporters::{SyncFile, Udmabuf};
use iomap::{Memory, PageSize};

use crate::context::Context;
use crate::record::Teller;

type Answer<T = String> = Result<T, Box<dyn std::error::Error>>;

const LEN: usize = 16 << 20;

const PICTURE: Picture = Picture::linear(640, 480, DrmFourcc::Xrgb8888);

pub fn run(context: &Context, teller: &mut Teller) {
    let device = match Device::open(None) {
        Ok(device) => device,
        Err(why) => return teller.skipped("exchanges by Vulkan", why),
    };
    teller.fact("device", device.info().name.clone());
    told(teller, "buffer: export, import by another device, bytes compared", buffer(&device));
    fences(&device, teller);
    images(&device, teller);
    imports(context, &device, teller);
}

/// Tells a trial: what the machine lacks is skipped, what it has and does not work has failed.
fn told(teller: &mut Teller, what: &str, answer: Answer) {
    match answer {
        Ok(how) => teller.row("Exchanges", [("what", what.into()), ("result", how.into())]),
        Err(why) => match why.downcast_ref::<VulkanError>() {
            Some(VulkanError::Unavailable(_) | VulkanError::Unsupported { .. }) => {
                teller.skipped(what, why);
            }
            _ => teller.failed(what, why),
        },
    }
}

/// Bytes that differ from word to word.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let words = (0..len as u32 / 4).map(|word| word.wrapping_mul(2_654_435_761) ^ seed);
    words.flat_map(u32::to_le_bytes).collect()
}

/// Pages of this process as a buffer, filled.
fn source(device: &Device, bytes: &[u8]) -> Answer<Arc<Buffer>> {
    let memory = Arc::new(Memory::memfd("bufmap-hardware", bytes.len(), PageSize::Base)?);
    memory.map().copy_from_slice(0, bytes)?;
    Ok(Arc::new(device.import_memory(memory)?))
}

fn whole(len: usize) -> [CopyRegion; 1] {
    [CopyRegion { src_offset: 0, dst_offset: 0, len }]
}

fn compared(found: &[u8], wanted: &[u8]) -> Answer<()> {
    match found.iter().zip(wanted).position(|(found, wanted)| found != wanted) {
        None if found.len() == wanted.len() => Ok(()),
        None => Err("the lengths differ".into()),
        Some(at) => Err(format!("byte {at} of {} differs", wanted.len()).into()),
    }
}

/// Out of one device as a dma-buf and into another of the same driver.
fn buffer(device: &Device) -> Answer {
    let exported = Arc::new(device.allocate(LEN, true)?);
    let bytes = pattern(LEN, 1);
    let mut transfer = device.transfer()?;
    let ticket = transfer.copy(&source(device, &bytes)?, &exported, &whole(LEN))?;
    transfer.wait(ticket)?;
    let dma_buf = exported.export_dma_buf()?;
    let other = Device::open(Some(&device.info().name))?;
    let imported = Arc::new(other.import_dma_buf(&dma_buf)?);
    let mut seen = vec![0; LEN];
    other.transfer()?.read_back(&imported, 0, &mut seen)?;
    compared(&seen, &bytes)?;
    Ok(format!("equal; the dma-buf is {}'s", dma_buf.exporter()))
}

/// A fence that is pending when it is given away: another queue waits for it, and so does the CPU.
fn fences(device: &Device, teller: &mut Teller) {
    let what = "fence: a sync file of copies in flight, waited for by another device's queue";
    told(teller, what, pending(device, true));
    let what = "fence: a sync file of copies in flight, waited for by the CPU";
    told(teller, what, pending(device, false));
}

fn pending(device: &Device, by_queue: bool) -> Answer {
    const ROUNDS: usize = 64;
    const LONG: usize = 64 << 20;
    device.sync_files().map_err(VulkanError::Unavailable)?;
    let (old, new) = (vec![0; LONG], pattern(LONG, 7));
    let (before, after) = (source(device, &old)?, source(device, &new)?);
    let shared = Arc::new(device.allocate(LONG, by_queue)?);
    let other = match by_queue {
        false => None,
        true => {
            let other = Device::open(Some(&device.info().name))?;
            let imported = Arc::new(other.import_dma_buf(&shared.export_dma_buf()?)?);
            let copied = Arc::new(other.allocate(LONG, false)?);
            Some((other, imported, copied))
        }
    };
    let mut transfer = device.transfer()?;
    for _ in 0..ROUNDS {
        let _ = transfer.copy(&before, &shared, &whole(LONG))?;
    }
    let last = transfer.copy(&after, &shared, &whole(LONG))?;
    let Some(fence) = transfer.sync_file()? else {
        return Ok("the copies were done before the fence could be had".into());
    };
    let fence = SyncFile::new(fence)?;
    let when = match fence.wait(Duration::ZERO) {
        Ok(()) => "done when it was given",
        Err(_) => "pending when it was given",
    };
    let started = Instant::now();
    let mut seen = vec![0; LONG];
    match &other {
        Some((other, imported, copied)) => {
            let mut waiting = other.transfer()?;
            let ticket = waiting.copy_after(imported, copied, &whole(LONG), &[fence.as_fd()])?;
            waiting.wait(ticket)?;
            waiting.read_back(copied, 0, &mut seen)?;
        }
        None => {
            fence.wait(Duration::from_secs(10))?;
            if !transfer.is_done(last)? {
                return Err("the fence is signalled before its copies are done".into());
            }
            transfer.read_back(&shared, 0, &mut seen)?;
        }
    }
    compared(&seen, &new)?;
    Ok(format!(
        "{when}; the bytes of the last copy after {:.1} ms",
        started.elapsed().as_secs_f64() * 1e3
    ))
}

/// Images in every layout of one format, exported, imported and read.
fn images(device: &Device, teller: &mut Teller) {
    let layouts = match device.image_layouts() {
        Ok(layouts) => layouts,
        Err(why) => return teller.skipped("images with modifiers", why),
    };
    let mut tried = 0;
    for layout in layouts.iter().filter(|layout| layout.format == PICTURE.format) {
        let picture = Picture { modifier: Some(layout.modifier), ..PICTURE };
        let what = format!("image {picture}: export, import by another device, pixels compared");
        if !(layout.exports && layout.imports && layout.uses.contains(ImageUse::COPIES)) {
            teller.skipped(what, "the driver neither exports nor imports it for copies");
            continue;
        }
        tried += 1;
        told(teller, &what, image(device, picture));
    }
    if tried == 0 {
        teller.skipped("images", "the driver shares no layout of XR24 for copies");
    }
}

fn image(device: &Device, made: Picture) -> Answer {
    let lines = PICTURE.lay_out(4)?;
    let bytes = pattern(lines.len(), 3);
    let image = Arc::new(device.image(made, &[], ImageUse::COPIES)?);
    let mut transfer = device.transfer()?;
    let ticket = transfer.copy_to_image(&source(device, &bytes)?, &lines, &image, When::AtOnce)?;
    transfer.wait(ticket)?;
    let frame = image.export()?;
    let other = Device::open(Some(&device.info().name))?;
    let imported = Arc::new(other.import_image(&frame, ImageUse::COPIES)?);
    let mut seen = vec![0; lines.len()];
    other.transfer()?.read_image(&imported, &lines, &mut seen)?;
    compared(&seen, &bytes)?;
    Ok(format!("equal; {} planes, pitch {}", frame.planes.len(), frame.planes[0].pitch))
}

/// Pages of this process as the device's, by address and as udmabufs, small and large.
fn imports(context: &Context, device: &Device, teller: &mut Teller) {
    for len in [4 << 10, 2 << 20, 64 << 20, 256 << 20, 1 << 30] {
        let size = ByteSize::b(len as u64).display().iec();
        if context.left() < Duration::from_secs(4) {
            teller.skipped(format!("imports of {size} and more"), "no time was left");
            return;
        }
        for (kind, memory) in [
            ("anonymous pages", Memory::anonymous(len, PageSize::Base)),
            ("pages of a memfd", Memory::memfd("bufmap-hardware", len, PageSize::Base)),
        ] {
            told(teller, &format!("import of {size} of {kind}"), import(device, memory));
        }
    }
    match Udmabuf::open() {
        Ok(udmabuf) => {
            teller.fact(
                "longest udmabuf",
                ByteSize::b(udmabuf.limit() as u64).display().iec().to_string(),
            );
        }
        Err(why) => teller.skipped("udmabufs", why),
    }
}

fn import(device: &Device, memory: Result<Memory, iomap::MemoryError>) -> Answer {
    let started = Instant::now();
    let memory = Arc::new(memory?);
    let len = memory.len();
    let buffer = Arc::new(device.import_memory(Arc::clone(&memory))?);
    let took = started.elapsed().as_secs_f64() * 1e3;
    let (bytes, at) = (pattern(4096, 9), len - 4096);
    memory.map().copy_from_slice(at, &bytes)?;
    let mut seen = vec![0; 4096];
    device.transfer()?.read_back(&buffer, at, &mut seen)?;
    compared(&seen, &bytes)?;
    Ok(format!("by {}, {took:.1} ms; the device sees its last page", buffer.way()))
}
