//! What was proved about the bytes.
//!
//! Every request gets a fingerprint, the CRC-32 (IEEE) of its bytes as they lie in the buffer: it is
//! what zip records, any tool can compute it, and parts may come in any order, because the CRCs of
//! two neighbours combine to that of both. So each piece is checked as it lands, while later ones
//! are still in flight.

use std::ops::Range;
use std::sync::Arc;

use crc32fast::Hasher;
use exporters::vulkan::{Buffer, Transfer};
use iomap::BufMap;

use super::nofault::{self, Fault};
use super::request::Request;
use super::run::{Failure, Job};
use super::source::Source;
use super::{Destination, Load, LoadError, Valid};
use crate::storage::file::{SourceFile, pread};

/// How thoroughly a load is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Not at all.
    None,
    /// Fingerprints, compared with the checksums that the file's format records, if it does.
    #[default]
    Hash,
    /// Fingerprints, and every byte of the buffer is compared with a second read of the file,
    /// through the page cache where the kernel has it. Device memory is read back by the GPU.
    Full,
}

/// The fingerprint of a part of a request.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    request: usize,
    offset: u64,
    crc: Hasher,
}

/// Takes the fingerprints of a load's requests, wherever their parts land.
#[derive(Debug)]
pub(crate) struct Fingerprints<'r> {
    requests: &'r [Request],
    by_buffer: Vec<usize>,
}

impl<'r> Fingerprints<'r> {
    /// For requests whose places in the buffer do not overlap.
    pub(crate) fn new(requests: &'r [Request]) -> Self {
        let mut by_buffer: Vec<_> = (0..requests.len()).filter(|&i| requests[i].len > 0).collect();
        by_buffer.sort_unstable_by_key(|&i| requests[i].buffer_offset);
        Self { requests, by_buffer }
    }

