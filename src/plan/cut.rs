//! From runs to reads, one by one.
//!
//! A [`Batch`] is the runs of one file that take one path. Its reads are cut when they are asked for, and
//! counted without being cut: a file of many terabytes costs no more memory than a small one.

use std::borrow::Borrow;
use std::ops::Range;

use super::job::Job;
use super::run::{Landing, Piece, READ_THROUGH, Run, SlotCopy};
use crate::storage::file::Alignment;
use crate::transfer::DataPath;

/// The most bytes that the kernel copies at once: small enough to stay in a core's cache until it
/// is fingerprinted.
pub(crate) const COPY_BLOCK: u64 = 512 << 10;

/// How to cut runs into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The most bytes of one read; a multiple of the alignment.
    pub block: u64,
    /// What reads of the file must be aligned to.
    pub alignment: Alignment,
    /// The length of the file in bytes.
    pub file_len: u64,
    /// Where the buffer begins in memory, as far as alignment goes.
    pub base: u64,
    /// Whether every piece lands in a slot, because no drive can reach the buffer.
    pub slots_only: bool,
    /// Of a buffer that a device's queue fills: parts begin and end at multiples of so many bytes, as runs do. With the
    /// alignment it is no longer than a block.
    pub granule: u64,
}

impl Cut {
    fn align(&self) -> u64 {
        self.alignment.offset.into()
    }

    /// Where the block of a run ends that begins at `start`, if the run goes on: at a multiple of the block in the file, or,
    /// of what is copied out of slots by more than single bytes, as late as a slot allows.
    const fn block_end(&self, run: &Run, start: u64) -> u64 {
        if self.granule == 1 {
            return (start / self.block + 1) * self.block;
        }
        let align = self.alignment.offset as u64;
        let most = start / align * align + self.block;
        most - (run.buffer_offset + (most - run.offset)) % self.granule
    }

    /// The end of the file's last block, past which no read goes: a run that was widened may reach further.
    const fn last_block(&self) -> u64 {
        self.file_len.next_multiple_of(self.alignment.offset as u64)
    }
}

/// The runs of one file that take one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub path: DataPath,
    cut: Cut,
    /// Runs whose every block is read by itself, to its place in the buffer.
    whole: Vec<Run>,
    /// Whether those blocks are read into slots all the same.
    bounced: bool,
    /// Runs that are read into slots, by their place in the file, neighbours together.
    in_slots: Vec<Run>,
}

/// How much work a batch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// The reads.
    pub reads: u64,
    /// The bytes that they must bring.
    pub need: u64,
    /// The reads that land in slots.
    pub in_slots: u64,
    /// The longest of these, in bytes.
    pub longest: u64,
    /// The bytes that are copied out of slots.
    pub out_of_slots: u64,
}

impl Count {
    fn slots(&mut self, piece: &Piece, times: u64) {
        self.reads += times;
        self.in_slots += times;
        self.need += piece.need * times;
        self.longest = self.longest.max(piece.len);
    }
}

impl std::iter::Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |a, b| Self {
            reads: a.reads + b.reads,
            need: a.need + b.need,
            in_slots: a.in_slots + b.in_slots,
            longest: a.longest.max(b.longest),
            out_of_slots: a.out_of_slots + b.out_of_slots,
        })
    }
}

impl Batch {
    /// The runs of one file, for reads that obey `cut`.
    pub(crate) fn new(path: DataPath, runs: &[Run], cut: Cut) -> Self {
        let (mut whole, mut in_slots) = (Vec::new(), Vec::new());
        for run in runs {
            part(run, &cut, &mut whole, &mut in_slots);
        }
        in_slots.sort_unstable_by_key(|run| (run.file, run.offset));
        Self { path, cut, whole, bounced: false, in_slots }
    }

    /// What lands in the buffer, and what lands in slots.
    pub(crate) fn apart(self) -> (Self, Self) {
        let Self { path, cut, whole, bounced, in_slots } = self;
        let of = |whole, in_slots| Self { path, cut, whole, bounced, in_slots };
        (of(whole, Vec::new()), of(Vec::new(), in_slots))
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.in_slots.is_empty()
    }

