//! A loader that stays: what lands, in which order, who is told, and what is left when it goes.

mod support;

use std::fs;
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use bufmap::engine::{Buffer, Completions, Loader, LoaderOptions, Outcome, Refused, Request};
use bufmap::transfer::{self, Around, DataPath, Priority, TransferError};
use exporters::Destination;
use iomap::{Memory, PageSize};
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, poll};
use support::random::Random;
use support::*;

const MIB: usize = 1 << 20;

fn buffer(len: usize) -> (Arc<Memory>, Buffer) {
    let memory = Arc::new(memory_of(len));
    let buffer = Buffer::new(Arc::clone(&memory) as Arc<dyn Destination>).expect("memory");
    (memory, buffer)
}

/// Of which no page is present yet.
fn new_buffer(len: usize) -> (Arc<Memory>, Buffer) {
    let memory = Arc::new(Memory::anonymous(len, PageSize::Base).expect("memory"));
    let buffer = Buffer::new(Arc::clone(&memory) as Arc<dyn Destination>).expect("memory");
    (memory, buffer)
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes);
    hasher.finalize()
}

/// A loader whose reads are small and few at a time, so that a long request takes a while.
fn slow() -> Loader {
    let options = LoaderOptions::default().depth(2).block(4 << 10);
    Loader::with(options).expect("a loader")
}

/// Ranges of a file and their places, apart from each other in the buffer, from (gap, length, gap) triples.
fn ranges(parts: &[(u64, u64, u64)]) -> Vec<transfer::Request> {
    let (mut offset, mut at) = (0, 0);
    let mut ranges = Vec::new();
    for &(gap, len, buffer_gap) in parts {
        (offset, at) = (offset + gap, at + buffer_gap);
        ranges.push(transfer::Request::new(0, offset, len, at));
        (offset, at) = (offset + len, at + len);
    }
    ranges
}

