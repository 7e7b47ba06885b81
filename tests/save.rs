//! Buffers saved into files, compared with what plain reads find in them; and saves that go wrong, after which the old file is
//! whole and nothing lies beside it.

mod support;

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bufmap::save::{Save, To};
use bufmap::transfer::{
    DataPath, Left, Options, Progress, Receipt, Request, SaveError, TransferError, Verify,
};
use exporters::Destination;
use exporters::vulkan::CopyRegion;
use iomap::{Borrowed, Memory, PageSize};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use support::random::Random;
use support::*;

const MIB: usize = 1 << 20;

fn main() -> ExitCode {
    if let Some(test) = std::env::var_os(RESTRICTED) {
        restricted(&test.to_string_lossy());
        return ExitCode::SUCCESS;
    }
    let anywhere = |name: &str, test: fn()| trial(name, Ok(()), move |()| test());
    let as_root = |name: &str, test: fn()| trial(name, root(), move |()| test());
    support::run(vec![
        anywhere("any_requests_by_any_path_are_what_plain_reads_find", any_requests),
        anywhere("in_place_the_neighbours_are_unharmed", in_place),
        anywhere("a_whole_buffer_takes_no_copy", whole_buffer),
        anywhere("what_lies_askew_is_gathered_and_said", askew),
        anywhere("a_slice_of_a_program_s_own", slice),
        anywhere("a_buffer_that_no_drive_may_be_given_is_bounced", bounced),
        anywhere("a_path_that_is_required_and_cannot_be_had", required),
        anywhere("what_makes_no_sense_is_refused_before_anything_is_touched", refused),
        anywhere("checksums_of_requests_are_compared", checksums),
        anywhere("a_new_file_takes_over_the_rights_of_the_old", rights),
        anywhere("a_save_that_is_stopped_leaves_the_old_file", stopped),
        anywhere("a_save_in_place_that_is_stopped_says_what_is_written", stopped_in_place),
        anywhere("a_source_that_goes_away_leaves_the_old_file", source_lost),
        anywhere("no_descriptor_and_no_memory_leaks", leaks),
        anywhere("a_limit_on_file_sizes_is_noticed_before_anything_is_written", || {
            in_child("file_size");
        }),
        anywhere("without_io_uring_threads_write", || in_child("no_io_uring")),
        anywhere("a_killed_process_leaves_the_old_file_and_nothing_else", killed),
        trial("out_of_a_gpu_s_memory_by_slots", vulkan_device(), gpu),
        as_root("a_full_file_system_leaves_the_old_file", || in_child("full")),
        as_root("a_file_system_without_o_direct", || in_child("no_direct")),
        as_root("a_drive_that_fails_in_the_middle", drive_error),
    ])
}

/// A directory on a real file system.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

/// Memory that holds [`bytes_of`] its length.
fn filled(len: usize) -> Memory {
    let memory = Memory::anonymous(len, PageSize::Base).expect("memory");
    memory.map().copy_from_slice(0, &bytes_of(memory.len())).expect("a writable map");
    memory
}

fn save(
    source: &dyn Destination,
    to: To<'_>,
    requests: &[Request],
    options: Options,
) -> Result<Receipt, SaveError> {
    Save { source, to, requests, options, stop: &AtomicBool::new(false) }.run(&mut |_| {})
}

/// The bytes of a file after requests out of a buffer.
fn expected(mut file: Vec<u8>, requests: &[Request], buffer: &[u8]) -> Vec<u8> {
    for request in requests.iter().filter(|request| request.len > 0) {
        let end = (request.offset + request.len) as usize;
        if file.len() < end {
            file.resize(end, 0);
        }
        let from = request.buffer().start as usize..request.buffer().end as usize;
        file[request.offset as usize..end].copy_from_slice(&buffer[from]);
    }
    file
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    names
}

fn paths(receipt: &Receipt) -> Vec<(DataPath, u64)> {
    receipt.paths.iter().map(|share| (share.path, share.bytes)).collect()
}

fn whole(len: u64) -> [Request; 1] {
    [Request::new(0, 0, len, 0)]
}