    /// Its reads, in order.
    pub(crate) fn jobs(&self) -> Jobs<&Self> {
        Jobs::of(self)
    }

    /// Its reads, in order, cut one by one as they are asked for.
    pub(crate) fn into_jobs(self) -> Jobs<Self> {
        Jobs::of(self)
    }

    /// The read of a block that lands in the buffer.
    fn whole_block(&self, block: Run) -> Piece {
        let Run { file, offset, len, buffer_offset } = block;
        let need = len.min(self.cut.file_len.saturating_sub(offset));
        let landing = match self.bounced {
            false => Landing::Buffer(buffer_offset),
            true => Landing::Slot(vec![SlotCopy { slot_offset: 0, buffer_offset, len: need }]),
        };
        Piece { file, offset, len, need, landing }
    }

    /// How much work it is: what counting its reads one by one would find.
    pub(crate) fn count(&self) -> Count {
        let Self { cut, .. } = self;
        if cut.granule != 1 {
            return self.count_one_by_one();
        }
        let mut count = count_slots(&self.in_slots, cut);
        for run in &self.whole {
            let end = run.end().min(cut.last_block());
            if run.offset >= end {
                continue;
            }
            let Spans { first, full, last } = spans(run.offset..end, cut.block);
            let reads = 1 + full.count + u64::from(!last.is_empty());
            let need = filled(run, cut);
            count.reads += reads;
            count.need += need;
            if self.bounced {
                count.in_slots += reads;
                count.out_of_slots += need;
                let lens = [first, full.last(cut.block), last].map(|range| range.end - range.start);
                count.longest = lens.into_iter().fold(count.longest, u64::max);
            }
        }
        count
    }

    fn count_one_by_one(&self) -> Count {
        let mut count = Count::default();
        for Job { piece, .. } in self.jobs() {
            count.reads += 1;
            count.need += piece.need;
            if let Landing::Slot(copies) = &piece.landing {
                count.in_slots += 1;
                count.longest = count.longest.max(piece.len);
                count.out_of_slots += copies.iter().map(|copy| copy.len).sum::<u64>();
            }
        }
        count
    }

    /// The ranges of the buffer that it fills, in bytes.
    pub(crate) fn landed(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let runs = self.whole.iter().chain(&self.in_slots);
        runs.map(|run| run.buffer_offset..run.buffer_offset + filled(run, &self.cut))
    }

    /// Parts what lands in the buffer into the reads that are `done` and the others, which land in slots
    /// from now on, on another path.
    pub(crate) fn bounce_rest(self, done: impl Fn(&Job) -> bool) -> (Self, Self) {
        let (mut kept, mut rest) = (Vec::new(), Vec::new());
        let mut cursor = Cursor::default();
        while let Some(block) = cursor.block(&self.whole, &self.cut, self.cut.last_block()) {
            let job = Job { path: self.path, piece: self.whole_block(block.clone()) };
            append(if done(&job) { &mut kept } else { &mut rest }, block);
        }
        let Self { path, cut, bounced, in_slots, .. } = self;
        let rest =
            Self { path: DataPath::Bounce, cut, whole: rest, bounced: true, in_slots: Vec::new() };
        (Self { path, cut, whole: kept, bounced, in_slots }, rest)
    }

    /// The same runs on another path, by the same reads.
    pub(crate) fn on(self, path: DataPath) -> Self {
        Self { path, ..self }
    }
}

/// Adds a run, joined to the last if it follows it.
pub(crate) fn append(runs: &mut Vec<Run>, next: Run) {
    match runs.last_mut() {
        Some(last)
            if last.file == next.file
                && last.end() == next.offset
                && last.buffer_offset + last.len == next.buffer_offset =>
        {
            last.len += next.len;
        }
        _ => runs.push(next),
    }
}

