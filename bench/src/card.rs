//! The device with memory in a BAR, which stands for a GPU.

use bufmap::pci::{Address, Function, Tree};
use libtest_mimic::Failed;

/// Whether a function is QEMU's ivshmem device, whose BAR 2 is memory.
pub fn is_card(function: &Function) -> bool {
    (function.vendor, function.device) == (0x1af4, 0x1110)
}

/// The first such device of the machine.
///
/// # Errors
/// Fails the test if there is none.
pub fn card() -> Result<Address, Failed> {
    let tree = Tree::read()?;
    let found = tree.functions().find(|function| is_card(function));
    Ok(found.ok_or("there is no ivshmem device")?.address)
}
