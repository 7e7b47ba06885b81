//! The paths from a file to a buffer.

use exporters::outside::outside;
use std::fmt;
use std::str::FromStr;

/// How bytes get from a file into the buffer, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DataPath {
    /// The drive writes by DMA into the memory of another device, past system memory.
    Peer,
    /// The drive writes by DMA into the buffer's own pages.
    Direct,
    /// The drive writes by DMA into a small ring of pages that the GPU imports, and the GPU copies
    /// from there into its own memory.
    Staged,
    /// The drive writes by DMA into a small ring of pages, and the CPU copies from there into the
    /// memory of another device.
    Bounce,
    /// The kernel copies pages that already sit in the page cache.
    Cached,
    /// The kernel reads into its page cache and copies from there.
    Buffered,
}

impl DataPath {
    /// Every path, best first.
    pub const ALL: [Self; 6] =
        [Self::Peer, Self::Direct, Self::Staged, Self::Bounce, Self::Cached, Self::Buffered];

    /// Its name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Direct => "direct",
            Self::Staged => "staged",
            Self::Bounce => "bounce",
            Self::Cached => "cached",
            Self::Buffered => "buffered",
        }
    }

    /// Whether the kernel copies out of its page cache on this path, by the CPU.
    pub const fn cpu_copies(self) -> bool {
        matches!(self, Self::Cached | Self::Buffered)
    }
}

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DataPath {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|path| path.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no path is called '{}': {names}", outside(name))
        })
    }
}
