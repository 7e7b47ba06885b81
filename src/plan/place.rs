//! Where a buffer lies, as far as paths go.

use exporters::{Absent, Destination, PeerAccess};

use crate::transfer::TransferError;

/// Where a buffer lies, as far as paths go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// In system memory, which every drive reaches; a GPU may have imported it.
    System,
    /// In memory that the CPU reaches and no drive may be given: that of most drivers.
    Cpu,
    /// In a GPU's own memory, which its driver keeps to itself: a queue of the GPU fills it.
    Gpu,
    /// In memory that a PCI function has for peers.
    Peer,
    /// In a BAR: of a device that vfio-pci has, or a GPU's buffer that the CPU sees through it.
    Bar,
}

impl Place {
    /// Where a buffer lies.
    ///
    /// # Errors
    /// [`TransferError::Unreachable`] if neither the CPU nor a GPU reaches it.
    pub fn of(buffer: &dyn Destination) -> Result<Self, TransferError> {
        place_of(buffer).map(|(place, _)| place)
    }
}

/// A buffer's place, and why the kernel's drivers may not be given its pages, where the CPU alone reaches it.
pub(crate) fn place_of(buffer: &dyn Destination) -> Result<(Place, Option<Absent>), TransferError> {
    if let Some(peer) = buffer.peer() {
        return Ok(match peer.access {
            PeerAccess::Kernel => (Place::Peer, None),
            PeerAccess::Vfio => (Place::Bar, None),
        });
    }
    match (buffer.cpu_map(), buffer.upload()) {
        (Ok(_), _) => Ok(match buffer.pages() {
            Ok(()) => (Place::System, None),
            Err(why) => (Place::Cpu, Some(why)),
        }),
        (Err(_), Ok(_)) => Ok((Place::Gpu, None)),
        (Err(cpu), Err(gpu)) => {
            let why = format!("{cpu}; {gpu}");
            Err(TransferError::Unreachable { holder: buffer.holder(), why })
        }
    }
}
