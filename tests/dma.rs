//! `DmaList` against a plain list of bytes' addresses.

use bufmap::dma::{DmaError, DmaKind, DmaLimits, DmaList, DmaRange};
use iomap::{DmaAddr, Limits};
use proptest::prelude::*;

/// Small units, so that a model can name each one, on few addresses, so that neighbours are common.
const UNIT: u64 = 16;

fn range((kind, unit, units): (u8, u64, u64)) -> DmaRange {
    let kind = [DmaKind::Iova, DmaKind::Direct, DmaKind::Bus][usize::from(kind)];
    DmaRange::new(kind, DmaAddr::new(unit * UNIT), units * UNIT).expect("it is one")
}

fn ranges() -> impl Strategy<Value = Vec<DmaRange>> {
    prop::collection::vec((0u8..3, 0u64..24, 1u64..6).prop_map(range), 0..24)
}

/// Every byte in order: of which kind, and where.
fn bytes(ranges: impl IntoIterator<Item = DmaRange>) -> Vec<(DmaKind, u64)> {
    let each =
        |range: DmaRange| (0..range.len()).map(move |i| (range.kind(), range.addr().get() + i));
    ranges.into_iter().flat_map(each).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_list_holds_what_was_pushed_and_no_neighbours(all in ranges()) {
        let list: DmaList = all.iter().copied().collect();
        prop_assert_eq!(bytes(list.whole()), bytes(all.iter().copied()));
        prop_assert_eq!(list.total(), bytes(all).len() as u64);
        for pair in list.ranges().windows(2) {
            prop_assert!(pair[0].end() != pair[1].addr() || pair[0].kind() != pair[1].kind());
        }
    }

    #[test]
    fn a_part_is_its_bytes(all in ranges(), start in 0u64..2000, end in 0u64..2000) {
        let list: DmaList = all.into_iter().collect();
        let model = bytes(list.whole());
        match (list.part(start..end), model.get(start as usize..end as usize)) {
            (Ok(part), Some(wanted)) => {
                prop_assert_eq!(part.total(), wanted.len() as u64);
                prop_assert!(part.clone().all(|range| range.len() > 0));
                prop_assert_eq!(bytes(part), wanted);
            }
            (Err(DmaError::OutOfBounds { .. }), None) => {}
            (answer, wanted) => prop_assert!(false, "{answer:?} for {wanted:?}"),
        }
    }

    /// Segments hold the part's bytes, none breaks a limit, and none could be longer.
    #[test]
    fn segments_are_the_longest_that_a_device_takes(
        all in ranges(),
        max_units in 1u64..8,
        boundary in prop::option::of(0u32..5),
        alignment in 0u32..6,
        most in 1usize..40,
        bits in 7u32..11,
    ) {
        let list: DmaList = all.into_iter().collect();
        let alignment = 1u64 << alignment;
        let (max_len, boundary) = (max_units * UNIT, boundary.map(|shift| UNIT << shift));
        let Ok(segment) = Limits::new(max_len, boundary, alignment) else { return Ok(()) };
        let limits = DmaLimits::new(bits, most, segment).expect("1 to 64 bits");
        let unaligned = |range: &DmaRange| !(range.addr().get() | range.len()).is_multiple_of(alignment);
        let too_high = |range: &DmaRange| range.end().get() > 1 << bits;
        match list.whole().segments(&limits) {
            Ok(segments) => {
                prop_assert_eq!(bytes(segments.iter().copied()), bytes(list.whole()));
                prop_assert!(segments.len() <= most);
                let line = |addr: u64| boundary.map_or(0, |b| addr / b);
                for part in &segments {
                    prop_assert!(part.len() <= max_len && !unaligned(part) && !too_high(part));
                    prop_assert_eq!(line(part.addr().get()), line(part.end().get() - 1));
                }
                for pair in segments.windows(2) {
                    let joins = pair[0].end() == pair[1].addr() && pair[0].kind() == pair[1].kind();
                    let full = pair[0].len() == segment.max_len()
                        || boundary.is_some_and(|b| pair[0].end().get().is_multiple_of(b));
                    prop_assert!(!joins || full);
                }
            }
            Err(DmaError::TooHigh { range, .. }) => prop_assert!(too_high(&range)),
            Err(DmaError::Misaligned { range, .. }) => prop_assert!(unaligned(&range)),
            Err(DmaError::TooMany { segments, limit }) => prop_assert!(segments > limit && limit == most),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

#[test]
fn the_ends_of_the_address_space_are_no_overflow() {
    let range = |addr, len| DmaRange::new(DmaKind::Iova, DmaAddr::new(addr), len);
    assert!(range(0, 0).is_err());
    assert!(range(u64::MAX, 1).is_err());
    let mut list = DmaList::default();
    list.extend([range(0, u64::MAX).expect("all but one"), range(5, 100).expect("a short one")]);
    assert_eq!(list.total(), u64::MAX);
    assert!(DmaLimits::new(0, 1, Limits::new(1, None, 1).expect("any")).is_err());
    assert!(DmaLimits::new(65, 1, Limits::new(1, None, 1).expect("any")).is_err());
}