/// Requests that do not overlap in a file of `file_len` bytes, out of anywhere in a buffer, in any order.
fn requests(file_len: u64, buffer_len: u64) -> impl Strategy<Value = Vec<Request>> {
    let part = (prop_oneof![Just(0u64), 1..9000u64], 0..120_000u64, any::<u64>(), 0..3);
    prop::collection::vec(part, 1..20)
        .prop_map(move |parts| {
            let mut at = 0;
            let mut requests = Vec::new();
            for (gap, len, from, kind) in parts {
                at += gap;
                let len = len.min(file_len.saturating_sub(at));
                let from = from % (buffer_len - len + 1);
                // Most agree with their offset modulo 4096.
                let agrees = from / 4096 * 4096 + at % 4096;
                let from = if kind > 0 && agrees + len <= buffer_len { agrees } else { from };
                requests.push(Request::new(0, at.min(file_len), len, from));
                at += len;
            }
            requests
        })
        .prop_shuffle()
}

fn options() -> impl Strategy<Value = Options> {
    let require = prop_oneof![3 => Just(None), 1 => Just(Some(DataPath::Buffered))];
    let verify =
        prop_oneof![Just(Verify::None), Just(Verify::Auto), Just(Verify::Hash), Just(Verify::Full)];
    let block = prop_oneof![Just(4096u64), Just(65536), Just(1 << 20)];
    (require, verify, 1..9u32, block).prop_map(|(require, verify, depth, block)| Options {
        require,
        verify,
        depth,
        block,
        ..Options::default()
    })
}

fn check_receipt(receipt: &Receipt, requests: &[Request], buffer: &[u8], options: &Options) {
    let bytes: u64 = requests.iter().map(|request| request.len).sum();
    assert_eq!(receipt.bytes, bytes);
    assert_eq!(receipt.paths.iter().map(|share| share.bytes).sum::<u64>(), bytes);
    let prints: Vec<_> = requests
        .iter()
        .map(|request| {
            let place = request.buffer().start as usize..request.buffer().end as usize;
            Some(crc32fast::hash(&buffer[place]))
        })
        .collect();
    match options.verify {
        Verify::None => assert!(receipt.checked.fingerprints.is_empty()),
        _ => assert_eq!(receipt.checked.fingerprints, prints),
    }
    assert_eq!(receipt.checked.compared, if options.verify == Verify::Full { bytes } else { 0 });
}

fn runner() -> TestRunner {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) };
    TestRunner::new(config)
}

fn any_requests() {
    const FILE: u64 = 700_000;
    let (dir, memory) = (directory(), filled(MIB));
    let (path, buffer) = (dir.path().join("file"), contents(&memory));
    let mut runner = runner();
    let strategy = (requests(FILE, MIB as u64), options(), any::<bool>());
    let outcome = runner.run(&strategy, |(requests, options, there)| {
        match there {
            true => fs::write(&path, [0x77; 1000]).expect("an old file"),
            false => drop(fs::remove_file(&path)),
        }
        let receipt = save(&memory, To::NewFile(&path), &requests, options.clone());
        let receipt = receipt.map_err(|error| TestCaseError::fail(error.to_string()))?;
        assert_same(&fs::read(&path).expect("the file"), &expected(vec![], &requests, &buffer));
        check_receipt(&receipt, &requests, &buffer, &options);
        prop_assert_eq!(names(dir.path()), ["file"]);
        Ok(())
    });
    outcome.expect("every case");
}

fn in_place() {
    const FILE: u64 = 700_123;
    let (dir, memory) = (directory(), filled(MIB));
    let (path, buffer) = (dir.path().join("file"), contents(&memory));
    let mut runner = runner();
    let strategy = (requests(FILE, MIB as u64), options(), any::<bool>(), any::<u8>());
    let outcome = runner.run(&strategy, |(requests, options, dirty, before)| {
        let old = vec![before; FILE as usize];
        fs::write(&path, &old).expect("an old file");
        let file = fs::File::open(&path).expect("the file");
        if !dirty {
            drop_cache(&file);
        }
        let inode = file.metadata().expect("the file").ino();
        let receipt = save(&memory, To::InPlace(&path), &requests, options.clone());
        let receipt = receipt.map_err(|error| TestCaseError::fail(error.to_string()))?;
        let expected = expected(old, &requests, &buffer);
        assert_same(&fs::read(&path).expect("the file"), &expected);
        // The drive has the same as the cache.
        drop_cache(&file);
        assert_same(&fs::read(&path).expect("the file"), &expected);
        check_receipt(&receipt, &requests, &buffer, &options);
        prop_assert_eq!(fs::metadata(&path).expect("the file").ino(), inode);
        prop_assert_eq!(names(dir.path()), ["file"]);
        Ok(())
    });
    outcome.expect("every case");
}

