//! Copies by the CPU out of a GPU's BAR and of write-combining memory, by our engines beside plain loads.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bufmap::pci::Tree;
use exporters::vulkan::{Buffer, CopyRegion, Device};
use iomap::{BufMap, Location};

use crate::context::Context;
use crate::record::{Teller, gib_per_second};

/// As much is copied by the engines.
const LEN: usize = 32 << 20;

/// As much is read by plain loads, which are slow.
const PLAIN: usize = 1 << 20;

type Answer<T> = Result<T, Box<dyn std::error::Error>>;

pub fn run(context: &Context, teller: &mut Teller) {
    kernels_caching(teller);
    let device = match Device::open(None) {
        Ok(device) => device,
        Err(why) => return teller.skipped("memory that is not cached", why),
    };
    let types = &device.info().memory_types;
    let uncached = |(_, kind): &(usize, &exporters::vulkan::MemoryType)| {
        kind.host_visible && kind.coherent && (!kind.cached || kind.device_local)
    };
    let mut tried = 0;
    for (index, kind) in types.iter().enumerate().filter(uncached) {
        let what = format!("memory type {index}: {kind}");
        if context.left() < Duration::from_secs(3) {
            teller.skipped(what, "no time was left");
            continue;
        }
        tried += 1;
        let buffer = device.allocate_of_type(LEN, index);
        match buffer.map_err(Into::into).and_then(|buffer| measure(&device, Arc::new(buffer))) {
            Ok(found) => tell(teller, &what, &found),
            Err(why) => teller.failed(what, why),
        }
    }
    if tried == 0 {
        teller
            .skipped("memory that is not cached", "the device has no such type that the CPU maps");
    }
}

/// GiB a second by each way, and what the map says of itself.
struct Found {
    map: String,
    engine_out: f64,
    plain_out: f64,
    engine_in: f64,
}

fn tell(teller: &mut Teller, what: &str, found: &Found) {
    teller.row(
        "Copies by the CPU",
        [
            ("memory", what.into()),
            ("mapped as", found.map.as_str().into()),
            ("out, our engine, GiB/s", found.engine_out.into()),
            ("out, plain 8-byte loads, GiB/s", found.plain_out.into()),
            ("in, our engine, GiB/s", found.engine_in.into()),
            ("every byte compared", "equal".into()),
        ],
    );
}

fn measure(device: &Device, buffer: Arc<Buffer>) -> Answer<Found> {
    // The device writes a pattern, so that what the CPU reads was never in its caches.
    let bytes: Vec<u8> =
        (0..LEN as u32 / 4).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    let from = super::limits::imported(device, LEN)?;
    from.cpu().ok_or("imported pages without a map")?.copy_from_slice(0, &bytes)?;
    let mut transfer = device.transfer()?;
    let all = [CopyRegion { src_offset: 0, dst_offset: 0, len: LEN }];
    let ticket = transfer.copy(&from, &buffer, &all)?;
    transfer.wait(ticket)?;
    let map = buffer.cpu().ok_or("the buffer has no map")?;

    // Touched before: the time of first use is not the copy's.
    let mut seen = vec![1; LEN];
    let started = Instant::now();
    map.copy_to_slice(0, &mut seen)?;
    let engine_out = gib_per_second(LEN as u64, started.elapsed());
    equal(&seen, &bytes)?;

    let mut words = vec![1; PLAIN];
    let started = Instant::now();
    plain_loads(&map, &mut words)?;
    let plain_out = gib_per_second(PLAIN as u64, started.elapsed());
    equal(&words, &bytes[..PLAIN])?;

    seen.reverse();
    let started = Instant::now();
    map.copy_from_slice(0, &seen)?;
    let engine_in = gib_per_second(LEN as u64, started.elapsed());
    let mut back = vec![0; LEN];
    transfer.read_back(&buffer, 0, &mut back)?;
    equal(&back, &seen)?;
    let place = if map.location() == Location::Io { "a BAR" } else { "system memory" };
    Ok(Found { map: format!("{place}, {:?}", map.caching()), engine_out, plain_out, engine_in })
}

fn plain_loads(map: &BufMap<'_>, out: &mut [u8]) -> Answer<()> {
    for (index, word) in out.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&map.read::<u64>(index * 8)?.to_ne_bytes());
    }
    Ok(())
}

fn equal(found: &[u8], wanted: &[u8]) -> Answer<()> {
    match found.iter().zip(wanted).position(|(found, wanted)| found != wanted) {
        None => Ok(()),
        Some(at) => Err(format!("byte {at} differs").into()),
    }
}

/// How the kernel has mapped the GPUs' BARs, which it tells root on x86-64.
fn kernels_caching(teller: &mut Teller) {
    const LIST: &str = "/sys/kernel/debug/x86/pat_memtype_list";
    let what = "the kernel's caching of BARs";
    let list = match fs::read_to_string(LIST) {
        Ok(list) => list,
        Err(why) => return teller.skipped(what, format!("{LIST}: {why}")),
    };
    let tree = match Tree::read() {
        Ok(tree) => tree,
        Err(why) => return teller.skipped(what, why),
    };
    for range in list.lines().filter_map(range) {
        let Some(bar) = tree.bar_at(range.1) else { continue };
        let Ok(function) = tree.function(bar.function) else { continue };
        if function.class.is_gpu() {
            teller.row(
                "BARs as the kernel maps them",
                [
                    ("range", range.0.into()),
                    ("caching", range.2.into()),
                    ("function", bar.function.to_string().into()),
                ],
            );
        }
    }
}

/// `PAT: [mem 0x00000000fd000000-0x00000000fe000000] write-combining`: the range, where it begins, and its
/// caching.
fn range(line: &str) -> Option<(&str, iomap::PhysAddr, &str)> {
    let (range, caching) = line.split_once("[mem ")?.1.split_once(']')?;
    let begin = range.split_once('-')?.0.strip_prefix("0x")?;
    let begin = u64::from_str_radix(begin, 16).ok()?;
    Some((range, iomap::PhysAddr::new(begin), caching.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_list() {
        let line = "PAT: [mem 0x00000000fd000000-0x00000000fe000000] write-combining";
        let (text, begin, caching) = range(line).expect("a range");
        assert_eq!((begin, caching), (iomap::PhysAddr::new(0xfd00_0000), "write-combining"));
        assert!(text.starts_with("0x00000000fd"));
        assert_eq!(range("PAT memtype list:"), None);
    }
}
