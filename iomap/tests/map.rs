//! `BufMap` against a plain vector: every operation, every alignment, every engine; and no byte
//! outside the map, which guard pages would punish.
#![allow(unsafe_code)]

use iomap::{Access, BufMap, Caching, Location, MapError, Memory, PageSize};
use proptest::prelude::*;

const SYSTEM: (Location, Caching) = (Location::System, Caching::WriteBack);

/// One of each engine.
const KINDS: [(Location, Caching); 5] = [
    SYSTEM,
    (Location::System, Caching::WriteCombining),
    (Location::System, Caching::Uncached),
    (Location::Io, Caching::WriteCombining),
    (Location::Io, Caching::Uncached),
];

/// A map of the same memory that says it is of another kind: this chooses the engine.
fn as_kind<'a>(map: BufMap<'a>, (location, caching): (Location, Caching)) -> BufMap<'a> {
    // SAFETY: the same bytes for the same lifetime.
    unsafe { BufMap::from_raw(map.as_ptr(), map.len(), location, caching, map.access()) }
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(167) >> 3) as u8 ^ i as u8 ^ seed).collect()
}

fn bytes_of(map: BufMap<'_>) -> Vec<u8> {
    (0..map.len()).map(|i| map.read::<u8>(i).unwrap()).collect()
}

/// A memory of `len` bytes between two pages that fault.
struct Guarded {
    pages: *mut u8,
    len: usize,
    whole: usize,
}

impl Guarded {
    fn new(len: usize) -> Self {
        use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
        let page = rustix::param::page_size();
        let len = len.next_multiple_of(page);
        let whole = len + 2 * page;
        // SAFETY: fresh memory; its middle is opened.
        unsafe {
            let none = ProtFlags::empty();
            let pages = mmap_anonymous(std::ptr::null_mut(), whole, none, MapFlags::PRIVATE);
            let pages = pages.unwrap().cast::<u8>();
            let open = MprotectFlags::READ | MprotectFlags::WRITE;
            mprotect(pages.add(page).cast(), len, open).unwrap();
            Self { pages, len, whole }
        }
    }

    fn map(&self) -> BufMap<'_> {
        let start = self.pages.wrapping_add(rustix::param::page_size());
        // SAFETY: the middle is readable and writable until the drop.
        unsafe { BufMap::from_raw(start, self.len, SYSTEM.0, SYSTEM.1, Access::ReadWrite) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and no map outlives this.
        unsafe { rustix::mm::munmap(self.pages.cast(), self.whole) }.unwrap();
    }
}

/// Copies at every alignment of both ends modulo 64 and every length below 2 KiB, with bytes on
/// either side that must stay.
#[test]
fn every_alignment_and_length() {
    const MARGIN: usize = 64;
    let src = noise(64 + 2048, 1);
    let memory = Memory::anonymous(4096, PageSize::Base).unwrap();
    let from = Memory::anonymous(4096, PageSize::Base).unwrap();
    from.map().copy_from_slice(0, &src).unwrap();
    let map = memory.map();
    let mut out = vec![0; 4096];
    for src_at in 0..64 {
        for dst_at in 0..64 {
            // All lengths over the alignments together; for each pair, those of one residue.
            for len in (0..2048).skip((src_at * 7 + dst_at) % 13).step_by(13) {
                let place = MARGIN + dst_at;
                let part = map.subrange(..place + len + MARGIN).unwrap();
                part.fill(0xee).unwrap();
                let (to, wanted) =
                    (part.subrange(place..place + len).unwrap(), &src[src_at..][..len]);
                to.copy_from(&from.map().subrange(src_at..src_at + len).unwrap()).unwrap();
                let all = &mut out[..part.len()];
                part.copy_to_slice(0, all).unwrap();
                assert!(&all[place..][..len] == wanted, "src {src_at} dst {dst_at} len {len}");
                let untouched = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0xee);
                assert!(untouched(&all[..place]), "before: src {src_at} dst {dst_at} len {len}");
                assert!(
                    untouched(&all[place + len..]),
                    "after: src {src_at} dst {dst_at} len {len}"
                );
            }
        }
    }
}

