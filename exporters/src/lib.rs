//! Where buffers come from, and how they leave the process.
#![deny(unsafe_code)]

mod absent;
pub mod dma_heap;
pub mod dmabuf;
pub mod export;
pub mod system;
pub mod udmabuf;
pub mod vulkan;

pub use absent::Absent;
pub use dma_heap::DmaHeap;
pub use dmabuf::{CpuAccess, DmaBuf, DmaBufError, Intent};
pub use export::{CpuView, Export, ExportError, Exporter, Phyrs, Provider};
pub use system::SystemMemory;
pub use udmabuf::Udmabuf;
