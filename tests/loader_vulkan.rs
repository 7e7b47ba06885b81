//! A loader fills a GPU's own memory on a real driver: the GPU reads it back, and the bytes are compared with plain reads.
//!
//! The driver's validation layer listens where it is installed: set `BUFMAP_VULKAN_VALIDATION=1`.

mod support;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bufmap::engine::{Buffer, Landed, Loader, LoaderOptions, Request};
use bufmap::transfer::{self, DataPath, Priority, TransferError};
use exporters::vulkan::{self, Device};
use support::random::Random;
use support::*;

const MIB: usize = 1 << 20;

fn main() -> ExitCode {
    let on_vulkan = |name: &str, test: fn(&Device)| {
        trial(name, vulkan_device(), move |device| {
            test(&device);
            if let Some(log) = device.validation() {
                assert_eq!(log.errors(), [""; 0]);
            }
        })
    };
    support::run(vec![
        on_vulkan("any_requests_arrive_by_any_path", any_requests_arrive_by_any_path),
        on_vulkan("the_host_s_memory_does_not_wait", the_host_s_memory_does_not_wait),
        on_vulkan("a_file_that_shrinks_is_reported", a_file_that_shrinks_is_reported),
        on_vulkan("a_buffer_is_given_back", a_buffer_is_given_back),
        on_vulkan("a_loader_that_goes_answers_all", a_loader_that_goes_answers_all),
        on_vulkan("loaders_leave_no_descriptor_behind", loaders_leave_no_descriptor_behind),
    ])
}

fn device_memory(device: &Device, len: usize) -> Arc<vulkan::Buffer> {
    Arc::new(device.allocate(len, false).expect("device memory"))
}

fn buffer_of(memory: &Arc<vulkan::Buffer>) -> Buffer {
    Buffer::new(Arc::new(Arc::clone(memory))).expect("a buffer that the GPU copies into")
}

fn read_back(device: &Device, memory: &Arc<vulkan::Buffer>) -> Vec<u8> {
    let mut seen = vec![0; memory.len()];
    device.transfer().expect("a queue").read_back(memory, 0, &mut seen).expect("the GPU's view");
    seen
}

/// Ranges that agree with no block, apart from each other in the buffer, and how long that is.
fn ranges(count: usize, file_len: u64, seed: u64) -> (Vec<transfer::Request>, u64) {
    let mut numbers = Random(seed);
    let mut at = 0;
    let ranges = (0..count).map(|_| {
        let offset = numbers.below(file_len);
        let len = numbers.below(60_000).min(file_len - offset);
        let range = transfer::Request::new(0, offset, len, at + numbers.below(100));
        at = range.buffer().end;
        range
    });
    (ranges.collect(), at)
}

fn request(loader: &Loader, path: &Path, range: &transfer::Request, buffer: &Buffer) -> Request {
    let file = loader.open(path).expect("the file");
    Request::new(&file, range.offset..range.offset + range.len, buffer, range.buffer_offset)
}

/// From several threads, through few slots, from the drive and from the page cache.
fn any_requests_arrive_by_any_path(device: &Device) {
    let file = file_of(9 * MIB + 1);
    let (ranges, len) = ranges(300, 9 * MIB as u64 + 1, 99);
    let expected = expected(file.path(), &ranges, len as usize);
    for (depth, require) in [
        (1, Some(DataPath::Staged)),
        (3, Some(DataPath::Staged)),
        (32, Some(DataPath::Buffered)),
        (32, None),
    ] {
        match require {
            Some(DataPath::Staged) => drop_cache(file.as_file()),
            _ => drop(fill_cache(file.path())),
        }
        let options = LoaderOptions::default().depth(depth).block(65_536);
        let loader = Loader::with(options).expect("a loader");
        let memory = device_memory(device, len as usize);
        let buffer = buffer_of(&memory);
        let submit = |range: &transfer::Request| {
            let request = request(&loader, file.path(), range, &buffer).fingerprints();
            let request = require.into_iter().fold(request, Request::require);
            loader.submit(request).expect("a plan")
        };
        thread::scope(|scope| {
            for ranges in ranges.chunks(75) {
                scope.spawn(|| {
                    let tickets: Vec<_> = ranges.iter().map(submit).collect();
                    for (range, ticket) in ranges.iter().zip(tickets) {
                        let place = range.buffer().start as usize..range.buffer().end as usize;
                        let landed: Landed = ticket.wait().expect("its bytes");
                        assert_eq!(landed.bytes, range.len);
                        assert_eq!(landed.fingerprints, [crc32fast::hash(&expected[place])]);
                        if let Some(path) = require {
                            assert_eq!(landed.paths.of(path), range.len);
                        }
                    }
                });
            }
        });
        let seen = read_back(device, &memory);
        for range in &ranges {
            let place = range.buffer().start as usize..range.buffer().end as usize;
            assert_same(&seen[place.clone()], &expected[place]);
        }
    }
}

