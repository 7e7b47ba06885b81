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

/// Compares every byte of a buffer that was asked for, of which all is `valid`, with a second read of its files.
/// Returns how many bytes were compared.
pub(crate) fn compare<S: Source>(
    filled: &Filled<'_, S>,
    valid: &Valid,
    again: SecondRead<'_, S>,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, TransferError> {
    const CHUNK: u64 = 1 << 20;
    let mut buffer = Reader::of(filled.destination)?;
    let mut bytes = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
    let stopped = || filled.stop.load(Ordering::Relaxed);
    let mut compared = 0;
    for request in filled.requests {
        let mut at = 0;
        while at < request.len {
            if stopped() {
                return Err(TransferError::Stopped { valid: valid.clone() });
            }
            let len = (request.len - at).min(CHUNK);
            let part =
                Request::new(request.file, request.offset + at, len, request.buffer_offset + at);
            let pending = Pending { file: part.file, offset: part.offset, since: Instant::now() };
            let (done, total) = (valid.bytes(), valid.wanted());
            progress(Progress { done, total, pending: Some(pending) });
            let (found, expected) = (&mut bytes.0[..len as usize], &mut bytes.1[..len as usize]);
            buffer.read(part.buffer_offset, found)?;
            let file = &filled.files[part.file];
            match again(file, part.offset, expected) {
                Err(_) if stopped() => continue,
                answer => answer.map_err(|failure| file.failed(failure, valid.clone()))?,
            }
            same(filled, &part, found, expected)?;
            at += len;
            compared += len;
        }
    }
    Ok(compared)
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
