//! A switch that forwards nothing: the kernel reports success and the data never arrives.

mod peer;

use std::process::ExitCode;

use bufmap::pci::{Outcome as Kernel, Tree};
use bufmap_bench::{Outcome, check, kernel_log};
use iomap::PhysAddr;

fn main() -> ExitCode {
    bufmap_bench::run(
        "liar",
        &[
            ("a_read_into_peer_memory_is_a_lie", peer::is_a_lie),
            ("the_verdict_is_the_kernels_and_no_proof", verdict_is_the_kernels),
            ("a_load_finds_the_lie_and_bounces", a_load_finds_the_lie),
            ("a_save_finds_the_lie_and_bounces", a_save_finds_the_lie),
        ],
    )
}

/// The first load finds out by a few blocks that nothing arrives; those after it know.
fn a_load_finds_the_lie() -> Outcome {
    peer::loads::forget()?;
    peer::loads::real_inputs_bounce(&[
        "reported that it wrote 65536 bytes into the memory of",
        "and not one of them arrived",
    ])?;
    peer::loads::real_inputs_bounce(&[
        "not one of them arrived (found out since the machine booted",
    ])
}

/// The same the other way, by bytes that nobody can foretell.
fn a_save_finds_the_lie() -> Outcome {
    peer::loads::forget()?;
    peer::saves::bounce(&[
        "reported that it read 65536 bytes out of the memory of",
        "and the file got none of them",
    ])?;
    peer::saves::bounce(&["the file got none of them (found out since the machine booted"])
}

/// The forecast is a bus address, and that is what the kernel gives the reader: the address at which
/// the IOMMU faults is the one at which the memory lies in a BAR of the provider. Yet nothing
/// arrives.
fn verdict_is_the_kernels() -> Outcome {
    let verdict = peer::verdict(Kernel::BusAddress, 4)?;
    peer::is_a_lie()?;
    let log = kernel_log()?;
    let fault = log
        .lines()
        .find(|line| line.contains("DMA Write NO_PASID"))
        .and_then(|line| line.split_once("fault addr 0x"))
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .ok_or("no fault in the kernel's log")?;
    let address = PhysAddr::new(u64::from_str_radix(fault, 16)?);
    let bar = Tree::read()?.bar_at(address);
    check(
        bar.is_some_and(|bar| bar.function == verdict.provider),
        format!("the fault at {address} is not in the provider's memory but in {bar:?}"),
    )
}
