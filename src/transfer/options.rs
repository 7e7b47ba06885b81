//! How a caller wants a transfer done.

use std::time::Duration;

use super::data_path::DataPath;
use super::error::TransferError;

/// How to load, or to save.
#[derive(Clone, Debug)]
pub struct Options {
    /// The one path to take, or an error if it cannot be had; the best one for each byte if absent.
    pub require: Option<DataPath>,
    /// How thoroughly to check.
    pub verify: Verify,
    /// The most reads or writes in flight, 1 to 4096.
    pub depth: u32,
    /// The most bytes of one of them, a power of two from 4 KiB to 1 GiB.
    pub block: u64,
    /// How long a read of a drive that this process drives itself may take, before it is ended and
    /// the load with it. The kernel has a limit of its own for its drives.
    pub limit: Duration,
}

/// The best path for each byte, 32 reads of 1 MiB in flight, and 30 seconds as in the kernel.
impl Default for Options {
    fn default() -> Self {
        let limit = Duration::from_secs(30);
        Self { require: None, verify: Verify::default(), depth: 32, block: 1 << 20, limit }
    }
}

impl Options {
    /// Whether they are in their ranges.
    pub(crate) fn validate(&self) -> Result<(), TransferError> {
        let &Options { depth, block, .. } = self;
        if !(1..=4096).contains(&depth) {
            return Err(TransferError::Options("the depth is 1 to 4096 reads or writes in flight"));
        }
        if !block.is_power_of_two() || !(4 << 10..=1 << 30).contains(&block) {
            return Err(TransferError::Options("the block is a power of two from 4 KiB to 1 GiB"));
        }
        Ok(())
    }
}

/// How thoroughly a load or a save is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// What suits the path. What came of it is in the receipt ([`Checked`](super::Checked)).
    ///
    /// * In memory of the system's: as [`Hash`](Self::Hash), while the bytes are in the CPU's cache.
    /// * In a GPU's own memory: as [`Hash`](Self::Hash), in the slots out of which the GPU copies; and a fingerprint that the GPU
    ///   takes of what then lies in its memory, which must be the same. Where no queue of it runs shaders, only the first.
    /// * What the CPU copies out of a slot: as [`Hash`](Self::Hash), in the slot.
    /// * What a drive wrote into a peer's memory, which the CPU reads slowly: a sample that nobody can foretell, compared
    ///   with a second read of the file past the page cache. It is one block of 4 KiB out of each 64, and all of the first
    ///   and the last block of each file's part. All of it is compared when this process uses the pair of drive and
    ///   memory for the first time.
    ///
    /// Checksums that the file's format records are compared where all bytes that they are of were looked at. A save is checked
    /// as with [`Hash`](Self::Hash).
    #[default]
    Auto,
    /// Not at all.
    None,
    /// Fingerprints of all bytes by the CPU, compared with the checksums that the file's format records, if it does; of a save,
    /// with those of the requests. Those in a peer's memory are read back for it.
    Hash,
    /// Fingerprints, and every byte of the buffer is compared with a second read of the file,
    /// through the page cache where the kernel has it. Device memory is read back by the GPU. After a save, all that
    /// was written is read from the drive, past the page cache, and its fingerprints compared.
    Full,
}
