//! What programs do today: read into staging memory, copy from there into the GPU's.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bufmap::storage::file::SourceFile;
use exporters::vulkan::{Buffer, CopyRegion, Device};
use iomap::{Memory, PageSize};

use super::limits::loadable;
use crate::context::Context;
use crate::cuda::Cuda;
use crate::file;
use crate::readers::{self, Blocks};
use crate::record::{Teller, gib_per_second};

/// As much is read and copied at once, in bytes.
const BLOCK: u64 = 16 << 20;

type Answer = Result<Duration, String>;

fn words(error: impl ToString) -> String {
    error.to_string()
}

pub fn run(context: &Context, teller: &mut Teller) {
    let len = loadable(context);
    match Device::open(None) {
        Ok(device) => vulkan(context, teller, &device, len),
        Err(why) => teller.skipped("staging by Vulkan", why),
    }
    match Cuda::open() {
        Ok(cuda) => cuda_memcpy(context, teller, &cuda, len),
        Err(why) => teller.skipped("staging by CUDA", why),
    }
}

fn vulkan(context: &Context, teller: &mut Teller, device: &Device, len: u64) {
    let mut part = len;
    let target = loop {
        match device.allocate(part as usize, false) {
            Ok(buffer) => break Arc::new(buffer),
            Err(_) if part > 128 << 20 => part = part / 2 / BLOCK * BLOCK,
            Err(why) => return teller.skipped("staging by Vulkan", why),
        }
    };
    for threads in [1, 8] {
        let name = format!("Vulkan staging, read by {threads}");
        timed(context, teller, &name, part, |file| by_vulkan(device, &target, file, part, threads));
    }
}

fn cuda_memcpy(context: &Context, teller: &mut Teller, cuda: &Cuda, len: u64) {
    for threads in [1, 8] {
        let name = format!("cudaMemcpy from pinned memory, read by {threads}");
        timed(context, teller, &name, len, |file| by_cuda(cuda, file, len, threads));
    }
}

/// Runs a rival with an empty page cache and with a full one.
fn timed(
    context: &Context,
    teller: &mut Teller,
    name: &str,
    len: u64,
    run: impl Fn(&SourceFile) -> Answer,
) {
    for cache in ["cold", "warm"] {
        let what = format!("{name}, {cache}");
        if context.left() < Duration::from_secs(4) {
            teller.skipped(what, "no time was left");
            continue;
        }
        let prepared = match cache {
            "cold" => file::chill(&context.file),
            _ => file::warm(&context.file).map_err(words),
        };
        if let Err(why) = prepared {
            teller.skipped(what, why);
            continue;
        }
        match SourceFile::open(&context.file).map_err(words).and_then(|file| run(&file)) {
            Ok(took) => teller.row(
                "Rivals",
                [
                    ("rival", name.into()),
                    ("cache", cache.into()),
                    ("MiB", (len >> 20).into()),
                    ("GiB/s", gib_per_second(len, took).into()),
                ],
            ),
            Err(why) => teller.failed(what, why),
        }
    }
}

/// Each thread has two staging buffers: it reads into one while the GPU copies from the other.
fn by_vulkan(
    device: &Device,
    target: &Arc<Buffer>,
    file: &SourceFile,
    len: u64,
    threads: usize,
) -> Answer {
    let staging = || {
        let memory = Arc::new(Memory::anonymous(BLOCK as usize, PageSize::Base).map_err(words)?);
        memory.populate().map_err(words)?;
        let buffer = device.import_memory(Arc::clone(&memory)).map_err(words)?;
        Ok::<_, String>((memory, Arc::new(buffer)))
    };
    let prepared = (0..threads)
        .map(|_| Ok((device.transfer().map_err(words)?, [staging()?, staging()?])))
        .collect::<Result<Vec<_>, String>>()?;
    let prepared = Mutex::new(prepared);
    let blocks = Blocks::new(len, BLOCK);
    let started = Instant::now();
    readers::each(threads, |_| {
        let own = prepared.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some((mut transfer, staging)) = own else { return Ok(()) };
        let mut in_flight = [None, None];
        for turn in (0..2).cycle() {
            if let Some(ticket) = in_flight[turn].take() {
                transfer.wait(ticket).map_err(words)?;
            }
            let Some((at, len)) = blocks.take() else { break };
            let (memory, buffer) = &staging[turn];
            let map = memory.map().subrange(..len).map_err(words)?;
            readers::read_exact(file.as_fd(), at, &map).map_err(words)?;
            let region = CopyRegion { src_offset: 0, dst_offset: at as usize, len };
            in_flight[turn] = Some(transfer.copy(buffer, target, &[region]).map_err(words)?);
        }
        // What is still in flight is waited for when the transfer is dropped.
        Ok::<_, String>(())
    })?;
    Ok(started.elapsed())
}

fn by_cuda(cuda: &Cuda, file: &SourceFile, len: u64, threads: usize) -> Answer {
    let target = cuda.allocate(usize::try_from(len).map_err(words)?)?;
    let blocks = Blocks::new(len, BLOCK);
    let pinned =
        (0..threads).map(|_| cuda.pinned(BLOCK as usize)).collect::<Result<Vec<_>, _>>()?;
    let started = Instant::now();
    readers::each(threads, |thread| {
        cuda.enter()?;
        let Some(own) = pinned.get(thread) else { return Ok(()) };
        while let Some((at, len)) = blocks.take() {
            let map = own.map().subrange(..len).map_err(words)?;
            readers::read_exact(file.as_fd(), at, &map).map_err(words)?;
            cuda.copy(own, len, &target, at as usize)?;
        }
        Ok::<_, String>(())
    })?;
    Ok(started.elapsed())
}
