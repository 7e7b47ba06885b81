//! Loads into system memory, compared with plain reads of the same file.

mod support;

use std::os::unix::fs::FileExt;

use bufmap::format::placement;
use bufmap::transfer::{Around, DataPath, Options, Request, TransferError, Verify};
use proptest::prelude::*;
use support::random::Random;
use support::*;

const MIB: usize = 1 << 20;

/// Requests of random place and length with random gaps in the buffer, in random order.
fn random_requests(count: usize, file_len: u64, seed: u64) -> (Vec<Request>, usize) {
    let mut numbers = Random(seed | 1);
    let mut at = 0;
    let mut requests: Vec<_> = (0..count)
        .map(|_| {
            let offset = numbers.below(file_len);
            let most = [64, 5000, 300_000][numbers.below(3) as usize];
            let len = numbers.below(most).min(file_len - offset);
            at += numbers.below(700);
            // Every other one agrees with its file offset modulo 4096.
            if numbers.below(2) == 0 {
                at = (at / 4096 + 1) * 4096 + offset % 4096;
            }
            let request = Request::new(0, offset, len, at);
            at += len;
            request
        })
        .collect();
    for i in (1..requests.len()).rev() {
        requests.swap(i, numbers.below(i as u64 + 1) as usize);
    }
    (requests, at as usize + 1)
}

#[test]
fn a_thousand_random_requests_arrive_and_nothing_else_changes() {
    let file = file_of(64 * MIB + 123);
    drop_cache(file.as_file());
    let source = source(file.path());
    let (requests, len) = random_requests(1000, source.len(), 7);
    let memory = memory_of(len);
    let receipt =
        load(&source, &requests, Around::Untouched, &memory, Options::default()).expect("a load");
    assert_same(&contents(&memory), &expected(file.path(), &requests, memory.len()));
    assert_eq!(receipt.bytes, requests.iter().map(|r| r.len).sum::<u64>());
    assert!(receipt.reads < 1000 + receipt.bytes / MIB as u64 * 3, "requests are joined");
}

