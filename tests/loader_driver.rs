//! A loader whose ring a thread of the program's drives: the same lands, from any thread, however it ends.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bufmap::engine::{Buffer, Completions, Loader, LoaderOptions, Request};
use bufmap::transfer::{self, DataPath, Priority, TransferError};
use iomap::{Memory, PageSize};
use proptest::prelude::*;
use support::random::Random;
use support::*;

const MIB: usize = 1 << 20;

/// Ten pages of it are new.
fn buffer(len: usize) -> (Arc<Memory>, Buffer) {
    let memory = Arc::new(Memory::anonymous(len, PageSize::Base).expect("memory"));
    let known = memory.map().subrange(len.min(40_960)..).expect("the rest of it");
    known.fill(UNTOUCHED).expect("a writable map");
    let buffer = Buffer::new(memory.clone()).expect("memory");
    (memory, buffer)
}

fn request(loader: &Loader, path: &Path, range: &transfer::Request, buffer: &Buffer) -> Request {
    let file = loader.open(path).expect("the file");
    Request::new(&file, range.offset..range.offset + range.len, buffer, range.buffer_offset)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_was_asked_for_lands_by_any_path(
        parts in prop::collection::vec((0u64..9_000, prop_oneof![0u64..20_000, Just(4096), 200_000u64..400_000]), 1..12),
        aligned in any::<bool>(),
        cached in any::<bool>(),
        fingerprints in any::<bool>(),
        by_ticket in any::<bool>(),
        depth in prop_oneof![Just(1), Just(4), Just(32)],
        require in prop_oneof![Just(None), Just(Some(DataPath::Direct)), Just(Some(DataPath::Buffered))],
    ) {
        let up = |n: u64| if aligned { n.next_multiple_of(4096) } else { n };
        let mut at = 0;
        let ranges: Vec<_> = parts
            .iter()
            .map(|&(gap, len)| {
                let offset = at + up(gap);
                at = offset + up(len);
                transfer::Request::new(0, offset, up(len), offset)
            })
            .collect();
        let file = file_of(at as usize + 100);
        match cached {
            true => drop(fill_cache(file.path())),
            false => drop_cache(file.as_file()),
        }
        let options = LoaderOptions::default().depth(depth).block(64 << 10);
        let (loader, mut driver) = Loader::driven(options).expect("a loader");
        let (memory, buffer) = buffer(at as usize + 50);
        let completions = Completions::new();
        let mut tickets = Vec::new();
        for range in &ranges {
            let mut request = request(&loader, file.path(), range, &buffer);
            request = require.into_iter().fold(request, Request::require);
            request = if fingerprints { request.fingerprints() } else { request };
            match by_ticket {
                true => tickets.push(loader.submit(request).expect("a plan")),
                false => loader.submit_to(request, &completions).expect("a plan"),
            }
        }
        let mut bytes = 0;
        for _ in &ranges {
            let outcome = match tickets.pop() {
                Some(ticket) => driver.wait(ticket),
                None => driver.next(&completions).outcome,
            };
            bytes += outcome.expect("its bytes").bytes;
        }
        prop_assert_eq!(bytes, ranges.iter().map(|range| range.len).sum::<u64>());
        let (found, expected) = (contents(&memory), expected(file.path(), &ranges, memory.len()));
        for range in &ranges {
            let place = range.buffer().start as usize..range.buffer().end as usize;
            assert_same(&found[place.clone()], &expected[place]);
        }
    }
}

