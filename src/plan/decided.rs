//! What was decided: which reads take which path, and why not a better one.

use super::cut::{Batch, Count};
use super::job::Job;
use super::requested::Requested;
use crate::transfer::{DataPath, Proof, Share, StepDown};

/// The reads of a transfer, not cut yet, and the reasons for them.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// Reads from a drive into a peer's memory, for which another path may stand in.
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
    pub(super) fn take(&mut self, split: Split, requested: &Requested<'_>) {
        let Split { batch, step_downs } = split;
        let bytes = requested.bytes_of_batch(&batch);
        self.account(batch.path, bytes);
        for (better, why) in step_downs {
            self.step_down(better, why, bytes);
        }
        match batch.path {
            DataPath::Peer => self.peer.push(batch),
            DataPath::Cached | DataPath::Buffered => self.copied.push(batch),
            DataPath::Direct | DataPath::Staged | DataPath::Bounce => self.direct.push(batch),
        }
    }

    fn account(&mut self, path: DataPath, bytes: u64) {
        match self.shares.iter_mut().find(|share| share.path == path) {
            Some(share) => share.bytes += bytes,
            None => self.shares.push(Share { path, bytes }),
        }
        self.shares.sort_unstable_by_key(|share| share.path);
    }

    fn step_down(&mut self, path: DataPath, why: String, bytes: u64) {
        match self.step_downs.iter_mut().find(|seen| seen.path == path && seen.why == why) {
            Some(seen) => seen.bytes += bytes,
            None => self.step_downs.push(StepDown { path, why, bytes }),
        }
    }

    /// Has the peer jobs that are not `done` take the bounce path, because of what befell one.
    pub(crate) fn fall_back(
        &mut self,
        why: String,
        requested: &Requested<'_>,
        done: impl Fn(&Job) -> bool,
    ) {
        let mut bytes = 0;
        for batch in std::mem::take(&mut self.peer) {
            let (kept, rest) = batch.bounce_rest(&done);
            bytes += requested.bytes_of_batch(&rest);
            self.peer.push(kept);
            self.direct.push(rest);
        }
        for share in self.shares.iter_mut().filter(|share| share.path == DataPath::Peer) {
            share.bytes -= bytes;
        }
        self.shares.retain(|share| share.bytes > 0);
        self.account(DataPath::Bounce, bytes);
        self.step_down(DataPath::Peer, why, bytes);
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

/// The reads of one file that take one path, and why not better ones.
pub(super) struct Split {
    pub batch: Batch,
    pub step_downs: Vec<(DataPath, String)>,
}

impl From<Batch> for Split {
    fn from(batch: Batch) -> Self {
        Self { batch, step_downs: Vec::new() }
    }
}

/// With the reason why none of it takes a better path.
pub(super) fn stepped_down(mut splits: Vec<Split>, better: DataPath, why: &str) -> Vec<Split> {
    for split in &mut splits {
        split.step_downs.insert(0, (better, why.to_owned()));
    }
    splits
}
