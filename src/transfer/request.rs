//! What a caller wants moved, and where to.

use std::ops::Range;

/// A run of bytes of one file, and its place in the buffer. Any offset, any length, any alignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which of the transfer's files, by index.
    pub file: usize,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Where in the buffer, in bytes.
    pub buffer_offset: u64,
    /// The CRC-32 (IEEE) that the bytes must have, if the file's format records one.
    pub crc32: Option<u32>,
}

impl Request {
    /// A request without a checksum to meet.
    pub const fn new(file: usize, offset: u64, len: u64, buffer_offset: u64) -> Self {
        Self { file, offset, len, buffer_offset, crc32: None }
    }

    /// The bytes of the buffer that it fills.
    pub const fn buffer(&self) -> Range<u64> {
        self.buffer_offset..self.buffer_offset.saturating_add(self.len)
    }
}

/// What a transfer may do with the buffer's bytes that no request names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Around {
    /// They stay as they are.
    #[default]
    Untouched,
    /// They may be overwritten, so that a read which a drive's alignment makes larger than the
    /// request can still go straight into the buffer. [`placement`](crate::format::placement) makes room for it.
    Scratch,
}