    /// The requests that fill some of `landed`, each with the part of the buffer it fills.
    pub(crate) fn filled(&self, landed: Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> {
        let first =
            self.by_buffer.partition_point(|&i| self.requests[i].buffer().end <= landed.start);
        self.by_buffer[first..]
            .iter()
            .map(|&i| (i, self.requests[i].buffer()))
            .take_while({
                let end = landed.end;
                move |(_, place)| place.start < end
            })
            .map(move |(i, place)| (i, place.start.max(landed.start)..place.end.min(landed.end)))
    }

    /// How many bytes of a part of the buffer were asked for.
    pub(crate) fn bytes_of(&self, landed: Range<u64>) -> u64 {
        self.filled(landed).map(|(_, place)| place.end - place.start).sum()
    }

    /// How many of the bytes that a job lands were asked for.
    pub(crate) fn requested_bytes(&self, job: &Job) -> u64 {
        job.landed().map(|landed| self.bytes_of(landed)).sum()
    }

    /// The fingerprints of what landed, its first byte being that of `bytes`.
    pub(crate) fn of(&self, landed: Range<u64>, bytes: &BufMap<'_>) -> Result<Vec<Part>, Fault> {
        let base = landed.start;
        self.filled(landed)
            .map(|(request, place)| {
                let within = (place.start - base) as usize..(place.end - base) as usize;
                let offset = place.start - self.requests[request].buffer_offset;
                let bytes = bytes.subrange(within).map_err(Fault::Map)?;
                Ok(Part { request, offset, crc: crc32(&bytes)? })
            })
            .collect()
    }

    /// The fingerprint of each request, in order, from those of all its parts.
    pub(crate) fn whole(&self, mut parts: Vec<Part>) -> Vec<u32> {
        parts.sort_unstable_by_key(|part| (part.request, part.offset));
        let mut whole = vec![Hasher::new(); self.requests.len()];
        for part in &parts {
            whole[part.request].combine(&part.crc);
        }
        whole.into_iter().map(Hasher::finalize).collect()
    }
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

/// What was found out about the bytes of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Checked {
    /// How thoroughly.
    pub verify: Verify,
    /// The CRC-32 of each request's bytes, in the order of the requests; empty if not checked.
    pub fingerprints: Vec<u32>,
    /// How many requests met the checksum of their file's format.
    pub format_checksums: usize,
    /// How many bytes were compared with a second, independent read.
    pub compared: u64,
    /// How many bytes the CPU read out of a device's memory for it, which is slow: none without a
    /// check.
    pub read_back: u64,
}

/// A second, independent read of all these bytes of a file, from an offset on.
pub(crate) type SecondRead<'r, S> = &'r mut dyn FnMut(&S, u64, &mut [u8]) -> Result<(), Failure>;

/// Compares every byte of a load's buffer, of which all is `valid`, with a second read of its files.
/// Returns how many bytes were compared.
pub(crate) fn compare<S: Source>(
    load: &Load<'_, S>,
    valid: &Valid,
    again: SecondRead<'_, S>,
) -> Result<u64, LoadError> {
    const CHUNK: usize = 1 << 20;
    let mut buffer = Reader::new(load.destination)?;
    let mut found = vec![0; CHUNK];
    let mut expected = vec![0; CHUNK];
    let mut compared = 0;
    for request in load.requests {
        let file = &load.files[request.file];
        let mut at = 0;
        while at < request.len {
            let len = (request.len - at).min(CHUNK as u64) as usize;
            let (found, expected) = (&mut found[..len], &mut expected[..len]);
            buffer.read(request.buffer_offset + at, found)?;
            let offset = request.offset + at;
            again(file, offset, expected)
                .map_err(|failure| failure.explain(file, valid.clone()))?;
            if found != expected
                && let Some(differs) = found.iter().zip(&*expected).position(|(a, b)| a != b)
            {
                // Of a device that is not there, ones are read.
                load.destination.check_there()?;
                return Err(LoadError::Mismatch {
                    path: file.path().into(),
                    offset: offset + differs as u64,
                    what: format!(
                        "a second read of the file gives {:#04x}, the buffer holds {:#04x}",
                        expected[differs], found[differs]
                    ),
                });
            }
            at += len as u64;
            compared += len as u64;
        }
    }
    Ok(compared)
}

/// Reads a destination's bytes back, as whoever uses the buffer sees them.
enum Reader<'a> {
    Cpu(Destination<'a>, BufMap<'a>),
    Gpu(Transfer, &'a Arc<Buffer>),
}

impl<'a> Reader<'a> {
    fn new(destination: Destination<'a>) -> Result<Self, LoadError> {
        match destination {
            Destination::Memory(memory) => Ok(Self::Cpu(destination, memory.map())),
            Destination::Peer(memory) => Ok(Self::Cpu(destination, memory.map())),
            Destination::Bar(region) => Ok(Self::Cpu(destination, region.map())),
            Destination::Visible(steady) => {
                let buffer = steady.buffer();
                Ok(Self::Gpu(buffer.device().transfer()?, buffer))
            }
            Destination::Imported { buffer, .. } | Destination::Device(buffer) => {
                Ok(Self::Gpu(buffer.device().transfer()?, buffer))
            }
        }
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), LoadError> {
        match self {
            Self::Cpu(destination, map) => nofault::copy_to_slice(map, offset as usize, out)
                .map_err(|fault| match fault {
                    Fault::Gone => destination.lost(),
                    Fault::Map(_) => LoadError::TooSmall {
                        needed: offset + out.len() as u64,
                        len: map.len() as u64,
                    },
                }),
            Self::Gpu(transfer, buffer) => Ok(transfer.read_back(buffer, offset as usize, out)?),
        }
    }
}

/// Reads through the page cache.
pub(crate) fn by_kernel(file: &SourceFile, offset: u64, out: &mut [u8]) -> Result<(), Failure> {
    let len = out.len() as u64;
    let map = BufMap::from_mut_slice(out);
    let mut at = 0;
    while at < len {
        let rest = map.subrange(at as usize..).unwrap_or(BufMap::null());
        let failed = |source| Failure::Io { offset: offset + at, source };
        match pread::read_at(file, offset + at, &rest).map_err(failed)? {
            0 => return Err(Failure::Ended { at: offset + at }),
            got => at += got as u64,
        }
    }
    Ok(())
}
