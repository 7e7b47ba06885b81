//! Buffers that move between every source this machine has, while threads write them.

mod common;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Outcome, Stop, check, need, noise, open_fds, run, trial};
use exporters::drm::{Card, Node};
use exporters::movable::{By, Movable, MoveError};
use exporters::vulkan::{Device, VulkanError};
use exporters::{DmaHeap, Exporter, Intent, SystemMemory, Udmabuf};
use iomap::MemoryError;

/// Each thread's part of the buffer, in bytes, and how many there are.
const PART: usize = 16 << 10;
const THREADS: usize = 3;
const LEN: usize = PART * THREADS;

const SOON: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    run(vec![
        trial("a_buffer_moves_under_load", moves_under_load),
        trial("a_device_moves_it_too", a_device_moves_it),
        trial("who_stays_is_waited_for", who_stays_is_waited_for),
        trial("a_move_that_fails_leaves_it_where_it_was", a_failed_move),
        trial("moving_leaves_no_descriptor", no_descriptor_leaks),
    ])
}

/// Every source whose bytes the CPU reaches.
fn places() -> Vec<Box<dyn Exporter + Sync>> {
    let mut places: Vec<Box<dyn Exporter + Sync>> = vec![Box::new(SystemMemory::default())];
    if let Ok(udmabuf) = Udmabuf::open() {
        places.push(Box::new(udmabuf));
    }
    if let Ok(heap) = DmaHeap::open("system") {
        places.push(Box::new(heap));
    }
    for driver in ["vgem", "virtio_gpu", "bochs-drm"] {
        if let Ok(card) = Card::find(driver, Node::Primary) {
            places.push(Box::new(card));
        }
    }
    if let Ok(device) = Device::open(None) {
        places.push(Box::new(device));
    }
    places
}

/// Adds one to each word of a part, all of which were equal, through a map taken for this alone.
fn count_up(buffer: &Movable, part: usize, expected: u64) -> Outcome {
    let stay = buffer.stay();
    let access = stay.cpu()?.begin(Intent::ReadWrite)?;
    let map = access.map().subrange(part * PART..(part + 1) * PART)?;
    let mut words = vec![0; PART];
    map.copy_to_slice(0, &mut words)?;
    let provider = stay.provider();
    let wrong = words.chunks_exact(8).position(|word| word != expected.to_ne_bytes());
    check(wrong.is_none(), format!("part {part} in {provider}: word {wrong:?} is not {expected}"))?;
    for word in 0..PART / 8 {
        map.write(word * 8, expected + 1)?;
    }
    Ok(access.finish()?)
}

fn moves_under_load() -> Outcome {
    let places = places();
    let buffer = Movable::new(places[0].export(LEN)?);
    let done = AtomicBool::new(false);
    let (moves, counts) = thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|part| {
                let (buffer, done) = (&buffer, &done);
                scope.spawn(move || {
                    let mut count = 0;
                    while !done.load(Ordering::Relaxed) {
                        count_up(buffer, part, count)?;
                        count += 1;
                    }
                    Ok::<_, Stop>(count)
                })
            })
            .collect();
        let end = Instant::now() + Duration::from_secs(5);
        let mut moves = 0;
        let moved = loop {
            let place = &places[(moves + 1) % places.len()];
            if let Err(e) = buffer.move_to(&**place, By::Cpu, SOON) {
                break Err(Stop::Failed(format!("move {moves}, to {}: {e}", place.name())));
            }
            moves += 1;
            if Instant::now() >= end {
                break Ok(moves);
            }
        };
        done.store(true, Ordering::Relaxed);
        let mut counts = Vec::new();
        for writer in writers {
            counts.push(writer.join().map_err(|_| Stop::Failed("a writer panicked".into()))??);
        }
        Ok::<_, Stop>((moved?, counts))
    })?;
    for (part, &count) in counts.iter().enumerate() {
        count_up(&buffer, part, count)?;
    }
    println!("{} places, {moves} moves, {counts:?} times written", places.len());
    check(moves >= places.len() && counts.iter().all(|&count| count > 0), "nothing was shown")
}

