//! Ranges of an address space, each with what it belongs to.

/// Ranges sorted by where they begin. They may overlap, though those of a sound machine do not.
#[derive(Clone, Debug)]
pub(super) struct Windows<T> {
    windows: Vec<Window<T>>,
}

#[derive(Clone, Debug)]
struct Window<T> {
    first: u64,
    last: u64,
    /// The furthest that this window or one before it reaches.
    reach: u64,
    owner: T,
}

/// What lies at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found<T> {
    /// The window there, if there is one, and how far into it the address is.
    pub owner: Option<(T, u64)>,
    /// The last address of which the same is true, as far as it was looked.
    pub last: u64,
}

impl<T: Copy> Windows<T> {
    /// Sorts ranges that are given by their first and last address.
    pub fn new(ranges: impl IntoIterator<Item = ((u64, u64), T)>) -> Self {
        let windows = ranges.into_iter();
        let mut windows: Vec<_> = windows
            .map(|((first, last), owner)| Window { first, last, reach: last, owner })
            .collect();
        windows.sort_by_key(|window| (window.first, window.last));
        let mut reach = 0;
        for window in &mut windows {
            reach = window.last.max(reach);
            window.reach = reach;
        }
        Self { windows }
    }

    /// What lies at `address`: the last window to begin before it that reaches it.
    pub fn at(&self, address: u64) -> Found<T> {
        let after = self.windows.partition_point(|window| window.first <= address);
        let next = self.windows.get(after).map_or(u64::MAX, |window| window.first - 1);
        let before = self.windows[..after].iter().rev();
        let hit = before
            .take_while(|window| window.reach >= address)
            .find(|window| window.last >= address);
        match hit {
            Some(window) => Found {
                owner: Some((window.owner, address - window.first)),
                last: window.last.min(next),
            },
            None => Found { owner: None, last: next },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn gaps_and_windows_in_turn() {
        let windows = Windows::new([((0x20, 0x2f), 'b'), ((0x00, 0x0f), 'a')]);
        assert_eq!(windows.at(0x0f), Found { owner: Some(('a', 0xf)), last: 0x0f });
        assert_eq!(windows.at(0x10), Found { owner: None, last: 0x1f });
        assert_eq!(windows.at(0x20), Found { owner: Some(('b', 0)), last: 0x2f });
        assert_eq!(windows.at(0x30), Found { owner: None, last: u64::MAX });
        let all = Windows::new([((0, u64::MAX), ())]);
        assert_eq!(all.at(u64::MAX).owner, Some(((), u64::MAX)));
    }

    proptest! {
        #[test]
        fn an_address_is_found_if_any_window_holds_it(
            ranges in prop::collection::vec((0..64u64, 0..32u64), 0..8),
            address in 0..100u64,
        ) {
            let ranges: Vec<_> = ranges.iter().map(|(first, len)| (*first, first + len)).collect();
            let windows = Windows::new(ranges.iter().copied().zip(0usize..));
            let holds = |at: u64, &(first, last): &(u64, u64)| first <= at && at <= last;
            let found = windows.at(address);
            prop_assert!(found.last >= address);
            match found.owner {
                Some((owner, offset)) => {
                    prop_assert!(holds(address, &ranges[owner]) && holds(found.last, &ranges[owner]));
                    prop_assert_eq!(offset, address - ranges[owner].0);
                    for at in address..=found.last {
                        prop_assert_eq!(windows.at(at).owner.map(|(owner, _)| owner), Some(owner));
                    }
                }
                None => for at in address..=found.last.min(100) {
                    prop_assert!(!ranges.iter().any(|range| holds(at, range)));
                },
            }
        }
    }
}
