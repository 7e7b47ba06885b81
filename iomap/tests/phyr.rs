//! `PhyrList` against a plain list of bytes' addresses.

use iomap::{CompactPhyr, Limits, Phyr, PhyrError, PhyrKind, PhyrList, PhysAddr};
use proptest::prelude::*;

/// Small units, so that a model can name each one. Ranges lie on few addresses, so that neighbours
/// are common.
const UNIT: u64 = 16;

fn phyr((peer, unit, units): (bool, u64, u64)) -> Phyr {
    let kind = if peer { PhyrKind::Peer } else { PhyrKind::System };
    Phyr::new(kind, PhysAddr::new(unit * UNIT), units * UNIT).unwrap()
}

fn ranges() -> impl Strategy<Value = Vec<Phyr>> {
    prop::collection::vec((any::<bool>(), 0u64..24, 1u64..6).prop_map(phyr), 0..24)
}

/// Every byte in order: whose it is, and where.
fn bytes<'a>(ranges: impl IntoIterator<Item = &'a Phyr>) -> Vec<(PhyrKind, u64)> {
    let each = |range: &Phyr| {
        let (kind, addr) = (range.kind(), range.addr().get());
        (0..range.len()).map(move |i| (kind, addr + i))
    };
    ranges.into_iter().flat_map(each).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// However a list is built, it holds the same bytes in the same order and no neighbours that
    /// could be one.
    #[test]
    fn coalesces(first in ranges(), second in ranges()) {
        let all: Vec<Phyr> = first.iter().chain(&second).copied().collect();
        let mut pushed = PhyrList::new();
        all.iter().for_each(|&range| pushed.push(range));
        prop_assert_eq!(bytes(pushed.ranges()), bytes(&all));
        prop_assert_eq!(pushed.total(), bytes(&all).len() as u64);
        for pair in pushed.ranges().windows(2) {
            prop_assert!(pair[0].end() != pair[1].addr() || pair[0].kind() != pair[1].kind());
        }
        let mut extended: PhyrList = first.into_iter().collect();
        extended.extend(second);
        prop_assert_eq!(&extended, &pushed);
        prop_assert_eq!(extended.is_empty(), all.is_empty());
    }

    #[test]
    fn subranges(all in ranges(), start in 0u64..2000, end in 0u64..2000) {
        let list: PhyrList = all.into_iter().collect();
        let model = bytes(list.ranges());
        let part = list.subrange(start..end);
        match model.get(start as usize..end as usize) {
            Some(wanted) => prop_assert_eq!(bytes(part.unwrap().ranges()), wanted),
            None => {
                let total = list.total();
                prop_assert_eq!(part.unwrap_err(), PhyrError::OutOfBounds { start, end, total });
            }
        }
    }

    /// Pieces hold the list's bytes, none breaks a limit, and none could be longer.
    #[test]
    fn pieces(
        all in ranges(),
        max_units in 1u64..8,
        boundary in prop::option::of(0u32..5),
        alignment in 0u32..7,
    ) {
        let list: PhyrList = all.into_iter().collect();
        let alignment = 1u64 << alignment;
        let (max_len, boundary) = (max_units * UNIT + 3, boundary.map(|shift| UNIT << shift));
        let possible = max_len >= alignment && boundary.is_none_or(|b| b >= alignment);
        let limits = match Limits::new(max_len, boundary, alignment) {
            Ok(limits) => limits,
            Err(error) => {
                prop_assert!(!possible);
                prop_assert_eq!(error, PhyrError::Limits { max_len, boundary, alignment });
                return Ok(());
            }
        };
        prop_assert!(possible);
        let aligned = |range: &Phyr| {
            range.addr().get().is_multiple_of(alignment) && range.len().is_multiple_of(alignment)
        };
        let Ok(pieces) = list.pieces(&limits) else {
            prop_assert!(!list.ranges().iter().all(aligned));
            return Ok(());
        };
        let pieces: Vec<Phyr> = pieces.collect();
        prop_assert_eq!(bytes(&pieces), bytes(list.ranges()));
        let block = |addr: PhysAddr| boundary.map_or(0, |b| addr.get() / b);
        for piece in &pieces {
            prop_assert!(piece.len() <= max_len && aligned(piece));
            prop_assert_eq!(block(piece.addr()), block(PhysAddr::new(piece.end().get() - 1)));
        }
        for pair in pieces.windows(2) {
            let joins = pair[0].end() == pair[1].addr() && pair[0].kind() == pair[1].kind();
            let room = pair[0].len() + alignment <= max_len && block(pair[0].addr()) == block(pair[1].addr());
            prop_assert!(!(joins && room), "{:?} could be longer", pair[0]);
        }
    }

    /// There and back, for lengths around 4 GiB and its multiples.
    #[test]
    fn compact(
        all in prop::collection::vec((any::<bool>(), 0u64..1 << 30, 1u64..4, -2i64..3), 0..6),
    ) {
        let list: PhyrList = all
            .into_iter()
            .map(|(peer, page, gigs, more)| {
                let kind = if peer { PhyrKind::Peer } else { PhyrKind::System };
                let len = (gigs << 32).checked_add_signed(more).unwrap();
                Phyr::new(kind, PhysAddr::new(page << 12), len).unwrap()
            })
            .collect();
        let compact = list.to_compact();
        prop_assert_eq!(compact.iter().map(|c| u64::from(c.len)).sum::<u64>(), list.total());
        prop_assert_eq!(PhyrList::from_compact(&compact), Ok(list));
    }
}

#[test]
fn limits_of_a_range() {
    let new = |addr, len| Phyr::new(PhyrKind::System, PhysAddr::new(addr), len);
    assert!(new(0, 0).is_err());
    assert!(new(0, 1 << 63).is_err());
    assert!(new(u64::MAX, 1).is_err());
    assert_eq!(new(u64::MAX - 1, 1).unwrap().end(), PhysAddr::new(u64::MAX));
    assert_eq!(new(0, (1 << 63) - 1).unwrap().len(), (1 << 63) - 1);
    // Together they would need the bit that holds the kind.
    let list: PhyrList =
        [new(0, (1 << 63) - 1).unwrap(), new((1 << 63) - 1, 2).unwrap()].into_iter().collect();
    assert_eq!(list.ranges().len(), 2);
    assert_eq!(list.total(), (1 << 63) + 1);
}

#[test]
fn a_huge_page_is_one_range() {
    let frames = (0x4_0000_0000u64..0x4_4000_0000).step_by(4096);
    let list: PhyrList = frames
        .map(|addr| Phyr::new(PhyrKind::System, PhysAddr::new(addr), 4096).unwrap())
        .collect();
    assert_eq!(list.ranges().len(), 1);
    assert_eq!(list.total(), 1 << 30);
}

#[test]
fn a_lying_compact_range() {
    let compact = |len, flags| CompactPhyr { addr: PhysAddr::new(4096), len, flags };
    assert!(matches!(Phyr::try_from(compact(0, 0)), Err(PhyrError::Range { .. })));
    assert!(matches!(Phyr::try_from(compact(1, 2)), Err(PhyrError::Flags { flags: 2, .. })));
    assert_eq!(Phyr::try_from(compact(9, CompactPhyr::PEER)).unwrap().kind(), PhyrKind::Peer);
    let wrapping = CompactPhyr { addr: PhysAddr::new(u64::MAX - 4), len: 8, flags: 0 };
    assert!(Phyr::try_from(wrapping).is_err());
}