/// How many bytes of a run the file has.
fn filled(run: &Run, cut: &Cut) -> u64 {
    run.end().min(cut.file_len).saturating_sub(run.offset)
}

/// Parts a run into the blocks that a drive can put in their place, and what is left at its ends.
fn part(run: &Run, cut: &Cut, whole: &mut Vec<Run>, in_slots: &mut Vec<Run>) {
    // Blocks are cut by the file's offsets: each begins where the drive can write only if both agree.
    let align = u64::from(cut.alignment.offset.max(cut.alignment.memory));
    let middle = run.offset.next_multiple_of(align)..run.end() / align * align;
    if middle.is_empty() || cut.slots_only {
        return in_slots.push(run.clone());
    }
    let aligned = run.part(middle.clone());
    let place = cut.base.wrapping_add(aligned.buffer_offset);
    if !place.is_multiple_of(u64::from(cut.alignment.memory)) {
        return in_slots.push(run.clone());
    }
    whole.push(aligned);
    for rest in [run.offset..middle.start, middle.end..run.end()] {
        if !rest.is_empty() {
            in_slots.push(run.part(rest));
        }
    }
}

/// The reads of a batch, those that land in the buffer first.
#[derive(Clone, Debug)]
pub(crate) struct Jobs<B> {
    batch: B,
    whole: Cursor,
    in_slots: Cursor,
    /// The read that the next block for a slot may share.
    open: Option<Piece>,
}

impl<B: Borrow<Batch>> Jobs<B> {
    fn of(batch: B) -> Self {
        Self { batch, whole: Cursor::default(), in_slots: Cursor::default(), open: None }
    }

    fn piece(&mut self) -> Option<Piece> {
        let batch = self.batch.borrow();
        let cut = &batch.cut;
        if let Some(block) = self.whole.block(&batch.whole, cut, cut.last_block()) {
            return Some(batch.whole_block(block));
        }
        while let Some(block) = self.in_slots.block(&batch.in_slots, cut, cut.file_len) {
            if let Some(whole) = share(&mut self.open, &block, cut) {
                return Some(whole);
            }
        }
        self.open.take()
    }
}

impl<B: Borrow<Batch>> Iterator for Jobs<B> {
    type Item = Job;

    fn next(&mut self) -> Option<Job> {
        let piece = self.piece()?;
        Some(Job { path: self.batch.borrow().path, piece })
    }
}

/// How far runs are cut into blocks.
#[derive(Clone, Debug, Default)]
struct Cursor {
    /// The first run that is not begun.
    next: usize,
    /// What is left of the one before.
    left: Range<u64>,
}

impl Cursor {
    /// The next block, nothing of which lies behind `last` in the file.
    fn block(&mut self, runs: &[Run], cut: &Cut, last: u64) -> Option<Run> {
        while self.left.is_empty() {
            let run = runs.get(self.next)?;
            self.next += 1;
            self.left = run.offset..run.end().min(last);
        }
        let run = runs.get(self.next - 1)?;
        let end = cut.block_end(run, self.left.start).min(self.left.end);
        let block = self.left.start..end;
        self.left.start = end;
        Some(run.part(block))
    }
}

/// Has a block share the open read if it fits, or else opens another. Returns the read that is whole
/// then.
fn share(open: &mut Option<Piece>, block: &Run, cut: &Cut) -> Option<Piece> {
    let start = block.offset / cut.align() * cut.align();
    let end = block.end().next_multiple_of(cut.align());
    let fits = open.as_ref().is_some_and(|last| fits(last, block.file, start, end, cut.block));
    let whole = if fits { None } else { open.take() };
    let piece = open.get_or_insert(Piece {
        file: block.file,
        offset: start,
        len: 0,
        need: 0,
        landing: Landing::Slot(Vec::new()),
    });
    piece.len = piece.len.max(end - piece.offset);
    piece.need = piece.need.max(block.end() - piece.offset);
    if let Landing::Slot(copies) = &mut piece.landing {
        copies.push(SlotCopy {
            slot_offset: block.offset - piece.offset,
            buffer_offset: block.buffer_offset,
            len: block.len,
        });
    }
    whole
}

