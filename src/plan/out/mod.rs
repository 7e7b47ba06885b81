//! Which path each byte takes on its way out of a buffer into a file, and why not a better one.
//!
//! The paths are those of a load, the other way: the drive reads a peer's memory ([`DataPath::Peer`]) or the buffer's own
//! pages ([`DataPath::Direct`]), or slots that the GPU ([`DataPath::Staged`]) or the CPU ([`DataPath::Bounce`]) fills, all of
//! them past the page cache; or the kernel copies into its page cache ([`DataPath::Buffered`]).
//!
//! A drive writes whole blocks, and what is less than a block at either end of a stretch goes through the page cache, which
//! knows the bytes beside it. Two things keep those apart from what the drive writes. Blocks are taken as long as a page at
//! least, so that no page of the cache holds bytes of both kinds; and who carries this out writes past the cache first,
//! then through it, then syncs. In a new file the last block needs none of that: it is written whole, with what
//! follows in the buffer, and the file is cut to its length afterwards.

mod cut;

pub(crate) use cut::{Piece, Pieces, Stretches, Taken};

use super::asked::Buffer;
use super::cut::COPY_BLOCK;
use super::peer::outward::{self, Sample};
use super::peer::{Pairs, proof};
use super::place::Place;
use super::run::{self, Run};
use crate::storage::file::{LONGEST_FILE, SinkFile, SourceFile};
use crate::transfer::{DataPath, Options, Proof, Request, SaveError, Share, StepDown};
use cut::Grain;

/// The most samples of a proof, from the first to the last write.
const SAMPLES: usize = 4;

/// A save as the planner sees it.
pub(crate) struct Outward<'a> {
    pub sink: &'a SinkFile,
    pub kind: Kind,
    pub requests: &'a [Request],
    pub options: &'a Options,
    pub buffer: Buffer,
}

/// What the bytes are written into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A new file, of which nothing is there yet.
    New,
    /// A file of so many bytes, the others of which stay as they are.
    InPlace { len: u64 },
}

/// Which writes take which path.
#[derive(Debug)]
pub(crate) struct Decided {
    /// Whole blocks, past the page cache.
    pub whole: Stretches,
    /// What the kernel copies.
    pub copied: Stretches,
    /// How long a new file is in the end, in bytes.
    pub len: u64,
    pub shares: Vec<Share>,
    pub step_downs: Vec<StepDown>,
    pub proofs: Vec<Proof>,
}

const PART_OF_A_BLOCK: &str =
    "a drive writes whole blocks, and these bytes are a part of one that holds others as well";

const BEHIND_A_BAR: &str = "the memory is behind a BAR, and the kernel's drivers read only out of what other drivers publish";

const SHIFTED: &str = "these bytes lie elsewhere in the buffer's blocks than in the drive's, or in a block with others";

