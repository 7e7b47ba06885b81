//! Loads into Vulkan buffers on a real driver, read back by the GPU and compared with plain reads.
//!
//! The driver's validation layer listens where it is installed: set `BUFMAP_VULKAN_VALIDATION=1`.

mod support;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bufmap::format::{Manifest, Selection};
use bufmap::load::{Load, Target};
use bufmap::transfer::{Around, Check, DataPath, Options, Receipt, Request, TransferError, Verify};
use exporters::vulkan::{CopyRegion, Device};
use iomap::{Memory, PageSize};
use support::random::Random;
use support::*;

const MIB: usize = 1 << 20;

fn main() -> ExitCode {
    let on_vulkan = |name: &str, test: fn(Device)| trial(name, vulkan_device(), test);
    let on_input = |name: &str, input: &str, require: Option<DataPath>| {
        let needs = vulkan_device().and_then(|device| Ok((device, real_input(input)?)));
        trial(name, needs, move |(device, path)| real_input_arrives(&device, &path, require))
    };
    let mut trials = vec![
        on_vulkan("imported_pages_are_the_buffer", imported_pages_are_the_buffer),
        on_vulkan("what_the_cpu_sees_is_the_buffer", what_the_cpu_sees_is_the_buffer),
        on_vulkan("any_requests_arrive_in_device_memory", any_requests_arrive_in_device_memory),
        on_vulkan("cached_pages_reach_device_memory", cached_pages_reach_device_memory),
        on_vulkan("slots_stay_bounded", slots_stay_bounded),
        on_vulkan("the_gpu_takes_fingerprints", the_gpu_takes_fingerprints),
        on_vulkan("a_wrong_byte_in_device_memory_is_found", a_wrong_byte_in_device_memory_is_found),
        on_vulkan("a_file_that_shrinks_is_reported", a_file_that_shrinks_is_reported),
        on_vulkan("a_device_that_is_not_there_is_named", |_| {
            let error = Device::open(Some("no such device")).expect_err("no device");
            assert!(error.to_string().contains("no such device"), "{error}");
        }),
        on_vulkan("loads_leave_no_descriptor_behind", loads_leave_no_descriptor_behind),
    ];
    for input in ["model.safetensors", "high.wz"] {
        trials.push(on_input(
            &format!("{input}_into_imported_pages"),
            input,
            Some(DataPath::Direct),
        ));
        trials.push(on_input(
            &format!("{input}_into_device_memory"),
            input,
            Some(DataPath::Staged),
        ));
        trials.push(on_input(&format!("{input}_by_the_best_path"), input, None));
    }
    for input in ["model.safetensors", "high.wz"] {
        trials.push(trial(&format!("{input}_into_system_memory"), real_input(input), |path| {
            let manifest = Manifest::open(std::slice::from_ref(&path), &Selection::default())
                .expect("a real file");
            let target = Target::memory(manifest.buffer_len()).expect("memory");
            let receipt =
                load_manifest(&manifest, &target, Some(DataPath::Direct)).expect("a load");
            assert_eq!(receipt.cpu_copied, 0);
            assert_items(&manifest, &path, &receipt);
        }));
    }
    support::run(trials)
}

fn load_manifest(
    manifest: &Manifest,
    target: &Target,
    path: Option<DataPath>,
) -> Result<Receipt, TransferError> {
    load_into(
        manifest.files(),
        manifest.requests(),
        Around::Scratch,
        target,
        Options { require: path, verify: Verify::Full, ..Options::default() },
    )
}

fn load_into(
    files: &[bufmap::storage::file::SourceFile],
    requests: &[Request],
    around: Around,
    target: &Target,
    options: Options,
) -> Result<Receipt, TransferError> {
    let destination = target.destination();
    let stop = &AtomicBool::new(false);
    Load { files, requests, around, destination, options, stop }.run(&mut |_| {})
}