fn fits(last: &Piece, file: usize, start: u64, end: u64, block: u64) -> bool {
    last.file == file
        && start >= last.offset
        && start <= last.offset + last.len + READ_THROUGH
        && end - last.offset <= block
}

/// Counts what [`Slotted`] cuts. Only the first block of a run can share the read of the one before: the
/// others begin at multiples of the block, and each but the last fills a read of its own.
fn count_slots(runs: &[Run], cut: &Cut) -> Count {
    let mut count = Count::default();
    let mut open = None;
    for run in runs {
        let all = run.offset..run.end().min(cut.file_len);
        if all.is_empty() {
            continue;
        }
        count.out_of_slots += all.end - all.start;
        let Spans { first, full, last } = spans(all, cut.block);
        let others = full.count.saturating_sub(1);
        for (range, others) in [(first, 0), (full.last(cut.block), others), (last, 0)] {
            if range.is_empty() {
                continue;
            }
            if let Some(whole) = share(&mut open, &run.part(range), cut) {
                count.slots(&whole, 1);
            }
            if let Some(piece) = &open {
                count.slots(piece, others);
            }
        }
    }
    if let Some(piece) = open {
        count.slots(&piece, 1);
    }
    count
}

/// A range in blocks: its first, which may be a part of one, then whole ones, then what is left.
struct Spans {
    first: Range<u64>,
    full: Full,
    last: Range<u64>,
}

/// Whole blocks in a row.
struct Full {
    count: u64,
    end: u64,
}

impl Full {
    /// The last of them, which is empty if there are none.
    const fn last(&self, block: u64) -> Range<u64> {
        let len = if self.count > 0 { block } else { 0 };
        self.end - len..self.end
    }
}