fn request_of(
    loader: &Loader,
    path: &Path,
    ranges: &[transfer::Request],
    buffer: &Buffer,
) -> Request {
    let file = loader.open(path).expect("the file");
    let (first, rest) = ranges.split_first().expect("a range");
    let part = |range: &transfer::Request| range.offset..range.offset + range.len;
    rest.iter()
        .fold(Request::new(&file, part(first), buffer, first.buffer_offset), |request, range| {
            request.and(part(range), range.buffer_offset)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// By every path, with every alignment, with fingerprints and without.
    #[test]
    fn what_was_asked_for_lands_and_nothing_else(
        parts in prop::collection::vec((0u64..9_000, prop_oneof![0u64..20_000, Just(4096), 200_000u64..400_000], 0u64..9_000), 1..12),
        aligned in any::<bool>(),
        cached in any::<bool>(),
        fingerprints in any::<bool>(),
        block in prop_oneof![Just(4u64 << 10), Just(64 << 10), Just(1 << 20)],
        require in prop_oneof![Just(None), Just(Some(DataPath::Direct)), Just(Some(DataPath::Buffered))],
    ) {
        let up = |n: u64| if aligned { n.next_multiple_of(4096) } else { n };
        let parts: Vec<_> = parts.into_iter().map(|(a, b, c)| (up(a), up(b), up(c))).collect();
        let ranges = ranges(&parts);
        let file = file_of(ranges.last().map_or(0, |last| last.offset + last.len) as usize + 100);
        match cached {
            true => drop(fill_cache(file.path())),
            false => drop_cache(file.as_file()),
        }
        let len = ranges.last().map_or(0, |last| last.buffer().end) as usize + 50;
        let loader = Loader::with(LoaderOptions::default().block(block)).expect("a loader");
        let (memory, buffer) = buffer(len);
        let mut request = request_of(&loader, file.path(), &ranges, &buffer);
        if let Some(path) = require {
            request = request.require(path);
        }
        if fingerprints {
            request = request.fingerprints();
        }
        let landed = loader.submit(request).expect("a plan").wait().expect("its bytes");
        let expected = expected(file.path(), &ranges, memory.len());
        assert_same(&contents(&memory), &expected);
        let wanted: u64 = ranges.iter().map(|range| range.len).sum();
        let by_path: u64 = landed.paths.iter().map(|share| share.bytes).sum();
        prop_assert_eq!((landed.bytes, by_path), (wanted, wanted));
        let prints: Vec<_> = ranges
            .iter()
            .map(|range| crc32(&expected[range.buffer_offset as usize..range.buffer().end as usize]))
            .collect();
        prop_assert_eq!(landed.fingerprints, if fingerprints { prints } else { Vec::new() });
    }
}

#[test]
fn a_request_has_given_its_buffer_back_when_its_outcome_is_known() {
    const LEN: usize = 128 << 10;
    let (file, expected) = (file_of(LEN), bytes_of(LEN));
    let loader = Loader::new().expect("a loader");
    let mut memory = Arc::new(memory_of(LEN));
    for round in 0..300u64 {
        let open = loader.open(file.path()).expect("the file");
        let buffer = Buffer::new(memory.clone()).expect("memory");
        let request = Request::new(&open, 0..LEN as u64, &buffer, 0).fingerprints();
        drop(buffer);
        let outcome = match round % 3 {
            0 => loader.submit(request).expect("a plan").wait(),
            1 => loader.load(request),
            _ => {
                let completions = Completions::new();
                loader.submit_to(request, &completions).expect("a plan");
                completions.wait().outcome
            }
        };
        outcome.expect("its bytes");
        let memory = Arc::get_mut(&mut memory).expect("nobody else has it");
        assert_same(memory.as_mut_slice().expect("a slice"), &expected);
        memory.as_mut_slice().expect("a slice").fill(0);
    }
    assert_eq!(loader.counts().landed, 300);
}

#[test]
fn a_file_stays_open_and_is_opened_again_when_it_is_another() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = dir.path().join("file");
    fs::write(&path, [1; 100]).expect("a file");
    let loader = Loader::new().expect("a loader");
    let (memory, buffer) = buffer(4096);
    let first = || {
        let file = loader.open(&path).expect("the file");
        loader.load(Request::new(&file, 0..1, &buffer, 0)).expect("its byte");
        memory.map().read::<u8>(0).expect("a byte")
    };
    let descriptors = || fs::read_dir("/proc/self/fd").expect("/proc").count();
    let kept = loader.open(&path).expect("the file");
    let before = descriptors();
    let again = loader.open(&path).expect("the file");
    // Tests that run beside this one open files too: as many as this one would are not.
    assert!(descriptors() < before + 50);
    assert_eq!((first(), kept.len(), again.len()), (1, 100, 100));
    // Another by the same name, and the same with other bytes.
    fs::write(dir.path().join("new"), [2; 200]).expect("a file");
    fs::rename(dir.path().join("new"), &path).expect("a name");
    assert_eq!((first(), kept.len()), (2, 100));
    fs::write(&path, [3; 300]).expect("a file");
    assert_eq!((first(), loader.open(&path).expect("the file").len()), (3, 300));
}

#[test]
fn a_file_that_changes_under_a_request_fails_it() {
    let file = file_of(32 * MIB);
    drop_cache(file.as_file());
    let loader = slow();
    let (_, buffer) = buffer(32 * MIB);
    let open = loader.open(file.path()).expect("the file");
    let request = Request::new(&open, 0..32 * MIB as u64, &buffer, 0);
    let ticket = loader.submit(request.clone()).expect("a plan");
    file.as_file().write_all_at(b"new", 31 << 20).expect("a write");
    let error = ticket.wait().expect_err("it has changed");
    assert!(matches!(error, TransferError::Changed { .. }), "{error}");
    let error = loader.load(request).expect_err("it is not what was opened");
    assert!(matches!(error, TransferError::Changed { .. }), "{error}");
    assert_eq!(loader.counts().failed, 2);
    let small = Request::new(&open, 0..4096, &buffer, 0).require(DataPath::Direct);
    let error = loader.load(small).expect_err("nor by this path");
    assert!(matches!(error, TransferError::Changed { .. }), "{error}");
}

#[test]
fn a_checksum_is_met_or_the_request_fails() {
    let bytes = bytes_of(MIB);
    let file = file_of(MIB);
    let loader = Loader::new().expect("a loader");
    let (_, buffer) = buffer(MIB);
    let open = loader.open(file.path()).expect("the file");
    let request = |crc| {
        Request::new(&open, 0..4096, &buffer, 0)
            .crc32(crc32(&bytes[..4096]))
            .and(4096..9000, 4096)
            .crc32(crc)
    };
    let crc = crc32(&bytes[4096..9000]);
    let landed = loader.load(request(crc)).expect("its bytes");
    assert_eq!(landed.fingerprints, [crc32(&bytes[..4096]), crc]);
    let error = loader.load(request(crc ^ 1)).expect_err("another checksum");
    assert!(matches!(error, TransferError::Mismatch { offset: 4096, .. }), "{error}");
    let direct = Request::new(&open, 0..4096, &buffer, 0).crc32(1).require(DataPath::Direct);
    let error = loader.load(direct).expect_err("another checksum");
    assert!(matches!(error, TransferError::Mismatch { offset: 0, .. }), "{error}");
}

#[test]
fn an_urgent_request_overtakes_and_a_cancelled_one_says_what_is_valid() {
    let file = file_of(64 * MIB);
    drop_cache(file.as_file());
    let loader = slow();
    let ((memory, all), (_, small)) = (buffer(64 * MIB), buffer(4096));
    let open = loader.open(file.path()).expect("the file");
    let long = Request::new(&open, 0..64 * MIB as u64, &all, 0)
        .require(DataPath::Direct)
        .priority(Priority::Low);
    let (long, waits) =
        (loader.submit(long.clone()).expect("a plan"), loader.submit(long.tag(5)).expect("a plan"));
    for _ in 0..20 {
        let urgent = Request::new(&open, 8192..12_288, &small, 0)
            .require(DataPath::Direct)
            .priority(Priority::Realtime);
        loader.submit(urgent).expect("a plan").wait().expect("its bytes");
    }
    assert!(!long.is_done() && !waits.is_done(), "16,384 reads took no longer than twenty");
    // What waits behind it is forgotten at once.
    assert_eq!((loader.cancel(6), loader.cancel(5)), (0, 1));
    assert!(waits.is_done());
    let error = waits.wait().expect_err("it was cancelled");
    assert!(matches!(&error, TransferError::Stopped { valid } if valid.bytes() == 0), "{error}");
    long.cancel();
    let error = long.wait().expect_err("it was cancelled");
    let TransferError::Stopped { valid } = error else { panic!("{error}") };
    assert!(valid.bytes() > 0 && valid.bytes() < valid.wanted(), "{valid}");
    let (found, expected) = (contents(&memory), bytes_of(64 * MIB));
    for range in valid.ranges() {
        let range = range.start as usize..range.end as usize;
        assert_same(&found[range.clone()], &expected[range]);
    }
    assert_eq!((loader.counts().stopped, loader.counts().under_way()), (2, 0));
}

#[test]
fn what_does_not_fit_waits_or_is_given_back() {
    let file = file_of(16 * MIB);
    drop_cache(file.as_file());
    let options = LoaderOptions::default().depth(1).block(4 << 10).waiting(2);
    let loader = Loader::with(options).expect("a loader");
    let (_, buffer) = buffer(16 * MIB);
    let open = loader.open(file.path()).expect("the file");
    let long = Request::new(&open, 0..16 * MIB as u64, &buffer, 0).require(DataPath::Direct);
    let first = loader.try_submit(long.clone()).expect("it fits");
    let second = loader.try_submit(long.clone().tag(2)).expect("it fits");
    let Err(Refused::Full(refused)) = loader.try_submit(long.tag(3)) else {
        panic!("it does not fit")
    };
    // It waits until it fits, and comes through in the end.
    let third = thread::scope(|scope| {
        let waiting = scope.spawn(|| loader.submit(*refused).expect("a plan"));
        thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished() || first.is_done());
        second.cancel();
        waiting.join().expect("no panic")
    });
    assert_eq!(third.tag(), 3);
    first.wait().expect("its bytes");
    assert!(matches!(second.wait(), Err(TransferError::Stopped { .. })));
    third.wait().expect("its bytes");
    // More at once than may wait.
    let completions = Completions::new();
    let small = |tag: u64| {
        let range = tag * 4096..(tag + 1) * 4096;
        Request::new(&open, range, &buffer, tag * 4096).tag(tag)
    };
    loader.submit_all((0..40).map(small), &completions).expect("a plan");
    let mut tags: Vec<_> = (0..40).map(|_| completions.wait().tag).collect();
    tags.sort_unstable();
    assert!(tags.into_iter().eq(0..40));
}

