//! Fingerprints that a device takes, beside those that the CPU takes of the same bytes, under the validation layer where that is
//! installed: an error of the layer fails the trial.

mod common;
#[path = "common/validated.rs"]
mod validated;

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Arc;

use common::{Outcome, Stop, check, need, noise, open_fds, run, trial};
use exporters::vulkan::{Buffer, CopyRegion, Device, VulkanError};
use iomap::{Memory, PageSize};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use validated::{on_device, open};

const MIB: usize = 1 << 20;

fn main() -> ExitCode {
    run(vec![
        trial("any_ranges_of_any_bytes", || on_device(any_ranges_of_any_bytes)),
        trial("ranges_of_several_blocks", || on_device(ranges_of_several_blocks)),
        trial("the_last_bytes_of_a_buffer", || on_device(the_last_bytes_of_a_buffer)),
        trial("a_wrong_byte_is_another_fingerprint", || on_device(a_wrong_byte)),
        trial("a_buffer_that_others_share", || on_device(a_buffer_that_others_share)),
        trial("imported_pages", || on_device(imported_pages)),
        trial("bad_requests_are_refused", || on_device(bad_requests_are_refused)),
        trial("nothing_is_left_behind", nothing_is_left_behind),
    ])
}

fn pages(bytes: &[u8]) -> Result<Arc<Memory>, Stop> {
    let memory = Memory::memfd("bytes", bytes.len(), PageSize::Base)?;
    memory.map().copy_from_slice(0, bytes)?;
    Ok(Arc::new(memory))
}

/// Has the device put bytes into a buffer of its own.
fn put(device: &Device, bytes: &[u8], buffer: &Arc<Buffer>, at: usize) -> Outcome {
    let source = Arc::new(need(device.import_memory(pages(bytes)?))?);
    let mut transfer = device.transfer()?;
    let region = CopyRegion { src_offset: 0, dst_offset: at, len: bytes.len() };
    let ticket = transfer.copy(&source, buffer, &[region])?;
    Ok(transfer.wait(ticket)?)
}

fn filled(device: &Device, bytes: &[u8]) -> Result<Arc<Buffer>, Stop> {
    let buffer = Arc::new(device.allocate(bytes.len(), false)?);
    put(device, bytes, &buffer, 0)?;
    Ok(buffer)
}

fn same(device: &Device, bytes: &[u8], buffer: &Arc<Buffer>, ranges: &[Range<usize>]) -> Outcome {
    let found = device.fingerprinter()?.crc32(buffer, ranges)?;
    let own: Vec<_> = ranges.iter().map(|range| crc32fast::hash(&bytes[range.clone()])).collect();
    let different = found.iter().zip(&own).position(|(found, own)| found != own);
    let which = different.map(|at| format!("{:?} of {}", ranges[at], bytes.len()));
    check(found == own, format!("other fingerprints, the first of {which:?}"))
}

fn any_ranges_of_any_bytes(device: &Device) -> Outcome {
    let bytes = || {
        prop_oneof![
            (1usize..3000, any::<u64>()).prop_map(|(len, seed)| noise(len, seed)),
            prop::collection::vec(any::<u8>(), 1..40),
            (1usize..9000, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
        ]
    };
    let ranges =
        prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..12);
    let config = Config { cases: 150, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&(bytes(), ranges), |(bytes, ends)| {
        let ranges: Vec<_> = ends
            .iter()
            .map(|(one, other)| (one.index(bytes.len() + 1), other.index(bytes.len() + 1)))
            .map(|(one, other)| one.min(other)..one.max(other))
            .chain(std::iter::once(0..bytes.len()))
            .collect();
        let words = |stop| match stop {
            Stop::Failed(why) | Stop::Absent(why) => TestCaseError::fail(why),
        };
        let buffer = filled(device, &bytes).map_err(words)?;
        same(device, &bytes, &buffer, &ranges).map_err(words)
    });
    Ok(outcome?)
}