/// So many reads that they are not cut all at once.
#[test]
fn more_reads_than_are_cut_at_once_are_one_load() {
    let file = file_of(260 * MIB);
    let source = source(file.path());
    let memory = memory_of(260 * MIB);
    let requests = [
        Request::new(0, 0, 255 * MIB as u64 + 77, 0),
        Request::new(0, 255 * MIB as u64 + 100, 4 * MIB as u64, 256 * MIB as u64),
    ];
    let options = Options { require: Some(DataPath::Direct), block: 4096, ..Options::default() };
    let whole = load(&source, &requests, Around::Untouched, &memory, options.clone());
    let whole = whole.expect("a load");
    assert_same(&contents(&memory), &expected(file.path(), &requests, memory.len()));
    // Whole blocks to their place; all of the second into slots, the first of which holds the first's tail.
    assert_eq!(whole.reads, (255 << 8) + (4 << 8) + 1);
    assert_eq!(whole.cpu_copied, 77 + 4 * MIB as u64);
    for (request, found) in requests.iter().zip(&whole.checked.fingerprints) {
        let bytes = expected(
            file.path(),
            &[Request { buffer_offset: 0, ..request.clone() }],
            request.len as usize,
        );
        assert_eq!(*found, Some(crc32fast::hash(&bytes)));
    }
    // One that ends late says what is valid of all before.
    file.as_file().set_len(259 * MIB as u64).expect("a shorter file");
    let requests = [Request::new(0, 0, 260 * MIB as u64, 0)];
    let error = load(&source, &requests, Around::Untouched, &memory, options).expect_err("short");
    let TransferError::Shrank { at, valid, .. } = &error else { panic!("{error}") };
    assert_eq!(*at, 259 * MIB as u64);
    assert_eq!(valid.ranges(), std::slice::from_ref(&(0..259 * MIB as u64)), "{valid}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_requests_by_any_path_arrive(
        seed in any::<u64>(),
        count in 1usize..40,
        path in prop_oneof![Just(None), Just(Some(DataPath::Direct)), Just(Some(DataPath::Buffered))],
        cached in any::<bool>(),
        block in prop_oneof![Just(4096u64), Just(65536), Just(1 << 20)],
        depth in 1u32..9,
    ) {
        let file = file_of(3 * MIB + 77);
        drop_cache(file.as_file());
        if cached {
            fill_cache(file.path());
        }
        let source = source(file.path());
        let (requests, len) = random_requests(count, source.len(), seed);
        let memory = memory_of(len);
        let options = Options { require: path, block, depth, verify: Verify::Full, ..Options::default() };
        let receipt = load(&source, &requests, Around::Untouched, &memory, options).expect("a load");
        assert_same(&contents(&memory), &expected(file.path(), &requests, memory.len()));
        for (request, &found) in requests.iter().zip(&receipt.checked.fingerprints) {
            let bytes = expected(file.path(), &[Request { buffer_offset: 0, ..request.clone() }], request.len as usize);
            prop_assert_eq!(found, Some(crc32fast::hash(&bytes)));
        }
    }

    #[test]
    fn a_layout_of_the_loaders_own_needs_no_copy_by_the_cpu(
        seed in any::<u64>(),
        count in 1usize..60,
    ) {
        let file = file_of(3 * MIB + 77);
        drop_cache(file.as_file());
        let source = source(file.path());
        let (mut items, _) = random_requests(count, source.len(), seed);
        items.sort_by_key(|item| item.offset);
        let mut end = 0;
        items.retain(|item| {
            let apart = item.offset >= end;
            end = if apart { item.offset + item.len } else { end };
            apart
        });
        let placed = placement::place(items, source.direct().expect("O_DIRECT").offset);
        let memory = memory_of(placed.len.max(1) as usize);
        let options = Options { require: Some(DataPath::Direct), ..Options::default() };
        let receipt = load(&source, &placed.requests, Around::Scratch, &memory, options).expect("a load");
        let found = contents(&memory);
        let wanted = expected(file.path(), &placed.requests, memory.len());
        for request in &placed.requests {
            let place = request.buffer_offset as usize..(request.buffer_offset + request.len) as usize;
            assert_same(&found[place.clone()], &wanted[place]);
        }
        prop_assert_eq!(receipt.cpu_copied, 0);
    }
}

#[test]
fn what_the_page_cache_holds_is_taken_from_there() {
    let file = file_of(8 * MIB);
    drop_cache(file.as_file());
    let source = source(file.path());
    let request = [Request::new(0, 0, source.len(), 0)];
    let memory = memory_of(8 * MIB);
    let cold =
        load(&source, &request, Around::Untouched, &memory, Options::default()).expect("cold");
    assert_eq!(
        cold.paths.iter().map(|s| (s.path, s.bytes)).collect::<Vec<_>>(),
        [(DataPath::Direct, 8 << 20)]
    );
    assert_eq!((cold.cpu_copied, cold.step_downs.len()), (0, 0));
    fill_cache(file.path());
    let warm =
        load(&source, &request, Around::Untouched, &memory, Options::default()).expect("warm");
    assert_eq!(
        warm.paths.iter().map(|s| (s.path, s.bytes)).collect::<Vec<_>>(),
        [(DataPath::Cached, 8 << 20)]
    );
    assert_eq!(warm.cpu_copied, 8 << 20);
    assert!(warm.step_downs[0].why.contains("page cache"), "{:?}", warm.step_downs);
    assert_same(&contents(&memory), &expected(file.path(), &request, memory.len()));
}

