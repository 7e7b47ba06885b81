//! What a buffer allows: by which paths it can be reached, and which reads suit it.

use std::collections::BTreeMap;

use super::asked::{Asked, Buffer};
use super::cut::{Batch, COPY_BLOCK, Cut};
use super::decided::Split;
use super::place::Place;
use super::run::{self, Run};
use crate::transfer::{Around, DataPath, Source};

/// What is asked of each file, joined where it can be.
pub(super) fn by_file<S: Source>(asked: &Asked<'_, S>) -> BTreeMap<usize, Vec<Run>> {
    let mut by_file: BTreeMap<usize, Vec<Run>> = BTreeMap::new();
    for run in run::join(asked.requests) {
        by_file.entry(run.file).or_default().push(run);
    }
    by_file
}

/// The path past the page cache that a buffer allows whatever the drive.
pub(super) fn past_the_cache(buffer: &Buffer) -> DataPath {
    match buffer.place {
        Place::System => DataPath::Direct,
        Place::Gpu if buffer.no_dma.is_none() => DataPath::Staged,
        Place::Gpu => DataPath::Bounce,
        Place::Peer | Place::Bar | Place::Cpu => DataPath::Bounce,
    }
}

/// Why a buffer cannot be reached by a path at all.
pub(super) fn misfit(path: DataPath, buffer: &Buffer) -> Result<(), String> {
    if let (DataPath::Staged, Some(why)) = (path, &buffer.no_dma) {
        return Err(format!("{why}: take `{}`", DataPath::Bounce));
    }
    let (best, words) = match buffer.place {
        Place::System => (DataPath::Direct, "in system memory, which the drive reaches itself"),
        Place::Gpu => (DataPath::Staged, "in a GPU's memory, which the drive cannot reach"),
        Place::Peer | Place::Bar => (DataPath::Peer, "in another device's memory"),
        Place::Cpu => {
            (DataPath::Bounce, "in memory that the CPU reaches and no drive may be given")
        }
    };
    let fits = path.cpu_copies() || path == best || path == past_the_cache(buffer);
    if fits { Ok(()) } else { Err(format!("the buffer is {words}: take `{best}`")) }
}

/// The reads of runs of one file by one path.
pub(super) fn batch<S: Source>(
    asked: &Asked<'_, S>,
    file: &S,
    path: DataPath,
    runs: &[Run],
) -> Batch {
    let slots_only = match asked.buffer.place {
        Place::System => false,
        Place::Gpu => true,
        Place::Peer | Place::Bar | Place::Cpu => path != DataPath::Peer,
    };
    let alignment = file.alignment(path);
    // What the kernel copies is cut at multiples of the block too, where the page cache's folios begin.
    let block = match path.cpu_copies() && !slots_only {
        true => COPY_BLOCK,
        false => asked.options.block.max(alignment.offset.into()),
    };
    let Buffer { base, granule, .. } = asked.buffer;
    Batch::new(
        path,
        runs,
        Cut { block, alignment, file_len: file.len(), base, slots_only, granule },
    )
}

/// Runs as wide as the buffer's bytes around them allow, where a drive will write them itself.
pub(super) fn roomy<S: Source>(
    asked: &Asked<'_, S>,
    file: &S,
    path: DataPath,
    runs: Vec<Run>,
) -> Vec<Run> {
    match (asked.around, path) {
        (Around::Untouched, _) | (_, DataPath::Staged | DataPath::Bounce) => runs,
        _ => run::widen(&runs, file.alignment(path).offset.into(), asked.buffer.len),
    }
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
        let wide = roomy(asked, file, DataPath::Peer, runs.to_vec());
        let (whole, in_parts) = batch(asked, file, DataPath::Peer, &wide).apart();
        Self { whole, in_parts }
    }

    /// Whether the path can be taken, for all bytes if it is required; or why not.
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
        let why = (DataPath::Peer, IN_PART_OF_A_BLOCK.to_owned());
        let in_parts = self.in_parts.on(DataPath::Bounce);
        let mut splits =
            vec![Split::from(self.whole), Split { batch: in_parts, step_downs: vec![why] }];
        splits.retain(|split| !split.batch.is_empty());
        splits
    }
}
