//! Which path each byte takes by the kernel's drivers.

use std::ops::Range;
use std::os::fd::AsFd;

use super::asked::{Asked, Buffer};
use super::contest;
use super::cut::{Batch, append};
use super::decided::{Decided, Split, stepped_down};
use super::fit::{Peer, batch, by_file, misfit, past_the_cache, roomy};
use super::job::Job;
use super::peer::Pairs;
use super::place::Place;
use super::requested::Requested;
use super::run::{Landing, Piece, Run};
use crate::storage::file::{SourceFile, cache, open_files};
use crate::transfer::{DataPath, Options, Request, TransferError};

/// The part of a file for which the page cache is asked at once, if only some of it is cached.
const WINDOW: u64 = 1 << 20;

/// Whether the reads of a file may go from its drive into the buffer of a peer, or why not.
pub(crate) type MayWrite<'q> = dyn FnMut(&SourceFile, &Batch) -> Result<(), String> + 'q;

/// Decides for every request of a transfer, by what is found out about pairs of devices if the buffer is a peer's.
pub(crate) fn decide(
    asked: &Asked<'_, SourceFile>,
    requested: &Requested<'_>,
    pairs: Option<Pairs<'_>>,
) -> Result<Decided, TransferError> {
    let Some(mut pairs) = pairs else { return decide_by(asked, requested, None) };
    let mut may_write = |file: &SourceFile, reads: &Batch| pairs.may_write(file, reads);
    let mut decided = decide_by(asked, requested, Some(&mut may_write))?;
    decided.proofs = pairs.proofs;
    Ok(decided)
}

/// Decides for every request of a transfer. `may_write` is asked if the buffer is a peer's.
pub(crate) fn decide_by(
    asked: &Asked<'_, SourceFile>,
    requested: &Requested<'_>,
    may_write: Option<&mut MayWrite<'_>>,
) -> Result<Decided, TransferError> {
    let may_be_peers = matches!(asked.options.require, None | Some(DataPath::Peer));
    let mut may_write = may_write.filter(|_| may_be_peers);
    let mut decided = Decided::default();
    for (index, runs) in by_file(asked) {
        asked.go_on()?;
        let file = &asked.files[index];
        let splits = match &mut may_write {
            Some(may_write) => peer_paths(asked, file, runs, may_write)?,
            None => split(asked, file, runs)?,
        };
        let Buffer { place, no_pages, no_dma, .. } = &asked.buffer;
        let why_not = match (place, asked.options.require) {
            (_, Some(_)) => None,
            (Place::Gpu, None) => no_dma.as_ref().map(|why| (DataPath::Staged, why)),
            (_, None) => no_pages.as_ref().map(|why| (DataPath::Direct, why)),
        };
        let splits = match why_not {
            Some((better, why)) => stepped_down(splits, better, why),
            None => splits,
        };
        for split in splits {
            decided.take(split, requested);
        }
    }
    Ok(decided)
}

/// The one read that a request takes, if it is no more than that: a part of one block, aligned for the drive, that the
/// page cache has nothing of, into the system's memory. It is what [`decide`] would find, in a few steps.
pub(crate) fn one_read(
    file: &SourceFile,
    request: &Request,
    buffer: &Buffer,
    options: &Options,
) -> Option<Job> {
    let &Request { offset, len, buffer_offset, .. } = request;
    let alignment = file.direct().ok()?;
    let end = offset.checked_add(len).filter(|end| *end <= file.len())?;
    let place = buffer.base.checked_add(buffer_offset)?;
    let aligned = (offset | len).is_multiple_of(alignment.offset.into())
        && place.is_multiple_of(alignment.memory.into());
    let one_block = len > 0 && offset / options.block == (end - 1) / options.block;
    let inside = buffer_offset.checked_add(len).is_some_and(|end| end <= buffer.len);
    if !(aligned && one_block && inside && buffer.place == Place::System) {
        return None;
    }
    match options.require {
        Some(DataPath::Direct) => {}
        None if cache::resident(file, offset..end).unwrap_or(0) == 0 => {}
        _ => return None,
    }
    let landing = Landing::Buffer(buffer_offset);
    let piece = Piece { file: request.file, offset, len, need: len, landing };
    Some(Job { path: DataPath::Direct, piece })
}

/// Whether a file can be read past the page cache at this moment, or why not: the slots of the buffer's device may be memory
/// that no drive is given; this process may have lost the right to open the file, or have too many files open.
fn past_the_cache_now(asked: &Asked<'_, SourceFile>, file: &SourceFile) -> Result<(), String> {
    if let Buffer { place: Place::Gpu, no_pages: Some(why), .. } = &asked.buffer {
        return Err(why.clone());
    }
    file.direct()?;
    file.open_direct().map(drop).map_err(|error| {
        let remedy = open_files::remedy(&error).map(|remedy| format!(": {remedy}"));
        format!("it cannot be opened past the page cache ({error}){}", remedy.unwrap_or_default())
    })
}

