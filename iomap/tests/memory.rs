//! Memory: what the kernel says of its pages.

use std::fs::File;
use std::os::unix::fs::FileExt;

use iomap::{Memory, MemoryError, PageSize};

/// How many pages of a memory are present, which `/proc/self/pagemap` tells everybody.
fn present(memory: &Memory) -> usize {
    let page = rustix::param::page_size();
    let first = memory.map().as_ptr() as usize / page;
    let mut words = vec![0u64; memory.len() / page];
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    pagemap.read_exact_at(bytemuck::cast_slice_mut(&mut words), first as u64 * 8).unwrap();
    words.iter().filter(|word| **word >> 63 == 1).count()
}

#[test]
fn populate_makes_pages_present_and_keeps_bytes() {
    let page = rustix::param::page_size();
    for memory in [
        Memory::anonymous(100 * page, PageSize::Base).unwrap(),
        Memory::memfd("populate", 100 * page, PageSize::Base).unwrap(),
    ] {
        memory.map().write(10 * page, 77u64).unwrap();
        assert!(present(&memory) < 100, "present before they are asked for");
        memory.populate().unwrap();
        assert_eq!(present(&memory), 100);
        assert_eq!(memory.map().read::<u64>(10 * page), Ok(77));
        assert_eq!(memory.map().read::<u64>(11 * page), Ok(0));
    }
}

/// The advice is taken or refused; either way the memory is the same.
#[test]
fn huge_pages_are_only_advice() {
    let memory = Memory::anonymous(8 << 20, PageSize::Base).unwrap();
    match memory.advise_huge() {
        Ok(()) => {}
        Err(error) => assert!(error.to_string().contains("MADV_HUGEPAGE"), "{error}"),
    }
    memory.map().fill(3).unwrap();
    assert_eq!(memory.map().read::<u8>((8 << 20) - 1), Ok(3));
}

#[test]
fn lengths() {
    for len in [0, usize::MAX, isize::MAX as usize + 1] {
        let refused = Memory::anonymous(len, PageSize::Base).unwrap_err();
        assert!(matches!(refused, MemoryError::Length { .. }), "{refused}");
        assert!(Memory::memfd("none", len, PageSize::Base).is_err());
    }
    let memory = Memory::anonymous(1, PageSize::Base).unwrap();
    assert_eq!(memory.len(), rustix::param::page_size());
    let too_much = Memory::anonymous(1 << 50, PageSize::Base);
    let Err(MemoryError::TooLittle(shortage)) = too_much else { panic!("{too_much:?}") };
    assert!(shortage.to_string().starts_with("1125899906842624 bytes are needed"), "{shortage}");
}

#[test]
fn a_memfd_keeps_its_size() {
    let memory = Memory::memfd("sealed", 8192, PageSize::Base).unwrap();
    let fd = memory.fd().unwrap();
    assert!(rustix::fs::ftruncate(fd, 4096).is_err());
    assert!(rustix::fs::ftruncate(fd, 16384).is_err());
}

/// Whole pages, those at the ends of a map too.
#[test]
fn a_part_is_populated_and_the_rest_is_not() {
    let page = rustix::param::page_size();
    let memory = Memory::anonymous(10 * page, PageSize::Base).unwrap();
    let part = memory.map().subrange(2 * page + 5..4 * page + 1).unwrap();
    assert_eq!(part.absent().unwrap(), 3 * page);
    part.populate().unwrap();
    assert_eq!((part.absent().unwrap(), memory.absent().unwrap()), (0, 7 * page));
    let empty = memory.map().subrange(page..page).unwrap();
    empty.populate().unwrap();
    assert_eq!((empty.absent().unwrap(), memory.absent().unwrap()), (0, 7 * page));
    let refused = memory.map().read_only().populate().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    assert_eq!(memory.absent().unwrap(), 7 * page);
}
