//! Loads into buffers of a program's own: slices, and what implements `Destination` outside the project.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use bufmap::load::Load;
use bufmap::plan::Place;
use bufmap::storage::file::SourceFile;
use bufmap::transfer::{Around, DataPath, Options, Receipt, Request, TransferError, Verify};
use exporters::vfio::Mappable;
use exporters::{Absent, Destination, Exporter, SystemMemory};
use iomap::{Borrowed, BufMap, Memory, PageSize};
use proptest::prelude::*;
use support::*;

const LEN: usize = 3 << 20;

fn load_into(
    file: &SourceFile,
    requests: &[Request],
    destination: &dyn Destination,
    require: Option<DataPath>,
) -> Result<Receipt, TransferError> {
    Load {
        files: std::slice::from_ref(file),
        requests,
        around: Around::Untouched,
        destination,
        options: Options { require, verify: Verify::Full, ..Options::default() },
        stop: &AtomicBool::new(false),
    }
    .run(&mut |_| {})
}

#[test]
fn a_program_s_own_buffer_is_loaded_into_as_its_facets_allow() {
    let file = file_of(LEN - 100);
    drop_cache(file.as_file());
    let file = source(file.path());
    let requests = [Request::new(0, 0, file.len(), 0)];

    let own = Own::new(LEN, true);
    assert_eq!(Place::of(&own).expect("a place"), Place::System);
    let receipt = load_into(&file, &requests, &own, None).expect("a load");
    assert_eq!(receipt.paths[0].path, DataPath::Direct);
    assert_same(&contents(&own.memory)[..LEN - 100], &bytes_of(LEN - 100));

    let own = Own::new(LEN, false);
    assert_eq!(Place::of(&own).expect("a place"), Place::Cpu);
    let receipt = load_into(&file, &requests, &own, Some(DataPath::Bounce)).expect("a load");
    assert_eq!(receipt.cpu_copied, file.len());
    assert_same(&contents(&own.memory)[..LEN - 100], &bytes_of(LEN - 100));
    let receipt = load_into(&file, &requests, &own, None).expect("a load");
    let why: Vec<_> = receipt.step_downs.iter().map(|step| (step.path, step.bytes)).collect();
    assert!(why.contains(&(DataPath::Direct, file.len())), "{:?}", receipt.step_downs);
    assert!(receipt.step_downs[0].why.starts_with("its pages are its own; take another buffer"));
    let refused = load_into(&file, &requests, &own, Some(DataPath::Direct)).expect_err("no pages");
    assert!(refused.to_string().contains("no drive may be given: take `bounce`"), "{refused}");
}

#[test]
fn a_buffer_that_goes_away_is_no_success() {
    let file = file_of(LEN);
    let file = source(file.path());
    let requests = [Request::new(0, 0, file.len(), 0)];
    let own = Own::new(LEN, true);
    own.gone.store(true, Ordering::Relaxed);
    let error = load_into(&file, &requests, &own, None).expect_err("it is lost");
    assert!(matches!(error, TransferError::BufferLost { .. }), "{error}");
    assert!(error.to_string().contains("a device of the test's"), "{error}");
}

/// Nobody reaches it.
#[derive(Debug)]
struct Nothing;

impl Destination for Nothing {
    fn len(&self) -> usize {
        LEN
    }

    fn cpu_map(&self) -> Result<BufMap<'_>, Absent> {
        Err(Absent::new("the CPU does not see it", "map it"))
    }

    fn pages(&self) -> Result<(), Absent> {
        self.cpu_map().map(drop)
    }

    fn steady(&self) -> Result<&dyn Mappable, Absent> {
        Err(Absent::new("it may move", "pin it"))
    }
}

#[test]
fn a_buffer_that_nobody_reaches_is_refused_in_words() {
    let file = file_of(4096);
    let error = load_into(&source(file.path()), &[], &Nothing, None).expect_err("no path");
    let words = error.to_string();
    assert!(words.contains("the CPU does not see it; map it"), "{words}");
    assert!(words.contains("no GPU has this buffer"), "{words}");
}

#[test]
fn a_slice_is_loaded_into_by_the_drive_and_used_at_once() {
    let file = file_of(LEN);
    drop_cache(file.as_file());
    let mut bytes = vec![0; LEN + 4096];
    let aligned = bytes.as_ptr().align_offset(4096);
    let slice = &mut bytes[aligned..aligned + LEN];
    let requests = [Request::new(0, 0, LEN as u64, 0)];
    let receipt = load_into(&source(file.path()), &requests, &Borrowed::from(&mut *slice), None);
    let receipt = receipt.expect("a load");
    assert_eq!((receipt.paths[0].path, receipt.cpu_copied), (DataPath::Direct, 0));
    assert_same(slice, &bytes_of(LEN));
}

#[test]
fn what_was_loaded_into_memory_is_a_slice_without_a_copy() {
    let file = file_of(LEN);
    let mut memory = memory_of(LEN);
    load_into(&source(file.path()), &[Request::new(0, 0, LEN as u64, 0)], &memory, None)
        .expect("a load");
    let address = memory.map().as_ptr();
    let bytes = memory.as_mut_slice().expect("memory of one's own");
    assert_eq!(bytes.as_ptr(), address.cast_const());
    assert_same(bytes, &bytes_of(LEN));
    let mut shared = Memory::memfd("shared", 4096, PageSize::Base).expect("a memfd");
    let words = shared.as_mut_slice().expect_err("others may map it").to_string();
    assert!(words.contains("memfd"), "{words}");
}

/// Where a buffer lies is told without its pages: they may be many gigabytes, or more than may be pinned.
#[test]
fn asking_where_an_export_lies_takes_no_memory() {
    let export = SystemMemory::default().export(64 << 20).expect("a memfd");
    let promised = export.promised().expect("an answer");
    assert_eq!(promised, 64 << 20);
    assert_eq!(Place::of(&export).expect("a place"), Place::System);
    assert_eq!(export.promised().expect("an answer"), promised);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A slice begins anywhere, and a request anywhere in it. What no request names stays as it is.
    #[test]
    fn a_slice_of_any_alignment_holds_what_was_asked_for_and_nothing_else(
        begin in 0usize..9000,
        parts in prop::collection::vec((0u64..900_000, 0u64..40_000, 0u64..6000), 1..12),
        path in prop::sample::select(vec![None, Some(DataPath::Direct), Some(DataPath::Buffered)]),
    ) {
        let file = file_of(1 << 20);
        let mut at = 0;
        let requests: Vec<_> = parts.into_iter().map(|(offset, len, gap)| {
            at += gap;
            let request = Request::new(0, offset, len, at);
            at += len;
            request
        }).collect();
        let mut bytes = vec![UNTOUCHED; begin + at as usize + 5000];
        let len = at as usize + 1;
        let expected = expected(file.path(), &requests, len);
        let slice = &mut bytes[begin..begin + len];
        load_into(&source(file.path()), &requests, &Borrowed::from(&mut *slice), path)
            .expect("a load");
        assert_same(slice, &expected);
        prop_assert!(bytes[..begin].iter().chain(&bytes[begin + len..]).all(|&byte| byte == UNTOUCHED));
    }
}