/// Every engine at both ends, slices on either side, and fills, at the edges of guarded memory.
#[test]
fn guard_pages() {
    let (a, b) = (Guarded::new(4096), Guarded::new(4096));
    let lens = (0..300).chain((300..2048).step_by(61)).chain([4095, 4096]);
    for len in lens {
        let edges = |map: BufMap<'_>| [0, 1, map.len() - len, map.len().saturating_sub(len + 1)];
        let data = noise(len, len as u8);
        for (src_kind, dst_kind) in KINDS.iter().flat_map(|a| KINDS.iter().map(move |b| (a, b))) {
            for (src_at, dst_at) in edges(a.map()).into_iter().zip(edges(b.map()).into_iter().rev())
            {
                let Ok(src) = a.map().subrange(src_at..src_at + len) else { continue };
                let Ok(dst) = b.map().subrange(dst_at..dst_at + len) else { continue };
                let (src, dst) = (as_kind(src, *src_kind), as_kind(dst, *dst_kind));
                src.copy_from_slice(0, &data).unwrap();
                dst.fill(0).unwrap();
                dst.copy_from(&src).unwrap();
                let mut back = vec![0; len];
                dst.copy_to_slice(0, &mut back).unwrap();
                assert!(
                    back == data,
                    "{src_kind:?} {src_at} -> {dst_kind:?} {dst_at}, {len} bytes"
                );
                dst.fill(7).unwrap();
                dst.copy_to_slice(0, &mut back).unwrap();
                assert!(back.iter().all(|&b| b == 7), "fill {dst_kind:?} {dst_at}, {len} bytes");
            }
        }
    }
}

/// Overlaps in both directions, near and far, against `copy_within`, for every engine.
#[test]
fn overlapping() {
    let memory = Memory::anonymous(1 << 20, PageSize::Base).unwrap();
    let near = (0..=70).chain([127, 128, 129, 255, 256, 257, 300, 1000]);
    for (distance, kind) in near.flat_map(|d| KINDS.iter().map(move |kind| (d, *kind))) {
        for len in [1, 7, 8, 9, 63, 64, 65, 100, 129, 513, 1500, 9000] {
            for (src, dst) in [(3, 3 + distance), (3 + distance, 3), (0, distance), (distance, 0)] {
                let mut wanted = noise(distance + len + 64, 9);
                let map = memory.map().subrange(..wanted.len()).unwrap();
                map.copy_from_slice(0, &wanted).unwrap();
                wanted.copy_within(src..src + len, dst);
                let part = |at: usize| as_kind(map.subrange(at..at + len).unwrap(), kind);
                part(dst).copy_from(&part(src)).unwrap();
                let mut back = vec![0; wanted.len()];
                map.copy_to_slice(0, &mut back).unwrap();
                assert!(back == wanted, "{kind:?}: {len} bytes from {src} to {dst}");
            }
        }
    }
}

