//! Known bytes over a peer path, and whether they are there afterwards.
//!
//! A kernel reports success for transfers that never arrive: a completion says that the drive is
//! done, and not where the bytes went. So a few blocks of the caller's own file are read twice, into
//! system memory and into the very place of the peer's memory where the load will put them. That
//! place is filled before with the complement of what must come, so that each single byte tells
//! whether it was written, whatever the file holds.
//!
//! Nothing is written but bytes that the load is about to write itself.

use std::num::NonZeroU64;
use std::os::fd::AsFd;

use iomap::BufMap;
use rustix::fs::{Advice, SeekFrom, fadvise, seek};

use crate::nofault::{self, Fault};
use crate::plan::cut::Batch;
use crate::plan::job::Job;
use crate::plan::run::Landing;
use crate::storage::file::{SourceFile, cache, pread};

/// The most bytes of one sample: a list of more than one page for the drive.
pub(crate) const SAMPLE: u64 = 64 << 10;

/// How many samples are taken, from the first to the last read.
const SAMPLES: usize = 4;

/// A read that is carried out for a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many bytes are asked for.
    pub len: u64,
    /// How many of them must come.
    pub need: u64,
    /// Where they go in the peer's memory.
    pub place: u64,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Proved {
    /// How many bytes were moved and compared.
    pub bytes: u64,
    /// What was found instead of the bytes, if they did not arrive.
    pub lie: Option<String>,
}

/// Picks samples out of reads that land in the buffer, spread over the file, among those that the
/// drive has.
pub(crate) fn samples(reads: &Batch, has_data: impl Fn(&Sample) -> bool) -> Vec<Sample> {
    let candidates = || reads.jobs().filter_map(|job| sample(&job)).filter(&has_data);
    // Looked through twice, so that a long file takes no list.
    let last = candidates().count().saturating_sub(1);
    let mut picked: Vec<_> = (0..SAMPLES).map(|i| last * i / (SAMPLES - 1)).collect();
    picked.dedup();
    let mut rest = candidates().enumerate();
    picked.into_iter().filter_map(|i| rest.find(|(at, _)| *at == i)).map(|(_, one)| one).collect()
}

fn sample(job: &Job) -> Option<Sample> {
    let Landing::Buffer(place) = job.piece.landing else { return None };
    let (len, need) = (job.piece.len.min(SAMPLE), job.piece.need.min(SAMPLE));
    Some(Sample { offset: job.piece.offset, len, need, place })
}

/// Whether all of a sample is data on the drive (`SEEK_HOLE`), and no hole, which the kernel fills in
/// without it. A block device has no holes.
pub(super) fn has_data(file: &SourceFile, sample: &Sample) -> bool {
    if file.is_block_device() {
        return true;
    }
    let data = seek(file, SeekFrom::Data(sample.offset));
    let hole = seek(file, SeekFrom::Hole(sample.offset));
    data == Ok(sample.offset) && hole.is_ok_and(|hole| hole >= sample.offset + sample.need)
}

/// Which memory a sample is read into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    System,
    Peer,
}

