//! Which road each byte takes.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use super::LoadError;
use super::asked::{Asked, Place};
use super::check::Fingerprints;
use super::contest;
use super::peer::{Pairs, Proof};
use super::plan::{self, Cut, Landing, Piece, Run, SlotCopy};
use super::receipt::{Share, StepDown};
use super::request::Around;
use super::road::Road;
use super::run::Job;
use super::source::Source;
use crate::storage::file::{SourceFile, cache, open_files};

/// The most bytes that the kernel copies at once: small enough to stay in a core's cache until it
/// is fingerprinted.
pub(super) const COPY_BLOCK: u64 = 512 << 10;

/// The part of a file for which the page cache is asked at once, if only some of it is cached.
const WINDOW: u64 = 1 << 20;

/// The jobs of a load, and the reasons for them.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// Reads from a drive into a peer's memory, for which another road may stand in.
    pub peer: Vec<Job>,
    /// Other reads past the page cache.
    pub direct: Vec<Job>,
    /// Reads that the kernel copies.
    pub copied: Vec<Job>,
    pub shares: Vec<Share>,
    pub step_downs: Vec<StepDown>,
    pub proofs: Vec<Proof>,
}

impl Decided {
    pub(super) fn take(&mut self, split: Split, fingerprints: &Fingerprints<'_>) {
        let Split { road, jobs, step_downs } = split;
        let bytes = jobs.iter().map(|job| fingerprints.requested_bytes(job)).sum();
        self.account(road, bytes);
        for (better, why) in step_downs {
            self.step_down(better, why, bytes);
        }
        match road {
            Road::Peer => self.peer.extend(jobs),
            Road::Cached | Road::Buffered => self.copied.extend(jobs),
            Road::Direct | Road::Staged | Road::Bounce => self.direct.extend(jobs),
        }
    }

    fn account(&mut self, road: Road, bytes: u64) {
        match self.shares.iter_mut().find(|share| share.road == road) {
            Some(share) => share.bytes += bytes,
            None => self.shares.push(Share { road, bytes }),
        }
        self.shares.sort_unstable_by_key(|share| share.road);
    }

    fn step_down(&mut self, road: Road, why: String, bytes: u64) {
        match self.step_downs.iter_mut().find(|seen| seen.road == road && seen.why == why) {
            Some(seen) => seen.bytes += bytes,
            None => self.step_downs.push(StepDown { road, why, bytes }),
        }
    }

    /// Has the peer jobs that are not `done` take the bounce road, because of what befell one.
    pub(crate) fn fall_back(
        &mut self,
        why: String,
        fingerprints: &Fingerprints<'_>,
        done: impl Fn(&Job) -> bool,
    ) {
        let peer = std::mem::take(&mut self.peer);
        let (done, rest): (Vec<_>, Vec<_>) = peer.into_iter().partition(done);
        self.peer = done;
        let bytes = rest.iter().map(|job| fingerprints.requested_bytes(job)).sum();
        for share in self.shares.iter_mut().filter(|share| share.road == Road::Peer) {
            share.bytes -= bytes;
        }
        self.shares.retain(|share| share.bytes > 0);
        self.account(Road::Bounce, bytes);
        self.step_down(Road::Peer, why, bytes);
        self.direct.extend(rest.into_iter().map(bounced));
    }

    /// How many bytes the CPU will move.
    pub(crate) fn cpu_copied(&self, device: bool) -> u64 {
        let by_kernel: u64 = self.copied.iter().map(|job| job.piece.need).sum();
        if device {
            return by_kernel;
        }
        let out_of_slots =
            self.direct.iter().chain(&self.copied).map(|job| match &job.piece.landing {
                Landing::Buffer(_) => 0,
                Landing::Slot(copies) => copies.iter().map(|copy| copy.len).sum(),
            });
        by_kernel + out_of_slots.sum::<u64>()
    }

    /// How many reads the load takes.
    pub(crate) fn reads(&self) -> usize {
        self.peer.len() + self.direct.len() + self.copied.len()
    }
}

/// A job that lands in the buffer, by a slot.
fn bounced(job: Job) -> Job {
    let Job { piece, .. } = job;
    let landing = match piece.landing {
        Landing::Buffer(at) => {
            Landing::Slot(vec![SlotCopy { slot_offset: 0, buffer_offset: at, len: piece.need }])
        }
        slot => slot,
    };
    Job { road: Road::Bounce, piece: Piece { landing, ..piece } }
}

