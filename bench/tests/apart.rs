//! Two drives under root ports that the kernel does not trust to forward between them.

mod peer;

use std::process::ExitCode;

use bufmap::pci::{Detour, Distrust, Outcome as Kernel, Reason, RootBus, Trust};
use bufmap::transfer::DataPath;
use bufmap_bench::{Outcome, check, kernel_log};

/// What the kernel's rules say of the pair.
const NO_PATH: [&str; 4] = [
    "not supported, distance 4",
    "no bridge is above both",
    "pci0000:00 (8086:29c0) is not on the kernel's list",
    "to change that, put both devices below one PCIe switch",
];

fn main() -> ExitCode {
    bufmap_bench::run(
        "apart",
        &[
            ("a_read_into_peer_memory_is_refused", peer::is_refused),
            ("a_peer_is_not_mapped_and_the_system_is", peer_is_not_mapped),
            ("the_verdict_names_the_kernels_cause", verdict_is_the_kernels),
            ("real_inputs_bounce_and_the_receipt_says_why", || {
                peer::loads::real_inputs_bounce(&NO_PATH)
            }),
            ("a_save_bounces_and_the_receipt_says_why", || peer::saves::bounce(&NO_PATH)),
            ("a_loader_bounces", || peer::loader::fills(DataPath::Bounce, NO_PATH[0])),
        ],
    )
}

/// The verdict and the kernel, which is asked by a read, agree about the pair and the cause.
fn verdict_is_the_kernels() -> Outcome {
    let verdict = peer::verdict(Kernel::NotSupported, 4)?;
    let Reason::HostBridge { detour: Detour::NoCommonBridge, trust: Trust::None(causes) } =
        &verdict.reason
    else {
        return Err(verdict.to_string().into());
    };
    // The machine is QEMU's q35.
    let host = RootBus { domain: 0, bus: 0 };
    let unlisted = Distrust::NotListed { host, vendor: 0x8086, device: 0x29c0 };
    check(causes == &[unlisted], &verdict)?;

    peer::is_refused()?;
    let said = format!(
        "{}: cannot be used for peer-to-peer DMA as the client and provider ({}) {}",
        verdict.client,
        verdict.provider,
        peer::REFUSAL
    );
    let log = kernel_log()?;
    check(log.contains(&said), format!("not in the kernel's log: {said}"))?;
    check(!log.contains("ACS redirect is set"), "the kernel blames redirection as well")
}

fn peer_is_not_mapped() -> Outcome {
    peer::is_mapped_as(None)
}
