//! Which road each byte takes.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use super::check::Fingerprints;
use super::contest;
use super::plan::{self, Cut, Landing, Run};
use super::receipt::{Share, StepDown};
use super::request::Around;
use super::road::Road;
use super::run::Job;
use super::{Destination, Load, LoadError};
use crate::storage::file::{Alignment, SourceFile, cache};

/// The most bytes that the kernel copies at once: small enough to stay in a core's cache until it
/// is fingerprinted.
pub(super) const COPY_BLOCK: u64 = 512 << 10;

/// The part of a file for which the page cache is asked at once, if only some of it is cached.
const WINDOW: u64 = 1 << 20;

/// The jobs of a load, and the reasons for them.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// Reads past the page cache.
    pub direct: Vec<Job>,
    /// Reads that the kernel copies.
    pub copied: Vec<Job>,
    pub shares: Vec<Share>,
    pub step_downs: Vec<StepDown>,
}

impl Decided {
    fn account(&mut self, split: &Split, bytes: u64) {
        match self.shares.iter_mut().find(|share| share.road == split.road) {
            Some(share) => share.bytes += bytes,
            None => self.shares.push(Share { road: split.road, bytes }),
        }
        let Some((road, why)) = &split.step_down else { return };
        match self.step_downs.iter_mut().find(|seen| seen.road == *road && seen.why == *why) {
            Some(seen) => seen.bytes += bytes,
            None => self.step_downs.push(StepDown { road: *road, why: why.clone(), bytes }),
        }
    }

    /// How many bytes the CPU will move.
    pub(crate) fn cpu_copied(&self, device: bool) -> u64 {
        let by_kernel: u64 = self.copied.iter().map(|job| job.piece.need).sum();
        if device {
            return by_kernel;
        }
        let out_of_slots = self.direct.iter().map(|job| match &job.piece.landing {
            Landing::Buffer(_) => 0,
            Landing::Slot(copies) => copies.iter().map(|copy| copy.len).sum(),
        });
        by_kernel + out_of_slots.sum::<u64>()
    }
}

/// Decides for every request of a load.
pub(crate) fn decide(
    load: &Load<'_>,
    fingerprints: &Fingerprints<'_>,
) -> Result<Decided, LoadError> {
    let mut by_file: BTreeMap<usize, Vec<Run>> = BTreeMap::new();
    for run in plan::join(load.requests) {
        by_file.entry(run.file).or_default().push(run);
    }
    let mut decided = Decided::default();
    for (index, runs) in by_file {
        let file = &load.files[index];
        for split in split(load, file, runs)? {
            let jobs = cut(load, file, &split);
            let bytes = jobs.iter().map(|job| fingerprints.requested_bytes(job)).sum();
            decided.account(&split, bytes);
            match split.road.cpu_copies() {
                true => decided.copied.extend(jobs),
                false => decided.direct.extend(jobs),
            }
        }
    }
    decided.shares.sort_unstable_by_key(|share| share.road);
    Ok(decided)
}

/// The runs of one file that take one road, and why not the best.
struct Split {
    road: Road,
    runs: Vec<Run>,
    step_down: Option<(Road, String)>,
}

fn split(load: &Load<'_>, file: &SourceFile, runs: Vec<Run>) -> Result<Vec<Split>, LoadError> {
    let best = match load.destination {
        Destination::Device(_) => Road::Staged,
        _ => Road::Direct,
    };
    let Some(road) = load.options.require else { return Ok(best_roads(load, file, runs, best)) };
    let taken = |runs| vec![Split { road, runs, step_down: None }];
    let refused = |why| LoadError::Road { path: file.path().into(), road, why };
    match road {
        Road::Direct if road != best => {
            let why = "the buffer is in device memory, which the drive cannot reach: take `staged`";
            Err(refused(why.into()))
        }
        Road::Staged if road != best => {
            let why =
                "the buffer is in system memory, which the drive reaches itself: take `direct`";
            Err(refused(why.into()))
        }
        Road::Direct | Road::Staged => match file.direct() {
            Ok(direct) => Ok(taken(roomy(load, runs, direct.alignment))),
            Err(why) => Err(refused(why.into())),
        },
        Road::Cached => {
            let (cached, missing) = by_residency(file, &runs).map_err(refused)?;
            match missing.first() {
                None => Ok(taken(cached)),
                Some(run) => Err(refused(format!(
                    "the page cache does not hold all of it, from offset {}",
                    run.offset
                ))),
            }
        }
        Road::Buffered => Ok(taken(runs)),
    }
}

