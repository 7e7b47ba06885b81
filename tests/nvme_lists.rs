//! PRPs and SGLs, read as a controller reads them: by the rules of the NVM Express Base Specification
//! 2.0c, sections 4.1.1 and 4.1.2. What it finds must be what was described, and what cannot be
//! described must be refused.

use bufmap::dma::{DmaKind, DmaList, DmaRange};
use bufmap::storage::nvme::ListMemory;
use bufmap::storage::nvme::prp::{self, PrpError, Prps};
use bufmap::storage::nvme::sgl::{self, Data, Sgl, SglError, SglSupport};
use iomap::{DmaAddr, Memory, PageSize};
use proptest::prelude::*;

/// Where the drive sees the memory for lists.
const LISTS: u64 = 0x7000_0000_0000;

/// Memory for lists, and what a drive reads from it.
struct Lists(Memory);

impl Lists {
    fn new(len: usize) -> Self {
        Self(Memory::anonymous(len, PageSize::Base).expect("memory"))
    }

    fn word(&self, addr: u64) -> u64 {
        let offset = addr.checked_sub(LISTS).expect("an address of the lists") as usize;
        u64::from_le(self.0.map().read(offset).expect("inside the lists"))
    }
}

/// A range of bytes that the drive finds.
type Found = Vec<(u64, u64)>;

fn push(found: &mut Found, addr: u64, len: u64) {
    match found.last_mut() {
        Some((last, last_len)) if *last + *last_len == addr => *last_len += len,
        _ => found.push((addr, len)),
    }
}

/// What a controller with pages of `page` bytes finds by two PRP entries for `len` bytes.
fn follow_prps(prps: Prps, mut len: u64, page: u64, lists: &Lists) -> Found {
    let mut found = Found::new();
    let offset = prps.first % page;
    assert_eq!(prps.first % 4, 0, "the offset is a multiple of 4");
    let mut take = |addr: u64, offset: u64, left: &mut u64| {
        let part = (*left).min(page - offset);
        push(&mut found, addr, part);
        *left -= part;
    };
    take(prps.first, offset, &mut len);
    if len == 0 {
        assert_eq!(prps.second, 0, "reserved");
    } else if len <= page {
        assert_eq!(prps.second % page, 0, "entry 2 has no offset");
        take(prps.second, 0, &mut len);
    } else {
        let mut at = prps.second;
        assert_eq!(at % 8, 0, "a list begins at a word");
        while len > 0 {
            // The last word of a page of a list is an entry only if it is the last of all.
            let last_of_page = at % page == page - 8;
            if last_of_page && len > page {
                at = lists.word(at);
                assert_eq!(at % page, 0, "a chained list begins with a page");
                continue;
            }
            let entry = lists.word(at);
            assert_eq!(entry % page, 0, "an entry of a list has no offset");
            take(entry, 0, &mut len);
            at += 8;
        }
    }
    found
}

/// What a controller finds by an SGL: bytes in memory, and `None` for those it discards.
fn follow_sgl(sgl: Sgl, lists: &Lists) -> Vec<(Option<u64>, u64)> {
    let mut found = Vec::new();
    let mut descriptors = vec![(sgl.address, sgl.length_and_type)];
    let mut may_go_on = true;
    while let Some((address, word)) = (!descriptors.is_empty()).then(|| descriptors.remove(0)) {
        let (len, kind) = (word & 0xffff_ffff, word >> 60);
        assert_eq!(word >> 32 & 0x0fff_ffff, 0, "reserved, or a subtype");
        match kind {
            0 => found.push((Some(address), len)),
            1 => found.push((None, len)),
            2 | 3 => {
                assert!(descriptors.is_empty(), "a segment is the last descriptor of its segment");
                assert!(may_go_on, "nothing follows a last segment");
                assert!(len > 0 && len % 16 == 0, "a segment is whole descriptors");
                may_go_on = kind == 2;
                descriptors.extend(
                    (0..len / 16)
                        .map(|i| (lists.word(address + 16 * i), lists.word(address + 16 * i + 8))),
                );
                if kind == 2 {
                    let (_, last) = descriptors[descriptors.len() - 1];
                    assert!(matches!(last >> 60, 2 | 3), "a segment that is not the last goes on");
                }
            }
            other => panic!("descriptor type {other}"),
        }
    }
    found
}