/// Compares the fingerprint of each item with that of an independent read.
fn assert_items(manifest: &Manifest, path: &Path, receipt: &Receipt) {
    let file = std::fs::read(path).expect("the file");
    assert_eq!(receipt.checked.fingerprints.len(), manifest.items().len());
    for (item, &found) in manifest.items().zip(&receipt.checked.fingerprints) {
        let place = item.request.offset as usize..(item.request.offset + item.request.len) as usize;
        assert_eq!(found, Some(crc32fast::hash(&file[place])), "{}", item.name);
    }
    assert_eq!(receipt.checked.compared, receipt.bytes);
}

fn real_input_arrives(device: &Device, path: &Path, require: Option<DataPath>) {
    let manifest = Manifest::open(&[path.to_owned()], &Selection::default()).expect("a real file");
    let (target, _) = Target::vulkan(device, manifest.buffer_len(), require).expect("a buffer");
    let receipt = load_manifest(&manifest, &target, require).expect("a load");
    if require.is_some() {
        assert_eq!(receipt.cpu_copied, 0);
    }
    assert_items(&manifest, path, &receipt);
}

fn imported_pages_are_the_buffer(device: Device) {
    let file = file_of(5 * MIB + 3);
    drop_cache(file.as_file());
    let source = source(file.path());
    let (target, step_down) = Target::vulkan(&device, source.len(), None).expect("a buffer");
    if !device.info().shares_system_memory {
        assert!(matches!(target, Target::Device(_)));
        return;
    }
    assert_eq!(step_down, None);
    let Target::Imported(buffer) = &target else { panic!("{target}") };
    let requests = [Request::new(0, 0, source.len(), 0)];
    let receipt = load_into(&[source], &requests, Around::Scratch, &target, Options::default())
        .expect("a load");
    assert_eq!((receipt.cpu_copied, receipt.gpu_copied), (0, 0));
    let mut seen = vec![0; 5 * MIB + 3];
    device.transfer().expect("a queue").read_back(buffer, 0, &mut seen).expect("the GPU's view");
    assert_same(&seen, &bytes_of(5 * MIB + 3));
}

/// An allocation that the CPU sees: filled by the drive where it is pages, by the CPU behind a BAR.
fn what_the_cpu_sees_is_the_buffer(device: Device) {
    let file = file_of(3 * MIB + 3);
    drop_cache(file.as_file());
    let source = source(file.path());
    let buffer = device.allocate_host_visible(source.len() as usize).expect("a buffer");
    let buffer = Arc::new(buffer);
    let Ok(steady) = buffer.steady() else {
        assert!(!device.info().shares_system_memory, "pages that cannot be pinned");
        return;
    };
    let target = Target::Visible(steady);
    let requests = [Request::new(0, 0, source.len(), 0)];
    let options = Options { verify: Verify::Full, ..Options::default() };
    let receipt =
        load_into(&[source], &requests, Around::Scratch, &target, options).expect("a load");
    assert_eq!((receipt.cpu_copied, receipt.gpu_copied), (0, 0), "{receipt:?}");
    assert_eq!(receipt.checked.compared, receipt.bytes);
    let mut seen = vec![0; 3 * MIB + 3];
    device.transfer().expect("a queue").read_back(&buffer, 0, &mut seen).expect("the GPU's view");
    assert_same(&seen, &bytes_of(3 * MIB + 3));
}

