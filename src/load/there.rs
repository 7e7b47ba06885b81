//! Is the memory that is loaded into still there?
//!
//! A drive does not learn of it: what it writes to where nobody is, it believes to have written. Nor
//! does the CPU always: of a device that was pulled out, or whose memory was switched off, it reads ones.
//! So the device is asked by the road that is left, its configuration space.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use exporters::vfio;
use exporters::vulkan::Buffer;

use super::{Destination, LoadError};

/// The register with the switch for memory, and that with the class (PCI Local Bus Specification 3.0,
/// 6.1).
const COMMAND: u64 = 4;
const MEMORY_SPACE: u16 = 1 << 1;
const CLASS_AND_REVISION: u64 = 8;

impl Destination<'_> {
    /// Fails if the device whose memory it is has gone away, or answers no access to memory.
    pub(super) fn check_there(&self) -> Result<(), LoadError> {
        let there = match self {
            Self::Peer(memory) => memory.is_there() && answers_at(memory.function()),
            Self::Bar(region) => answers(region.device()),
            // Of a GPU that went away, Vulkan tells whoever uses the buffer.
            Self::Memory(_) | Self::Imported { .. } | Self::Device(_) | Self::Visible(_) => true,
        };
        if there { Ok(()) } else { Err(self.lost()) }
    }

    /// That it has gone away, if it has, and else the error that was met.
    pub(super) fn lost_or(&self, error: LoadError) -> LoadError {
        self.check_there().err().unwrap_or(error)
    }

    /// The end of a load whose buffer has gone away.
    pub(super) fn lost(&self) -> LoadError {
        let device = match self {
            Self::Peer(memory) => memory.function().into(),
            Self::Bar(region) => region.device().address().into(),
            Self::Visible(buffer) => name(buffer.buffer()),
            Self::Imported { buffer, .. } | Self::Device(buffer) => name(buffer),
            Self::Memory(_) => "the system".into(),
        };
        LoadError::BufferLost { device }
    }
}

fn name(buffer: &Buffer) -> String {
    let info = buffer.device().info();
    info.pci_address.clone().unwrap_or_else(|| info.name.clone())
}

/// Whether a device is there and answers accesses to its memory.
fn answers(device: &vfio::Device) -> bool {
    decodes(|register, bytes| device.read_config(register, bytes)) == Some(true)
}

/// The same of the function at an address, by what everybody may read.
pub(super) fn answers_at(function: &str) -> bool {
    let directory = Path::new("/sys/bus/pci/devices").join(function);
    let Ok(config) = File::open(directory.join("config")) else { return false };
    match decodes(|register, bytes| config.read_exact_at(bytes, register)) {
        // A virtual function has no switch of its own; VFIO shows one that is on.
        Some(is_on) => is_on || directory.join("physfn").exists(),
        None => false,
    }
}

/// Whether a function's memory is switched on, by its registers; none if there is no function. What is
/// read of nothing is ones, which is no class.
fn decodes<E>(read: impl Fn(u64, &mut [u8]) -> Result<(), E>) -> Option<bool> {
    let (mut command, mut class) = ([0; 2], [0xff; 4]);
    read(COMMAND, &mut command).ok()?;
    read(CLASS_AND_REVISION, &mut class).ok()?;
    (class != [0xff; 4]).then(|| u16::from_le_bytes(command) & MEMORY_SPACE != 0)
}
