//! Which way bytes go between a drive and a peer's memory.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which way bytes go between a drive and a peer's memory: each is proved by itself, because some machines pass one and
/// not the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The drive writes into the memory: a load.
    FromDrive,
    /// The drive reads out of the memory: a save.
    ToDrive,
}

/// As in `from the drive`.
impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::FromDrive => "from the drive",
            Self::ToDrive => "to the drive",
        })
    }
}
