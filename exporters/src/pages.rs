//! Whether the kernel pins the pages of a mapping, so that its drivers may be given them.

use iomap::{BufMap, Location, PageSize, Pinned};

use crate::Absent;

/// Whether the kernel pins the pages of a driver's mapping, found out of its first.
pub(crate) fn can_be_pinned(map: BufMap<'_>) -> Result<(), Absent> {
    if map.location() == Location::Io {
        return Err(Absent::new(
            "it is mapped as a device's memory, of which the kernel pins no pages",
            "take a memfd, of which /dev/udmabuf makes a dma-buf, or memory published for peers",
        ));
    }
    let first = map.subrange(..map.len().min(PageSize::Base.bytes())).unwrap_or(map);
    Pinned::new(first).map(drop).map_err(|error| {
        Absent::new(
            format!("the kernel does not pin its pages: {error}"),
            "take a memfd, of which /dev/udmabuf makes a dma-buf",
        )
    })
}
