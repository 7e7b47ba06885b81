//! What can be loaded of a file, one by one.

use super::description::Description;

/// One named run of bytes in a file that a user wants in a buffer: a tensor, a mip level, a zip
/// member, or the whole file.
///
/// It lies inside the file as the file was when it was read. It may be empty (a tensor of shape
/// `[0]`, a zip member of no bytes) and it is aligned to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Item {
    /// The name the format gives it, unique in its file.
    pub name: String,
    /// Where it starts in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
    /// The checksum of its bytes, where the format records one.
    pub checksum: Option<Checksum>,
    /// What it is.
    pub description: Description,
}

impl Item {
    /// Where it ends in the file: the offset of the first byte that is not part of it.
    ///
    /// No overflow: a reader makes an item only of bytes that lie inside a file.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// A checksum of an item's bytes, as its format records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-32 as in zip, gzip and PNG (ISO 3309, reflected polynomial `0xEDB88320`).
    Crc32(u32),
}