#[test]
fn what_is_cached_in_part_takes_two_paths_and_arrives_whole() {
    let file = file_of(16 * MIB);
    for around in [Around::Untouched, Around::Scratch] {
        drop_cache(file.as_file());
        let mut head = vec![0; 3 * MIB + 5];
        file.as_file().read_exact_at(&mut head, 2 * MIB as u64).expect("a part of the file");
        let source = source(file.path());
        let mut at = 0;
        let items = std::iter::from_fn(|| {
            let offset = at;
            at += 70_001;
            (at < source.len()).then(|| Request::new(0, offset, 70_001 - offset % 90, 0))
        });
        let placed = placement::place(items.collect(), 4096);
        let memory = memory_of(placed.len as usize);
        let receipt =
            load(&source, &placed.requests, around, &memory, Options::default()).expect("a load");
        let paths: Vec<_> = receipt.paths.iter().map(|share| share.path).collect();
        assert_eq!(paths, [DataPath::Direct, DataPath::Cached], "{around:?}");
        assert_eq!(receipt.paths.iter().map(|share| share.bytes).sum::<u64>(), receipt.bytes);
        let found = contents(&memory);
        let wanted = expected(file.path(), &placed.requests, memory.len());
        for request in &placed.requests {
            let place = request.buffer().start as usize..request.buffer().end as usize;
            assert_same(&found[place.clone()], &wanted[place]);
        }
    }
}

#[test]
fn a_wrong_checksum_is_found() {
    let file = file_of(MIB);
    let source = source(file.path());
    let mut request = Request::new(0, 100, 5000, 0);
    request.crc32 = Some(crc32fast::hash(&bytes_of(MIB)[100..5100]));
    let memory = memory_of(MIB);
    let good = load(&source, &[request.clone()], Around::Untouched, &memory, Options::default());
    assert_eq!(good.expect("the right checksum").checked.format_checksums, 1);
    request.crc32 = request.crc32.map(|crc| crc ^ 1);
    let bad = load(&source, &[request], Around::Untouched, &memory, Options::default());
    let text = bad.expect_err("a wrong checksum").to_string();
    assert!(text.contains("CRC-32") && text.contains("offset 100"), "{text}");
}

#[test]
fn impossible_requests_are_refused_before_anything_is_read() {
    let file = file_of(MIB);
    let source = source(file.path());
    let memory = memory_of(4096);
    let ask = |requests: &[Request]| {
        load(&source, requests, Around::Untouched, &memory, Options::default())
            .expect_err("refused")
    };
    assert!(matches!(
        ask(&[Request::new(0, 0, 4097, 0)]),
        TransferError::TooSmall { needed: 4097, len: 4096 }
    ));
    assert!(matches!(ask(&[Request::new(0, MIB as u64, 1, 0)]), TransferError::PastEnd { .. }));
    assert!(matches!(ask(&[Request::new(0, u64::MAX, 2, 0)]), TransferError::PastEnd { .. }));
    assert!(matches!(
        ask(&[Request::new(1, 0, 1, 0)]),
        TransferError::NoSuchFile { file: 1, files: 1 }
    ));
    let twice = [Request::new(0, 0, 10, 0), Request::new(0, 50, 10, 9)];
    assert!(matches!(ask(&twice), TransferError::Overlap { at: 9 }));
    let request = [Request::new(0, 0, 1, 0)];
    for (depth, block) in [(0, 4096), (5000, 4096), (1, 0), (1, 5000), (1, 1 << 31)] {
        let options = Options { depth, block, ..Options::default() };
        let refused = load(&source, &request, Around::Untouched, &memory, options);
        assert!(matches!(refused, Err(TransferError::Options(_))), "depth {depth}, block {block}");
    }
    assert_same(&contents(&memory), &[UNTOUCHED; 4096]);
}

#[test]
fn empty_requests_and_no_requests_load_nothing() {
    let file = file_of(100);
    let source = source(file.path());
    let memory = memory_of(4096);
    for requests in [vec![], vec![Request::new(0, 50, 0, 7)]] {
        let receipt = load(&source, &requests, Around::Scratch, &memory, Options::default())
            .expect("nothing");
        assert_eq!((receipt.bytes, receipt.reads), (0, 0));
    }
    assert_same(&contents(&memory), &[UNTOUCHED; 4096]);
}