/// Runs a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Sleeper(Thread);
    impl Wake for Sleeper {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Sleeper(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn an_outcome_comes_by_whichever_way_a_program_likes() {
    let file = file_of(4 * MIB);
    let loader = Loader::new().expect("a loader");
    let (_, buffer) = buffer(4 * MIB);
    let open = loader.open(file.path()).expect("the file");
    let request = |tag: u64| {
        let range = (tag << 16)..(tag + 1) << 16;
        Request::new(&open, range, &buffer, tag << 16).require(DataPath::Direct).tag(tag)
    };
    let is_whole = |outcome: Outcome| assert_eq!(outcome.expect("its bytes").bytes, 1 << 16);
    // A future.
    is_whole(block_on(async {
        let first = loader.submit(request(0)).expect("a plan").await;
        is_whole(first);
        loader.submit(request(1)).expect("a plan").await
    }));
    // A wait with a limit.
    let mut ticket = loader.submit(request(2)).expect("a plan");
    let outcome = loop {
        match ticket.wait_for(Duration::from_micros(1)) {
            Ok(outcome) => break outcome,
            Err(again) => ticket = again,
        }
    };
    is_whole(outcome);
    // Asking.
    let ticket = loader.submit(request(3)).expect("a plan");
    while !ticket.is_done() {
        thread::yield_now();
    }
    is_whole(ticket.wait());
    // An eventfd in a loop of the program's own.
    let completions = Completions::new();
    loader.submit_all((0..30).map(request), &completions).expect("a plan");
    (30..60).for_each(|tag| loader.submit_to(request(tag), &completions).expect("a plan"));
    let mut seen = [false; 60];
    while seen.contains(&false) {
        let fd = completions.eventfd().expect("an eventfd");
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], None).expect("poll");
        while let Some(completed) = completions.poll() {
            assert!(!std::mem::replace(&mut seen[completed.tag as usize], true), "once");
            is_whole(completed.outcome);
        }
    }
    assert_eq!(loader.counts().under_way(), 0);
}