impl Outward<'_> {
    /// Whether it makes sense: requests inside the buffer and the file, none over another.
    pub fn validate(&self) -> Result<(), SaveError> {
        self.options.validate()?;
        let file_len = match self.kind {
            Kind::New => LONGEST_FILE,
            Kind::InPlace { len } => len,
        };
        let mut places = Vec::with_capacity(self.requests.len());
        for &Request { file, offset, len, buffer_offset, .. } in self.requests {
            if file != 0 {
                return Err(SaveError::NoSuchFile { file });
            }
            if buffer_offset.checked_add(len).is_none_or(|end| end > self.buffer.len) {
                let buffer_len = self.buffer.len;
                return Err(SaveError::PastBuffer { offset: buffer_offset, len, buffer_len });
            }
            let Some(end) = offset.checked_add(len).filter(|end| *end <= file_len) else {
                let path = self.sink.path().to_owned();
                return Err(SaveError::PastEnd { path, offset, len, file_len });
            };
            places.push(offset..end);
        }
        match run::overlap(places) {
            Some(at) => Err(SaveError::Overlap { at }),
            None => Ok(()),
        }
    }

    /// Decides for every request. `source` is the file as one that can be read, and `pairs` what is known of pairs of
    /// devices, if the buffer is a peer's.
    pub fn decide(
        &self,
        source: Option<&SourceFile>,
        pairs: Option<Pairs<'_>>,
    ) -> Result<Decided, SaveError> {
        let best = best(self.buffer.place);
        let mut decided = match self.options.require {
            Some(DataPath::Buffered) => self.all_copied(None),
            Some(DataPath::Cached) => {
                return Err(self.refused("it is a path for loads: take `buffered`"));
            }
            _ => match self.past_the_cache_now() {
                Ok(()) => self.past_the_cache(best, source, pairs),
                Err(why) => self.all_copied(Some((best, why))),
            },
        };
        self.require(&decided)?;
        decided.shares.sort_unstable_by_key(|share| share.path);
        Ok(decided)
    }

    /// Whether all takes the path that is required, if one is.
    fn require(&self, decided: &Decided) -> Result<(), SaveError> {
        let Some(path) = self.options.require else { return Ok(()) };
        if decided.shares.iter().all(|share| share.path == path) {
            return Ok(());
        }
        match decided.step_downs.iter().rfind(|step| step.path <= path) {
            Some(StepDown { why, bytes, .. }) => {
                let wanted: u64 = self.requests.iter().map(|request| request.len).sum();
                let all = if *bytes == wanted { "" } else { "not for all of it: " };
                Err(self.refused(&format!("{all}{why}")))
            }
            None => {
                let best = best(self.buffer.place);
                Err(self.refused(&format!("the buffer is not where it leads: take `{best}`")))
            }
        }
    }

    fn refused(&self, why: &str) -> SaveError {
        SaveError::DataPath {
            path: self.sink.path().to_owned(),
            data_path: self.options.require.unwrap_or(DataPath::Buffered),
            why: why.to_owned(),
        }
    }

    fn past_the_cache_now(&self) -> Result<(), String> {
        self.sink.direct()?;
        let opened = self.sink.open_direct().map(drop);
        opened.map_err(|error| format!("it cannot be opened past the page cache ({error})"))
    }

    fn past_the_cache(
        &self,
        best: DataPath,
        source: Option<&SourceFile>,
        pairs: Option<Pairs<'_>>,
    ) -> Decided {
        let grain = self.grain();
        let (runs, len, _) = self.runs(grain.file);
        let gathered = if best == DataPath::Staged { best } else { DataPath::Bounce };
        let all = Stretches::new(runs, grain, [best, gathered]);
        let (mut whole, copied) = all.apart(self.kernels_grain(), DataPath::Buffered);
        let mut proofs = Vec::new();
        let mut step_down = match (self.buffer.place, &self.buffer.no_pages) {
            (Place::Cpu, Some(why)) => Some((DataPath::Direct, why.clone())),
            (Place::Bar, _) => Some((DataPath::Peer, BEHIND_A_BAR.to_owned())),
            _ => None,
        };
        let required = self.options.require;
        if best == DataPath::Peer && required.is_none_or(|path| path == best) && !whole.is_empty() {
            let asked = match (source, pairs) {
                (Some(source), Some(mut pairs)) => {
                    let answer = self.ask(&whole, source, &mut pairs);
                    proofs = pairs.proofs;
                    answer
                }
                _ => Err("the drive that the file lies on is not known".into()),
            };
            step_down = asked.err().map(|why| (DataPath::Peer, why));
        }
        let bounces = required == Some(DataPath::Bounce) && best != DataPath::Staged;
        if bounces || best == DataPath::Peer && step_down.is_some() {
            whole = whole.in_slots(DataPath::Bounce);
        }
        let mut decided =
            Decided { whole, copied, len, shares: Vec::new(), step_downs: Vec::new(), proofs };
        decided.account(best, step_down);
        decided
    }

    /// Whether the drive may read the buffer of a peer, or why not.
    fn ask(
        &self,
        whole: &Stretches,
        source: &SourceFile,
        pairs: &mut Pairs<'_>,
    ) -> Result<(), String> {
        let samples = samples(whole);
        pairs.may_be_read(source, |memory| match self.sink.is_block_device() {
            true => Err("a file of our own beside the one that is written proves it, and beside a block device \
                         there is none: save into a file system on this drive first"
                .into()),
            false => outward::prove_beside(memory, self.sink.path(), &samples),
        })
    }

    /// All through the page cache, for the reason given.
    fn all_copied(&self, step_down: Option<(DataPath, String)>) -> Decided {
        let (runs, len, _) = self.runs(1);
        let grain = self.kernels_grain();
        let nothing = Stretches::new(Vec::new(), grain, [DataPath::Buffered; 2]);
        let mut decided = Decided {
            whole: nothing,
            copied: Stretches::new(runs, grain, [DataPath::Buffered; 2]),
            len,
            shares: Vec::new(),
            step_downs: Vec::new(),
            proofs: Vec::new(),
        };
        let bytes = decided.bytes_of(&decided.copied);
        decided.share(DataPath::Buffered, bytes);
        if let Some((better, why)) = step_down {
            decided.step_down(better, why, bytes);
        }
        decided
    }

    /// How long a new file is while it is written, in bytes.
    pub fn written_len(&self) -> u64 {
        self.runs(self.grain().file).2
    }

    /// What is asked, joined where it can be; how long the file becomes by it, and how long when its last block is
    /// written whole, with what follows in the buffer.
    fn runs(&self, grain: u64) -> (Vec<Run>, u64, u64) {
        let mut runs = run::join(self.requests);
        let len = runs.last().map_or(0, Run::end);
        let Some(last) = runs.last_mut().filter(|_| self.kind == Kind::New) else {
            return (runs, len, len);
        };
        let whole = len.next_multiple_of(grain);
        // A run that is a part of one block already is not worth it.
        if whole - last.offset >= grain
            && last.buffer_offset + (whole - last.offset) <= self.buffer.len
        {
            last.len = whole - last.offset;
        }
        let written = last.end();
        (runs, len, written)
    }

    /// How writes past the page cache are cut.
    fn grain(&self) -> Grain {
        let page = rustix::param::page_size() as u64;
        let (file, memory) = match self.sink.direct() {
            Ok(alignment) => (u64::from(alignment.offset).max(page), alignment.memory.into()),
            Err(_) => (page, page),
        };
        let slots_only = matches!(self.buffer.place, Place::Cpu | Place::Gpu | Place::Bar);
        let block = self.options.block.max(file);
        Grain { file, memory, block, base: self.buffer.base, slots_only }
    }

    /// How what the kernel copies is cut. Out of a device's memory the CPU copies first, by accesses that suit it.
    fn kernels_grain(&self) -> Grain {
        let slots_only = self.buffer.place != Place::System;
        Grain { file: 1, memory: 1, block: COPY_BLOCK, base: 0, slots_only }
    }
}

