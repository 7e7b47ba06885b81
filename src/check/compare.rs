//! A comparison of what was loaded with a second read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use exporters::Destination;
use exporters::vulkan::{Buffer, Transfer};
use iomap::BufMap;

use super::filled::{Filled, lost, map_of, present};
use crate::nofault::{self, Fault};
use crate::storage::work::Failure;
use crate::transfer::{Pending, Progress, Request, Source, TransferError, Valid};

/// A second, independent read of all these bytes of a file, from an offset on.
pub(crate) type SecondRead<'r, S> = &'r mut dyn FnMut(&S, u64, &mut [u8]) -> Result<(), Failure>;

/// The most bytes that are compared at once.
pub(crate) const LONGEST: u64 = 1 << 20;

/// Compares every byte of a buffer that was asked for, of which all is `valid`, with a second read of its files.
/// Returns how many bytes were compared.
pub(crate) fn compare<S: Source>(
    filled: &Filled<'_, S>,
    valid: &Valid,
    again: SecondRead<'_, S>,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, TransferError> {
    let mut comparison = Comparison::new(filled, valid, again, progress)?;
    for request in filled.requests {
        let mut at = 0;
        while at < request.len {
            let len = (request.len - at).min(LONGEST);
            let (offset, place) = (request.offset + at, request.buffer_offset + at);
            comparison.part(&Request::new(request.file, offset, len, place))?;
            at += len;
        }
    }
    Ok(comparison.compared)
}

/// A comparison of what a buffer holds with a second read, part by part.
pub(crate) struct Comparison<'a, 'r, S> {
    filled: &'a Filled<'a, S>,
    pub(super) valid: &'a Valid,
    buffer: Reader<'a>,
    found: Vec<u8>,
    expected: Vec<u8>,
    again: SecondRead<'r, S>,
    progress: &'r mut dyn FnMut(Progress),
    /// How many bytes were compared.
    pub(crate) compared: u64,
}

impl<'a, 'r, S: Source> Comparison<'a, 'r, S> {
    /// Of a buffer, of which all is `valid`.
    pub(crate) fn new(
        filled: &'a Filled<'a, S>,
        valid: &'a Valid,
        again: SecondRead<'r, S>,
        progress: &'r mut dyn FnMut(Progress),
    ) -> Result<Self, TransferError> {
        let buffer = Reader::of(filled.destination)?;
        let (found, expected) = (Vec::new(), Vec::new());
        Ok(Self { filled, valid, buffer, found, expected, again, progress, compared: 0 })
    }

    /// Compares a part, of [`LONGEST`] bytes at most. Returns its bytes.
    pub(super) fn part(&mut self, part: &Request) -> Result<&[u8], TransferError> {
        let Self { filled, valid, .. } = *self;
        let stopped = || filled.stop.load(Ordering::Relaxed);
        if stopped() {
            return Err(TransferError::Stopped { valid: valid.clone() });
        }
        let pending = Pending { file: part.file, offset: part.offset, since: Instant::now() };
        let (done, total) = (valid.bytes(), valid.wanted());
        (self.progress)(Progress { done, total, pending: Some(pending) });
        for bytes in [&mut self.found, &mut self.expected] {
            bytes.resize(part.len as usize, 0);
        }
        self.buffer.read(part.buffer_offset, &mut self.found)?;
        let file = &filled.files[part.file];
        match (self.again)(file, part.offset, &mut self.expected) {
            Err(_) if stopped() => return Err(TransferError::Stopped { valid: valid.clone() }),
            answer => answer.map_err(|failure| file.failed(failure, valid.clone()))?,
        }
        same(filled, part, &self.found, &self.expected)?;
        self.compared += part.len;
        Ok(&self.found)
    }
}

/// Whether the buffer holds what was expected of a part of a file.
fn same<S: Source>(
    filled: &Filled<'_, S>,
    part: &Request,
    found: &[u8],
    expected: &[u8],
) -> Result<(), TransferError> {
    if found == expected {
        return Ok(());
    }
    let mut pairs = found.iter().zip(expected).enumerate();
    let Some((at, (found, expected))) = pairs.find(|(_, (found, expected))| found != expected)
    else {
        return Ok(());
    };
    // Of a device that is not there, ones are read.
    present(filled.destination)?;
    Err(TransferError::Mismatch {
        path: filled.files[part.file].path().into(),
        offset: part.offset + at as u64,
        what: format!(
            "a second read of the file gives {expected:#04x}, the buffer holds {found:#04x}"
        ),
    })
}

/// Reads a buffer's bytes.
pub(crate) enum Reader<'a> {
    Cpu(&'a dyn Destination, BufMap<'a>),
    Gpu(Transfer, &'a Arc<Buffer>),
}

impl<'a> Reader<'a> {
    /// As whoever uses the buffer sees them: by its GPU, if it has one.
    fn of(destination: &'a dyn Destination) -> Result<Self, TransferError> {
        Ok(match destination.gpu() {
            Ok(buffer) => Self::Gpu(buffer.device().transfer()?, buffer),
            Err(_) => Self::Cpu(destination, map_of(destination)),
        })
    }

    /// By the CPU, unless only a GPU reaches them.
    pub(crate) fn nearest(source: &'a dyn Destination) -> Result<Self, TransferError> {
        match source.cpu_map() {
            Ok(map) => Ok(Self::Cpu(source, map)),
            Err(_) => Self::of(source),
        }
    }

    /// Reads all of `out`, from `offset` on.
    pub(crate) fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), TransferError> {
        match self {
            Self::Cpu(destination, map) => nofault::copy_to_slice(map, offset as usize, out)
                .map_err(|fault| match fault {
                    Fault::Gone => lost(*destination),
                    Fault::Map(_) => TransferError::TooSmall {
                        needed: offset + out.len() as u64,
                        len: map.len() as u64,
                    },
                }),
            Self::Gpu(transfer, buffer) => Ok(transfer.read_back(buffer, offset as usize, out)?),
        }
    }
}
