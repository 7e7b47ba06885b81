//! The proof of a peer path outwards: bytes that nobody can foretell, out of a peer's memory into a file.
//!
//! A drive that reads a peer's memory and gets zeros, ones or old bytes reports success all the same. What lies in the
//! memory may be zeros itself, so it proves nothing: a few places of it get random bytes for a moment, those the drive
//! writes into a file of our own ([`NewFile`](crate::storage::file::NewFile), nameless and never given a name), and out of
//! that file they are read past the page cache and compared. The places then get their own bytes back.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::AsFd;
use std::path::Path;

use iomap::{BufMap, Memory, PageSize};

use super::proof::{Proved, SAMPLE};
use crate::nofault::{self, Fault};
use crate::storage::file::{NewFile, SinkFile, cache, pread};

/// A part of a peer's memory that is written for a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Where in the peer's memory, in bytes.
    pub place: u64,
    /// How many bytes.
    pub len: u64,
}

/// How a sample is written and read back, at an offset of the scratch file.
pub(crate) struct Way<'w> {
    pub write: &'w mut dyn FnMut(u64, &BufMap<'_>) -> Result<(), String>,
    pub read: &'w mut dyn FnMut(u64, &BufMap<'_>) -> Result<(), String>,
}

/// Proves the path by a file beside the one called `path`, which is on the same drive.
pub(crate) fn prove_beside(
    memory: BufMap<'_>,
    path: &Path,
    samples: &[Sample],
) -> Result<Proved, String> {
    let scratch = NewFile::beside(path)
        .map_err(|error| format!("no file can be made beside it to prove it by ({error})"))?;
    let sink = scratch.sink();
    scratch
        .allocate(samples.len() as u64 * SAMPLE)
        .map_err(|error| format!("there is no space to prove it by ({error})"))?;
    let direct = sink.open_direct().map_err(|error| error.to_string())?;
    prove(
        memory,
        samples,
        Way {
            write: &mut |offset, from| by_drive(sink, &direct, offset, from),
            read: &mut |offset, into| match pread::read_at(&*direct, offset, into) {
                Ok(got) if got == into.len() => Ok(()),
                Ok(got) => Err(format!("{got} bytes came back of {}", into.len())),
                Err(error) => Err(format!("it could not be read back: {error}")),
            },
        },
    )
}

/// Writes past the page cache, or not at all: a file system that goes through it all the same is found out by what it
/// leaves there.
fn by_drive(sink: &SinkFile, direct: &File, offset: u64, from: &BufMap<'_>) -> Result<(), String> {
    let resident = || cache::resident(sink.as_fd(), offset..offset + from.len() as u64).ok();
    let before = resident();
    match pread::write_at(direct, offset, from) {
        Ok(put) if put == from.len() => {}
        Ok(put) => return Err(format!("{put} bytes were written of {}", from.len())),
        Err(error) => return Err(format!("the kernel refused: {error}")),
    }
    match resident() > before {
        true => Err("the file system writes it through the page cache, so the CPU moves it".into()),
        false => Ok(()),
    }
}

/// Has samples of a peer's memory written and read back, and compares.
///
/// An error is a reason not to take the path that says nothing about the pair of devices.
pub(crate) fn prove(
    memory: BufMap<'_>,
    samples: &[Sample],
    mut way: Way<'_>,
) -> Result<Proved, String> {
    if samples.is_empty() {
        return Err(
            "no part of the buffer goes to the drive in whole blocks, to prove it by".into()
        );
    }
    let spare = Memory::anonymous(SAMPLE as usize, PageSize::Base)
        .map_err(|error| format!("there is no memory to prove it by: {error}"))?;
    let mut bytes = 0;
    for (i, sample) in samples.iter().enumerate() {
        let place = memory.subrange(sample.place as usize..(sample.place + sample.len) as usize);
        let into = spare.map().subrange(..sample.len as usize);
        let (place, into) = place
            .and_then(|place| Ok((place, into?)))
            .map_err(|error| format!("it could not be proved: {error}"))?;
        let lie = probe(place, into, i as u64 * SAMPLE, &mut way).map_err(|why| {
            format!("it could not be proved by the buffer at {}: {why}", sample.place)
        })?;
        bytes += sample.len;
        if lie.is_some() {
            return Ok(Proved { bytes, lie });
        }
    }
    Ok(Proved { bytes, lie: None })
}