/// The best path out of a buffer, whatever the file.
fn best(place: Place) -> DataPath {
    match place {
        Place::System => DataPath::Direct,
        Place::Peer => DataPath::Peer,
        Place::Gpu => DataPath::Staged,
        Place::Cpu | Place::Bar => DataPath::Bounce,
    }
}

/// Parts of a buffer to prove a path by, spread over it.
fn samples(whole: &Stretches) -> Vec<Sample> {
    let candidates = || {
        whole.pieces().filter_map(|piece| match piece.from {
            Taken::Buffer(place) => Some(Sample { place, len: piece.len.min(proof::SAMPLE) }),
            Taken::Slot(_) => None,
        })
    };
    let last = candidates().count().saturating_sub(1);
    let mut picked: Vec<_> = (0..SAMPLES).map(|i| last * i / (SAMPLES - 1)).collect();
    picked.dedup();
    let wanted = |(i, sample): (usize, Sample)| picked.contains(&i).then_some(sample);
    candidates().enumerate().filter_map(wanted).collect()
}

impl Decided {
    /// Counts who takes which path, and says why not a better one.
    fn account(&mut self, best: DataPath, step_down: Option<(DataPath, String)>) {
        let (mut straight, mut gathered) = (0, 0);
        for piece in self.whole.pieces() {
            let bytes = self.asked_of(&piece);
            match piece.from {
                Taken::Buffer(_) => straight += bytes,
                Taken::Slot(_) => gathered += bytes,
            }
        }
        let [by_itself, in_slots] = self.whole.paths();
        let copied = self.bytes_of(&self.copied);
        self.share(by_itself, straight);
        self.share(in_slots, gathered);
        self.share(DataPath::Buffered, copied);
        match step_down {
            Some((better, why)) => self.step_down(better, why, straight + gathered),
            None if in_slots > best => self.step_down(best, SHIFTED.into(), gathered),
            None => {}
        }
        self.step_down(best, PART_OF_A_BLOCK.into(), copied);
    }

    /// Has all whole blocks take the bounce path, because of what befell one.
    pub fn fall_back(&mut self, why: String) {
        let bytes = self.bytes_of(&self.whole);
        self.shares.retain(|share| share.path == DataPath::Buffered);
        self.step_downs.retain(|step| step.why == PART_OF_A_BLOCK);
        self.share(DataPath::Bounce, bytes);
        self.shares.sort_unstable_by_key(|share| share.path);
        self.step_down(DataPath::Peer, why, bytes);
        self.whole = self.whole.clone().in_slots(DataPath::Bounce);
    }

    /// How many of a write's bytes were asked for, and are no padding.
    pub fn asked_of(&self, piece: &Piece) -> u64 {
        (piece.offset + piece.len).min(self.len).saturating_sub(piece.offset)
    }

    fn bytes_of(&self, stretches: &Stretches) -> u64 {
        stretches.pieces().map(|piece| self.asked_of(&piece)).sum()
    }

    fn share(&mut self, path: DataPath, bytes: u64) {
        if bytes == 0 {
            return;
        }
        match self.shares.iter_mut().find(|share| share.path == path) {
            Some(share) => share.bytes += bytes,
            None => self.shares.push(Share { path, bytes }),
        }
    }

    fn step_down(&mut self, path: DataPath, why: String, bytes: u64) {
        if bytes > 0 {
            self.step_downs.push(StepDown { path, why, bytes });
        }
    }
}
