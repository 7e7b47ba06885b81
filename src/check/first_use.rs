//! The first use of a pair of drive and peer's memory by this process, of which everything is compared.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::transfer::Proof;

/// Whose memory, and the drive.
type Pair = (String, String);

/// The pairs of which this process has compared everything once.
static USED: Mutex<BTreeSet<Pair>> = Mutex::new(BTreeSet::new());

/// The pairs of a transfer that this process uses for the first time, or for the first time since they were proved anew.
#[derive(Debug)]
pub(crate) struct FirstUse(Vec<Pair>);

impl FirstUse {
    pub(crate) fn of(proofs: &[Proof]) -> Self {
        let used = USED.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = |proof: &Proof| (proof.provider.clone(), proof.drive.clone());
        let arrives = proofs.iter().filter(|proof| proof.arrives);
        let first = arrives.filter(|proof| proof.bytes > 0 || !used.contains(&pair(proof)));
        Self(first.map(pair).collect())
    }

    pub(crate) const fn is_any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Everything was compared.
    pub(crate) fn done(self) {
        USED.lock().unwrap_or_else(PoisonError::into_inner).extend(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::Direction;

    fn proof(drive: &str, arrives: bool, bytes: u64) -> Proof {
        let provider = "a provider of this test's".into();
        Proof { provider, drive: drive.into(), arrives, bytes, direction: Direction::FromDrive }
    }

    #[test]
    fn a_pair_is_used_for_the_first_time_once_and_again_when_it_was_proved_again() {
        let (one, other) = (proof("one", true, 0), proof("other", true, 0));
        assert!(FirstUse::of(std::slice::from_ref(&one)).is_any());
        // A load that did not come to its end has compared nothing.
        let first = FirstUse::of(std::slice::from_ref(&one));
        assert!(first.is_any());
        first.done();
        assert!(!FirstUse::of(std::slice::from_ref(&one)).is_any());
        assert!(FirstUse::of(&[one, other]).is_any());
        assert!(FirstUse::of(&[proof("one", true, 4096)]).is_any());
        assert!(!FirstUse::of(&[proof("a liar", false, 4096)]).is_any());
    }
}
