//! A GPU's buffers, as something to be filled.

use std::sync::Arc;

use iomap::{BufMap, Location, MemoryError};

use super::buffer::Buffer;
use super::device::Device;
use super::region::ImageRegion;
use super::steady::SteadyBuffer;
use crate::Absent;
use crate::destination::{Destination, Peer, PeerAccess};
use crate::upload::UploadTarget;
use crate::vfio::Mappable;

/// A buffer made of pages of this process is filled by filling those. Any other lies where its driver
/// likes, and is filled by the GPU.
impl Destination for Arc<Buffer> {
    fn len(&self) -> usize {
        self.memory.as_ref().map_or(Buffer::len(self), |memory| memory.len())
    }

    fn cpu_map(&self) -> Result<BufMap<'_>, Absent> {
        Ok(self.memory.as_ref().ok_or_else(|| of_its_driver(self))?.map())
    }

    fn pages(&self) -> Result<(), Absent> {
        self.memory.as_ref().map(drop).ok_or_else(|| of_its_driver(self))
    }

    fn steady(&self) -> Result<&dyn Mappable, Absent> {
        match &self.memory {
            Some(memory) => Ok(memory),
            None => Err(of_its_driver(self)),
        }
    }

    fn gpu(&self) -> Result<&Arc<Buffer>, Absent> {
        Ok(self)
    }

    fn holder(&self) -> String {
        name(self)
    }

    fn promised(&self) -> Result<usize, MemoryError> {
        self.memory.as_ref().map_or(Ok(0), |memory| memory.absent())
    }
}

/// The CPU sees the buffer, and it stays where it is.
impl Destination for SteadyBuffer {
    fn len(&self) -> usize {
        self.map().len()
    }

    fn cpu_map(&self) -> Result<BufMap<'_>, Absent> {
        Ok(self.map())
    }

    fn pages(&self) -> Result<(), Absent> {
        match self.map().location() {
            Location::System => Ok(()),
            Location::Io => Err(Absent::new(
                format!("the memory of {} lies behind its BAR, without pages", name(self.buffer())),
                "let a drive of this process's own write into it (bufmap extents, bufmap bind)",
            )),
        }
    }

    fn steady(&self) -> Result<&dyn Mappable, Absent> {
        Ok(self)
    }

    /// Its place only the GPU's driver knows.
    fn peer(&self) -> Option<Peer<'_>> {
        if self.map().location() == Location::System {
            return None;
        }
        let info = self.buffer().device().info();
        let function = info.pci_address.as_deref().ok_or_else(|| {
            Absent::new(
                format!("the driver of {} does not tell its PCI address", info.name),
                "update the driver to one with VK_EXT_pci_bus_info",
            )
        });
        Some(Peer { function, access: PeerAccess::Vfio })
    }

    fn gpu(&self) -> Result<&Arc<Buffer>, Absent> {
        Ok(self.buffer())
    }

    fn holder(&self) -> String {
        name(self.buffer())
    }
}

/// A region of a program's image is filled by the GPU alone, which knows where its texels are.
impl Destination for Arc<ImageRegion> {
    fn len(&self) -> usize {
        ImageRegion::len(self)
    }

    fn cpu_map(&self) -> Result<BufMap<'_>, Absent> {
        Err(texels(self))
    }

    fn pages(&self) -> Result<(), Absent> {
        Err(texels(self))
    }

    fn steady(&self) -> Result<&dyn Mappable, Absent> {
        Err(texels(self))
    }

    fn upload(&self) -> Result<&dyn UploadTarget, Absent> {
        Ok(self)
    }

    fn holder(&self) -> String {
        named(self.device())
    }
}

fn texels(region: &ImageRegion) -> Absent {
    Absent::new(
        format!("only {} knows where the texels of its images lie", named(region.device())),
        "have its queue copy into it (Destination::upload)",
    )
}

fn of_its_driver(buffer: &Buffer) -> Absent {
    Absent::new(
        format!("it lies in memory of {}, which its driver moves", name(buffer)),
        "have the GPU copy into it, or take a buffer that stays (Buffer::steady)",
    )
}

fn name(buffer: &Buffer) -> String {
    named(buffer.device())
}

fn named(device: &Device) -> String {
    let info = device.info();
    info.pci_address.clone().unwrap_or_else(|| info.name.clone())
}