fn a_device_moves_it() -> Outcome {
    let device = need(Device::open(None))?;
    let heap = need(DmaHeap::open("system"))?;
    let udmabuf = need(Udmabuf::open())?;
    need(device.info().extension("VK_EXT_external_memory_dma_buf"))?;
    let mut transfer = device.transfer()?;
    let bytes = noise(LEN, 11);
    let buffer = Movable::new(heap.export(LEN)?);
    let stay = buffer.stay();
    let access = stay.cpu()?.begin(Intent::Write)?;
    access.map().copy_from_slice(0, &bytes)?;
    access.finish()?;
    drop(stay);
    for place in [&device as &dyn Exporter, &udmabuf, &device, &heap] {
        buffer.move_to(place, By::Device(&mut transfer), SOON)?;
    }
    let mut back = vec![0; LEN];
    buffer.stay().cpu()?.begin(Intent::Read)?.map().copy_to_slice(0, &mut back)?;
    check(back == bytes, "other bytes came back")
}

fn who_stays_is_waited_for() -> Outcome {
    let memory = SystemMemory::default();
    let buffer = Movable::new(memory.export(LEN)?);
    let stay = buffer.stay();
    let short = Duration::from_millis(50);
    let answer = buffer.move_to(&memory, By::Cpu, short);
    check(matches!(answer, Err(MoveError::Held { stays: 1, .. })), format!("{answer:?}"))?;
    // Whoever comes after a move was given up is served, and waits for one that is still wanted.
    drop(buffer.stay());
    thread::scope(|scope| {
        let mover = scope.spawn(|| buffer.move_to(&memory, By::Cpu, SOON));
        let late = scope.spawn(|| {
            thread::sleep(2 * short);
            let began = Instant::now();
            drop(buffer.stay());
            began.elapsed()
        });
        thread::sleep(6 * short);
        check(!mover.is_finished(), "it was moved while somebody held it")?;
        check(!late.is_finished(), "who came later went first")?;
        drop(stay);
        mover.join().map_err(|_| "the mover panicked")??;
        let waited = late.join().map_err(|_| "the other panicked")?;
        check(waited >= 2 * short, format!("{waited:?}"))
    })
}

fn a_failed_move() -> Outcome {
    let memory = SystemMemory::default();
    let buffer = Movable::new(memory.export(LEN)?);
    count_up(&buffer, 0, 0)?;
    let huge = SystemMemory::new(iomap::PageSize::Huge1G);
    let answer = buffer.move_to(&huge, By::Cpu, SOON);
    if answer.is_ok() {
        return Err(Stop::Absent("pages of 1 GiB are reserved here, and no move fails".into()));
    }
    let Err(MoveError::Export(error)) = answer else {
        return Err(Stop::Failed(format!("{answer:?}")));
    };
    check(error.exporter() == huge.name(), error.exporter())?;
    check(error.downcast_ref::<MemoryError>().is_some(), &error)?;
    check(error.downcast_ref::<VulkanError>().is_none(), error)?;
    if let Ok(device) = Device::open(None) {
        let mut transfer = device.transfer()?;
        let answer = buffer.move_to(&memory, By::Device(&mut transfer), SOON);
        check(matches!(answer, Err(MoveError::Unavailable(_))), format!("{answer:?}"))?;
    }
    count_up(&buffer, 0, 1)
}

fn no_descriptor_leaks() -> Outcome {
    let places = places();
    let buffer = Movable::new(places[0].export(LEN)?);
    let round = || places.iter().try_for_each(|place| buffer.move_to(&**place, By::Cpu, SOON));
    round()?;
    let before = open_fds();
    for _ in 0..20 {
        round()?;
    }
    check(open_fds() == before, format!("{before} descriptors became {}", open_fds()))
}
