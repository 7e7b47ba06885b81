//! The fingerprints of what is saved, taken while the drive writes.

use std::collections::VecDeque;

use crc32fast::Hasher;
use exporters::Destination;

use crate::check::Reader;
use crate::transfer::{Request, TransferError};

/// How much is taken at once, in bytes.
const CHUNK: u64 = 1 << 20;

/// Takes the CRC-32 of each request's bytes, a part at a time, by the caller's thread.
pub(super) struct Prints<'a> {
    reader: Option<Reader<'a>>,
    left: VecDeque<&'a Request>,
    /// How far the first of these is taken, in bytes.
    at: u64,
    hasher: Hasher,
    bytes: Vec<u8>,
    whole: Vec<u32>,
    /// How many bytes were read for it.
    pub read: u64,
}

impl<'a> Prints<'a> {
    /// Of all requests, or of none.
    pub(super) fn new(
        source: &'a dyn Destination,
        requests: &'a [Request],
        wanted: bool,
    ) -> Result<Self, TransferError> {
        let (reader, left) = match wanted {
            true => (Some(Reader::nearest(source)?), requests.iter().collect()),
            false => (None, VecDeque::new()),
        };
        let (hasher, bytes, whole) = (Hasher::new(), Vec::new(), Vec::new());
        Ok(Self { reader, left, at: 0, hasher, bytes, whole, read: 0 })
    }

    /// Takes the next part. Returns whether there was one.
    pub(super) fn step(&mut self) -> Result<bool, TransferError> {
        let (Some(request), Some(reader)) = (self.left.front(), &mut self.reader) else {
            return Ok(false);
        };
        let len = (request.len - self.at).min(CHUNK);
        self.bytes.resize(len as usize, 0);
        reader.read(request.buffer_offset + self.at, &mut self.bytes)?;
        self.hasher.update(&self.bytes);
        self.at += len;
        self.read += len;
        if self.at == request.len {
            self.left.pop_front();
            self.at = 0;
            self.whole.push(std::mem::take(&mut self.hasher).finalize());
        }
        Ok(true)
    }

    /// The fingerprint of each request, once there is no further part.
    pub(super) fn whole(self) -> Vec<u32> {
        self.whole
    }
}