/// They wait by their tickets, and the driver does what they wait for.
#[test]
fn other_threads_use_the_loader_meanwhile() {
    const THREADS: u64 = 4;
    let (file, expected) = (file_of(MIB), bytes_of(MIB));
    drop_cache(file.as_file());
    let (loader, mut driver) = Loader::driven(LoaderOptions::default()).expect("a loader");
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for own in 0..THREADS {
            let (loader, path, expected, done) = (loader.clone(), file.path(), &expected, &done);
            scope.spawn(move || {
                let mut numbers = Random(own + 1);
                for i in 0..500u64 {
                    let at = numbers.below(MIB as u64 - 8192) / 512 * 512;
                    let range = transfer::Request::new(0, at, 1 + numbers.below(8192), 0);
                    let (memory, buffer) = buffer(8192);
                    let request = request(&loader, path, &range, &buffer);
                    let request = if i % 3 == 0 { request.fingerprints() } else { request };
                    let ticket = loader.submit(request).expect("a plan");
                    if i % 7 == 0 {
                        ticket.cancel();
                    }
                    match ticket.wait() {
                        Ok(landed) => {
                            let (at, len) = (at as usize, landed.bytes as usize);
                            assert_same(&contents(&memory)[..len], &expected[at..at + len]);
                        }
                        Err(TransferError::Stopped { .. }) => assert_eq!(i % 7, 0),
                        Err(error) => panic!("{error}"),
                    }
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        let completions = Completions::new();
        while done.load(Ordering::Relaxed) < THREADS as usize {
            let (memory, buffer) = buffer(8192);
            let range = transfer::Request::new(0, 4096, 8192, 0);
            let own = request(&loader, file.path(), &range, &buffer).priority(Priority::High);
            loader.submit_to(own, &completions).expect("a plan");
            driver.next(&completions).outcome.expect("its bytes");
            assert_same(&contents(&memory), &expected[4096..4096 + 8192]);
            driver.poll();
        }
    });
    assert_eq!(loader.counts().failed, 0);
}

#[test]
fn a_loop_of_the_program_s_own_polls() {
    let file = file_of(MIB);
    drop_cache(file.as_file());
    let (loader, mut driver) = Loader::driven(LoaderOptions::default()).expect("a loader");
    let (memory, buffer) = buffer(MIB);
    let range = transfer::Request::new(0, 0, MIB as u64, 0);
    let ticket = loader.submit(request(&loader, file.path(), &range, &buffer)).expect("a plan");
    while !ticket.is_done() {
        driver.poll();
        thread::sleep(Duration::from_micros(20));
    }
    ticket.wait().expect("its bytes");
    assert_same(&contents(&memory), &bytes_of(MIB));
}

/// Whichever goes first, and at any moment.
#[test]
fn everything_is_answered_when_either_goes() {
    let file = file_of(4 * MIB);
    drop_cache(file.as_file());
    let mut numbers = Random(7);
    let (mut landed, mut stopped) = (0, 0);
    for round in 0..120u64 {
        let options = LoaderOptions::default().depth(4).block(16 << 10);
        let (loader, mut driver) = Loader::driven(options).expect("a loader");
        let (memory, buffer) = buffer(4 * MIB);
        let open = loader.open(file.path()).expect("the file");
        let tickets: Vec<_> = (0..64u64)
            .map(|i| Request::new(&open, i << 16..(i + 1) << 16, &buffer, i << 16))
            .enumerate()
            .map(|(i, request)| if i % 2 == 0 { request.fingerprints() } else { request })
            .map(|request| loader.submit(request).expect("a plan"))
            .collect();
        drop((open, buffer));
        for _ in 0..numbers.below(40) {
            driver.poll();
        }
        let tickets = match round % 3 {
            0 => {
                drop(driver);
                tickets.into_iter().map(|ticket| ticket.wait()).collect::<Vec<_>>()
            }
            1 => {
                drop(loader);
                drop(driver);
                tickets.into_iter().map(|ticket| ticket.wait()).collect()
            }
            _ => {
                let elsewhere = thread::spawn(move || drop(loader));
                let outcomes = tickets.into_iter().map(|ticket| driver.wait(ticket)).collect();
                elsewhere.join().expect("no panic");
                outcomes
            }
        };
        for outcome in tickets {
            match outcome {
                Ok(_) => landed += 1,
                Err(TransferError::Stopped { .. }) => stopped += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(Arc::strong_count(&memory), 1, "round {round}");
    }
    assert!(landed > 0 && stopped > 0, "{landed} and {stopped}");
}

/// The bytes that this thread has had drives read so far.
fn read_by_this_thread() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").expect("the account of this thread");
    let bytes = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    bytes.and_then(|bytes| bytes.parse().ok()).expect("a number of bytes")
}

#[test]
fn the_drive_is_given_reads_while_answers_are_taken() {
    let file = file_of(16 * 4096);
    drop_cache(file.as_file());
    let (loader, mut driver) = Loader::driven(LoaderOptions::default()).expect("a loader");
    let (_, buffer) = buffer(32 * 4096);
    let completions = Completions::new();
    let submit = |page: u64| {
        let range = transfer::Request::new(0, page * 4096, 4096, (16 + page) * 4096);
        let request = request(&loader, file.path(), &range, &buffer).require(DataPath::Direct);
        loader.submit_to(request, &completions).expect("a plan");
    };
    (0..8).for_each(submit);
    while loader.counts().landed < 8 {
        driver.poll();
    }
    let before = read_by_this_thread();
    for page in 8..16 {
        driver.next(&completions).outcome.expect("its bytes");
        submit(page);
    }
    let begun = (read_by_this_thread() - before) / 4096;
    assert!(
        (4..8).contains(&begun),
        "{begun} of 8 were begun while the answers of others were taken"
    );
    (8..16).for_each(|_| drop(driver.next(&completions).outcome.expect("its bytes")));
}
