//! Loads of the file: where to, cold and warm, how well checked, by depth and by block.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bufmap::load::{Load, Target};
use bufmap::storage::file::SourceFile;
use bufmap::transfer::{Around, DataPath, Options, Receipt, Request, TransferError, Verify};
use exporters::vulkan::{Buffer, Device, SteadyBuffer, VulkanError};

use super::limits::{loadable, ready_memory};
use crate::context::Context;
use crate::file;
use crate::record::{Limited, Teller, gib_per_second};

/// What is in the page cache before a load.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cache {
    Cold,
    Warm,
}

impl Cache {
    fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
        }
    }

    fn prepare(self, context: &Context) -> Result<(), String> {
        match self {
            Self::Cold => file::chill(&context.file),
            Self::Warm => file::warm(&context.file).map_err(|error| error.to_string()),
        }
    }
}

pub fn run(context: &Context, teller: &mut Teller) {
    let len = loadable(context);
    if len == 0 {
        return teller.skipped("all loads", "there is no file, or no memory for it");
    }
    // The destinations by turns: where time runs out, each has its first figures.
    let mut targets = Vec::new();
    for (name, target) in [("memory", memory(len)), ("vulkan", vulkan(len)), ("vram", vram(len))] {
        match target {
            Ok((target, len)) => targets.push((name, target, len)),
            Err(why) => teller.skipped(format!("loads --to {name}"), why),
        }
    }
    for verify in [Verify::None, Verify::Auto, Verify::Hash, Verify::Full] {
        for cache in [Cache::Cold, Cache::Warm] {
            for (name, target, len) in &targets {
                let options = Options { verify, ..Options::default() };
                one(context, teller, "Loads", (name, target, *len), cache, options);
            }
        }
    }
    let Some((name, target, len)) = targets.first() else { return };
    let part = (*len).min(1 << 30);
    let shapes =
        [(1, 1 << 20), (8, 1 << 20), (128, 1 << 20), (32, 128 << 10), (32, 4 << 20), (8, 16 << 20)];
    for (depth, block) in shapes {
        let options = Options { verify: Verify::None, depth, block, ..Options::default() };
        one(
            context,
            teller,
            "Loads by depth and block",
            (name, target, part),
            Cache::Cold,
            options,
        );
    }
}

fn memory(len: u64) -> Result<(Target, u64), Box<dyn std::error::Error>> {
    Ok((Target::Memory(Arc::new(ready_memory(len)?)), len))
}

/// As much of the file as the device has memory for.
fn fitting<T>(
    len: u64,
    make: impl Fn(u64) -> Result<T, Box<dyn std::error::Error>>,
) -> Result<(T, u64), Box<dyn std::error::Error>> {
    const LEAST: u64 = 64 << 20;
    let mut part = len;
    loop {
        match make(part) {
            Err(_) if part / 2 >= LEAST => part = part / 2 / (1 << 20) * (1 << 20),
            made => return Ok((made?, part)),
        }
    }
}

fn vulkan(len: u64) -> Result<(Target, u64), Box<dyn std::error::Error>> {
    let device = Device::open(None)?;
    fitting(len, |len| {
        let (target, _) = Target::vulkan(&device, len, None)?;
        if let Target::Imported(buffer) = &target
            && let Some(memory) = buffer.imported_memory()
        {
            memory.populate()?;
        }
        Ok(target)
    })
}

fn vram(len: u64) -> Result<(Target, u64), Box<dyn std::error::Error>> {
    let device = Device::open(None)?;
    fitting(len, |len| {
        let buffer = Arc::new(device.allocate_host_visible(usize::try_from(len)?)?);
        match buffer.steady() {
            Err(VulkanError::MayMove { .. }) => Ok(Target::Visible(reached_by_the_cpu(&buffer)?)),
            known => Ok(Target::Visible(known?)),
        }
    })
}

#[allow(unsafe_code)]
fn reached_by_the_cpu(buffer: &Arc<Buffer>) -> Result<SteadyBuffer, VulkanError> {
    // SAFETY: what must stay is what VFIO maps for a drive of this process's own. This program has no
    // such drive: its loads reach the buffer by the CPU's own map, which the driver keeps true.
    unsafe { buffer.assume_it_stays() }
}

fn one(
    context: &Context,
    teller: &mut Teller,
    table: &str,
    (name, target, len): (&str, &Target, u64),
    cache: Cache,
    options: Options,
) {
    let Options { verify, depth, block, .. } = options;
    let checked = format!("{verify:?}").to_lowercase();
    let what = format!(
        "{table}: --to {name}, {}, --verify {checked}, depth {depth}, block {} KiB",
        cache.name(),
        block >> 10
    );
    if context.left() < Duration::from_secs(4) {
        return teller.skipped(what, "no time was left");
    }
    if let Err(why) = cache.prepare(context) {
        return teller.skipped(what, why);
    }
    let started = Instant::now();
    let receipt = match load(context, target, len, options) {
        Ok(receipt) => receipt,
        Err(why) => return teller.failed(what, why),
    };
    let rate = gib_per_second(len, started.elapsed());
    let paths: Vec<_> = receipt.paths.iter().map(|share| share.path.to_string()).collect();
    let reads = if verify == Verify::Full { 2 } else { 1 };
    teller.row(
        table,
        [
            ("to", name.into()),
            ("cache", cache.name().into()),
            ("verify", checked.into()),
            ("depth", depth.into()),
            ("block KiB", (block >> 10).into()),
            ("MiB", (len >> 20).into()),
            ("GiB/s", rate.into()),
            ("CPU s/GiB", ((receipt.cpu_seconds_per_gib() * 1e3).round() / 1e3).into()),
            ("path", paths.join(", ").into()),
            ("bounded by", serde_json::json!(bounds(&receipt))),
            ("reads of each byte", reads.into()),
        ],
    );
}

fn load(
    context: &Context,
    target: &Target,
    len: u64,
    options: Options,
) -> Result<Receipt, TransferError> {
    let open = |source| TransferError::Open { path: context.file.clone(), source };
    let files = [SourceFile::open(&context.file).map_err(open)?];
    Load {
        files: &files,
        requests: &[Request::new(0, 0, len, 0)],
        around: Around::Scratch,
        destination: target.destination(),
        options,
        stop: &AtomicBool::new(false),
    }
    .run(&mut |_| {})
}

/// What the bytes went through, by the path that most of them took.
fn bounds(receipt: &Receipt) -> Vec<Limited> {
    let most = receipt.paths.iter().max_by_key(|share| share.bytes).map(|share| share.path);
    let mut bounds = match most {
        Some(DataPath::Cached) => vec![Limited::PageCache],
        _ => vec![Limited::Drive],
    };
    if receipt.gpu_copied > 0 {
        bounds.push(Limited::HostToDevice);
    }
    bounds
}