fn split(
    asked: &Asked<'_, SourceFile>,
    file: &SourceFile,
    runs: Vec<Run>,
) -> Result<Vec<Split>, TransferError> {
    let Some(path) = asked.options.require else { return Ok(best_paths(asked, file, runs)) };
    let refused = |why| TransferError::DataPath { path: file.path().into(), data_path: path, why };
    misfit(path, &asked.buffer).map_err(refused)?;
    let runs = match path {
        DataPath::Peer | DataPath::Direct | DataPath::Staged | DataPath::Bounce => {
            match past_the_cache_now(asked, file) {
                Ok(()) => roomy(asked, file, path, runs),
                Err(why) => return Err(refused(why)),
            }
        }
        DataPath::Cached => {
            let (cached, missing) = by_residency(asked, file, &runs).map_err(refused)?;
            if let Some(run) = missing.first() {
                let from = run.offset;
                let why = format!("the page cache does not hold all of it, from offset {from}");
                return Err(refused(why));
            }
            cached
        }
        DataPath::Buffered => runs,
    };
    Ok(vec![Split::from(batch(asked, file, path, &runs))])
}

/// What the page cache holds from there if that is faster, the rest past it if the file can be read
/// so.
fn best_paths(asked: &Asked<'_, SourceFile>, file: &SourceFile, runs: Vec<Run>) -> Vec<Split> {
    let best = past_the_cache(&asked.buffer);
    let (runs, path, why_not) = match past_the_cache_now(asked, file) {
        Ok(()) => (roomy(asked, file, best, runs), best, None),
        Err(why) => (runs, DataPath::Buffered, Some((best, why))),
    };
    // A kernel that does not tell what it holds is one more reason to go past the cache.
    let (cached, rest) = by_residency(asked, file, &runs).unwrap_or((Vec::new(), runs.clone()));
    let mut why = "the bytes already sit in the page cache".to_owned();
    if let Some(rates) = contest::measure(file, &cached, asked.stop) {
        let [drive, cache] = [rates.drive, rates.cache].map(|rate| rate / (1u64 << 30) as f64);
        if drive > cache {
            return vec![Split::from(batch(asked, file, best, &runs))];
        }
        why += &format!(": {cache:.1} GiB/s, the drive gives {drive:.1}");
    }
    let mut splits = vec![
        Split {
            step_downs: vec![(best, why)],
            ..Split::from(batch(asked, file, DataPath::Cached, &cached))
        },
        Split {
            step_downs: why_not.into_iter().collect(),
            ..Split::from(batch(asked, file, path, &rest))
        },
    ];
    splits.retain(|split| !split.batch.is_empty());
    splits
}

/// From drive to device what may go there, and the rest by the best of the other paths.
fn peer_paths(
    asked: &Asked<'_, SourceFile>,
    file: &SourceFile,
    runs: Vec<Run>,
    may_write: &mut MayWrite<'_>,
) -> Result<Vec<Split>, TransferError> {
    let refused =
        |why| TransferError::DataPath { path: file.path().into(), data_path: DataPath::Peer, why };
    let required = asked.options.require.is_some();
    if let Err(why) = past_the_cache_now(asked, file) {
        return match required {
            true => Err(refused(why)),
            false => Ok(stepped_down(best_paths(asked, file, runs), DataPath::Peer, &why)),
        };
    }
    let peer = Peer::of(asked, file, &runs);
    if let Err(why) = peer.ask(required, |reads| may_write(file, reads)) {
        return match required {
            true => Err(refused(why)),
            false => Ok(stepped_down(best_paths(asked, file, runs), DataPath::Peer, &why)),
        };
    }
    Ok(peer.splits())
}

/// Parts runs into what the page cache holds and what it does not. What a device's queue fills by more than single bytes is
/// not parted inside of a run.
fn by_residency(
    asked: &Asked<'_, SourceFile>,
    file: &SourceFile,
    runs: &[Run],
) -> Result<(Vec<Run>, Vec<Run>), String> {
    let smallest = if asked.buffer.granule == 1 { WINDOW } else { u64::MAX };
    let resident = |range: &Range<u64>| {
        cache::resident(file.as_fd(), range.clone()).map_err(|error| {
            format!("the kernel does not tell what the page cache holds ({error})")
        })
    };
    let (mut cached, mut missing) = (Vec::new(), Vec::new());
    for run in runs {
        let parted = (&mut cached, &mut missing);
        part_by(&resident, (run, run.offset..run.end()), smallest, parted)?;
    }
    Ok((cached, missing))
}

/// Parts a range of a run, in halves as long as some of it is resident and some not: a long file of which
/// little is cached takes few questions.
fn part_by(
    resident: &dyn Fn(&Range<u64>) -> Result<u64, String>,
    (run, range): (&Run, Range<u64>),
    smallest: u64,
    (cached, missing): (&mut Vec<Run>, &mut Vec<Run>),
) -> Result<(), String> {
    let page = rustix::param::page_size() as u64;
    let spanned = range.end.next_multiple_of(page) - range.start / page * page;
    let found = resident(&range)?;
    let half = (range.start / smallest + range.end.div_ceil(smallest)) / 2 * smallest;
    if found >= spanned {
        append(cached, run.part(range));
    } else if found == 0 || half <= range.start || half >= range.end {
        append(missing, run.part(range));
    } else {
        let first = (run, range.start..half);
        part_by(resident, first, smallest, (&mut *cached, &mut *missing))?;
        part_by(resident, (run, half..range.end), smallest, (cached, missing))?;
    }
    Ok(())
}
