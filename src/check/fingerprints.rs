//! Fingerprints of what landed.
//!
//! Every request gets a fingerprint, the CRC-32 (IEEE) of its bytes as they lie in the buffer: it is
//! what zip records, any tool can compute it, and parts may come in any order, because the CRCs of
//! two neighbours combine to that of both. So each piece is checked as it lands, while later ones
//! are still in flight.

use std::collections::BTreeMap;
use std::ops::Range;

use crc32fast::Hasher;
use iomap::BufMap;

use crate::nofault::{self, Fault};
use crate::plan::requested::Requested;
use crate::transfer::{Request, Source, TransferError};

/// The fingerprint of a part of a request.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    request: usize,
    offset: u64,
    len: u64,
    crc: Hasher,
}

/// The fingerprints of parts of requests, joined where parts are neighbours: at most as many as there
/// are gaps.
#[derive(Debug, Default)]
pub(crate) struct Parts(BTreeMap<(usize, u64), Joined>);

/// Parts in a row.
#[derive(Debug)]
struct Joined {
    end: u64,
    crc: Hasher,
}

impl Parts {
    /// Adds a part that overlaps none that is there.
    fn insert(&mut self, Part { request, offset, len, crc }: Part) {
        let mut own = Joined { end: offset + len, crc };
        if let Some(next) = self.0.remove(&(request, own.end)) {
            own.crc.combine(&next.crc);
            own.end = next.end;
        }
        match self.0.range_mut(..(request, offset)).next_back() {
            Some(((of, _), last)) if *of == request && last.end == offset => {
                last.crc.combine(&own.crc);
                last.end = own.end;
            }
            _ => {
                self.0.insert((request, offset), own);
            }
        }
    }
}

impl Extend<Part> for Parts {
    fn extend<I: IntoIterator<Item = Part>>(&mut self, parts: I) {
        parts.into_iter().for_each(|part| self.insert(part));
    }
}

/// Takes the fingerprints of requests, wherever their parts land.
#[derive(Debug)]
pub(crate) struct Fingerprints<'r>(Requested<'r>);

impl<'r> Fingerprints<'r> {
    /// For requests whose places in the buffer do not overlap.
    pub(crate) fn new(requests: &'r [Request]) -> Self {
        Self(Requested::new(requests))
    }

    /// The same, for requests that are sorted by their place in the buffer already.
    pub(crate) const fn of_sorted(requested: Requested<'r>) -> Self {
        Self(requested)
    }

    /// The requests, by their place in the buffer.
    pub(crate) const fn requested(&self) -> &Requested<'r> {
        &self.0
    }

    /// The fingerprints of what landed, its first byte being that of `bytes`.
    pub(crate) fn of(&self, landed: Range<u64>, bytes: &BufMap<'_>) -> Result<Vec<Part>, Fault> {
        let base = landed.start;
        self.0
            .filled(landed)
            .map(|(request, place)| {
                let within = (place.start - base) as usize..(place.end - base) as usize;
                let offset = place.start - self.0.all()[request].buffer_offset;
                let bytes = bytes.subrange(within).map_err(Fault::Map)?;
                let len = place.end - place.start;
                Ok(Part { request, offset, len, crc: crc32(&bytes)? })
            })
            .collect()
    }

    /// The fingerprint of each request, in order, from those of all its parts.
    pub(crate) fn whole(&self, parts: Parts) -> Vec<u32> {
        let mut whole = vec![Hasher::new(); self.0.all().len()];
        for ((request, _), joined) in parts.0 {
            whole[request].combine(&joined.crc);
        }
        whole.into_iter().map(Hasher::finalize).collect()
    }

    /// The same, absent for a request of which some part is.
    pub(crate) fn known(&self, parts: Parts) -> Vec<Option<u32>> {
        let requests = self.0.all();
        let mut left: Vec<_> = requests.iter().map(|request| request.len).collect();
        for ((request, offset), joined) in &parts.0 {
            left[*request] = left[*request].saturating_sub(joined.end - offset);
        }
        let whole = self.whole(parts);
        whole.into_iter().zip(left).map(|(crc, left)| (left == 0).then_some(crc)).collect()
    }
}

/// Whether a request met a checksum that was recorded for it: not, if none was.
pub(crate) fn meets<S: Source>(
    file: &S,
    request: &Request,
    found: u32,
) -> Result<bool, TransferError> {
    let Some(expected) = request.crc32 else { return Ok(false) };
    if expected == found {
        return Ok(true);
    }
    let what = format!("their CRC-32 is {found:08x}, the file's format records {expected:08x}");
    Err(TransferError::Mismatch { path: file.path().to_owned(), offset: request.offset, what })
}

/// Hashes a map's bytes, a cache-sized piece at a time: they may change under us, so no slice over
/// them may exist.
fn crc32(map: &BufMap<'_>) -> Result<Hasher, Fault> {
    let mut hasher = Hasher::new();
    let mut bytes = [0; 16 << 10];
    let mut at = 0;
    while at < map.len() {
        let chunk = &mut bytes[..(map.len() - at).min(16 << 10)];
        nofault::copy_to_slice(map, at, chunk)?;
        hasher.update(chunk);
        at += chunk.len();
    }
    Ok(hasher)
}
