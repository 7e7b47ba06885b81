//! The same with an IOMMU: the peer memory gets an IOVA.

mod peer;

use std::process::ExitCode;

fn main() -> ExitCode {
    bufmap_bench::run("zen-iommu", &[("a_read_into_peer_memory_arrives", peer::arrives)])
}
