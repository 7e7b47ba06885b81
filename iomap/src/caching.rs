//! How the CPU's caches treat a mapping.
//!
//! The same bytes cost a nanosecond or a microsecond to read depending on this attribute, so a map
//! carries it as data and the copy engines choose by it.

use std::fmt;

/// The caching attribute of a CPU mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caching {
    /// Ordinary memory: reads and writes go through the caches.
    WriteBack,
    /// Reads are cached, writes go to memory at once.
    WriteThrough,
    /// Nothing is cached, writes gather into bursts. Usual for VRAM seen through a BAR: writing is
    /// fast, reading is slow (tens to hundreds of MB/s) unless done by streaming loads.
    WriteCombining,
    /// Every access goes to the device, one by one and in order. Usual for registers.
    Uncached,
}

impl fmt::Display for Caching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WriteBack => "write-back",
            Self::WriteThrough => "write-through",
            Self::WriteCombining => "write-combining",
            Self::Uncached => "uncached",
        })
    }
}