/// Decides for every request of a load.
pub(crate) fn decide(
    asked: &Asked<'_, SourceFile>,
    fingerprints: &Fingerprints<'_>,
    pairs: Option<Pairs<'_>>,
) -> Result<Decided, LoadError> {
    let may_be_peers = matches!(asked.options.require, None | Some(Road::Peer));
    let mut pairs = pairs.filter(|_| may_be_peers);
    let mut decided = Decided::default();
    for (index, runs) in by_file(asked) {
        asked.go_on()?;
        let file = &asked.files[index];
        let splits = match &mut pairs {
            Some(pairs) => peer_roads(asked, file, runs, pairs)?,
            None => split(asked, file, runs)?,
        };
        for split in splits {
            decided.take(split, fingerprints);
        }
    }
    decided.proofs = pairs.map(|pairs| pairs.proofs).unwrap_or_default();
    Ok(decided)
}

/// What is asked of each file, joined where it can be.
pub(super) fn by_file<S: Source>(asked: &Asked<'_, S>) -> BTreeMap<usize, Vec<Run>> {
    let mut by_file: BTreeMap<usize, Vec<Run>> = BTreeMap::new();
    for run in plan::join(asked.requests) {
        by_file.entry(run.file).or_default().push(run);
    }
    by_file
}

/// The jobs of one file that take one road, and why not better ones.
pub(super) struct Split {
    road: Road,
    jobs: Vec<Job>,
    step_downs: Vec<(Road, String)>,
}

impl Split {
    pub(super) fn new<S: Source>(asked: &Asked<'_, S>, file: &S, road: Road, runs: &[Run]) -> Self {
        Self { road, jobs: cut(asked, file, road, runs), step_downs: Vec::new() }
    }
}

/// The road past the page cache that a buffer allows whatever the drive.
fn past_the_cache(place: Place) -> Road {
    match place {
        Place::System => Road::Direct,
        Place::Gpu => Road::Staged,
        Place::Peer | Place::Bar => Road::Bounce,
    }
}

/// Whether a file can be read past the page cache at this moment, or why not: this process may have lost
/// the right to open it, or have too many files open.
fn past_the_cache_now(file: &SourceFile) -> Result<(), String> {
    file.direct()?;
    file.open_direct().map(drop).map_err(|error| {
        let remedy = open_files::remedy(&error).map(|remedy| format!(": {remedy}"));
        format!("it cannot be opened past the page cache ({error}){}", remedy.unwrap_or_default())
    })
}

/// Why a buffer cannot be reached by a road at all.
pub(super) fn misfit(road: Road, place: Place) -> Result<(), String> {
    let (best, words) = match place {
        Place::System => (Road::Direct, "in system memory, which the drive reaches itself"),
        Place::Gpu => (Road::Staged, "in a GPU's memory, which the drive cannot reach"),
        Place::Peer | Place::Bar => (Road::Peer, "in another device's memory"),
    };
    let fits = road.cpu_copies() || road == best || road == past_the_cache(place);
    if fits { Ok(()) } else { Err(format!("the buffer is {words}: take `{best}`")) }
}

fn split(
    asked: &Asked<'_, SourceFile>,
    file: &SourceFile,
    runs: Vec<Run>,
) -> Result<Vec<Split>, LoadError> {
    let Some(road) = asked.options.require else { return Ok(best_roads(asked, file, runs)) };
    let refused = |why| LoadError::Road { path: file.path().into(), road, why };
    misfit(road, asked.place).map_err(refused)?;
    let runs = match road {
        Road::Peer | Road::Direct | Road::Staged | Road::Bounce => match past_the_cache_now(file) {
            Ok(()) => roomy(asked, file, road, runs),
            Err(why) => return Err(refused(why)),
        },
        Road::Cached => {
            let (cached, missing) = by_residency(file, &runs).map_err(refused)?;
            if let Some(run) = missing.first() {
                let from = run.offset;
                let why = format!("the page cache does not hold all of it, from offset {from}");
                return Err(refused(why));
            }
            cached
        }
        Road::Buffered => runs,
    };
    Ok(vec![Split::new(asked, file, road, &runs)])
}

/// What the page cache holds from there if that is faster, the rest past it if the file can be read
/// so.
fn best_roads(asked: &Asked<'_, SourceFile>, file: &SourceFile, runs: Vec<Run>) -> Vec<Split> {
    let best = past_the_cache(asked.place);
    let (runs, road, why_not) = match past_the_cache_now(file) {
        Ok(()) => (roomy(asked, file, best, runs), best, None),
        Err(why) => (runs, Road::Buffered, Some((best, why))),
    };
    // A kernel that does not tell what it holds is one more reason to go past the cache.
    let (cached, rest) = by_residency(file, &runs).unwrap_or((Vec::new(), runs.clone()));
    let mut why = "the bytes already sit in the page cache".to_owned();
    if let Some(rates) = contest::measure(file, &cached, asked.stop) {
        let [drive, cache] = [rates.drive, rates.cache].map(|rate| rate / (1u64 << 30) as f64);
        if drive > cache {
            return vec![Split::new(asked, file, best, &runs)];
        }
        why += &format!(": {cache:.1} GiB/s, the drive gives {drive:.1}");
    }
    let mut splits = vec![
        Split { step_downs: vec![(best, why)], ..Split::new(asked, file, Road::Cached, &cached) },
        Split { step_downs: why_not.into_iter().collect(), ..Split::new(asked, file, road, &rest) },
    ];
    splits.retain(|split| !split.jobs.is_empty());
    splits
}

