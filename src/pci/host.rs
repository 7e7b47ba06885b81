//! Host bridges, and which of them the kernel trusts to forward between devices.
//!
//! The trust is data, taken from `drivers/pci/p2pdma.c` of Linux 7.3: a host bridge is known by the
//! identity of the first function on its root bus. An older kernel may not yet trust one that is listed
//! here; it then refuses the transfer.

use super::{Address, RootBus};

/// The root of a part of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostBridge {
    /// Its root bus, by which it is named.
    pub root_bus: RootBus,
    /// The function with the lowest number on the root bus, which tells the kernel what it is. (To
    /// the kernel the first is the one that it found first: with devices that were plugged into the
    /// root bus later, and come before, it would be another.)
    pub first: Address,
}

/// Between which devices a trusted host bridge forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Any two, also with one below another trusted host bridge.
    Anywhere,
    /// Two that are both below it.
    Within,
}

const INTEL: u16 = 0x8086;
const GOOGLE: u16 = 0x1ae0;
const NVIDIA: u16 = 0x10de;

/// Intel's, by device.
const TRUSTED: [(u16, Reach); 20] = [
    (0x3c00, Reach::Within), // Xeon E5
    (0x3c01, Reach::Within),
    (0x2f00, Reach::Within), // Xeon E5 v3, E7 v3
    (0x2f01, Reach::Within),
    (0x2030, Reach::Anywhere), // Skylake servers: root ports
    (0x2031, Reach::Anywhere),
    (0x2032, Reach::Anywhere),
    (0x2033, Reach::Anywhere),
    (0x2020, Reach::Anywhere), // and DMI
    (0x09a2, Reach::Anywhere), // Ice Lake servers and later
    (0x0b25, Reach::Anywhere), // Sapphire Rapids: data streaming accelerator
    (0x0cfe, Reach::Anywhere), // and analytics accelerator
    (0x11fb, Reach::Anywhere), // Granite Rapids: data streaming accelerator
    (0x1212, Reach::Anywhere), // Diamond Rapids: the same
    (0x1216, Reach::Anywhere), // and analytics accelerator
    (0x4940, Reach::Anywhere), // QuickAssist 4xxx
    (0x4942, Reach::Anywhere), // 401xx
    (0x4944, Reach::Anywhere), // 402xx
    (0x4946, Reach::Anywhere), // 420xx
    (0x4948, Reach::Anywhere), // 6xxx
];

/// How far the kernel trusts a host bridge whose first function has this identity, or `None`.
pub(super) fn trusted(vendor: u16, device: u16) -> Option<Reach> {
    match vendor {
        INTEL => TRUSTED.iter().find(|(listed, _)| *listed == device).map(|(_, reach)| *reach),
        GOOGLE => Some(Reach::Anywhere),
        NVIDIA if (0x2f95..=0x2f98).contains(&device) => Some(Reach::Anywhere), // since Linux 7.3
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_by_vendor_and_device() {
        assert_eq!(trusted(INTEL, 0x2f00), Some(Reach::Within));
        assert_eq!(trusted(INTEL, 0x2f95), None);
        assert_eq!(trusted(GOOGLE, 0x2f95), Some(Reach::Anywhere));
        let nvidia = [0x2f94, 0x2f95, 0x2f98, 0x2f99].map(|device| trusted(NVIDIA, device));
        assert_eq!(nvidia, [None, Some(Reach::Anywhere), Some(Reach::Anywhere), None]);
    }
}