fn spans(range: Range<u64>, block: u64) -> Spans {
    let first = range.start..((range.start / block + 1) * block).min(range.end);
    let end = (range.end / block * block).max(first.end);
    let count = (end - first.end) / block;
    Spans { full: Full { count, end }, last: end..range.end, first }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::run::tests::{BUFFER, runs};
    use super::super::run::widen;
    use super::*;

    /// Where each piece puts which byte of the file, as (file offset, buffer offset, length).
    fn moves(batch: &Batch) -> Vec<(u64, u64, u64)> {
        let mut moves = Vec::new();
        for Job { piece, .. } in batch.jobs() {
            match &piece.landing {
                Landing::Buffer(at) => moves.push((piece.offset, *at, piece.need)),
                Landing::Slot(copies) => moves.extend(copies.iter().map(|copy| {
                    assert!(copy.slot_offset + copy.len <= piece.need);
                    (piece.offset + copy.slot_offset, copy.buffer_offset, copy.len)
                })),
            }
        }
        moves.sort_unstable();
        moves
    }

    proptest! {
        #[test]
        fn pieces_move_each_byte_once_and_obey_the_drive(
            runs in runs(),
            offset in prop_oneof![Just(512u32), Just(4096)],
            memory in prop_oneof![Just(4u32), Just(512), Just(4096)],
            block in prop_oneof![Just(4096u64), Just(65536), Just(1 << 20)],
            base in 0u64..9000,
            slots_only in any::<bool>(),
        ) {
            let file_len = runs.last().map_or(0, Run::end);
            let cut = Cut { block, alignment: Alignment { offset, memory }, file_len, base, slots_only, granule: 1 };
            let batch = Batch::new(DataPath::Direct, &runs, cut);
            for Job { piece, .. } in batch.jobs() {
                prop_assert!(piece.len <= block && piece.need <= piece.len && piece.need > 0);
                prop_assert_eq!(piece.offset % u64::from(offset), 0);
                prop_assert_eq!(piece.len % u64::from(offset), 0);
                prop_assert!(piece.offset + piece.need <= file_len);
                if let Landing::Buffer(at) = piece.landing {
                    prop_assert_eq!((base + at) % u64::from(memory), 0);
                    prop_assert!(!slots_only);
                }
            }
            // Glued together again, the moves are the runs.
            let mut glued: Vec<Run> = Vec::new();
            for (offset, buffer_offset, len) in moves(&batch) {
                match glued.last_mut() {
                    Some(last) if last.end() == offset && last.buffer_offset + last.len == buffer_offset => last.len += len,
                    _ => glued.push(Run { file: 0, offset, len, buffer_offset }),
                }
            }
            let mut joined: Vec<Run> = Vec::new();
            for run in &runs {
                match joined.last_mut() {
                    Some(last) if last.end() == run.offset && last.buffer_offset + last.len == run.buffer_offset => last.len += run.len,
                    _ => joined.push(run.clone()),
                }
            }
            prop_assert_eq!(glued, joined);
        }

        #[test]
        fn widened_runs_ask_for_nothing_past_the_end_of_the_file(
            runs in runs(),
            slots_only in any::<bool>(),
        ) {
            let file_len = runs.last().map_or(0, Run::end);
            let wide = widen(&runs, 512, BUFFER);
            let alignment = Alignment { offset: 512, memory: 512 };
            let cut = Cut { block: 65536, alignment, file_len, base: 0, slots_only, granule: 1 };
            for Job { piece, .. } in Batch::new(DataPath::Direct, &wide, cut).jobs() {
                prop_assert!(piece.offset + piece.need <= file_len, "{:?}", piece);
            }
        }

        #[test]
        fn runs_that_agree_are_moved_in_the_middle_without_a_slot(runs in runs()) {
            let file_len = runs.last().map_or(0, Run::end);
            let alignment = Alignment { offset: 512, memory: 512 };
            let cut = Cut { block: 1 << 20, alignment, file_len, base: 0, slots_only: false, granule: 1 };
            let batch = Batch::new(DataPath::Direct, &runs, cut);
            let in_slots: u64 = batch.jobs().map(|job| match &job.piece.landing {
                Landing::Buffer(_) => 0,
                Landing::Slot(copies) => copies.iter().map(|copy| copy.len).sum(),
            }).sum();
            let most: u64 = runs.iter().map(|run| match run.offset % 512 == run.buffer_offset % 512 {
                true => run.len.min(1022),
                false => run.len,
            }).sum();
            prop_assert!(in_slots <= most, "{} of {}", in_slots, most);
        }


        #[test]
        fn counting_by_arithmetic_is_counting_one_by_one(
            runs in longer_runs(),
            cut in cuts(),
            cut_off in 0u64..9000,
            wide in any::<bool>(),
            bounced in any::<bool>(),
        ) {
            let file_len = runs.iter().map(Run::end).max().unwrap_or(0);
            let runs = if wide { widen(&runs, cut.align(), u64::MAX >> 1) } else { runs };
            let file_len = if wide { file_len } else { file_len - cut_off.min(file_len) };
            let mut batch = Batch::new(DataPath::Direct, &runs, Cut { file_len, ..cut });
            if bounced {
                batch = batch.bounce_rest(|_| false).1;
            }
            prop_assert_eq!(batch.count(), batch.count_one_by_one());
            let landed: u64 = batch.landed().map(|range| range.end - range.start).sum();
            let moved: u64 = moves(&batch).iter().map(|(_, _, len)| len).sum();
            prop_assert_eq!(landed, moved);
        }

        #[test]
        fn what_falls_back_is_what_was_not_done_and_by_the_same_reads(
            runs in runs(),
            cut in cuts(),
            done in any::<u64>(),
        ) {
            let file_len = runs.last().map_or(0, Run::end);
            let (batch, _) = Batch::new(DataPath::Peer, &runs, Cut { file_len, ..cut }).apart();
            let is_done = |job: &Job| done >> (job.piece.offset / 4096 % 64) & 1 == 1;
            let (done, rest): (Vec<_>, Vec<_>) = batch.jobs().partition(|job| is_done(job));
            let (kept, bounced) = batch.bounce_rest(is_done);
            let plain = |jobs: Vec<Job>| jobs.into_iter().map(|Job { piece, .. }| (piece.offset, piece.len, piece.need)).collect::<Vec<_>>();
            prop_assert_eq!(plain(kept.jobs().collect()), plain(done));
            prop_assert!(bounced.jobs().all(|job| job.path == DataPath::Bounce && matches!(job.piece.landing, Landing::Slot(_))));
            prop_assert_eq!(plain(bounced.jobs().collect()), plain(rest));
        }
    }

    proptest! {
        #[test]
        fn what_a_queue_copies_is_cut_at_its_granules(
            runs in longer_runs(),
            granule in prop_oneof![Just(2u64), Just(3), Just(4), Just(16), Just(1200), Just(3584)],
            offset in prop_oneof![Just(1u32), Just(512)],
            block in prop_oneof![Just(4096u64), Just(65536)],
            ragged in any::<bool>(),
        ) {
            let mut runs: Vec<_> = runs.into_iter().map(|run| Run {
                len: run.len.next_multiple_of(granule),
                ..run
            }).collect();
            let mut place = 0;
            for run in &mut runs {
                run.buffer_offset = place;
                place = run.buffer_offset + run.len + granule;
            }
            // The last may end with the buffer.
            let last = runs.last_mut().expect("one at least");
            last.len -= u64::from(ragged && last.len > 1);
            let end = last.buffer_offset + last.len;
            let file_len = runs.iter().map(Run::end).max().unwrap_or(0);
            let alignment = Alignment { offset, memory: 1 };
            let cut = Cut { block, alignment, file_len, base: 0, slots_only: true, granule };
            let batch = Batch::new(DataPath::Staged, &runs, cut);
            let mut filled: Vec<Run> = Vec::new();
            let mut moves = moves(&batch);
            moves.sort_unstable_by_key(|&(_, buffer_offset, _)| buffer_offset);
            for (offset, buffer_offset, len) in moves {
                for at in [buffer_offset, buffer_offset + len] {
                    prop_assert!(at % granule == 0 || at == end, "{} of {}", at, granule);
                }
                append(&mut filled, Run { file: 0, offset, len, buffer_offset });
            }
            prop_assert_eq!(filled, runs);
            for Job { piece, .. } in batch.jobs() {
                prop_assert!(piece.len <= block && piece.offset % u64::from(offset) == 0);
            }
            prop_assert_eq!(batch.count(), batch.count_one_by_one());
        }
    }

    fn cuts() -> impl Strategy<Value = Cut> {
        let offset = prop_oneof![Just(1u32), Just(512), Just(4096)];
        let memory = prop_oneof![Just(1u32), Just(4), Just(512)];
        let block = prop_oneof![Just(4096u64), Just(16384), Just(65536)];
        (offset, memory, block, 0..9000u64, any::<bool>()).prop_map(
            |(offset, memory, block, base, slots_only)| Cut {
                base,
                block,
                alignment: Alignment { offset, memory },
                file_len: 0,
                slots_only,
                granule: 1,
            },
        )
    }

    /// Runs in any order, which may lie on each other in the file and touch blocks' ends.
    fn longer_runs() -> impl Strategy<Value = Vec<Run>> {
        let edge =
            (0u64..40, -2i64..3).prop_map(|(block, by)| (block * 4096).saturating_add_signed(by));
        prop::collection::vec((edge.clone(), edge, 0u64..3), 1..12).prop_map(|parts| {
            let mut place = 0;
            let runs = parts.into_iter().map(|(from, len, shift)| {
                let buffer_offset = (place + 8191) / 4096 * 4096 + from % 4096 + shift * 100;
                let run = Run { file: 0, offset: from, len: len.max(1), buffer_offset };
                place = buffer_offset + run.len;
                run
            });
            runs.collect()
        })
    }
}