/// Reads a sample into memory as long as it is.
pub(crate) type Read<'r> = &'r mut dyn FnMut(To, &Sample, &BufMap<'_>) -> Result<(), String>;

/// Reads samples into a peer's memory and into spare memory of the system's, which is as long as a
/// sample at least, and compares.
///
/// An error is a reason not to take the path that says nothing about the pair of devices.
pub(crate) fn prove(
    (memory, spare): (BufMap<'_>, BufMap<'_>),
    samples: &[Sample],
    read: Read<'_>,
) -> Result<Proved, String> {
    if samples.is_empty() {
        return Err("no part of the file lies on the drive in whole blocks, to prove it by".into());
    }
    let mut bytes = 0;
    for sample in samples {
        let lie = probe((memory, spare), sample, read).map_err(|why| {
            format!("it could not be proved by the bytes at offset {}: {why}", sample.offset)
        })?;
        bytes += sample.need;
        if lie.is_some() {
            return Ok(Proved { bytes, lie });
        }
    }
    Ok(Proved { bytes, lie: None })
}

fn probe(
    (memory, spare): (BufMap<'_>, BufMap<'_>),
    sample: &Sample,
    read: Read<'_>,
) -> Result<Option<String>, String> {
    let outside = |error: iomap::MapError| error.to_string();
    let gone = |fault: Fault| fault.to_string();
    let (start, len) = (sample.place as usize, sample.len as usize);
    let place = memory.subrange(start..start + len).map_err(outside)?;
    let spare = spare.subrange(..len).map_err(outside)?;
    let mut expected = vec![0; sample.need as usize];
    let mut found = expected.clone();

    read(To::System, sample, &spare)?;
    spare.copy_to_slice(0, &mut expected).map_err(outside)?;
    poison(&place, &expected).map_err(gone)?;
    read(To::Peer, sample, &place)?;
    nofault::copy_to_slice(&place, 0, &mut found).map_err(gone)?;
    Ok(difference(&found, &expected))
}

/// Reads a sample, all that must come of it.
pub(super) fn read(file: impl AsFd, sample: &Sample, into: &BufMap<'_>) -> Result<(), String> {
    match pread::read_at(file, sample.offset, into) {
        Ok(got) if got as u64 >= sample.need => Ok(()),
        Ok(got) => Err(format!("{got} bytes came, {} should", sample.need)),
        Err(error) => Err(format!("the kernel refused: {error}")),
    }
}

/// The same by a drive, or not at all: a file system that reads through the page cache though it
/// was asked not to (for compressed or encrypted files, say) is found out by what it leaves there.
pub(super) fn read_by_drive(
    file: &SourceFile,
    sample: &Sample,
    into: &BufMap<'_>,
) -> Result<(), String> {
    let direct = file.open_direct().map_err(|error| error.to_string())?;
    let resident = || cache::resident(file, sample.offset..sample.offset + sample.len).ok();
    let _ = fadvise(file, sample.offset, NonZeroU64::new(sample.len), Advice::DontNeed);
    let before = resident();
    read(&*direct, sample, into)?;
    match resident() > before {
        true => Err("the file system reads it through the page cache, so the CPU moves it".into()),
        false => Ok(()),
    }
}

/// Fills memory with the complement of what must come.
fn poison(peer: &BufMap<'_>, expected: &[u8]) -> Result<(), Fault> {
    let complement: Vec<u8> = expected.iter().map(|byte| !byte).collect();
    nofault::copy_from_slice(peer, 0, &complement)?;
    // A write to a device is posted. A read from it returns after all writes before it are done, so
    // that none of these comes later than the drive's.
    nofault::copy_to_slice(peer, expected.len() - 1, &mut [0])
}

/// What is found instead of what must be there, the complement having been there before.
fn difference(found: &[u8], expected: &[u8]) -> Option<String> {
    let arrived = found.iter().zip(expected).filter(|(found, byte)| found == byte).count();
    let untouched = found.iter().zip(expected).filter(|(found, byte)| **found == !**byte).count();
    match (expected.len() - arrived, untouched) {
        (0, _) => None,
        (missing, untouched) if untouched == expected.len() && missing == untouched => {
            Some("not one of them arrived".into())
        }
        (missing, untouched) if missing == untouched => {
            Some(format!("{missing} of the last {} did not arrive", expected.len()))
        }
        (missing, _) => Some(format!("{missing} of the last {} are other bytes", expected.len())),
    }
}

#[cfg(test)]
mod tests {
    use iomap::{Memory, PageSize};
    use proptest::prelude::*;

    use super::*;

    const LEN: u64 = 8192;

    fn sample(place: u64) -> Sample {
        Sample { offset: 0, len: LEN, need: LEN, place }
    }

    /// What is found if the drive writes `bytes` and the peer's memory gets `arrived` of them.
    fn proved(bytes: &[u8], arrived: impl Fn(&BufMap<'_>)) -> Result<Proved, String> {
        let memory = Memory::anonymous(4 * LEN as usize, PageSize::Base).expect("memory");
        let mut spare = vec![0; LEN as usize];
        let maps = (memory.map(), BufMap::from_mut_slice(&mut spare));
        prove(maps, &[sample(LEN), sample(0)], &mut |to, _, into| match to {
            To::System => into.copy_from_slice(0, bytes).map_err(|error| error.to_string()),
            To::Peer => {
                arrived(into);
                Ok(())
            }
        })
    }

    fn put(into: &BufMap<'_>, at: usize, bytes: &[u8]) {
        into.copy_from_slice(at, bytes).expect("room");
    }

    #[test]
    fn bytes_that_arrive_are_a_proof() {
        let bytes: Vec<u8> = (0..LEN).map(|i| (i * 7) as u8).collect();
        let proved = proved(&bytes, |into| put(into, 0, &bytes)).expect("an answer");
        assert_eq!(proved, Proved { bytes: 2 * LEN, lie: None });
    }

    #[test]
    fn bytes_that_do_not_are_a_lie() {
        // Whatever the file holds, zeros too, and whatever is there instead.
        for byte in [0, 0xff, 0x5a] {
            let bytes = vec![byte; LEN as usize];
            let none = proved(&bytes, |_| ()).expect("an answer");
            assert_eq!((none.bytes, none.lie.as_deref()), (LEN, Some("not one of them arrived")));
            let most = proved(&bytes, |into| put(into, 0, &bytes[1..])).expect("an answer");
            assert_eq!(most.lie.as_deref(), Some("1 of the last 8192 did not arrive"));
            let other = proved(&bytes, |into| {
                put(into, 0, &bytes);
                put(into, 4096, &[byte ^ 1; 512]);
            });
            let lie = other.expect("an answer").lie;
            assert_eq!(lie.as_deref(), Some("512 of the last 8192 are other bytes"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_answer() {
        let memory = Memory::anonymous(LEN as usize, PageSize::Base).expect("memory");
        let error = |failing: Option<To>, samples: &[Sample]| {
            let mut spare = vec![0; LEN as usize];
            let maps = (memory.map(), BufMap::from_mut_slice(&mut spare));
            let mut read = |to, _: &Sample, _: &BufMap<'_>| match failing == Some(to) {
                true => Err("the kernel refused".to_owned()),
                false => Ok(()),
            };
            prove(maps, samples, &mut read).expect_err("no answer")
        };
        for failing in [To::System, To::Peer] {
            let words = error(Some(failing), &[sample(0)]);
            assert!(words.contains("offset 0: the kernel refused"), "{words}");
        }
        assert!(error(None, &[]).contains("no part of the file"));
        let outside = error(None, &[sample(1)]);
        assert!(outside.contains("could not be proved"), "{outside}");
    }

    proptest! {
        #[test]
        fn one_wrong_byte_anywhere_is_found(at in 0..LEN as usize, wrong: u8, byte: u8) {
            let bytes = vec![byte; LEN as usize];
            let proved = proved(&bytes, |into| {
                put(into, 0, &bytes);
                put(into, at, &[wrong]);
            });
            prop_assert_eq!(proved.expect("an answer").lie.is_some(), wrong != byte);
        }
    }
}
