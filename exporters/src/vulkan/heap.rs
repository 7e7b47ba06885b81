//! The memories of a device, and the ways in which each can be had.

use std::fmt;

use ash::vk;
use ash::vk::MemoryPropertyFlags as Flags;

/// A memory of a device (`VkMemoryHeap`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heap {
    /// How long it is in bytes.
    pub len: u64,
    /// Whether it is the device's own.
    pub device_local: bool,
}

impl From<&vk::MemoryHeap> for Heap {
    fn from(heap: &vk::MemoryHeap) -> Self {
        let device_local = heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
        Self { len: heap.size, device_local }
    }
}

/// How memory of a heap can be had (`VkMemoryType`).
///
/// Printed, it is what the CPU has of it: `own, mapped, coherent, write-combining`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryType {
    /// The heap, by its index in [`DeviceInfo::heaps`](super::DeviceInfo::heaps).
    pub heap: usize,
    /// Whether it is the device's own (`DEVICE_LOCAL`).
    pub device_local: bool,
    /// Whether the CPU can map it (`HOST_VISIBLE`).
    pub host_visible: bool,
    /// Whether the CPU and the device see each other's writes without a flush (`HOST_COHERENT`).
    pub coherent: bool,
    /// Whether the CPU caches it (`HOST_CACHED`); memory that it sees and does not cache is
    /// write-combining.
    pub cached: bool,
}

impl From<&vk::MemoryType> for MemoryType {
    fn from(kind: &vk::MemoryType) -> Self {
        let has = |flag| kind.property_flags.contains(flag);
        Self {
            heap: kind.heap_index as usize,
            device_local: has(Flags::DEVICE_LOCAL),
            host_visible: has(Flags::HOST_VISIBLE),
            coherent: has(Flags::HOST_COHERENT),
            cached: has(Flags::HOST_CACHED),
        }
    }
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.device_local { "own" } else { "system" };
        let seen = match (self.host_visible, self.coherent) {
            (false, _) => return write!(f, "{whose}, the CPU cannot map it"),
            (true, true) => "coherent",
            (true, false) => "not coherent",
        };
        let caching = if self.cached { "write-back" } else { "write-combining" };
        write!(f, "{whose}, mapped, {seen}, {caching}")
    }
}
