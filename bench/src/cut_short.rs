//! Loads that something happens to in the middle, and what is said to be valid after them.

use std::ops::Range;
use std::sync::LazyLock;

use bufmap::iomap::BufMap;
use bufmap::transfer::Valid;

use crate::drive::pattern;
use crate::{Outcome, check};

/// How much a load brings: four seconds' work of a slow drive.
pub const LEN: u64 = 16 << 20;

/// How much has landed when something happens: an eighth.
pub const SOON: u64 = 2 << 20;

/// What the file holds.
static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| pattern(LEN as usize));

/// A range of a buffer holds what the drive does.
///
/// # Errors
/// Fails the test if it holds other bytes.
pub fn holds(map: &BufMap<'_>, range: Range<u64>) -> Outcome {
    let range = range.start as usize..range.end as usize;
    let mut found = vec![0; range.len()];
    map.copy_to_slice(range.start, &mut found)?;
    check(found == FILE[range.clone()], format!("{range:?} is not the drive's"))
}

/// Some of a buffer is valid and not all, and holds what the drive does.
///
/// # Errors
/// Fails the test if it is not so.
pub fn is_true(valid: &Valid, map: &BufMap<'_>) -> Outcome {
    check(valid.bytes() >= SOON && valid.bytes() < LEN && valid.wanted() == LEN, valid)?;
    valid.ranges().iter().try_for_each(|range| holds(map, range.clone()))
}
