//! The exporter that a command line names.

use std::sync::Arc;

use bufmap::exporters::drm::{Card, Node};
use bufmap::exporters::vfio::{Bar, Container};
use bufmap::exporters::vulkan::Device;
use bufmap::exporters::{DmaHeap, Exporter, P2pmem, SystemMemory, Udmabuf};
use bufmap::iomap::PageSize;

use crate::args::Source;
use crate::failure::Failure;

/// Opens a source; `pages` are those of system memory.
pub fn exporter(source: &Source, pages: PageSize) -> Result<Box<dyn Exporter>, Failure> {
    Ok(match source {
        Source::Memory => Box::new(SystemMemory::new(pages)),
        Source::Udmabuf => Box::new(Udmabuf::open()?),
        Source::DmaHeap(heap) => Box::new(DmaHeap::open(heap)?),
        Source::Dumb(driver) => Box::new(Card::find(driver, Node::Primary)?),
        Source::P2pmem(function) => Box::new(P2pmem::open(&function.to_string())?),
        Source::Bar(function, index) => {
            let device = Arc::new(Container::new()?).open(&function.to_string())?;
            Box::new(Bar::new(&device, *index)?)
        }
        Source::Vulkan => Box::new(Device::open(None)?),
    })
}