/// From drive to device what may go there, and the rest by the best of the other roads.
fn peer_roads(
    asked: &Asked<'_, SourceFile>,
    file: &SourceFile,
    runs: Vec<Run>,
    pairs: &mut Pairs<'_>,
) -> Result<Vec<Split>, LoadError> {
    let refused = |why| LoadError::Road { path: file.path().into(), road: Road::Peer, why };
    let required = asked.options.require.is_some();
    if let Err(why) = past_the_cache_now(file) {
        return match required {
            true => Err(refused(why)),
            false => Ok(without_peer(best_roads(asked, file, runs), &why)),
        };
    }
    let peer = Peer::of(asked, file, &runs);
    if let Err(why) = peer.ask(required, |jobs| pairs.may_write(file, jobs)) {
        return match required {
            true => Err(refused(why)),
            false => Ok(without_peer(best_roads(asked, file, runs), &why)),
        };
    }
    Ok(peer.splits())
}

pub(super) fn without_peer(mut splits: Vec<Split>, why: &str) -> Vec<Split> {
    for split in &mut splits {
        split.step_downs.insert(0, (Road::Peer, why.to_owned()));
    }
    splits
}

/// The reads of a file into a peer's memory.
pub(super) struct Peer {
    /// Those that the drive can make itself.
    whole: Vec<Job>,
    /// The heads, tails and shifted runs that it leaves.
    in_parts: Vec<Job>,
}

const IN_PART_OF_A_BLOCK: &str = "a drive writes whole blocks, and these bytes are a part of one \
                                  or lie elsewhere in the buffer's blocks than in the drive's";

impl Peer {
    pub(super) fn of<S: Source>(asked: &Asked<'_, S>, file: &S, runs: &[Run]) -> Self {
        let wide = roomy(asked, file, Road::Peer, runs.to_vec());
        let jobs = cut(asked, file, Road::Peer, &wide).into_iter();
        let (whole, in_parts) =
            jobs.partition(|job| matches!(job.piece.landing, Landing::Buffer(_)));
        Self { whole, in_parts }
    }

    /// Whether the road can be taken, for all bytes if it is required; or why not.
    pub(super) fn ask(
        &self,
        required: bool,
        may_write: impl FnOnce(&[Job]) -> Result<(), String>,
    ) -> Result<(), String> {
        if required && !self.in_parts.is_empty() {
            return Err(format!("not all of it: {IN_PART_OF_A_BLOCK}"));
        }
        if self.whole.is_empty() { Ok(()) } else { may_write(&self.whole) }
    }

    pub(super) fn splits(self) -> Vec<Split> {
        let bounce = self.in_parts.into_iter().map(bounced).collect();
        let why = (Road::Peer, IN_PART_OF_A_BLOCK.to_owned());
        let mut splits = vec![
            Split { road: Road::Peer, jobs: self.whole, step_downs: Vec::new() },
            Split { road: Road::Bounce, jobs: bounce, step_downs: vec![why] },
        ];
        splits.retain(|split| !split.jobs.is_empty());
        splits
    }
}

/// Runs as wide as the buffer's bytes around them allow, where a drive will write them itself.
pub(super) fn roomy<S: Source>(
    asked: &Asked<'_, S>,
    file: &S,
    road: Road,
    runs: Vec<Run>,
) -> Vec<Run> {
    match (asked.around, road) {
        (Around::Untouched, _) | (_, Road::Staged | Road::Bounce) => runs,
        _ => plan::widen(&runs, file.alignment(road).offset.into(), asked.buffer_len),
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

fn cut<S: Source>(asked: &Asked<'_, S>, file: &S, road: Road, runs: &[Run]) -> Vec<Job> {
    let slots_only = match asked.place {
        Place::System => false,
        Place::Gpu => true,
        Place::Peer | Place::Bar => road != Road::Peer,
    };
    let alignment = file.alignment(road);
    let pieces: Vec<_> = if road.cpu_copies() && !slots_only {
        runs.iter().flat_map(|run| plan::copied(run, file.len(), COPY_BLOCK)).collect()
    } else {
        let block = asked.options.block.max(u64::from(alignment.offset));
        plan::direct(runs, &Cut { block, alignment, file_len: file.len(), slots_only })
    };
    pieces.into_iter().map(|piece| Job { road, piece }).collect()
}