fn coalesced(list: &DmaList) -> Found {
    let mut found = Found::new();
    list.whole().for_each(|range| push(&mut found, range.addr().get(), range.len()));
    found
}

fn list(ranges: &[(u64, u64)]) -> DmaList {
    let range = |&(addr, len)| DmaRange::new(DmaKind::Iova, DmaAddr::new(addr), len).expect("one");
    ranges.iter().map(range).collect()
}

/// Whether PRPs can describe it, said without building them: from one byte to the next, the address
/// goes on, or both sides are at the edge of a page.
fn has_the_shape_of_prps(found: &Found, page: u64) -> bool {
    let edges = found
        .windows(2)
        .all(|pair| (pair[0].0 + pair[0].1).is_multiple_of(page) && pair[1].0.is_multiple_of(page));
    found[0].0.is_multiple_of(4) && edges
}

/// Ranges of whole pages, with a first that may begin and a last that may end inside one; now and
/// then something is wrong with them.
fn prp_ranges() -> impl Strategy<Value = (u64, Vec<(u64, u64)>)> {
    let page = (12u32..15).prop_map(|shift| 1u64 << shift);
    let ranges = prop::collection::vec((1u64..1 << 20, 1u64..40), 1..30);
    (
        page,
        ranges,
        0u64..4096,
        0u64..4096,
        prop::option::weighted(0.2, (any::<prop::sample::Index>(), 1u64..64)),
    )
        .prop_map(|(page, pages, skip, cut, wrong)| {
            let mut ranges: Vec<_> =
                pages.iter().map(|(at, len)| (at * page, len * page)).collect();
            let skip = skip & !3;
            ranges[0] = (ranges[0].0 + skip, ranges[0].1 - skip);
            if let Some(last) = ranges.last_mut() {
                last.1 = last.1.saturating_sub(cut).max(1);
            }
            if let Some((index, by)) = wrong {
                let range = index.get_mut(&mut ranges);
                *range = (range.0 + by, range.1);
            }
            (page, ranges)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn prps_say_what_was_described((page, ranges) in prp_ranges()) {
        let list = list(&ranges);
        let wanted = coalesced(&list);
        let len = prp::list_len(list.total(), page) as usize;
        let lists = Lists::new(len + 4096 * ranges.len());
        let memory = ListMemory::new(lists.0.map(), DmaAddr::new(LISTS));
        match prp::build(list.whole(), page, &memory) {
            Ok(prps) => {
                prop_assert_eq!(follow_prps(prps, list.total(), page, &lists), wanted);
            }
            Err(PrpError::Shape { .. }) => {
                prop_assert!(!has_the_shape_of_prps(&wanted, page), "{wanted:x?}");
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    /// Any part of a contiguous range has exactly the room that is said to be enough.
    #[test]
    fn the_room_for_prps_is_enough(start in 0u64..2048, len in 1u64..9 << 20) {
        let list = list(&[(0x100_0000_0000 + start * 4, len)]);
        let room = prp::list_len(len, 4096) as usize;
        let lists = Lists::new(room);
        let memory = ListMemory::new(lists.0.map(), DmaAddr::new(LISTS));
        let prps = prp::build(list.whole(), 4096, &memory).expect("enough room");
        prop_assert_eq!(follow_prps(prps, len, 4096, &lists), coalesced(&list));
    }

    #[test]
    fn sgls_say_what_was_described(
        ranges in prop::collection::vec((1u64..1 << 40, 1u64..100_000), 0..60),
        head in prop_oneof![Just(0), 1u64..4096],
        tail in prop_oneof![Just(0), 1u64..4096],
        words in any::<bool>(),
        bit_bucket in prop::bool::weighted(0.8),
        segments in prop::collection::vec(0usize..20, 0..8),
    ) {
        let alignment = if words { 4 } else { 1 };
        let grain = |(addr, len): (u64, u64)| if words { (addr * 4, len * 4) } else { (addr, len) };
        let list = list(&ranges.into_iter().map(grain).collect::<Vec<_>>());
        let lists = Lists::new(4096);
        let mut offset = 0;
        let segments: Vec<_> = segments.iter().map(|descriptors| {
            let map = lists.0.map().subrange(offset..offset + descriptors * 16).expect("inside");
            let memory = ListMemory::new(map, DmaAddr::new(LISTS + offset as u64));
            offset += descriptors * 16;
            memory
        }).collect();
        let data = Data { head, memory: list.whole(), tail };
        let mut wanted: Vec<_> = list.whole().map(|r| (Some(r.addr().get()), r.len())).collect();
        if head > 0 { wanted.insert(0, (None, head)); }
        if tail > 0 { wanted.push((None, tail)); }
        // Each segment but the last gives a descriptor to the next.
        let mut left = wanted.len();
        let fits = segments.iter().map(|segment| segment.len() / 16).any(|room| {
            let enough = left <= room;
            left -= if enough { 0 } else { room.saturating_sub(1) };
            enough
        });
        match sgl::build(&data, SglSupport { alignment, bit_bucket }, &segments) {
            Ok(sgl) => {
                prop_assert!(fits || wanted.len() == 1);
                prop_assert_eq!(follow_sgl(sgl, &lists), wanted);
            }
            Err(SglError::Empty) => prop_assert!(wanted.is_empty()),
            Err(SglError::BitBucket { len }) => {
                prop_assert!(!bit_bucket && len == head + tail && len > 0);
            }
            Err(SglError::Room { .. }) => prop_assert!(!fits),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

#[test]
fn what_prps_cannot_say_is_refused() {
    let lists = Lists::new(4096);
    let memory = ListMemory::new(lists.0.map(), DmaAddr::new(LISTS));
    let build = |ranges: &[(u64, u64)], page| prp::build(list(ranges).whole(), page, &memory);
    assert_eq!(build(&[], 4096), Err(PrpError::Empty));
    for page in [0, 2048, 5000] {
        assert_eq!(build(&[(4096, 4096)], page), Err(PrpError::Page { page }));
    }
    assert!(matches!(build(&[(4098, 8)], 4096), Err(PrpError::Shape { .. })));
    // 514 pages are 513 entries, one more than a page of them has room for.
    assert!(build(&[(0x10_0000, 513 * 4096)], 4096).is_ok());
    let error = build(&[(0x10_0000, 514 * 4096)], 4096);
    assert_eq!(error, Err(PrpError::Room { entries: 513, needed: 8192, len: 4096 }));
    let skewed = ListMemory::new(lists.0.map(), DmaAddr::new(LISTS + 8));
    assert!(matches!(
        prp::build(list(&[(0, 4096 * 3)]).whole(), 4096, &skewed),
        Err(PrpError::Room { .. })
    ));
    // The last page of the address space.
    let top = u64::MAX - 4095;
    assert_eq!(build(&[(top, 4095)], 4096), Ok(Prps { first: top, second: 0 }));
}

#[test]
fn ranges_longer_than_a_descriptor_are_several() {
    let lists = Lists::new(4096);
    let memory = ListMemory::new(lists.0.map(), DmaAddr::new(LISTS));
    let list = list(&[(0x10_0000, 10 << 30)]);
    let data = Data { head: 0, memory: list.whole(), tail: 0 };
    let support = SglSupport::from_field(1).expect("SGLs");
    let sgl = sgl::build(&data, support, &[memory]).expect("three descriptors");
    let mut found = Found::new();
    for (addr, len) in follow_sgl(sgl, &lists) {
        push(&mut found, addr.expect("no bucket"), len);
    }
    assert_eq!(found, [(0x10_0000, 10 << 30)]);
}

#[test]
fn what_a_controller_takes_is_read_from_its_field() {
    let of = SglSupport::from_field;
    assert_eq!(of(0), None);
    assert_eq!(of(0b11), None);
    assert_eq!(of(0x1_0001), Some(SglSupport { alignment: 1, bit_bucket: true }));
    assert_eq!(of(0b10), Some(SglSupport { alignment: 4, bit_bucket: false }));
    let list = list(&[(2, 6)]);
    let data = Data { head: 0, memory: list.whole(), tail: 0 };
    let words = of(0b10).expect("SGLs of words");
    assert!(matches!(sgl::build(&data, words, &[]), Err(SglError::Alignment { alignment: 4, .. })));
}