/// In any order, and on each other.
fn ranges_of_several_blocks(device: &Device) -> Outcome {
    let len = 5 * MIB + 3;
    let bytes = noise(len, 5);
    let buffer = filled(device, &bytes)?;
    let ranges = [
        MIB - 1..3 * MIB + 1,
        0..len,
        4 * MIB..5 * MIB,
        77..77,
        3..len - 1,
        2 * MIB + 1..2 * MIB + 2,
        len..len,
    ];
    same(device, &bytes, &buffer, &ranges)
}

fn the_last_bytes_of_a_buffer(device: &Device) -> Outcome {
    for len in 1..=9 {
        let bytes = noise(len, len as u64);
        let buffer = filled(device, &bytes)?;
        let ranges: Vec<_> =
            (0..=len).flat_map(|start| (start..=len).map(move |end| start..end)).collect();
        same(device, &bytes, &buffer, &ranges)?;
    }
    Ok(())
}

fn a_wrong_byte(device: &Device) -> Outcome {
    let bytes = noise(2 * MIB + 2, 9);
    let buffer = filled(device, &bytes)?;
    let all = [0..bytes.len(), 0..0];
    let right = device.fingerprinter()?.crc32(&buffer, &all)?;
    for at in [0, 1, 4095, MIB - 1, MIB, 2 * MIB - 1, bytes.len() - 1] {
        put(device, &[!bytes[at]], &buffer, at)?;
        let wrong = device.fingerprinter()?.crc32(&buffer, &all)?;
        check(wrong != right, format!("a wrong byte at {at} is not noticed"))?;
        put(device, &[bytes[at]], &buffer, at)?;
    }
    let again = device.fingerprinter()?.crc32(&buffer, &all)?;
    check(again == right, "the right bytes have another fingerprint now")
}

fn a_buffer_that_others_share(device: &Device) -> Outcome {
    let bytes = noise(MIB + 5, 11);
    let buffer = Arc::new(need(device.allocate(bytes.len(), true))?);
    let _others = need(buffer.export_dma_buf())?;
    put(device, &bytes, &buffer, 0)?;
    for _ in 0..3 {
        same(device, &bytes, &buffer, &[0..bytes.len(), 5..70_001])?;
    }
    Ok(())
}

fn imported_pages(device: &Device) -> Outcome {
    let bytes = noise(MIB, 13);
    let buffer = Arc::new(need(device.import_memory(pages(&bytes)?))?);
    same(device, &bytes, &buffer, &[0..bytes.len(), 3..77_777])
}

fn bad_requests_are_refused(device: &Device) -> Outcome {
    let buffer = Arc::new(device.allocate(1000, false)?);
    let mut fingerprinter = device.fingerprinter()?;
    for range in [0..1001, 1001..1001, 999..usize::MAX] {
        let refused = fingerprinter.crc32(&buffer, &[0..1000, range.clone()]);
        let expected = matches!(refused, Err(VulkanError::OutOfBounds { .. }));
        check(expected, format!("{range:?}: {refused:?}"))?;
    }
    check(fingerprinter.crc32(&buffer, &[])?.is_empty(), "fingerprints of nothing")?;
    let other = open()?;
    let refused = fingerprinter.crc32(&Arc::new(other.allocate(1000, false)?), &[0..1000, 3..4]);
    check(matches!(refused, Err(VulkanError::OtherDevice)), format!("{refused:?}"))
}

fn nothing_is_left_behind() -> Outcome {
    let once = || -> Outcome {
        let device = open()?;
        let bytes = noise(3000, 1);
        let buffer = filled(&device, &bytes)?;
        same(&device, &bytes, &buffer, &[1..2999, 5..6])
    };
    once()?;
    let before = open_fds();
    for _ in 0..10 {
        once()?;
    }
    check(open_fds() == before, format!("{} descriptors, {before} before", open_fds()))
}
