//! What was proved about the bytes.
//!
//! Every request gets a fingerprint, the CRC-32 (IEEE) of its bytes as they lie in the buffer: it is
//! what zip records, any tool can compute it, and parts may come in any order, because the CRCs of
//! two neighbours combine to that of both. So each piece is checked as it lands, while later ones
//! are still in flight.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use crc32fast::Hasher;
use exporters::vulkan::{Buffer, Transfer};
use iomap::BufMap;

use super::cut::Batch;
use super::nofault::{self, Fault};
use super::request::Request;
use super::run::{Failure, Pending};
use super::source::Source;
use super::{Destination, Load, LoadError, Progress, Valid};
use crate::storage::file::patience::Patience;
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

    /// How many of the bytes that a batch lands were asked for.
    pub(crate) fn requested_bytes(&self, batch: &Batch) -> u64 {
        batch.landed().map(|landed| self.bytes_of(landed)).sum()
    }

    /// The fingerprints of what landed, its first byte being that of `bytes`.
    pub(crate) fn of(&self, landed: Range<u64>, bytes: &BufMap<'_>) -> Result<Vec<Part>, Fault> {
        let base = landed.start;
        self.filled(landed)
            .map(|(request, place)| {
                let within = (place.start - base) as usize..(place.end - base) as usize;
                let offset = place.start - self.requests[request].buffer_offset;
                let bytes = bytes.subrange(within).map_err(Fault::Map)?;
                let len = place.end - place.start;
                Ok(Part { request, offset, len, crc: crc32(&bytes)? })
            })
            .collect()
    }

    /// The fingerprint of each request, in order, from those of all its parts.
    pub(crate) fn whole(&self, parts: Parts) -> Vec<u32> {
        let mut whole = vec![Hasher::new(); self.requests.len()];
        for ((request, _), joined) in parts.0 {
            whole[request].combine(&joined.crc);
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
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, LoadError> {
    const CHUNK: u64 = 1 << 20;
    let mut buffer = Reader::new(load.destination)?;
    let mut bytes = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
    let stopped = || load.stop.load(Ordering::Relaxed);
    let mut compared = 0;
    for request in load.requests {
        let mut at = 0;
        while at < request.len {
            if stopped() {
                return Err(LoadError::Stopped { valid: valid.clone() });
            }
            let len = (request.len - at).min(CHUNK);
            let part =
                Request::new(request.file, request.offset + at, len, request.buffer_offset + at);
            let pending = Pending { file: part.file, offset: part.offset, since: Instant::now() };
            let (done, total) = (valid.bytes(), valid.wanted());
            progress(Progress { done, total, pending: Some(pending) });
            let (found, expected) = (&mut bytes.0[..len as usize], &mut bytes.1[..len as usize]);
            buffer.read(part.buffer_offset, found)?;
            let file = &load.files[part.file];
            match again(file, part.offset, expected) {
                Err(_) if stopped() => continue,
                answer => answer.map_err(|failure| failure.explain(file, valid.clone()))?,
            }
            same(load, &part, found, expected)?;
            at += len;
            compared += len;
        }
    }
    Ok(compared)
}

/// Whether the buffer holds what was expected of a part of a file.
fn same<S: Source>(
    load: &Load<'_, S>,
    part: &Request,
    found: &[u8],
    expected: &[u8],
) -> Result<(), LoadError> {
    if found == expected {
        return Ok(());
    }
    let mut pairs = found.iter().zip(expected).enumerate();
    let Some((at, (found, expected))) = pairs.find(|(_, (found, expected))| found != expected)
    else {
        return Ok(());
    };
    // Of a device that is not there, ones are read.
    load.destination.check_there()?;
    Err(LoadError::Mismatch {
        path: load.files[part.file].path().into(),
        offset: part.offset + at as u64,
        what: format!(
            "a second read of the file gives {expected:#04x}, the buffer holds {found:#04x}"
        ),
    })
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

/// Reads through the page cache. Once `stop` is set, it does not try again what the kernel put off.
pub(crate) fn by_kernel(
    file: &SourceFile,
    offset: u64,
    out: &mut [u8],
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let len = out.len() as u64;
    let map = BufMap::from_mut_slice(out);
    let mut patience = Patience::default();
    let mut at = 0;
    while at < len {
        let rest = map.subrange(at as usize..).unwrap_or(BufMap::null());
        match pread::read_at(file, offset + at, &rest) {
            Ok(0) => return Err(Failure::Ended { at: offset + at }),
            Ok(got) => {
                at += got as u64;
                patience = Patience::default();
            }
            Err(source) => match patience.after(&source) {
                Some(pause) if !stop.load(Ordering::Relaxed) => thread::sleep(pause),
                _ => return Err(Failure::Io { offset: offset + at, source }),
            },
        }
    }
    Ok(())
}
