//! The same with an IOMMU: the peer memory gets an IOVA.

mod peer;

use std::process::ExitCode;

use bufmap::pci::{Outcome as Kernel, Tree};
use bufmap::transfer::DataPath;
use bufmap_bench::{Outcome, check};

fn main() -> ExitCode {
    bufmap_bench::run(
        "zen-iommu",
        &[
            ("a_read_into_peer_memory_arrives", peer::arrives),
            ("real_inputs_go_from_drive_to_device", peer::loads::real_inputs_arrive),
            ("a_loader_fills_peer_memory", || peer::loader::fills(DataPath::Peer, "")),
            ("a_check_reads_the_device_back", peer::loads::checks_read_the_device_back),
            ("peer_memory_is_saved_by_the_drive", peer::saves::arrive),
            ("a_save_in_place_harms_no_neighbour", peer::saves::in_place),
            ("a_file_is_saved_from_drive_to_device_to_drive", peer::saves::by_the_tool),
            ("the_verdict_is_the_same_with_an_iommu", verdict_knows_the_iommu),
        ],
    )
}

/// The IOMMU changes the addresses and not the verdict; the tree shows that it translates.
fn verdict_knows_the_iommu() -> Outcome {
    let verdict = peer::verdict(Kernel::ThroughHostBridge, 4)?;
    let tree = Tree::read()?;
    let groups = [verdict.provider, verdict.client]
        .map(|address| tree.function(address).map(|function| &function.iommu_group));
    for group in groups {
        let group = group?.as_ref().ok_or("a drive without a group")?;
        let translated = group.kind.as_deref().is_some_and(|kind| kind.starts_with("DMA"));
        check(translated && !group.is_identity(), format!("{group:?}"))?;
    }
    peer::arrives()
}
