//! What a load did.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::check::Checked;
use super::manifest::LeftOut;
use super::peer::Proof;
use super::road::Road;

/// The bytes that took one road.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The road.
    pub road: Road,
    /// How many of the requested bytes took it.
    pub bytes: u64,
}

/// Why bytes did not take a better road.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepDown {
    /// The better road.
    pub road: Road,
    /// The reason, in words.
    pub why: String,
    /// How many bytes it concerns.
    pub bytes: u64,
}

/// The account of a load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Receipt {
    /// The bytes requested and loaded.
    pub bytes: u64,
    /// What the files hold beside what was requested. A load does not know: it is empty until
    /// [`Manifest::complete`](super::Manifest::complete) adds it.
    pub left_out: Vec<LeftOut>,
    /// How many bytes took which road, best first.
    pub roads: Vec<Share>,
    /// Why not a better road.
    pub step_downs: Vec<StepDown>,
    /// How the reads were issued, and the reason if not in the best way.
    pub engine: String,
    /// How many reads the files took.
    pub reads: u64,
    /// Bytes that the CPU moved: on the bounce, cached and buffered roads all (twice where they
    /// reach a device's memory through the page cache), on the others the heads and tails that
    /// alignment leaves and what a caller's placement shifts. What was moved to check or to prove
    /// something is counted there ([`Checked::read_back`], [`Proof::bytes`]).
    pub cpu_copied: u64,
    /// Bytes that the GPU moved from the ring into its memory.
    pub gpu_copied: u64,
    /// The most memory that the load itself held beside the buffer, in bytes.
    pub slots: u64,
    /// From the first read to the last byte in place, fingerprints included.
    #[serde(serialize_with = "seconds", rename = "elapsed_s")]
    pub elapsed: Duration,
    /// The CPU time of the whole process in that time.
    #[serde(serialize_with = "seconds", rename = "cpu_s")]
    pub cpu: Duration,
    /// What was proved about the pairs of drive and memory that the peer road was thought of for.
    pub proofs: Vec<Proof>,
    /// What was proved about the bytes.
    pub checked: Checked,
}

impl Receipt {
    /// Throughput in GiB a second.
    pub fn gib_per_second(&self) -> f64 {
        self.gib() / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// CPU seconds for each GiB loaded; 0 if nothing was.
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