/// Requests into the host's memory and into the GPU's share a ring, of which each is answered.
fn the_host_s_memory_does_not_wait(device: &Device) {
    let file = file_of(16 * MIB);
    drop_cache(file.as_file());
    let loader = Loader::new().expect("a loader");
    let memory = device_memory(device, 16 * MIB);
    let host = Arc::new(memory_of(MIB));
    let (for_gpu, for_host) = (buffer_of(&memory), Buffer::new(host.clone()).expect("memory"));
    let open = loader.open(file.path()).expect("the file");
    let background = Request::new(&open, 0..16 * MIB as u64, &for_gpu, 0).priority(Priority::Low);
    let background = loader.submit(background).expect("a plan");
    for at in (0..MIB as u64).step_by(65_536) {
        let tile = Request::new(&open, at..at + 65_536, &for_host, at).priority(Priority::Realtime);
        loader.submit(tile).expect("a plan").wait().expect("its bytes");
    }
    background.wait().expect("its bytes");
    assert_same(&contents(&host), &bytes_of(MIB));
    assert_same(&read_back(device, &memory), &bytes_of(16 * MIB));
}

fn a_file_that_shrinks_is_reported(device: &Device) {
    let file = file_of(8 * MIB);
    let loader = Loader::new().expect("a loader");
    let open = loader.open(file.path()).expect("the file");
    file.as_file().set_len(5 * MIB as u64).expect("a shorter file");
    let buffer = buffer_of(&device_memory(device, 8 * MIB));
    let request = Request::new(&open, 0..8 * MIB as u64, &buffer, 0).require(DataPath::Staged);
    let error = loader.submit(request).expect("a plan").wait().expect_err("too short");
    let TransferError::Shrank { at, file_len, valid, .. } = error else { panic!("{error}") };
    assert_eq!((at, file_len), (5 << 20, 8 << 20));
    assert!(valid.bytes() <= 5 << 20, "{valid}");
}

fn a_buffer_is_given_back(device: &Device) {
    let file = file_of(MIB);
    let loader = Loader::new().expect("a loader");
    let open = loader.open(file.path()).expect("the file");
    let mut memory = device_memory(device, MIB);
    for _ in 0..20 {
        let buffer = buffer_of(&memory);
        let request = Request::new(&open, 3..MIB as u64, &buffer, 0);
        drop(buffer);
        loader.submit(request).expect("a plan").wait().expect("its bytes");
        assert!(Arc::get_mut(&mut memory).is_some(), "somebody else has it");
    }
}

/// At any moment: what is with the drive or the GPU ends, what waits is forgotten.
fn a_loader_that_goes_answers_all(device: &Device) {
    let file = file_of(8 * MIB);
    let mut memory = device_memory(device, 8 * MIB);
    let (mut whole, mut stopped) = (0, 0);
    for round in 0..16 {
        drop_cache(file.as_file());
        let options = LoaderOptions::default().depth(2).block(65_536);
        let loader = Loader::with(options).expect("a loader");
        let open = loader.open(file.path()).expect("the file");
        let buffer = buffer_of(&memory);
        let tickets: Vec<_> = (0..8 * MIB as u64)
            .step_by(MIB / 2)
            .map(|at| Request::new(&open, at..at + MIB as u64 / 2, &buffer, at))
            .map(|request| loader.submit(request).expect("a plan"))
            .collect();
        drop((buffer, open));
        thread::sleep(Duration::from_millis(round));
        drop(loader);
        for ticket in tickets {
            match ticket.wait() {
                Ok(landed) => whole += u64::from(landed.bytes == MIB as u64 / 2),
                Err(TransferError::Stopped { .. }) => stopped += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(Arc::get_mut(&mut memory).is_some(), "somebody else has it");
    }
    assert_eq!(whole + stopped, 16 * 16);
}

fn loaders_leave_no_descriptor_behind(device: &Device) {
    let count = || std::fs::read_dir("/proc/self/fd").expect("/proc").count();
    let file = file_of(MIB);
    let memory = device_memory(device, MIB);
    let once = || {
        let loader = Loader::new().expect("a loader");
        let range = transfer::Request::new(0, 3, MIB as u64 - 3, 0);
        let request = request(&loader, file.path(), &range, &buffer_of(&memory));
        loader.load(request).expect("its bytes");
    };
    once();
    let before = count();
    (0..10).for_each(|_| once());
    assert_eq!(count(), before);
}
