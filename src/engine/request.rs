//! What a program asks of a loader.

use std::ops::Range;

use smallvec::{SmallVec, smallvec};

use super::buffer::Buffer;
use super::file::File;
use crate::transfer::{self, Around, DataPath, Priority};

/// Ranges of a file, to be read into a buffer.
///
/// ```no_run
/// # let loader = bufmap::engine::Loader::new()?;
/// # let memory = std::sync::Arc::new(iomap::Memory::anonymous(1 << 20, iomap::PageSize::Base)?);
/// use bufmap::engine::{Buffer, Request};
/// use bufmap::transfer::Priority;
///
/// let (file, buffer) = (loader.open("tiles.bin")?, Buffer::new(memory)?);
/// let tile = Request::new(&file, 0..65_536, &buffer, 0)
///     .and(131_072..196_608, 65_536)
///     .priority(Priority::Realtime)
///     .tag(7);
/// loader.submit(tile)?.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) file: File,
    pub(super) buffer: Buffer,
    pub(super) ranges: SmallVec<[transfer::Request; 1]>,
    pub(super) around: Around,
    pub(super) require: Option<DataPath>,
    pub(super) fingerprints: bool,
    pub(super) fenced: bool,
    pub(super) priority: Priority,
    pub(super) tag: u64,
}

impl Request {
    /// The bytes `range` of a file, to `at` in a buffer. Any offset, any length, any alignment; what suits the
    /// drive's blocks (usually 512 or 4096 bytes) costs no copy.
    pub fn new(file: &File, range: Range<u64>, buffer: &Buffer, at: u64) -> Self {
        Self {
            file: file.clone(),
            buffer: buffer.clone(),
            ranges: smallvec![part(range, at)],
            around: Around::default(),
            require: None,
            fingerprints: false,
            fenced: false,
            priority: Priority::default(),
            tag: 0,
        }
    }

    /// Another range of the file, to another place in the buffer, that no other range of the request fills.
    pub fn and(mut self, range: Range<u64>, at: u64) -> Self {
        self.ranges.push(part(range, at));
        self
    }

    /// What may become of the buffer's bytes around the ranges: they stay as they are, unless said otherwise.
    pub const fn around(mut self, around: Around) -> Self {
        self.around = around;
        self
    }

    /// The one path to take, or an error if it cannot be had. The best one for each byte is taken otherwise.
    pub const fn require(mut self, path: DataPath) -> Self {
        self.require = Some(path);
        self
    }

    /// Asks for a CRC-32 (IEEE) of each range as it lies in the buffer: [`Landed::fingerprints`](super::Landed::fingerprints).
    pub const fn fingerprints(mut self) -> Self {
        self.fingerprints = true;
        self
    }

    /// The CRC-32 (IEEE) that the bytes of the last range must have, or the request fails.
    pub fn crc32(mut self, crc32: u32) -> Self {
        if let Some(last) = self.ranges.last_mut() {
            last.crc32 = Some(crc32);
        }
        self.fingerprints = true;
        self
    }

    /// Asks for the outcome as soon as a device's queue has all copies into the buffer, with a sync file that is signalled when
    /// they are done: [`Landed::fence`](super::Landed::fence). It goes to others with the buffer, and nobody's CPU waits. Where no
    /// queue copies, or its device has no sync files, the outcome comes when the bytes are in the buffer, as without this.
    pub const fn fenced(mut self) -> Self {
        self.fenced = true;
        self
    }

    /// How urgent it is.
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// A number of the program's own, which the outcome has and by which requests are cancelled together.
    pub const fn tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// How many bytes it asks for.
    pub(super) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.len).fold(0, u64::saturating_add)
    }
}

/// A range that ends before it begins is empty.
const fn part(range: Range<u64>, at: u64) -> transfer::Request {
    transfer::Request::new(0, range.start, range.end.saturating_sub(range.start), at)
}
