//! Two root ports of a processor whose host bridge the kernel trusts.

mod peer;

use std::process::ExitCode;

use bufmap::dma::DmaKind;
use bufmap::pci::{Detour, Outcome as Kernel, Reason, Trust};
use bufmap::transfer::DataPath;
use bufmap_bench::{Outcome, check};

fn main() -> ExitCode {
    bufmap_bench::run(
        "zen",
        &[
            ("a_read_into_peer_memory_arrives", peer::arrives),
            ("a_peer_is_mapped_through_the_host_bridge", mapped_through_the_bridge),
            ("real_inputs_go_from_drive_to_device", peer::loads::real_inputs_arrive),
            ("a_loader_fills_peer_memory", || peer::loader::fills(DataPath::Peer, "")),
            ("a_check_reads_the_device_back", peer::loads::checks_read_the_device_back),
            ("peer_memory_is_saved_by_the_drive", peer::saves::arrive),
            ("a_save_in_place_harms_no_neighbour", peer::saves::in_place),
            ("a_file_is_saved_from_drive_to_device_to_drive", peer::saves::by_the_tool),
            ("the_verdict_trusts_the_processor", verdict_trusts_the_processor),
        ],
    )
}

/// The machine `apart` is the same but for the processor, and there the kernel refuses.
fn verdict_trusts_the_processor() -> Outcome {
    let verdict = peer::verdict(Kernel::ThroughHostBridge, 4)?;
    let Reason::HostBridge { detour: Detour::NoCommonBridge, trust: Trust::Processor(cpu) } =
        &verdict.reason
    else {
        return Err(verdict.to_string().into());
    };
    check(cpu.family == Some(0x17), cpu)?;
    peer::arrives()
}

fn mapped_through_the_bridge() -> Outcome {
    peer::is_mapped_as(Some(DmaKind::Direct))
}
