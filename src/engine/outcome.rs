//! What came of a request.

use crate::transfer::{DataPath, Share, StepDown, TransferError};

/// What came of a request: its bytes are in the buffer, or the error says which are.
pub type Outcome = Result<Landed, TransferError>;

/// A request whose bytes are in the buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Landed {
    /// How many bytes were asked for.
    pub bytes: u64,
    /// How many of them took which path, best first.
    pub paths: Shares,
    /// Why not a better path.
    pub step_downs: Vec<StepDown>,
    /// The CRC-32 of each range, in the order of the ranges, where the request asked for it.
    pub fingerprints: Vec<u32>,
}

/// Bytes by path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares([u64; DataPath::ALL.len()]);

impl Shares {
    /// How many bytes took a path.
    pub const fn of(&self, path: DataPath) -> u64 {
        self.0[path as usize]
    }

    /// The paths that were taken, best first.
    pub fn iter(&self) -> impl Iterator<Item = Share> {
        let taken = DataPath::ALL.into_iter().zip(self.0).filter(|(_, bytes)| *bytes > 0);
        taken.map(|(path, bytes)| Share { path, bytes })
    }

    /// How many bytes there are by all paths.
    pub(super) fn bytes(&self) -> u64 {
        self.0.into_iter().fold(0, u64::saturating_add)
    }

    pub(super) const fn add(&mut self, path: DataPath, bytes: u64) {
        self.0[path as usize] = self.0[path as usize].saturating_add(bytes);
    }
}

/// A list, as in a [`Receipt`](crate::transfer::Receipt).
impl serde::Serialize for Shares {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}