/// Offsets that agree with nothing: the GPU's copy shifts the bytes.
fn any_requests_arrive_in_device_memory(device: Device) {
    let file = file_of(9 * MIB + 1);
    drop_cache(file.as_file());
    let source = source(file.path());
    let mut numbers = Random(99);
    let mut at = 0;
    let requests: Vec<_> = (0..1000)
        .map(|_| {
            let offset = numbers.below(source.len());
            let len = numbers.below(60_000).min(source.len() - offset);
            let request = Request::new(0, offset, len, at + numbers.below(100));
            at = request.buffer().end;
            request
        })
        .collect();
    let (target, _) = Target::vulkan(&device, at, Some(DataPath::Staged)).expect("a buffer");
    let Target::Device(buffer) = &target else { panic!("{target}") };
    for depth in [1, 3, 32] {
        let options = Options {
            require: Some(DataPath::Staged),
            verify: Verify::Full,
            depth,
            block: 65536,
            ..Options::default()
        };
        let files = std::slice::from_ref(&source);
        let receipt =
            load_into(files, &requests, Around::Untouched, &target, options).expect("a load");
        assert_eq!((receipt.cpu_copied, receipt.gpu_copied), (0, receipt.bytes));
        let mut seen = vec![0; at as usize];
        device.transfer().expect("a queue").read_back(buffer, 0, &mut seen).expect("a view");
        let wanted = expected(file.path(), &requests, at as usize);
        for request in &requests {
            let place = request.buffer().start as usize..request.buffer().end as usize;
            assert_same(&seen[place.clone()], &wanted[place]);
        }
    }
}

fn cached_pages_reach_device_memory(device: Device) {
    let file = file_of(3 * MIB + 9);
    fill_cache(file.path());
    let source = source(file.path());
    let target = Target::Device(Arc::new(device.allocate(4 * MIB, false).expect("device memory")));
    let requests = [Request::new(0, 1, source.len() - 1, 77)];
    let options = Options { verify: Verify::Full, ..Options::default() };
    let receipt =
        load_into(&[source], &requests, Around::Untouched, &target, options).expect("a load");
    assert_eq!(receipt.paths[0].path, DataPath::Cached);
    assert_eq!(receipt.cpu_copied, receipt.bytes);
    assert!(receipt.step_downs[0].path == DataPath::Staged);
}

fn slots_stay_bounded(device: Device) {
    let file = file_of(40 * MIB);
    let source = source(file.path());
    let target = Target::Device(Arc::new(device.allocate(40 * MIB, false).expect("device memory")));
    let requests = [Request::new(0, 0, source.len(), 0)];
    let options = Options {
        require: Some(DataPath::Staged),
        depth: 4,
        verify: Verify::Hash,
        ..Options::default()
    };
    let receipt =
        load_into(&[source], &requests, Around::Untouched, &target, options).expect("a load");
    assert_eq!(receipt.slots, 4 << 20);
}

/// Requests in any order, of any length, with the file's own checksums.
fn the_gpu_takes_fingerprints(device: Device) {
    let len = 5 * MIB + 7;
    let file = file_of(len);
    drop_cache(file.as_file());
    let source = source(file.path());
    let bytes = bytes_of(len);
    let ranges = [3 * MIB + 1..5 * MIB + 7, 0..MIB, MIB..MIB, MIB + 3..3 * MIB + 1];
    let requests: Vec<_> = ranges
        .iter()
        .map(|range| {
            let (offset, len) = (range.start as u64, range.len() as u64);
            let crc32 = Some(crc32fast::hash(&bytes[range.clone()]));
            Request { crc32, ..Request::new(0, offset, len, offset) }
        })
        .collect();
    let target = Target::Device(Arc::new(device.allocate(len, false).expect("device memory")));
    for path in [DataPath::Staged, DataPath::Buffered] {
        let options = Options { require: Some(path), ..Options::default() };
        let files = std::slice::from_ref(&source);
        let receipt =
            load_into(files, &requests, Around::Untouched, &target, options).expect("a load");
        let checked = &receipt.checked;
        let by_gpu = checked.bytes_by(Check::FingerprintByGpu);
        assert_eq!((by_gpu, checked.checks.len()), (receipt.bytes, 1), "{checked:?}");
        assert_eq!((checked.compared, checked.read_back), (0, 0));
        assert_eq!((checked.format_checksums, checked.format_checksums_left), (4, 0));
        assert!(checked.step_downs.is_empty(), "{checked:?}");
        let crcs: Vec<_> = requests.iter().map(|request| request.crc32).collect();
        assert_eq!(checked.fingerprints, crcs);
    }
    let options =
        Options { require: Some(DataPath::Staged), verify: Verify::Hash, ..Options::default() };
    let receipt =
        load_into(&[source], &requests, Around::Untouched, &target, options).expect("a load");
    assert_eq!(receipt.checked.bytes_by(Check::FingerprintInSlot), receipt.bytes);
}