#[test]
fn what_cannot_be_done_is_refused_at_once() {
    let file = file_of(10_000);
    let loader = Loader::new().expect("a loader");
    let (_, buffer) = buffer(8192);
    let open = loader.open(file.path()).expect("the file");
    let refused = |request| loader.submit(request).expect_err("it cannot be done");
    let past = refused(Request::new(&open, 9_000..10_001, &buffer, 0));
    assert!(matches!(past, TransferError::PastEnd { .. }), "{past}");
    let small = refused(Request::new(&open, 0..8193, &buffer, 0));
    assert!(matches!(small, TransferError::TooSmall { needed: 8193, len: 8192 }), "{small}");
    let overlap = refused(Request::new(&open, 0..100, &buffer, 0).and(200..300, 99));
    assert!(matches!(overlap, TransferError::Overlap { at: 99 }), "{overlap}");
    let path = refused(Request::new(&open, 0..100, &buffer, 0).require(DataPath::Peer));
    assert!(matches!(path, TransferError::DataPath { .. }), "{path}");
    let missing = loader.open("/nonexistent").expect_err("there is none");
    assert!(matches!(missing, TransferError::Open { .. }), "{missing}");
    for options in [
        LoaderOptions::default().depth(0),
        LoaderOptions::default().block(5000),
        LoaderOptions::default().waiting(0),
    ] {
        assert!(matches!(Loader::with(options), Err(TransferError::Options(_))));
    }
    // Together, or not at all.
    let completions = Completions::new();
    let requests = [0..100, 9_000..10_001].map(|range| Request::new(&open, range, &buffer, 0));
    let none = loader.submit_all(requests, &completions).expect_err("the second cannot be done");
    assert!(matches!(none, TransferError::PastEnd { .. }), "{none}");
    assert!(completions.wait_for(Duration::from_millis(20)).is_none());
    // Nothing is something that can be done.
    let nothing = loader.load(Request::new(&open, 5..5, &buffer, 0)).expect("no bytes");
    assert_eq!((nothing.bytes, nothing.paths.iter().count()), (0, 0));
    assert_eq!((loader.counts().submitted, loader.counts().landed), (1, 1));
}