/// Sizes that reach the string instructions and the non-temporal stores, disjoint and overlapping.
#[test]
fn large() {
    let len = 80 << 20;
    let (a, b) = (
        Memory::anonymous(len, PageSize::Base).unwrap(),
        Memory::anonymous(len, PageSize::Base).unwrap(),
    );
    let data = noise(len, 3);
    a.map().copy_from_slice(0, &data).unwrap();
    let sizes = [(16 << 10) - 8, 16 << 10, (16 << 10) + 8, 1 << 20, (4 << 20) + 13, (72 << 20) + 5];
    for len in sizes {
        for (src, dst) in [(0, 0), (5, 5), (8, 0), (0, 24), (1, 2)] {
            let from = a.map().subrange(src..src + len).unwrap();
            let around = b.map().subrange(..dst + len + 64).unwrap();
            around.fill(0xee).unwrap();
            around.subrange(dst..dst + len).unwrap().copy_from(&from).unwrap();
            let mut back = vec![0; around.len()];
            around.copy_to_slice(0, &mut back).unwrap();
            assert!(
                back[dst..dst + len] == data[src..src + len],
                "{len} bytes from {src} to {dst}"
            );
            assert!(back[..dst].iter().chain(&back[dst + len..]).all(|&b| b == 0xee));
        }
    }
    let (mut wanted, shift) = (data, 4096 + 3);
    for (src, dst) in [(0, shift), (shift, 0)] {
        let len = wanted.len() - shift;
        let part = |at: usize| a.map().subrange(at..at + len).unwrap();
        part(dst).copy_from(&part(src)).unwrap();
        wanted.copy_within(src..src + len, dst);
        let mut back = vec![0; wanted.len()];
        a.map().copy_to_slice(0, &mut back).unwrap();
        assert!(back == wanted, "overlap from {src} to {dst}");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write8(usize, u8),
    Write16(usize, u16),
    Write32(usize, u32),
    Write64(usize, u64),
    Odd(usize, [u8; 5]),
    CopyIn(usize, Vec<u8>),
    CopyWithin(usize, usize, usize),
    Fill(usize, usize, u8),
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0usize..600;
    prop_oneof![
        (at.clone(), any::<u8>()).prop_map(|(at, v)| Op::Write8(at, v)),
        (at.clone(), any::<u16>()).prop_map(|(at, v)| Op::Write16(at, v)),
        (at.clone(), any::<u32>()).prop_map(|(at, v)| Op::Write32(at, v)),
        (at.clone(), any::<u64>()).prop_map(|(at, v)| Op::Write64(at, v)),
        (at.clone(), any::<[u8; 5]>()).prop_map(|(at, v)| Op::Odd(at, v)),
        (at.clone(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(a, v)| Op::CopyIn(a, v)),
        (at.clone(), at.clone(), 0usize..400).prop_map(|(a, b, len)| Op::CopyWithin(a, b, len)),
        (at, 0usize..400, any::<u8>()).prop_map(|(at, len, v)| Op::Fill(at, len, v)),
    ]
}

/// Does `op` to the map and, if the law allows it, to the model; says what the law says.
fn apply(map: BufMap<'_>, model: &mut [u8], op: &Op) -> (Result<(), MapError>, bool) {
    let io = map.location() == Location::Io;
    let map_len = model.len();
    let mut put = |at: usize, bytes: &[u8], typed: bool| {
        let aligned = !matches!(bytes.len(), 2 | 4 | 8)
            || (map.as_ptr() as usize + at).is_multiple_of(bytes.len());
        let lawful = at + bytes.len() <= map_len && (!typed || !io || aligned);
        if lawful {
            model[at..at + bytes.len()].copy_from_slice(bytes);
        }
        lawful
    };
    match op {
        Op::Write8(at, v) => (map.write(*at, *v), put(*at, &v.to_ne_bytes(), true)),
        Op::Write16(at, v) => (map.write(*at, *v), put(*at, &v.to_ne_bytes(), true)),
        Op::Write32(at, v) => (map.write(*at, *v), put(*at, &v.to_ne_bytes(), true)),
        Op::Write64(at, v) => (map.write(*at, *v), put(*at, &v.to_ne_bytes(), true)),
        Op::Odd(at, v) => (map.write(*at, *v), put(*at, v, true)),
        Op::CopyIn(at, v) => (map.copy_from_slice(*at, v), put(*at, v, false)),
        Op::Fill(at, len, v) => (
            map.subrange(*at..at + len).and_then(|part| part.fill(*v)),
            put(*at, &vec![*v; *len], false),
        ),
        Op::CopyWithin(src, dst, len) => {
            let part = |at: usize| map.subrange(at..at + len);
            let done = part(*src).and_then(|src| part(*dst)?.copy_from(&src));
            let lawful = src + len <= map_len && dst + len <= map_len;
            if lawful {
                model.copy_within(*src..src + len, *dst);
            }
            (done, lawful)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any operations in any order, on any engine: the bytes are the model's, and what the law
    /// refuses is refused and changes nothing.
    #[test]
    fn any_operations(
        ops in prop::collection::vec(op(), 1..40),
        kind in 0..KINDS.len(),
        skew in 0usize..64,
        len in 0usize..800,
    ) {
        let memory = Memory::anonymous(1024, PageSize::Base).unwrap();
        let map = as_kind(memory.map().subrange(skew..skew + len).unwrap(), KINDS[kind]);
        let mut model = vec![0; len];
        for op in &ops {
            let (done, lawful) = apply(map, &mut model, op);
            prop_assert_eq!(done.is_ok(), lawful, "{:?}: {:?}", op, done);
        }
        prop_assert_eq!(bytes_of(map), model.clone());
        for at in 0..len.saturating_sub(8) {
            let wanted = u64::from_ne_bytes(model[at..at + 8].try_into().unwrap());
            match map.read::<u64>(at) {
                Ok(value) => prop_assert_eq!(value, wanted),
                Err(error) => prop_assert_eq!(error, MapError::Misaligned { offset: at, width: 8 }),
            }
        }
        let around = memory.map();
        prop_assert!(bytes_of(around.subrange(..skew).unwrap()).iter().all(|&b| b == 0));
        prop_assert!(bytes_of(around.subrange(skew + len..).unwrap()).iter().all(|&b| b == 0));
    }

    /// Sub-ranges, splits, offsets: the same bytes as of a slice, or refused where a slice panics.
    #[test]
    fn parts(len in 0usize..100, start in 0usize..120, end in 0usize..120) {
        let bytes = noise(len, 0);
        let map = BufMap::from_slice(&bytes);
        let part = map.subrange(start..end).map(bytes_of).ok();
        prop_assert_eq!(part, bytes.get(start..end).map(<[u8]>::to_vec));
        let halves = map.split_at(start).map(|(a, b)| (bytes_of(a), bytes_of(b))).ok();
        prop_assert_eq!(halves, bytes.split_at_checked(start).map(|(a, b)| (a.to_vec(), b.to_vec())));
        let mut advanced = map;
        prop_assert_eq!(advanced.advance(start).is_ok(), start <= len);
        prop_assert_eq!(advanced == map, start == 0 || start > len);
    }
}

/// Offsets so large that sums with them overflow.
#[test]
fn extreme_offsets() {
    let mut bytes = [0; 32];
    let map = BufMap::from_mut_slice(&mut bytes);
    for at in [33, usize::MAX, usize::MAX - 7, isize::MAX as usize] {
        assert!(map.read::<u64>(at).is_err());
        assert!(map.write(at, 0u64).is_err());
        assert!(map.copy_from_slice(at, &[1; 8]).is_err());
        assert!(map.copy_to_slice(at, &mut [1; 8]).is_err());
        assert!(map.subrange(at..).is_err());
        assert!(map.subrange(..=at).is_err());
        assert!(map.read_field(at, iomap::field!(Pair, second)).is_err());
    }
    let (start, end) = (16, 8);
    assert_eq!(map.subrange(start..end).unwrap_err(), MapError::Reversed { start, end });
    assert_eq!(map.read::<[u8; 0]>(32), Ok([]));
}

#[repr(C)]
struct Pair {
    _first: u16,
    second: u16,
}

#[test]
fn read_only_is_read_only() {
    let mut bytes = [5; 16];
    let writable = BufMap::from_mut_slice(&mut bytes);
    let map = writable.read_only();
    assert_eq!(map.write(0, 1u8), Err(MapError::ReadOnly));
    assert_eq!(map.fill(1), Err(MapError::ReadOnly));
    assert_eq!(map.copy_from_slice(0, &[1]), Err(MapError::ReadOnly));
    assert_eq!(map.copy_from(&writable), Err(MapError::ReadOnly));
    assert_eq!(writable.copy_to(&map), Err(MapError::ReadOnly));
    assert_eq!(map.read::<u8>(15), Ok(5));
}

/// The life that `iosys_map`'s page walks through.
#[test]
fn set_compare_clear() {
    let mut bytes = [0; 8];
    let mut map = BufMap::null();
    assert!(map.is_null() && !map.is_set() && map.is_empty());
    assert_eq!(map.fill(1), Err(MapError::ReadOnly));
    assert_eq!(map.copy_to_slice(0, &mut []), Ok(()));
    map.set_system(&mut bytes);
    assert!(map.is_set());
    assert_eq!(map.offset(8).map(|end| end.len()), Ok(0));
    let address = map.as_ptr();
    map.clear();
    assert_eq!(map, BufMap::null());

    let mut io = BufMap::null();
    // SAFETY: nothing is mapped: zero bytes long.
    unsafe { io.set_io(std::ptr::null_mut(), 0, Caching::Uncached) };
    assert!(io.is_null());
    assert_ne!(io, BufMap::null(), "maps of different locations are never equal");
    assert_eq!(io.fill(1), Ok(()));
    // SAFETY: the slice is not used any more; nothing is accessed.
    let same =
        unsafe { BufMap::from_raw(address, 8, Location::Io, Caching::Uncached, Access::ReadOnly) };
    assert_ne!(same, BufMap::from_slice(&[0; 8]));
}
