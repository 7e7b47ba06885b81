//! Kinds of address.
//!
//! A buffer has three addresses that all fit in 64 bits and mean different things: the one a CPU
//! instruction uses, the one on the memory bus, and the one a device puts on its own bus. Mixing
//! them is the classic bug of DMA code, so each is a type here. CPU addresses are never integers at
//! all: they live inside a [`BufMap`](crate::BufMap).

use std::fmt;

/// Defines a kind of address: a number of bytes that does not turn into another kind by itself.
macro_rules! address {
    ($(#[$doc:meta])+ $name:ident) => {
        $(#[$doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps an address in bytes.
            pub const fn new(addr: u64) -> Self {
                Self(addr)
            }

            /// The address in bytes.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The address `bytes` further on, or `None` past the end of the 64-bit space.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(addr) => Some(Self(addr)),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// An address in the machine's physical address space, in bytes.
    ///
    /// It names system memory or a PCI BAR as the CPU's memory bus sees it (`phys_addr_t` in the
    /// kernel). A device may need a different number for the same byte: an IOVA or a bus address.
    PhysAddr
}

address! {
    /// An address as one device sees it, in bytes: what it puts on its bus to reach memory.
    ///
    /// Behind an IOMMU it is an IOVA; without one, or where the traffic stays below a switch, it is a
    /// bus address (`dma_addr_t` in the kernel for both). It means nothing to another device or the CPU.
    DmaAddr
}