/// Its pages are made ready by workers, and what is not filled has none.
#[test]
fn a_new_buffer_is_filled() {
    let file = file_of(16 * MIB);
    drop_cache(file.as_file());
    for depth in [1, 4, 32] {
        let options = LoaderOptions::default().depth(depth).block(64 << 10);
        let loader = Loader::with(options).expect("a loader");
        let (memory, buffer) = new_buffer(24 * MIB);
        let open = loader.open(file.path()).expect("the file");
        let completions = Completions::new();
        let tile = |tile: u64| {
            let range = tile << 20..(tile + 1) << 20;
            Request::new(&open, range, &buffer, tile << 20)
                .require(DataPath::Direct)
                .priority(Priority::ALL[tile as usize % 4])
                .fingerprints()
        };
        loader.submit_all((0..16).map(tile), &completions).expect("a plan");
        (0..16).for_each(|_| drop(completions.wait().outcome.expect("its bytes")));
        assert_same(&contents(&memory)[..16 * MIB], &bytes_of(16 * MIB));
    }
}

#[test]
fn memory_that_no_drive_may_be_given_is_filled_by_the_processor() {
    let file = file_of(3 * MIB);
    drop_cache(file.as_file());
    let loader = Loader::new().expect("a loader");
    let own = Arc::new(Own::new(3 * MIB, false));
    let buffer = Buffer::new(own.clone()).expect("a buffer");
    let open = loader.open(file.path()).expect("the file");
    let landed =
        loader.load(Request::new(&open, 0..3 * MIB as u64, &buffer, 0)).expect("its bytes");
    assert_same(&contents(&own.memory), &bytes_of(3 * MIB));
    assert_eq!(landed.paths.of(DataPath::Bounce), 3 * MIB as u64);
    assert!(landed.step_downs.iter().any(|step| step.why.contains("its pages are its own")));
    own.gone.store(true, Ordering::Relaxed);
    let error = loader.load(Request::new(&open, 0..100, &buffer, 0)).expect_err("it has gone");
    assert!(matches!(error, TransferError::BufferLost { .. }), "{error}");
}