fn whole_buffer() {
    let (dir, memory) = (directory(), filled(9 * MIB));
    let path = dir.path().join("file");
    // The last block is a part of one, and what follows in the buffer is written and cut off.
    let len = 8 * MIB as u64 + 100;
    let direct = Options { require: Some(DataPath::Direct), ..Options::default() };
    let receipt = save(&memory, To::NewFile(&path), &whole(len), direct.clone()).expect("a save");
    assert_eq!(paths(&receipt), [(DataPath::Direct, len)]);
    assert_eq!((receipt.cpu_copied, receipt.slots, receipt.reads), (0, 0, 9));
    assert!(receipt.step_downs.is_empty() && receipt.engine.contains("registered"), "{receipt:?}");
    assert_same(&fs::read(&path).expect("the file"), &contents(&memory)[..len as usize]);
    assert_eq!(fs::metadata(&path).expect("the file").len(), len);

    // Where nothing follows in the buffer, or the file goes on, the part goes through the page cache.
    let exact = vec![7; len as usize];
    let mut aligned = Memory::anonymous(exact.len(), PageSize::Base).expect("memory");
    let bytes = aligned.as_mut_slice().expect("nobody else's");
    bytes.fill(7);
    let borrowed = Borrowed::from(&mut bytes[..exact.len()]);
    let receipt = save(&borrowed, To::NewFile(&path), &whole(len), Options::default());
    let receipt = receipt.expect("a save");
    assert_eq!(paths(&receipt), [(DataPath::Direct, 8 * MIB as u64), (DataPath::Buffered, 100)]);
    assert_eq!(receipt.cpu_copied, 100);
    let [step] = &receipt.step_downs[..] else { panic!("{:?}", receipt.step_downs) };
    assert!(step.bytes == 100 && step.why.contains("a part of one"), "{step:?}");
    assert_same(&fs::read(&path).expect("the file"), &exact);
    let error =
        save(&borrowed, To::NewFile(&path), &whole(len), direct).expect_err("not all of it");
    assert!(
        error.to_string().contains("not for all of it: a drive writes whole blocks"),
        "{error}"
    );
}

/// Tensors that follow each other in the file, and lie anywhere in the buffer.
fn askew() {
    let (dir, memory) = (directory(), filled(4 * MIB));
    let path = dir.path().join("file");
    let len = 3 * MIB as u64 / 2;
    let requests = [Request::new(0, 0, len, 8), Request::new(0, len, len, 2 * MIB as u64 + 4)];
    let receipt = save(&memory, To::NewFile(&path), &requests, Options::default());
    let receipt = receipt.expect("a save");
    assert_eq!(paths(&receipt), [(DataPath::Bounce, 2 * len)]);
    assert_eq!(receipt.cpu_copied, 2 * len);
    assert!(receipt.slots > 0 && receipt.reads == 3, "{receipt:?}");
    let [step] = &receipt.step_downs[..] else { panic!("{:?}", receipt.step_downs) };
    assert!(step.path == DataPath::Direct && step.why.contains("elsewhere"), "{step:?}");
    let found = fs::read(&path).expect("the file");
    assert_same(&found, &expected(vec![], &requests, &contents(&memory)));
}

fn slice() {
    let dir = directory();
    let path = dir.path().join("file");
    let mut bytes = bytes_of(3 * MIB + 5);
    let expected = bytes.clone();
    let borrowed = Borrowed::from(&mut bytes[1..]);
    let options = Options { verify: Verify::Full, ..Options::default() };
    let len = borrowed.len() as u64;
    save(&borrowed, To::NewFile(&path), &whole(len), options).expect("a save");
    assert_same(&fs::read(&path).expect("the file"), &expected[1..]);
}

