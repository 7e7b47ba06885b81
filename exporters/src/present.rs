//! Whether the memory of a PCI function is still present.
//!
//! A drive does not learn that it is not: what it writes to where nobody is, it believes to have written. Nor
//! does the CPU always: of a device that was pulled out, or whose memory was switched off, it reads ones.
//! So the function is asked by the way that is left, its configuration space.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The register with the switch for memory, and that with the class (PCI Local Bus Specification 3.0,
/// 6.1).
const COMMAND: u64 = 4;
const MEMORY_SPACE: u16 = 1 << 1;
const CLASS_AND_REVISION: u64 = 8;

/// Whether a function answers accesses to its memory, by reads of its configuration space.
pub(crate) fn answers<E>(read: impl Fn(u64, &mut [u8]) -> Result<(), E>) -> bool {
    decodes(read) == Some(true)
}

/// The same of the function with a directory in sysfs, by what everybody may read of it.
pub(crate) fn answers_in(directory: &Path) -> bool {
    match decodes_in(directory) {
        // A virtual function has no switch of its own; VFIO shows one that is on.
        Some(is_on) => is_on || directory.join("physfn").exists(),
        None => false,
    }
}

/// Whether the function with a directory in sysfs exists, whether its memory is switched on or not.
pub(crate) fn exists_in(directory: &Path) -> bool {
    decodes_in(directory).is_some()
}

fn decodes_in(directory: &Path) -> Option<bool> {
    let config = File::open(directory.join("config")).ok()?;
    decodes(|register, bytes| config.read_exact_at(bytes, register))
}

/// Whether a function's memory is switched on, by its registers; none if there is no function. What is
/// read of nothing is ones, which is no class.
fn decodes<E>(read: impl Fn(u64, &mut [u8]) -> Result<(), E>) -> Option<bool> {
    let (mut command, mut class) = ([0; 2], [0xff; 4]);
    read(COMMAND, &mut command).ok()?;
    read(CLASS_AND_REVISION, &mut class).ok()?;
    (class != [0xff; 4]).then(|| u16::from_le_bytes(command) & MEMORY_SPACE != 0)
}
