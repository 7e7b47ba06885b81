//! Two functions of one device below a root port that redirects what goes between them.

mod peer;

use std::process::ExitCode;

use bufmap::pci::{AcsBits, Detour, Outcome as Kernel, Reason, Redirect, Tree};
use bufmap_bench::{Outcome, check, kernel_log};

fn main() -> ExitCode {
    bufmap_bench::run(
        "redirect",
        &[
            ("a_read_into_peer_memory_is_refused", peer::is_refused),
            ("the_verdict_names_the_port_that_redirects", verdict_names_the_port),
        ],
    )
}

/// The kernel has switched redirection on for the IOMMU's sake, and names the same port and the same
/// remedy when it is asked by a read.
fn verdict_names_the_port() -> Outcome {
    let verdict = peer::verdict(Kernel::NotSupported, 2)?;
    let Reason::HostBridge { detour: Detour::Redirected(redirects), .. } = &verdict.reason else {
        return Err(verdict.to_string().into());
    };
    let tree = Tree::read()?;
    let port = tree.function(verdict.provider)?.upstream.ok_or("nothing above the drive")?;
    let by = AcsBits::REQUEST_REDIRECT | AcsBits::COMPLETION_REDIRECT;
    check(redirects == &[Redirect { function: port, by }], &verdict)?;

    peer::is_refused()?;
    let log = kernel_log()?;
    let (client, provider) = (verdict.client, verdict.provider);
    for said in [
        format!("{client}: ACS redirect is set between the client and provider ({provider})"),
        format!("pci=disable_acs_redir={port}"),
        "Host bridge not in P2PDMA whitelist: 8086:29c0".into(),
    ] {
        check(log.contains(&said), format!("not in the kernel's log: {said}"))?;
    }
    let remedy = verdict.remedy().unwrap_or_default();
    check(remedy.contains(&format!("pci=disable_acs_redir={port},")), remedy)?;
    let words = verdict.to_string();
    check(words.contains("pci0000:00 (8086:29c0) is not on the kernel's list"), words)
}
