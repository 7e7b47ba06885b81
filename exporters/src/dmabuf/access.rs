//! The CPU's turn with a buffer: what it is about to do, and the guard that ends it.

use std::fmt;

use iomap::{BufMap, Memory};

use super::error::DmaBufError;

/// What is about to be done with the bytes: by the CPU in a bracket, or by the holder of a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Intent {
    /// They will be read (`DMA_BUF_SYNC_READ`).
    Read,
    /// They will be written (`DMA_BUF_SYNC_WRITE`).
    Write,
    /// Both (`DMA_BUF_SYNC_RW`).
    ReadWrite,
}

impl Intent {
    pub(super) const fn flags(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::ReadWrite => 3,
        }
    }
}

/// Something whose bytes the CPU can reach.
pub(crate) trait Bytes: fmt::Debug + Send + Sync {
    fn map(&self) -> BufMap<'_>;

    /// What must be told of the CPU's turns with these bytes, beside their dma-bufs.
    fn turns(&self) -> Option<&dyn Turns> {
        None
    }
}

/// Something that must be told when the CPU's turn with its memory begins and when it ends: caches
/// are between them.
pub(crate) trait Turns: fmt::Debug + Send + Sync {
    fn begin(&self, intent: Intent) -> Result<(), DmaBufError>;

    fn end(&self, intent: Intent) -> Result<(), DmaBufError>;
}

impl Bytes for Memory {
    fn map(&self) -> BufMap<'_> {
        Memory::map(self)
    }
}

/// The CPU's turn with a buffer: begun when made, ended when dropped.
///
/// [`finish`](Self::finish) ends it too and says whether that went well; a drop cannot.
#[derive(Debug)]
#[must_use = "the bytes may be touched only while this lives"]
pub struct CpuAccess<'a> {
    brackets: Vec<Bracket<'a>>,
    map: BufMap<'a>,
}

impl<'a> CpuAccess<'a> {
    /// Begins a turn with each of `turns`, none for plain memory, around `map`.
    pub(crate) fn begin(
        turns: impl IntoIterator<Item = &'a dyn Turns>,
        map: BufMap<'a>,
        intent: Intent,
    ) -> Result<Self, DmaBufError> {
        let brackets =
            turns.into_iter().map(|of| Bracket::begin(of, intent)).collect::<Result<_, _>>()?;
        let map = if intent == Intent::Read { map.read_only() } else { map };
        Ok(Self { brackets, map })
    }

    /// The bytes, read-only if only reading was intended.
    pub fn map(&self) -> BufMap<'_> {
        self.map
    }

    /// Closes the bracket (`DMA_BUF_SYNC_END`, or a flush of memory that is not coherent).
    ///
    /// # Errors
    /// [`DmaBufError::Kernel`], [`DmaBufError::Caches`]: what was written may not have reached the
    /// device.
    pub fn finish(self) -> Result<(), DmaBufError> {
        self.brackets.into_iter().try_for_each(Bracket::finish)
    }
}

#[derive(Debug)]
struct Bracket<'a> {
    of: &'a dyn Turns,
    intent: Intent,
}

impl<'a> Bracket<'a> {
    fn begin(of: &'a dyn Turns, intent: Intent) -> Result<Self, DmaBufError> {
        of.begin(intent)?;
        Ok(Self { of, intent })
    }

    fn finish(self) -> Result<(), DmaBufError> {
        let result = self.of.end(self.intent);
        std::mem::forget(self);
        result
    }
}

impl Drop for Bracket<'_> {
    fn drop(&mut self) {
        // Nobody is left to tell: whoever wants to know calls `finish`.
        let _ = self.of.end(self.intent);
    }
}
