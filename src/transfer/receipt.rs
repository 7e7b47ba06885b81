//! What a load or a save did.

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::data_path::DataPath;
use super::direction::Direction;
use super::options::Verify;

/// The bytes that took one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Share {
    /// The path.
    pub path: DataPath,
    /// How many of the requested bytes took it.
    pub bytes: u64,
}

/// Why bytes did not take a better path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StepDown {
    /// The better path.
    pub path: DataPath,
    /// The reason, in words.
    pub why: String,
    /// How many bytes it concerns.
    pub bytes: u64,
}

/// What is known of a pair of devices by bytes that were moved and looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Proof {
    /// The PCI address of the function whose memory it is.
    pub provider: String,
    /// The PCI address of the drive.
    pub drive: String,
    /// Which way the bytes went.
    pub direction: Direction,
    /// Whether they arrive.
    pub arrives: bool,
    /// How many bytes were moved and compared for this transfer; 0 if it was found out by an earlier one
    /// since the machine booted.
    pub bytes: u64,
}

/// A part of a file that is not loaded although nobody chose other parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LeftOut {
    /// The file, by its index.
    pub file: usize,
    /// The name that its format gives the part.
    pub name: String,
    /// How many bytes it has in the file.
    pub len: u64,
    /// Why it is left out.
    pub why: String,
}

/// How bytes were checked, and by whom, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Check {
    /// Each of them was compared with a second read of the file: by the CPU, which a GPU hands its own memory to for it.
    Compared,
    /// The GPU took a fingerprint of them in its own memory, and it is the one that the CPU took in the slots, out of which the
    /// GPU had copied them.
    FingerprintByGpu,
    /// The CPU took a fingerprint of them in the buffer.
    FingerprintInBuffer,
    /// The CPU took a fingerprint of them in a slot, out of which it or a GPU then copied them. What lies in the buffer was
    /// not looked at.
    FingerprintInSlot,
    /// The CPU compared a sample of them with a second read of the file: of which bytes, nobody could foretell. The others
    /// were not looked at.
    Sample,
}

/// The bytes that were checked in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckShare {
    /// How.
    pub check: Check,
    /// How many of the loaded bytes. For a [`Sample`](Check::Sample) those that it was taken of.
    pub bytes: u64,
}

/// Why bytes were not checked in a better way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckStepDown {
    /// The better way.
    pub check: Check,
    /// The reason, in words.
    pub why: String,
    /// How many bytes it concerns.
    pub bytes: u64,
}

/// What was found out about the bytes of a load or a save.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Checked {
    /// How thoroughly.
    pub verify: Verify,
    /// How many bytes were checked how, the strongest check first.
    pub checks: Vec<CheckShare>,
    /// Why not in a better way.
    pub step_downs: Vec<CheckStepDown>,
    /// The CRC-32 of each request's bytes, in the order of the requests; empty if not checked. Absent for a
    /// request of which not all bytes were looked at.
    pub fingerprints: Vec<Option<u32>>,
    /// How many requests met the checksum of their file's format.
    pub format_checksums: usize,
    /// How many requests have such a checksum that was not compared, because not all of their bytes were looked at.
    pub format_checksums_left: usize,
    /// How many bytes were compared with a second, independent read, all or those of a sample: after a load, of the file;
    /// after a save, of what was written, past the page cache where that is possible.
    pub compared: u64,
    /// How many bytes the CPU read out of a device's memory for it, which is slow: none without a
    /// check.
    pub read_back: u64,
}

impl Checked {
    /// How many bytes were checked in this way.
    pub fn bytes_by(&self, check: Check) -> u64 {
        self.checks.iter().filter(|share| share.check == check).map(|share| share.bytes).sum()
    }
}

/// The account of a load, or of a save.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Receipt {
    /// The bytes requested, and loaded or saved.
    pub bytes: u64,
    /// What the files hold beside what was requested. A load does not know: it is empty until
    /// [`Manifest::complete`](crate::format::Manifest::complete) adds it.
    pub left_out: Vec<LeftOut>,
    /// How many bytes took which path, best first.
    pub paths: Vec<Share>,
    /// Why not a better path.
    pub step_downs: Vec<StepDown>,
    /// How the reads or writes were issued, and the reason if not in the best way.
    pub engine: String,
    /// How many reads the files took; of a save, how many writes.
    pub reads: u64,
    /// Bytes that the CPU moved: on the bounce, cached and buffered paths all (twice where they
    /// reach a device's memory through the page cache), on the others the heads and tails that
    /// alignment leaves and what a caller's placement shifts. What was moved to check or to prove
    /// something is counted there ([`Checked::read_back`], [`Proof::bytes`]).
    pub cpu_copied: u64,
    /// Bytes that the GPU moved from the ring into its memory, or out of it.
    pub gpu_copied: u64,
    /// The most memory that it held itself beside the buffer, in bytes.
    pub slots: u64,
    /// From the first read to the last byte in place, with the fingerprints that are taken meanwhile; of a save, from the first
    /// write until all is in the drive.
    #[serde(serialize_with = "seconds", rename = "elapsed_s")]
    pub elapsed: Duration,
    /// The CPU time of the whole process in that time.
    #[serde(serialize_with = "seconds", rename = "cpu_s")]
    pub cpu: Duration,
    /// What was proved about the pairs of drive and memory that the peer path was thought of for.
    pub proofs: Vec<Proof>,
    /// What was proved about the bytes.
    pub checked: Checked,
}

impl Receipt {
    /// Throughput in GiB a second.
    pub fn gib_per_second(&self) -> f64 {
        self.gib() / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// CPU seconds for each GiB moved; 0 if nothing was.
    pub fn cpu_seconds_per_gib(&self) -> f64 {
        match self.bytes {
            0 => 0.0,
            _ => self.cpu.as_secs_f64() / self.gib(),
        }
    }

    fn gib(&self) -> f64 {
        self.bytes as f64 / (1u64 << 30) as f64
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}