/// What something else writes into the memory when the last byte has landed is found by the default check, and which byte it
/// is; not by fingerprints that were taken before, which do not say so.
fn a_wrong_byte_in_device_memory_is_found(device: Device) {
    let len = 3 * MIB + 5;
    let file = file_of(len);
    let source = source(file.path());
    let buffer = Arc::new(device.allocate(len, false).expect("device memory"));
    let target = Target::Device(Arc::clone(&buffer));
    let bytes = bytes_of(len);
    let load = |verify, at: usize| {
        let memory = Memory::memfd("wrong", 1, PageSize::Base).expect("a page");
        memory.map().write(0, !bytes[at]).expect("a byte");
        let wrong = Arc::new(device.import_memory(Arc::new(memory)).expect("its import"));
        let mut spoilt = false;
        let loaded = Load {
            files: std::slice::from_ref(&source),
            requests: &[Request::new(0, 0, len as u64, 0)],
            around: Around::Untouched,
            destination: target.destination(),
            options: Options { require: Some(DataPath::Staged), verify, ..Options::default() },
            stop: &AtomicBool::new(false),
        }
        .run(&mut |progress| {
            if progress.done == progress.total && !std::mem::replace(&mut spoilt, true) {
                let mut transfer = device.transfer().expect("a queue");
                let one = CopyRegion { src_offset: 0, dst_offset: at, len: 1 };
                let ticket = transfer.copy(&wrong, &buffer, &[one]).expect("a copy");
                transfer.wait(ticket).expect("the copy");
            }
        });
        assert!(spoilt, "it never was whole");
        loaded
    };
    for at in [0, 4097, 2 * MIB - 1, len - 1] {
        match load(Verify::Auto, at) {
            Err(TransferError::Mismatch { offset, .. }) => assert_eq!(offset, at as u64),
            other => panic!("{other:?}"),
        }
    }
    let receipt = load(Verify::Hash, 77).expect("nobody looks at it");
    assert_eq!(receipt.checked.bytes_by(Check::FingerprintInSlot), len as u64);
}

fn a_file_that_shrinks_is_reported(device: Device) {
    let file = file_of(8 * MIB);
    let source = source(file.path());
    file.as_file().set_len(5 * MIB as u64).expect("a shorter file");
    let target = Target::Device(Arc::new(device.allocate(8 * MIB, false).expect("device memory")));
    let requests = [Request::new(0, 0, source.len(), 0)];
    let options = Options { require: Some(DataPath::Staged), ..Options::default() };
    let error = load_into(&[source], &requests, Around::Untouched, &target, options)
        .expect_err("too short");
    let TransferError::Shrank { at, file_len, valid, .. } = error else { panic!("{error}") };
    assert_eq!((at, file_len), (5 << 20, 8 << 20));
    assert!(valid.bytes() <= 5 << 20, "{valid}");
}

fn loads_leave_no_descriptor_behind(device: Device) {
    let count = || std::fs::read_dir("/proc/self/fd").expect("/proc").count();
    let file = file_of(MIB);
    let once = || {
        for path in [DataPath::Staged, DataPath::Direct] {
            let (target, _) = Target::vulkan(&device, MIB as u64, Some(path)).expect("a buffer");
            let requests = [Request::new(0, 3, MIB as u64 - 3, 0)];
            let options = Options { require: Some(path), ..Options::default() };
            let files = [source(file.path())];
            load_into(&files, &requests, Around::Untouched, &target, options).expect("a load");
        }
    };
    once();
    let before = count();
    for _ in 0..50 {
        once();
    }
    assert_eq!(count(), before);
}