/// What the page cache holds from there if that is faster, the rest past it if the file can be read
/// so.
fn best_roads(load: &Load<'_>, file: &SourceFile, runs: Vec<Run>, best: Road) -> Vec<Split> {
    let (runs, past_the_cache) = match file.direct() {
        Ok(direct) => (roomy(load, runs, direct.alignment), (best, None)),
        Err(why) => (runs, (Road::Buffered, Some((best, why.to_owned())))),
    };
    // A kernel that does not tell what it holds is one more reason to go past the cache.
    let (cached, rest) = by_residency(file, &runs).unwrap_or((Vec::new(), runs.clone()));
    let mut why = "the bytes already sit in the page cache".to_owned();
    if let Some(rates) = contest::measure(file, &cached) {
        let [drive, cache] = [rates.drive, rates.cache].map(|rate| rate / (1u64 << 30) as f64);
        if drive > cache {
            return vec![Split { road: best, runs, step_down: None }];
        }
        why += &format!(": {cache:.1} GiB/s, the drive gives {drive:.1}");
    }
    let (road, step_down) = past_the_cache;
    let mut splits = vec![
        Split { road: Road::Cached, runs: cached, step_down: Some((best, why)) },
        Split { road, runs: rest, step_down },
    ];
    splits.retain(|split| !split.runs.is_empty());
    splits
}

/// Runs as wide as the buffer's bytes around them allow.
fn roomy(load: &Load<'_>, runs: Vec<Run>, alignment: Alignment) -> Vec<Run> {
    match (load.around, load.destination) {
        (Around::Untouched, _) | (_, Destination::Device(_)) => runs,
        _ => plan::widen(&runs, alignment.offset.into(), load.destination.len()),
    }
}

/// Parts runs into what the page cache holds and what it does not.
fn by_residency(file: &SourceFile, runs: &[Run]) -> Result<(Vec<Run>, Vec<Run>), String> {
    let resident = |start: u64, end: u64| {
        cache::resident(file.as_fd(), start..end).map_err(|error| {
            format!("the kernel does not tell what the page cache holds ({error})")
        })
    };
    let page = rustix::param::page_size() as u64;
    let spanned = |start: u64, end: u64| end.next_multiple_of(page) - start / page * page;
    let (mut cached, mut missing) = (Vec::new(), Vec::new());
    for run in runs {
        let end = run.offset + run.len;
        match resident(run.offset, end)? {
            0 => missing.push(run.clone()),
            all if all >= spanned(run.offset, end) => cached.push(run.clone()),
            _ => {
                let mut at = run.offset;
                while at < end {
                    let next = ((at / WINDOW + 1) * WINDOW).min(end);
                    let side = match resident(at, next)? >= spanned(at, next) {
                        true => &mut cached,
                        false => &mut missing,
                    };
                    append(side, run.part(at..next));
                    at = next;
                }
            }
        }
    }
    Ok((cached, missing))
}

/// Adds a run, joined to the last if it follows it.
fn append(runs: &mut Vec<Run>, next: Run) {
    match runs.last_mut() {
        Some(last)
            if last.offset + last.len == next.offset
                && last.buffer_offset + last.len == next.buffer_offset =>
        {
            last.len += next.len;
        }
        _ => runs.push(next),
    }
}

fn cut(load: &Load<'_>, file: &SourceFile, split: &Split) -> Vec<Job> {
    let road = split.road;
    let slots_only = matches!(load.destination, Destination::Device(_));
    let alignment = match file.direct() {
        Ok(direct) if !road.cpu_copies() => direct.alignment,
        _ => Alignment { offset: 1, memory: 1 },
    };
    let pieces: Vec<_> = if road.cpu_copies() && !slots_only {
        split.runs.iter().flat_map(|run| plan::copied(run, file.len(), COPY_BLOCK)).collect()
    } else {
        let block = load.options.block.max(u64::from(alignment.offset));
        plan::direct(&split.runs, &Cut { block, alignment, file_len: file.len(), slots_only })
    };
    pieces.into_iter().map(|piece| Job { road, piece }).collect()
}