/// A sandbox forbids io_uring: threads read instead.
#[test]
fn without_io_uring_the_same_lands() {
    let file = file_of(8 * MIB);
    drop_cache(file.as_file());
    let confined = thread::spawn(move || {
        forbid_io_uring();
        let loader = Loader::with(LoaderOptions::default().block(64 << 10)).expect("a loader");
        let (memory, buffer) = buffer(8 * MIB);
        let open = loader.open(file.path()).expect("the file");
        let ranges = [
            transfer::Request::new(0, 0, 4 << 20, 0),
            transfer::Request::new(0, (4 << 20) + 3, 1 << 20, (4 << 20) + 1),
        ];
        let request = request_of(&loader, file.path(), &ranges, &buffer).fingerprints();
        let landed = loader.submit(request).expect("a plan").wait().expect("its bytes");
        assert_same(&contents(&memory), &expected(file.path(), &ranges, memory.len()));
        assert_eq!(landed.paths.of(DataPath::Direct), 5 << 20);
        let tickets: Vec<_> = (0..200u64)
            .map(|i| Request::new(&open, i * 4096..(i + 1) * 4096, &buffer, i * 4096))
            .map(|request| loader.submit(request).expect("a plan"))
            .collect();
        tickets.into_iter().for_each(|ticket| drop(ticket.wait().expect("its bytes")));
    });
    confined.join().expect("no panic");
}

/// Of this thread and those that it starts.
fn forbid_io_uring() {
    use seccompiler::{SeccompAction, SeccompFilter, TargetArch, apply_filter};
    let forbidden = [(libc::SYS_io_uring_setup, Vec::new())].into_iter().collect();
    let answer = SeccompAction::Errno(libc::EPERM as u32);
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("an architecture");
    let filter =
        SeccompFilter::new(forbidden, SeccompAction::Allow, answer, arch).expect("a filter");
    let program: seccompiler::BpfProgram = filter.try_into().expect("a program");
    apply_filter(&program).expect("seccomp");
}

/// Loaders that are dropped at any moment answer everything, and leave no thread, descriptor or mapping.
#[test]
fn a_loader_that_is_dropped_answers_everything() {
    let file = file_of(4 * MIB);
    drop_cache(file.as_file());
    let mut numbers = Random(7);
    let (mut landed, mut stopped) = (0, 0);
    for round in 0..200u64 {
        let loader = Loader::with(LoaderOptions::default().depth(4)).expect("a loader");
        let (memory, buffer) = if round % 3 == 0 { new_buffer(4 * MIB) } else { buffer(4 * MIB) };
        let open = loader.open(file.path()).expect("the file");
        let completions = Completions::new();
        let mut tickets = Vec::new();
        for i in 0..64u64 {
            let range = i << 16..(i + 1) << 16;
            let request = Request::new(&open, range, &buffer, i << 16)
                .priority(Priority::ALL[numbers.below(4) as usize]);
            let request = if i % 2 == 0 { request.fingerprints() } else { request };
            match i % 4 {
                0 => loader.submit_to(request, &completions).expect("a plan"),
                _ => tickets.push(loader.submit(request).expect("a plan")),
            }
        }
        thread::sleep(Duration::from_micros(numbers.below(1500)));
        if round % 2 == 0 {
            let clone = loader.clone();
            drop(loader);
            drop(clone);
        } else {
            drop(loader);
        }
        let outcomes = tickets.into_iter().map(|ticket| {
            assert!(ticket.is_done(), "the loader has gone");
            ticket.wait()
        });
        let outcomes: Vec<_> = outcomes
            .chain((0..16).map(|_| completions.poll().expect("an outcome").outcome))
            .collect();
        assert!(completions.poll().is_none());
        for outcome in outcomes {
            match outcome {
                Ok(_) => landed += 1,
                Err(TransferError::Stopped { .. }) => stopped += 1,
                Err(error) => panic!("{error}"),
            }
        }
        drop((open, buffer));
        assert_eq!(Arc::strong_count(&memory), 1);
    }
    assert!(landed > 0 && stopped > 0, "{landed} and {stopped}");
}