fn probe(
    place: BufMap<'_>,
    into: BufMap<'_>,
    offset: u64,
    way: &mut Way<'_>,
) -> Result<Option<String>, String> {
    let gone = |fault: Fault| fault.to_string();
    let mut own = vec![0; place.len()];
    nofault::copy_to_slice(&place, 0, &mut own).map_err(gone)?;
    let sent = unforeseen(own.len());
    let written = put(&place, &sent).map_err(gone).and_then(|()| (way.write)(offset, &place));
    put(&place, &own).map_err(gone)?;
    written?;
    into.fill(0).map_err(|error| error.to_string())?;
    (way.read)(offset, &into)?;
    let mut found = vec![0; sent.len()];
    into.copy_to_slice(0, &mut found).map_err(|error| error.to_string())?;
    let wrong = found.iter().zip(&sent).filter(|(found, sent)| found != sent).count();
    // Of random bytes, one of 256 is the same by chance.
    Ok(match wrong {
        0 => None,
        _ if wrong >= sent.len() / 256 * 240 => Some("the file got none of them".into()),
        _ => Some(format!("{wrong} of the last {} are other bytes in the file", sent.len())),
    })
}

/// Writes into a peer's memory, and waits until it is there: a write to a device is posted, and a read from it returns
/// after all writes before it are done.
fn put(place: &BufMap<'_>, bytes: &[u8]) -> Result<(), Fault> {
    nofault::copy_from_slice(place, 0, bytes)?;
    match bytes.len() {
        0 => Ok(()),
        len => nofault::copy_to_slice(place, len - 1, &mut [0]),
    }
}

/// Bytes that depend on a key which the kernel made at random.
fn unforeseen(len: usize) -> Vec<u8> {
    let key = RandomState::new();
    let words = (0..len.div_ceil(8) as u64).flat_map(|i| key.hash_one(i).to_le_bytes());
    words.take(len).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const LEN: u64 = 8192;

    fn samples() -> [Sample; 2] {
        [Sample { place: LEN, len: LEN }, Sample { place: 0, len: LEN }]
    }

    /// What is found if the drive makes something else of the bytes that it is given.
    fn proved(made: impl Fn(Vec<u8>) -> Vec<u8>) -> (Result<Proved, String>, bool) {
        let memory = Memory::anonymous(4 * LEN as usize, PageSize::Base).expect("memory");
        memory.map().fill(0x33).expect("a writable map");
        let file = RefCell::new(vec![0; 2 * SAMPLE as usize]);
        let outcome = prove(
            memory.map(),
            &samples(),
            Way {
                write: &mut |offset, from| {
                    let mut bytes = vec![0; from.len()];
                    from.copy_to_slice(0, &mut bytes).map_err(|error| error.to_string())?;
                    let place = offset as usize..offset as usize + bytes.len();
                    file.borrow_mut()[place].copy_from_slice(&made(bytes));
                    Ok(())
                },
                read: &mut |offset, into| {
                    let place = offset as usize..offset as usize + into.len();
                    into.copy_from_slice(0, &file.borrow()[place])
                        .map_err(|error| error.to_string())
                },
            },
        );
        let mut left = vec![0; memory.len()];
        memory.map().copy_to_slice(0, &mut left).expect("the memory");
        (outcome, left.iter().all(|&byte| byte == 0x33))
    }

    #[test]
    fn bytes_that_arrive_are_a_proof_and_the_buffer_is_as_it_was() {
        let (outcome, same) = proved(|bytes| bytes);
        assert_eq!(outcome, Ok(Proved { bytes: 2 * LEN, lie: None }));
        assert!(same);
    }

    #[test]
    fn what_can_be_foretold_is_a_lie() {
        // What a read of nothing gives, and what lay in the memory before.
        for byte in [0, 0xff, 0x33] {
            let (outcome, same) = proved(|bytes| vec![byte; bytes.len()]);
            let outcome = outcome.expect("an answer");
            assert_eq!(outcome.lie.as_deref(), Some("the file got none of them"));
            assert!(same && outcome.bytes == LEN);
        }
        let (outcome, _) = proved(|mut bytes| {
            bytes[LEN as usize - 1] ^= 1;
            bytes
        });
        let lie = outcome.expect("an answer").lie;
        assert_eq!(lie.as_deref(), Some("1 of the last 8192 are other bytes in the file"));
    }

    #[test]
    fn a_write_that_is_refused_is_no_answer_and_the_buffer_is_as_it_was() {
        let memory = Memory::anonymous(4 * LEN as usize, PageSize::Base).expect("memory");
        memory.map().fill(0x33).expect("a writable map");
        let outcome = prove(
            memory.map(),
            &samples(),
            Way { write: &mut |_, _| Err("refused".into()), read: &mut |_, _| Ok(()) },
        );
        assert!(outcome.expect_err("no answer").ends_with("at 8192: refused"));
        assert_eq!(memory.map().read::<u8>(LEN as usize), Ok(0x33));
        let none = Way { write: &mut |_, _| Ok(()), read: &mut |_, _| Ok(()) };
        assert!(prove(memory.map(), &[], none).is_err());
    }

    #[test]
    fn no_two_proofs_use_the_same_bytes() {
        assert_ne!(unforeseen(64), unforeseen(64));
    }
}
