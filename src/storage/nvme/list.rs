//! Memory for the lists that describe a command's data.

use iomap::{BufMap, DmaAddr, MapError};

/// Memory that the CPU writes lists into and a drive reads them from.
#[derive(Clone, Copy, Debug)]
pub struct ListMemory<'a> {
    map: BufMap<'a>,
    addr: DmaAddr,
}

/// How many entries of 8 bytes are written together: what a few registers hold.
const TOGETHER: usize = 32;

impl<'a> ListMemory<'a> {
    /// The memory of `map`, which the drive sees at `addr` and in a row.
    pub const fn new(map: BufMap<'a>, addr: DmaAddr) -> Self {
        Self { map, addr }
    }

    /// Its length in bytes.
    pub const fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Its first `mid` bytes, and the rest.
    pub(super) fn split_at(&self, mid: usize) -> Result<(Self, Self), MapError> {
        let (first, rest) = self.map.split_at(mid)?;
        Ok((Self { map: first, ..*self }, Self { map: rest, addr: DmaAddr::new(self.at(mid)) }))
    }

    /// Where the drive sees the byte `offset`.
    #[inline]
    pub(super) const fn at(&self, offset: usize) -> u64 {
        self.addr.get() + offset as u64
    }

    /// Writes entries in the drive's byte order, from byte `offset` on. Returns where they end.
    #[inline]
    pub(super) fn write(
        &self,
        offset: usize,
        entries: impl IntoIterator<Item = u64>,
    ) -> Result<usize, MapError> {
        let mut at = offset;
        let mut some = [0u64; TOGETHER];
        let mut filled = 0;
        for entry in entries {
            some[filled] = entry.to_le();
            filled += 1;
            if filled == TOGETHER {
                self.map.copy_from_slice(at, bytemuck::bytes_of(&some))?;
                at += size_of_val(&some);
                filled = 0;
            }
        }
        let rest = bytemuck::cast_slice(&some[..filled]);
        self.map.copy_from_slice(at, rest)?;
        Ok(at + rest.len())
    }
}
