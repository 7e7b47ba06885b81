//! What no load can exceed: the drive alone, the page cache alone, the GPU's own copies.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bufmap::storage::file::SourceFile;
use exporters::vulkan::{Buffer, CopyRegion, Device};
use iomap::{Memory, PageSize};

use crate::context::Context;
use crate::cuda;
use crate::file;
use crate::readers;
use crate::record::{Limited, Record, Teller, gib_per_second};

/// The most that is read or copied for one figure, in bytes.
const SAMPLE: u64 = 2 << 30;

pub fn run(context: &Context, teller: &mut Teller) {
    match SourceFile::open(&context.file) {
        Ok(opened) => {
            drive(context, &opened, teller);
            page_cache(context, &opened, teller);
        }
        Err(why) => teller.failed("opening the file", why),
    }
    host_to_device(context, teller);
    match cuda::Cuda::open() {
        Ok(cuda) => match cuda.host_to_device(256 << 20, 8) {
            Ok(rate) => teller.fact("cudaMemcpy from pinned memory alone", format!("{rate} GiB/s")),
            Err(why) => teller.failed("cudaMemcpy", why),
        },
        Err(why) => teller.skipped("CUDA", why),
    }
}

/// Memory with all its pages, as long as the file or as there is memory for.
pub fn ready_memory(len: u64) -> Result<Memory, iomap::MemoryError> {
    let memory = Memory::anonymous(usize::try_from(len).unwrap_or(usize::MAX), PageSize::Base)?;
    // A kernel without huge pages has small ones.
    let _ = memory.advise_huge();
    memory.populate()?;
    Ok(memory)
}

/// As much as can be loaded at once: the file, or a third of the memory that is free.
pub fn loadable(context: &Context) -> u64 {
    let free = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = free.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free = free.and_then(|kib| kib.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    let len = file::len(&context.file).unwrap_or(0);
    free.map_or(len, |kib| len.min((kib << 10) / 3)) / (1 << 20) * (1 << 20)
}

fn limit(teller: &mut Teller, of: Limited, how: String, bytes: u64, took: Duration) {
    teller.tell(&Record::Limit { of, how, gib_s: gib_per_second(bytes, took) });
}

fn drive(context: &Context, opened: &SourceFile, teller: &mut Teller) {
    let direct = match opened.open_direct() {
        Ok(direct) => direct,
        Err(why) => return teller.skipped("the drive alone", why),
    };
    if let Err(why) = file::chill(&context.file) {
        return teller.skipped("the drive alone", why);
    }
    by_threads(
        context,
        teller,
        Limited::Drive,
        direct.as_fd(),
        &[(8, 1 << 20), (32, 1 << 20), (8, 8 << 20)],
    );
}

fn page_cache(context: &Context, opened: &SourceFile, teller: &mut Teller) {
    if let Err(why) = file::warm(&context.file) {
        return teller.failed("filling the page cache", why);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    by_threads(
        context,
        teller,
        Limited::PageCache,
        opened.as_fd(),
        &[(1, 512 << 10), (cores, 512 << 10)],
    );
}

fn by_threads(
    context: &Context,
    teller: &mut Teller,
    of: Limited,
    file: std::os::fd::BorrowedFd<'_>,
    ways: &[(usize, u64)],
) {
    let len = loadable(context).min(SAMPLE);
    let memory = match ready_memory(len) {
        Ok(memory) => memory,
        Err(why) => return teller.skipped("memory to read into", why),
    };
    for &(threads, block) in ways {
        let how = format!("{threads} threads with pread, blocks of {} KiB", block >> 10);
        if context.left() < Duration::from_secs(3) {
            teller.skipped(how, "no time was left");
            continue;
        }
        match readers::fill(file, &memory, threads, block) {
            Ok(took) => limit(teller, of, how, len, took),
            Err(why) => teller.failed(how, why),
        }
    }
}

fn host_to_device(context: &Context, teller: &mut Teller) {
    let device = match Device::open(None) {
        Ok(device) => device,
        Err(why) => return teller.skipped("copies by the GPU alone", why),
    };
    for len in [16 << 20, 256 << 20] {
        if context.left() < Duration::from_secs(3) {
            teller.skipped(format!("copies of {} MiB by the GPU", len >> 20), "no time was left");
            continue;
        }
        let how = format!("copies of {} MiB from imported pages, two in flight", len >> 20);
        match copies(&device, len) {
            Ok((bytes, took)) => limit(teller, Limited::HostToDevice, how, bytes, took),
            Err(why) => teller.failed(how, why),
        }
    }
}

fn copies(device: &Device, len: usize) -> Result<(u64, Duration), Box<dyn std::error::Error>> {
    const SHORT: Duration = Duration::from_millis(500);
    let from = imported(device, len)?;
    let to = Arc::new(device.allocate(len, false)?);
    let all = [CopyRegion { src_offset: 0, dst_offset: 0, len }];
    let mut transfer = device.transfer()?;
    // The first copy pays for the driver's own preparations.
    let first = transfer.copy(&from, &to, &all)?;
    transfer.wait(first)?;
    let (started, mut bytes) = (Instant::now(), 0);
    let mut before = transfer.copy(&from, &to, &all)?;
    loop {
        let next = transfer.copy(&from, &to, &all)?;
        transfer.wait(before)?;
        (before, bytes) = (next, bytes + len as u64);
        if started.elapsed() >= SHORT {
            transfer.wait(before)?;
            return Ok((bytes + len as u64, started.elapsed()));
        }
    }
}

/// Pages of this process that the device reads.
pub fn imported(device: &Device, len: usize) -> Result<Arc<Buffer>, Box<dyn std::error::Error>> {
    let memory = Arc::new(Memory::memfd("bufmap-hardware", len, PageSize::Base)?);
    memory.populate()?;
    Ok(Arc::new(device.import_memory(memory)?))
}
