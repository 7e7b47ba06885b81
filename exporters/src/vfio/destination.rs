//! A BAR of a device that VFIO opened, as something to be filled.

use iomap::BufMap;

use super::mappable::Mappable;
use super::region::Region;
use crate::Absent;
use crate::destination::{Destination, Peer, PeerAccess};
use crate::present::answers;

impl Destination for Region {
    fn len(&self) -> usize {
        self.map().len()
    }

    fn cpu_map(&self) -> Result<BufMap<'_>, Absent> {
        Ok(self.map())
    }

    fn pages(&self) -> Result<(), Absent> {
        Err(Absent::new(
            "a BAR that vfio-pci has is no pages of the kernel's",
            "let a drive of this process's own write into it (bufmap extents, bufmap bind)",
        ))
    }

    fn steady(&self) -> Result<&dyn Mappable, Absent> {
        Ok(self)
    }

    /// It claims nothing of its place: what is known of that is the function's own list of BARs.
    fn peer(&self) -> Option<Peer<'_>> {
        let function = Ok(self.device().address());
        Some(Peer { function, access: PeerAccess::Vfio })
    }

    fn is_present(&self) -> bool {
        answers(|register, bytes| self.device().read_config(register, bytes))
    }

    fn holder(&self) -> String {
        self.device().address().into()
    }
}
