//! One read of a transfer, and the path that it takes.

use std::io;
use std::ops::Range;

use super::run::{Landing, Piece};
use crate::transfer::{DataPath, Source};

/// A piece and the path it takes.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub path: DataPath,
    pub piece: Piece,
}

impl Job {
    /// The ranges of the buffer that it fills, in bytes.
    pub(crate) fn landed(&self) -> impl Iterator<Item = Range<u64>> {
        let (place, copies) = match &self.piece.landing {
            Landing::Buffer(at) => (Some(*at..*at + self.piece.need), [].as_slice()),
            Landing::Slot(copies) => (None, copies.as_slice()),
        };
        let copied = copies.iter().map(|copy| copy.buffer_offset..copy.buffer_offset + copy.len);
        place.into_iter().chain(copied)
    }

    /// The file, for its reads.
    pub(crate) fn file<'f, S: Source>(&self, files: &'f [S]) -> io::Result<S::Handle<'f>> {
        files[self.piece.file].handle(self.path)
    }

    /// What the length of each read must be a multiple of.
    pub(crate) fn granule<S: Source>(&self, files: &[S]) -> u64 {
        files[self.piece.file].alignment(self.path).offset.into()
    }
}
