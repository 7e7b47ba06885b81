//! Which road each byte takes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::AsFd;

use super::LoadError;
use super::asked::{Asked, Place};
use super::check::Fingerprints;
use super::contest;
use super::cut::{Batch, Count, Cut, append};
use super::peer::{Pairs, Proof};
use super::plan::{self, Run};
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

/// The reads of a load, not cut yet, and the reasons for them.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// Reads from a drive into a peer's memory, for which another road may stand in.
    pub peer: Vec<Batch>,
    /// Other reads past the page cache.
    pub direct: Vec<Batch>,
    /// Reads that the kernel copies.
    pub copied: Vec<Batch>,
    pub shares: Vec<Share>,
    pub step_downs: Vec<StepDown>,
    pub proofs: Vec<Proof>,
}

impl Decided {
    pub(super) fn take(&mut self, split: Split, fingerprints: &Fingerprints<'_>) {
        let Split { batch, step_downs } = split;
        let bytes = fingerprints.requested_bytes(&batch);
        self.account(batch.road, bytes);
        for (better, why) in step_downs {
            self.step_down(better, why, bytes);
        }
        match batch.road {
            Road::Peer => self.peer.push(batch),
            Road::Cached | Road::Buffered => self.copied.push(batch),
            Road::Direct | Road::Staged | Road::Bounce => self.direct.push(batch),
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
        let mut bytes = 0;
        for batch in std::mem::take(&mut self.peer) {
            let (kept, rest) = batch.bounce_rest(&done);
            bytes += fingerprints.requested_bytes(&rest);
            self.peer.push(kept);
            self.direct.push(rest);
        }
        for share in self.shares.iter_mut().filter(|share| share.road == Road::Peer) {
            share.bytes -= bytes;
        }
        self.shares.retain(|share| share.bytes > 0);
        self.account(Road::Bounce, bytes);
        self.step_down(Road::Peer, why, bytes);
    }

    /// How many bytes the CPU will move.
    pub(crate) fn cpu_copied(&self, device: bool) -> u64 {
        let copied = count(&self.copied);
        match device {
            true => copied.need,
            false => copied.need + copied.out_of_slots + count(&self.direct).out_of_slots,
        }
    }

    /// How many reads the load takes.
    pub(crate) fn reads(&self) -> u64 {
        [&self.peer, &self.direct, &self.copied].map(|batches| count(batches).reads).iter().sum()
    }

    /// How much memory the load takes for slots at most, with so many reads in flight, in bytes.
    pub(crate) fn slots(&self, depth: u32) -> u64 {
        let of = |batches| {
            let Count { in_slots, longest, .. } = count(batches);
            in_slots.min(depth.into()) * longest
        };
        of(&self.direct) + of(&self.copied)
    }
}

fn count(batches: &[Batch]) -> Count {
    batches.iter().map(Batch::count).sum()
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

/// The reads of one file that take one road, and why not better ones.
pub(super) struct Split {
    batch: Batch,
    step_downs: Vec<(Road, String)>,
}

impl Split {
    pub(super) fn new<S: Source>(asked: &Asked<'_, S>, file: &S, road: Road, runs: &[Run]) -> Self {
        Self { batch: batch(asked, file, road, runs), step_downs: Vec::new() }
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
    splits.retain(|split| !split.batch.is_empty());
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
    if let Err(why) = peer.ask(required, |reads| pairs.may_write(file, reads)) {
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
    whole: Batch,
    /// The heads, tails and shifted runs that it leaves.
    in_parts: Batch,
}

const IN_PART_OF_A_BLOCK: &str = "a drive writes whole blocks, and these bytes are a part of one \
                                  or lie elsewhere in the buffer's blocks than in the drive's";

impl Peer {
    pub(super) fn of<S: Source>(asked: &Asked<'_, S>, file: &S, runs: &[Run]) -> Self {
        let wide = roomy(asked, file, Road::Peer, runs.to_vec());
        let (whole, in_parts) = batch(asked, file, Road::Peer, &wide).apart();
        Self { whole, in_parts }
    }

    /// Whether the road can be taken, for all bytes if it is required; or why not.
    pub(super) fn ask(
        &self,
        required: bool,
        may_write: impl FnOnce(&Batch) -> Result<(), String>,
    ) -> Result<(), String> {
        if required && !self.in_parts.is_empty() {
            return Err(format!("not all of it: {IN_PART_OF_A_BLOCK}"));
        }
        if self.whole.is_empty() { Ok(()) } else { may_write(&self.whole) }
    }

    pub(super) fn splits(self) -> Vec<Split> {
        let why = (Road::Peer, IN_PART_OF_A_BLOCK.to_owned());
        let in_parts = self.in_parts.on(Road::Bounce);
        let mut splits = vec![
            Split { batch: self.whole, step_downs: Vec::new() },
            Split { batch: in_parts, step_downs: vec![why] },
        ];
        splits.retain(|split| !split.batch.is_empty());
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
    let resident = |range: &Range<u64>| {
        cache::resident(file.as_fd(), range.clone()).map_err(|error| {
            format!("the kernel does not tell what the page cache holds ({error})")
        })
    };
    let (mut cached, mut missing) = (Vec::new(), Vec::new());
    for run in runs {
        part_by(&resident, run, run.offset..run.end(), (&mut cached, &mut missing))?;
    }
    Ok((cached, missing))
}

/// Parts a range of a run, in halves as long as some of it is resident and some not: a long file of which
/// little is cached takes few questions.
fn part_by(
    resident: &dyn Fn(&Range<u64>) -> Result<u64, String>,
    run: &Run,
    range: Range<u64>,
    (cached, missing): (&mut Vec<Run>, &mut Vec<Run>),
) -> Result<(), String> {
    let page = rustix::param::page_size() as u64;
    let spanned = range.end.next_multiple_of(page) - range.start / page * page;
    let found = resident(&range)?;
    let half = (range.start / WINDOW + range.end.div_ceil(WINDOW)) / 2 * WINDOW;
    if found >= spanned {
        append(cached, run.part(range));
    } else if found == 0 || half <= range.start || half >= range.end {
        append(missing, run.part(range));
    } else {
        part_by(resident, run, range.start..half, (&mut *cached, &mut *missing))?;
        part_by(resident, run, half..range.end, (cached, missing))?;
    }
    Ok(())
}

fn batch<S: Source>(asked: &Asked<'_, S>, file: &S, road: Road, runs: &[Run]) -> Batch {
    let slots_only = match asked.place {
        Place::System => false,
        Place::Gpu => true,
        Place::Peer | Place::Bar => road != Road::Peer,
    };
    let alignment = file.alignment(road);
    // What the kernel copies is cut at multiples of the block too, where the page cache's folios begin.
    let block = match road.cpu_copies() && !slots_only {
        true => COPY_BLOCK,
        false => asked.options.block.max(alignment.offset.into()),
    };
    Batch::new(road, runs, Cut { block, alignment, file_len: file.len(), slots_only })
}