/// Threads submit and cancel requests of every size, priority and path; each is answered once, and what is said to be
/// valid is. `BUFMAP_STORM=125000` makes a million requests of it.
#[test]
fn a_storm_of_requests() {
    const LEN: u64 = 1 << 20;
    let file = file_of(LEN as usize);
    let expected = Arc::new(bytes_of(LEN as usize));
    let loader =
        Loader::with(LoaderOptions::default().block(16 << 10).waiting(64)).expect("a loader");
    let asked = std::env::var("BUFMAP_STORM").ok().and_then(|count| count.parse().ok());
    let per_thread: u64 = asked.unwrap_or(1_000);
    thread::scope(|scope| {
        for own in 0..8u64 {
            let (loader, expected, path) = (loader.clone(), Arc::clone(&expected), file.path());
            scope.spawn(move || storm(&loader, path, &expected, own, per_thread));
        }
    });
    let counts = loader.counts();
    assert_eq!((counts.submitted, counts.failed, counts.under_way()), (8 * per_thread, 0, 0));
    assert!(counts.stopped > 0 && counts.landed > counts.submitted / 2, "{counts:?}");
}

fn storm(loader: &Loader, path: &Path, expected: &[u8], own: u64, count: u64) {
    let mut numbers = Random(own + 1);
    let open = loader.open(path).expect("the file");
    let completions = Completions::new();
    let mut under_way = Vec::new();
    for i in 0..count {
        let align = [1, 512, 4096][numbers.below(3) as usize];
        let longest = [100, 5_000, 100_000][numbers.below(3) as usize];
        let len = (1 + numbers.below(longest)).next_multiple_of(align);
        let offset = numbers.below(expected.len() as u64 - len) / align * align;
        let make = if numbers.below(3) == 0 { new_buffer } else { buffer };
        let (memory, buffer) = make(len as usize + 4096);
        let at = numbers.below(4096) / align * align;
        let tag = own << 32 | i;
        let mut request = Request::new(&open, offset..offset + len, &buffer, at)
            .priority(Priority::ALL[numbers.below(4) as usize])
            .around(if numbers.below(4) == 0 { Around::Scratch } else { Around::Untouched })
            .tag(tag);
        match numbers.below(4) {
            0 => request = request.require(DataPath::Direct),
            1 => {
                request = request.crc32(crc32(&expected[offset as usize..(offset + len) as usize]))
            }
            _ => {}
        }
        let holds = move |outcome: Outcome, expected: &[u8]| match outcome {
            Ok(landed) => {
                assert_eq!(landed.bytes, len);
                let found = contents(&memory);
                let wanted = &expected[offset as usize..(offset + len) as usize];
                assert_same(&found[at as usize..(at + len) as usize], wanted);
            }
            Err(TransferError::Stopped { valid }) => assert!(valid.bytes() <= len),
            Err(error) => panic!("{error}"),
        };
        match numbers.below(6) {
            0 => {
                loader.submit_to(request, &completions).expect("a plan");
                if numbers.below(3) == 0 {
                    loader.cancel(tag);
                }
                let completed = completions.wait();
                assert_eq!(completed.tag, tag);
                holds(completed.outcome, expected);
            }
            1 => holds(loader.load(request), expected),
            2 => {
                let ticket = loader.submit(request).expect("a plan");
                ticket.cancel();
                holds(ticket.wait(), expected);
            }
            _ => under_way.push((loader.submit(request).expect("a plan"), holds)),
        }
        if under_way.len() > 16 {
            let (ticket, holds) = under_way.swap_remove(numbers.below(16) as usize);
            if numbers.below(8) == 0 {
                ticket.cancel();
            }
            holds(ticket.wait(), expected);
        }
    }
    for (ticket, holds) in under_way {
        holds(ticket.wait(), expected);
    }
    assert!(completions.poll().is_none());
}