fn bounced() {
    let dir = directory();
    let path = dir.path().join("file");
    let own = Own::new(MIB, false);
    own.memory.map().copy_from_slice(0, &bytes_of(MIB)).expect("a writable map");
    let receipt = save(&own, To::NewFile(&path), &whole(MIB as u64), Options::default());
    let receipt = receipt.expect("a save");
    assert_eq!(paths(&receipt), [(DataPath::Bounce, MIB as u64)]);
    let [step] = &receipt.step_downs[..] else { panic!("{:?}", receipt.step_downs) };
    assert!(
        step.path == DataPath::Direct && step.why.contains("its pages are its own"),
        "{step:?}"
    );
    assert_eq!(receipt.cpu_copied, MIB as u64, "the drive was given the buffer");
    assert_same(&fs::read(&path).expect("the file"), &bytes_of(MIB));
    // Small ends too are copied by accesses of ours.
    let buffered = Options { require: Some(DataPath::Buffered), ..Options::default() };
    let requests = [Request::new(0, 77, 5000, 3)];
    save(&own, To::InPlace(&path), &requests, buffered).expect("a save");
    let expected = expected(bytes_of(MIB), &requests, &bytes_of(MIB));
    assert_same(&fs::read(&path).expect("the file"), &expected);
}

/// The GPU copies into slots, from any place to any place, and the parts of blocks too.
fn gpu(device: exporters::vulkan::Device) {
    let dir = directory();
    let path = dir.path().join("file");
    let buffer = std::sync::Arc::new(device.allocate(3 * MIB, false).expect("a buffer"));
    let memory = std::sync::Arc::new(filled(3 * MIB));
    let staging = std::sync::Arc::new(device.import_memory(memory).expect("an import"));
    let all = CopyRegion { src_offset: 0, dst_offset: 0, len: 3 * MIB };
    let mut transfer = device.transfer().expect("a queue");
    let ticket = transfer.copy(&staging, &buffer, &[all]).expect("a copy");
    transfer.wait(ticket).expect("its end");

    let requests = [
        Request::new(0, 0, 2 * MIB as u64 + 77, 13),
        Request::new(0, 2 * MIB as u64 + 5077, 500_000, 2_500_001),
    ];
    let bytes = 2 * MIB as u64 + 77 + 500_000;
    let options = Options { verify: Verify::Full, block: 64 << 10, depth: 4, ..Options::default() };
    let receipt = save(&buffer, To::NewFile(&path), &requests, options).expect("a save");
    // The end of the first and the beginning of the second; the last block is written whole, and cut.
    let parts = 77 + (4096 - 981);
    let all = [(DataPath::Staged, bytes - parts), (DataPath::Buffered, parts)];
    assert_eq!(paths(&receipt), all, "{receipt:?}");
    assert_eq!((receipt.gpu_copied, receipt.cpu_copied), (bytes, parts));
    assert_eq!(receipt.slots, 4 * (64 << 10));
    let found = fs::read(&path).expect("the file");
    assert_same(&found, &expected(vec![], &requests, &bytes_of(3 * MIB)));
}

fn required() {
    let (dir, memory) = (directory(), filled(MIB));
    let path = dir.path().join("file");
    for (require, words) in [
        (DataPath::Peer, "take `direct`"),
        (DataPath::Staged, "take `direct`"),
        (DataPath::Cached, "take `buffered`"),
    ] {
        let options = Options { require: Some(require), ..Options::default() };
        let error = save(&memory, To::NewFile(&path), &whole(MIB as u64), options);
        let error = error.expect_err("no such path");
        assert!(matches!(error, SaveError::DataPath { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
    for require in [DataPath::Direct, DataPath::Bounce, DataPath::Buffered] {
        let options = Options { require: Some(require), ..Options::default() };
        let receipt = save(&memory, To::NewFile(&path), &whole(MIB as u64), options);
        assert_eq!(paths(&receipt.expect("a save")), [(require, MIB as u64)]);
    }
}

fn refused() {
    let (dir, memory) = (directory(), filled(MIB));
    let path = dir.path().join("file");
    fs::write(&path, b"old").expect("an old file");
    let error = |to, requests: &[Request], options: Options| {
        save(&memory, to, requests, options).expect_err("nonsense")
    };
    let plain = Options::default;
    let new = To::NewFile(&path);
    let past = error(new, &[Request::new(0, 0, 2, MIB as u64 - 1)], plain());
    assert!(matches!(past, SaveError::PastBuffer { .. }), "{past}");
    let past = error(To::InPlace(&path), &[Request::new(0, 1, 3, 0)], plain());
    assert!(past.to_string().contains("truncate -s"), "{past}");
    let far = error(new, &[Request::new(0, u64::MAX - 5, 3, 0)], plain());
    assert!(matches!(far, SaveError::PastEnd { .. }), "{far}");
    let over = error(new, &[Request::new(0, 0, 10, 0), Request::new(0, 9, 5, 100)], plain());
    assert!(matches!(over, SaveError::Overlap { at: 9 }), "{over}");
    let file = error(new, &[Request::new(1, 0, 10, 0)], plain());
    assert!(matches!(file, SaveError::NoSuchFile { file: 1 }), "{file}");
    let deep = error(new, &whole(10), Options { depth: 0, ..plain() });
    assert!(matches!(deep, SaveError::Buffer(TransferError::Options(_))), "{deep}");
    let nowhere = dir.path().join("absent/file");
    let made = error(To::NewFile(&nowhere), &whole(10), plain()).to_string();
    assert!(made.contains("make its directory first"), "{made}");
    let absent = dir.path().join("absent");
    let opened = error(To::InPlace(&absent), &whole(10), plain()).to_string();
    assert!(opened.contains("must be there already"), "{opened}");
    let directory = error(To::NewFile(dir.path()), &whole(10), plain()).to_string();
    assert!(directory.contains("a directory"), "{directory}");
    assert_eq!(fs::read(&path).expect("the file"), b"old");
    assert_eq!(names(dir.path()), ["file"]);
}

fn checksums() {
    let (dir, memory) = (directory(), filled(MIB));
    let path = dir.path().join("file");
    fs::write(&path, b"old").expect("an old file");
    let crc = crc32fast::hash(&bytes_of(MIB)[..100_000]);
    let request = |crc32| [Request { crc32: Some(crc32), ..Request::new(0, 0, 100_000, 0) }];
    let error = save(&memory, To::NewFile(&path), &request(crc ^ 1), Options::default());
    let error = error.expect_err("another checksum");
    assert!(matches!(error, SaveError::Mismatch { left: Left::AsItWas, .. }), "{error:?}");
    assert_eq!(fs::read(&path).expect("the file"), b"old");
    let receipt = save(&memory, To::NewFile(&path), &request(crc), Options::default());
    assert_eq!(receipt.expect("a save").checked.format_checksums, 1);
}

fn rights() {
    let (dir, memory) = (directory(), filled(MIB));
    let (path, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&path, b"old").expect("an old file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("rights");
    std::os::unix::fs::symlink("file", &link).expect("a link");
    save(&memory, To::NewFile(&link), &whole(MIB as u64), Options::default()).expect("a save");
    assert!(link.is_symlink());
    assert_eq!(fs::metadata(&path).expect("the file").mode() & 0o7777, 0o640);
    assert_same(&fs::read(&path).expect("the file"), &bytes_of(MIB));
    // A file that was not there has the rights that every new file gets.
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    let another = dir.path().join("another");
    let saved = save(&memory, To::NewFile(&another), &whole(10), Options::default());
    rustix::process::umask(umask);
    saved.expect("a save");
    assert_eq!(fs::metadata(&another).expect("the file").mode() & 0o7777, 0o640);
}

/// Stops a save in its middle.
fn stop(source: &dyn Destination, to: To<'_>, len: u64, after: u64) -> SaveError {
    let stop = AtomicBool::new(false);
    let options = Options { depth: 1, block: 64 << 10, ..Options::default() };
    let save = Save { source, to, requests: &whole(len), options, stop: &stop };
    let stopped = save.run(&mut |Progress { done, total, .. }| {
        assert_eq!(total, len);
        if done >= after {
            stop.store(true, Ordering::Relaxed);
        }
    });
    stopped.expect_err("it was stopped")
}

fn stopped() {
    let (dir, memory) = (directory(), filled(32 * MIB));
    let path = dir.path().join("file");
    fs::write(&path, b"old").expect("an old file");
    for after in [0, MIB as u64, 32 * MIB as u64] {
        let error = stop(&memory, To::NewFile(&path), 32 * MIB as u64, after);
        assert!(matches!(error, SaveError::Stopped { left: Left::AsItWas }), "{error:?}");
        assert_eq!(fs::read(&path).expect("the file"), b"old");
        assert_eq!(names(dir.path()), ["file"]);
    }
}

fn stopped_in_place() {
    let (dir, memory) = (directory(), filled(32 * MIB));
    let path = dir.path().join("file");
    fs::write(&path, vec![0x55; 32 * MIB]).expect("an old file");
    let error = stop(&memory, To::InPlace(&path), 32 * MIB as u64, MIB as u64);
    let SaveError::Stopped { left: Left::Partly(written) } = &error else { panic!("{error:?}") };
    assert!(written.bytes() >= MIB as u64 && written.bytes() < 32 * MIB as u64, "{written}");
    let (found, new) = (fs::read(&path).expect("the file"), contents(&memory));
    assert_eq!(found.len(), 32 * MIB);
    for range in written.ranges() {
        let range = range.start as usize..range.end as usize;
        assert_same(&found[range.clone()], &new[range]);
    }
    assert_same(&found[32 * MIB - 4096..], &[0x55; 4096]);
    assert!(error.to_string().contains("are written anew: 0.."), "{error}");
}

fn source_lost() {
    let dir = directory();
    let path = dir.path().join("file");
    fs::write(&path, b"old").expect("an old file");
    let own = Own::new(MIB, false);
    own.gone.store(true, Ordering::Relaxed);
    let error = save(&own, To::NewFile(&path), &whole(MIB as u64), Options::default());
    let error = error.expect_err("it is gone");
    assert!(matches!(error, SaveError::SourceLost { left: Left::AsItWas, .. }), "{error:?}");
    assert!(error.to_string().contains("a device of the test's"), "{error}");
    assert_eq!(fs::read(&path).expect("the file"), b"old");
}

fn leaks() {
    let (dir, memory) = (directory(), filled(MIB));
    let path = dir.path().join("file");
    let descriptors = || fs::read_dir("/proc/self/fd").expect("/proc").count();
    let mappings = || fs::read_to_string("/proc/self/maps").expect("/proc").lines().count();
    let round = || {
        let options = Options { verify: Verify::Full, ..Options::default() };
        let askew = [Request::new(0, 1, 600_000, 0)];
        save(&memory, To::NewFile(&path), &askew, options.clone()).expect("a save");
        save(&memory, To::InPlace(&path), &askew, options.clone()).expect("a save");
        save(&memory, To::InPlace(&path), &whole(MIB as u64), options).expect_err("past its end");
        stop(&memory, To::NewFile(&path), MIB as u64, 0);
    };
    round();
    let before = (descriptors(), mappings());
    for _ in 0..20 {
        round();
    }
    let after = (descriptors(), mappings());
    assert!(after.0 == before.0 && after.1 <= before.1 + 4, "{before:?}, then {after:?}");
}

fn restricted(test: &str) {
    match test {
        "file_size" => file_size(),
        "no_io_uring" => no_io_uring(),
        "full" => full(),
        "no_direct" => no_direct(),
        "for_ever" => for_ever(),
        _ => panic!("no such test: {test}"),
    }
}

fn file_size() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let (dir, memory) = (directory(), filled(2 * MIB));
    let path = dir.path().join("file");
    fs::write(&path, b"old").expect("an old file");
    let limit = Rlimit { current: Some(MIB as u64), maximum: Some(MIB as u64) };
    setrlimit(Resource::Fsize, limit).expect("a limit");
    let error = save(&memory, To::NewFile(&path), &whole(MIB as u64 + 1), Options::default());
    let error = error.expect_err("too long");
    assert!(matches!(error, SaveError::Space { left: Left::AsItWas, .. }), "{error:?}");
    assert!(error.to_string().contains("ulimit -f"), "{error}");
    assert_eq!(fs::read(&path).expect("the file"), b"old");
    save(&memory, To::NewFile(&path), &whole(MIB as u64), Options::default()).expect("a save");
    assert_eq!(names(dir.path()), ["file"]);
}

fn no_io_uring() {
    use seccompiler::{SeccompAction, SeccompFilter};
    let filter = SeccompFilter::new(
        [(libc::SYS_io_uring_setup, vec![])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into().expect("a known architecture"),
    );
    let filter: seccompiler::BpfProgram = filter.expect("a filter").try_into().expect("a program");
    seccompiler::apply_filter(&filter).expect("a filter that holds");
    let (dir, memory) = (directory(), filled(20 * MIB));
    let path = dir.path().join("file");
    // The first is straight, the second askew, so that any of the threads needs a slot.
    let requests = [
        Request::new(0, 0, 9 * MIB as u64, 0),
        Request::new(0, 9 * MIB as u64, 10 * MIB as u64 + 77, 9 * MIB as u64 + 4),
    ];
    let options = Options { verify: Verify::Full, ..Options::default() };
    let receipt = save(&memory, To::NewFile(&path), &requests, options).expect("a save");
    assert!(receipt.engine.contains("16 threads with pwrite"), "{}", receipt.engine);
    assert!(receipt.engine.contains("io_uring_disabled"), "{}", receipt.engine);
    let found = fs::read(&path).expect("the file");
    assert_same(&found, &expected(vec![], &requests, &contents(&memory)));
}

/// Mounts a small file system that nobody else sees.
fn mounted(dir: &Path, options: &str) {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    #[allow(unsafe_code)]
    // SAFETY: only the mounts are another's from now on, and no other thread is started yet.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("mounts of its own");
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change("/", private).expect("private mounts");
    let options = std::ffi::CString::new(options).expect("options");
    mount("tmpfs", dir, "tmpfs", MountFlags::empty(), Some(options.as_c_str())).expect("a mount");
}

fn full() {
    let (dir, memory) = (directory(), filled(8 * MIB));
    mounted(dir.path(), "size=4m");
    let path = dir.path().join("file");
    fs::write(&path, bytes_of(MIB)).expect("an old file");
    let error = save(&memory, To::NewFile(&path), &whole(8 * MIB as u64), Options::default());
    let error = error.expect_err("it is full");
    let SaveError::Space { len, source, left: Left::AsItWas, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((*len, source.raw_os_error()), (8 << 20, Some(libc::ENOSPC)));
    assert!(
        error.to_string().contains("is full") && error.to_string().contains("/file: "),
        "{error}"
    );
    assert_same(&fs::read(&path).expect("the file"), &bytes_of(MIB));
    assert_eq!(names(dir.path()), ["file"]);
    // In place, what is there has its space.
    save(&memory, To::InPlace(&path), &whole(MIB as u64), Options::default()).expect("a save");
    // A hole in the file that is written has none, and the error says what is written.
    let holes = dir.path().join("holes");
    fs::File::create(&holes).and_then(|file| file.set_len(8 << 20)).expect("a file of holes");
    let error = save(&memory, To::InPlace(&holes), &whole(8 * MIB as u64), Options::default());
    let error = error.expect_err("it is full");
    let SaveError::Write { offset, source, left: Left::Partly(written), .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(source.raw_os_error(), Some(libc::ENOSPC));
    assert!(written.bytes() <= *offset && *offset < 4 << 20, "{error}");
    let found = fs::read(&holes).expect("the file");
    for range in written.ranges() {
        let range = range.start as usize..range.end as usize;
        assert_same(&found[range.clone()], &bytes_of(8 * MIB)[range]);
    }
}

/// A file system that keeps its files in memory, with a kernel that says that they have no direct I/O, or takes it and
/// ignores it: either way all is written.
fn no_direct() {
    let (dir, memory) = (directory(), filled(3 * MIB));
    let squashed = dir.path().join("ram");
    fs::create_dir(&squashed).expect("a directory");
    mounted(&squashed, "size=16m");
    let path = squashed.join("file");
    let options = Options { verify: Verify::Full, ..Options::default() };
    let receipt = save(&memory, To::NewFile(&path), &whole(3 * MIB as u64 - 5), options);
    let receipt = receipt.expect("a save");
    println!("{receipt:?}");
    let found = fs::read(&path).expect("the file");
    assert_same(&found, &contents(&memory)[..3 * MIB - 5]);
    assert_eq!(names(&squashed), ["file"]);
}

/// Saves again and again, of which a test kills it.
fn for_ever() {
    let path = std::env::var_os("BUFMAP_TEST_FILE").expect("a file");
    let memories = [filled(4 * MIB), memory_of(4 * MIB)];
    println!("begun");
    for memory in memories.iter().cycle() {
        let options = Options { block: 64 << 10, ..Options::default() };
        let len = memory.len() as u64;
        save(memory, To::NewFile(path.as_ref()), &whole(len), options).expect("a save");
    }
}

fn killed() {
    let dir = directory();
    let path = dir.path().join("file");
    let own = std::env::current_exe().expect("this program");
    let (one, other) = (bytes_of(4 * MIB), vec![UNTOUCHED; 4 * MIB]);
    let mut numbers = Random(0x5eed);
    let mut left = 0;
    for round in 0..40 {
        let mut child = Command::new(&own)
            .env(RESTRICTED, "for_ever")
            .env("BUFMAP_TEST_FILE", &path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a child");
        let mut begun = [0; 5];
        io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut begun).expect("a word");
        std::thread::sleep(Duration::from_micros(20_000 + numbers.below(30_000)));
        child.kill().expect("a kill");
        let status = child.wait().expect("an end");
        assert_eq!(status.signal(), Some(libc::SIGKILL), "it ended by itself: {status}");
        let names = names(dir.path());
        // Killed between the new file's own name and the rename, it leaves a whole copy; that is rare.
        for name in names.iter().filter(|name| name.starts_with(".bufmap-")) {
            let bytes = fs::read(dir.path().join(name)).expect("a copy");
            assert!(bytes == one || bytes == other, "round {round}: a part of a copy");
            fs::remove_file(dir.path().join(name)).expect("it goes");
            left += 1;
        }
        if round > 0 || path.exists() {
            let bytes = fs::read(&path).expect("the file");
            assert!(bytes == one || bytes == other, "round {round}: a part of a file");
        }
        assert!(
            names.iter().all(|name| name == "file" || name.starts_with(".bufmap-")),
            "{names:?}"
        );
    }
    assert!(left < 10, "copies were left {left} times");
}

/// Undoes something by a command when it is dropped.
struct Undo(&'static str, Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = Command::new(self.0).args(&self.1).output();
    }
}

fn sh(program: &str, args: &[&str]) -> Result<String, String> {
    let done = Command::new(program).args(args).output().map_err(|error| error.to_string())?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&done.stderr))),
    }
}

/// A drive that gives out in the middle: a loop device over a file on a file system that is full.
fn drive_error() {
    let (dir, memory) = (directory(), filled(16 * MIB));
    let small = dir.path().join("small");
    fs::create_dir(&small).expect("a directory");
    let at = small.display().to_string();
    sh("mount", &["-t", "tmpfs", "-o", "size=6m", "small", &at]).expect("a mount");
    let _unmount = Undo("umount", vec!["--lazy".into(), at]);
    let image = small.join("image");
    fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("a file of holes");
    let device = match sh("losetup", &["--find", "--show", &image.display().to_string()]) {
        Ok(device) => device,
        Err(why) => return println!("SKIPPED: no loop device: {why}"),
    };
    let _detach = Undo("losetup", vec!["--detach".into(), device.clone()]);
    // One at a time: several that become one are reported as written when a part of them was.
    let options = Options { block: 64 << 10, depth: 1, ..Options::default() };
    let error = save(&memory, To::InPlace(device.as_ref()), &whole(16 << 20), options);
    let error = error.expect_err("the drive fails");
    let SaveError::Write { path, offset, source, left: Left::Partly(written) } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((path.as_path(), source.raw_os_error()), (Path::new(&device), Some(libc::ENOSPC)));
    assert!(*offset > 0 && written.bytes() > MIB as u64, "{error}");
    let found = fs::File::open(&device).expect("the drive");
    for range in written.ranges() {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        found.read_exact_at(&mut bytes, range.start).expect("what is written can be read");
        assert_same(&bytes, &contents(&memory)[range.start as usize..range.end as usize]);
    }
}
