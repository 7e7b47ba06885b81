//! Where a function and a root bus stand: `0000:3b:00.0` and `pci0000:3a`.

use std::fmt;

/// The address of a PCI function: domain, bus, device and function.
///
/// It is written as the kernel writes it, in hexadecimal: `0000:3b:00.0`. A domain of zero may be
/// left out when it is read, as `lspci` does.
///
/// ```
/// use bufmap::pci::Address;
///
/// let drive: Address = "3b:00.1".parse()?;
/// assert_eq!(drive.to_string(), "0000:3b:00.1");
/// assert_eq!((drive.bus(), drive.device(), drive.function()), (0x3b, 0, 1));
/// # Ok::<(), bufmap::pci::PciError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    domain: u32,
    bus: u8,
    /// The device in the upper five bits, the function in the lower three.
    devfn: u8,
}

impl Address {
    /// The address of a function, or `None` if `device` is above 31 or `function` above 7.
    pub const fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self { domain, bus, devfn: device << 3 | function })
    }

    /// The domain, which ACPI calls the segment. It has more than 16 bits where the kernel made it
    /// up, as below a Volume Management Device.
    pub const fn domain(self) -> u32 {
        self.domain
    }

    /// The bus.
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// The device, 0 to 31.
    pub const fn device(self) -> u8 {
        self.devfn >> 3
    }

    /// The function, 0 to 7.
    pub const fn function(self) -> u8 {
        self.devfn & 7
    }

    /// The address that a directory's name is, which the kernel always writes in full.
    pub(super) fn of_directory(name: &str) -> Option<Self> {
        let (domain, rest) = name.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        Self::new(
            hexadecimal(domain, 4..=8)?,
            hexadecimal(bus, 2..=2)? as u8,
            hexadecimal(device, 2..=2)? as u8,
            hexadecimal(function, 1..=1)? as u8,
        )
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, .. } = self;
        write!(f, "{domain:04x}:{bus:02x}:{:02x}.{}", self.device(), self.function())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// The bus below a host bridge, by which the kernel names the host bridge: `pci0000:3a`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootBus {
    /// The domain.
    pub domain: u32,
    /// The bus.
    pub bus: u8,
}

impl RootBus {
    /// The root bus that a directory's name is.
    pub(super) fn of_directory(name: &str) -> Option<Self> {
        let (domain, bus) = name.strip_prefix("pci")?.split_once(':')?;
        Some(Self { domain: hexadecimal(domain, 4..=8)?, bus: hexadecimal(bus, 2..=2)? as u8 })
    }
}

impl fmt::Display for RootBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pci{:04x}:{:02x}", self.domain, self.bus)
    }
}

impl fmt::Debug for RootBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootBus({self})")
    }
}

/// A number of so many hexadecimal digits and nothing else.
fn hexadecimal(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let plain = digits.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_device_has_five_bits_and_a_function_three() {
        assert!(Address::new(0, 0, 31, 7).is_some());
        assert!(Address::new(0, 0, 32, 0).is_none() && Address::new(0, 0, 0, 8).is_none());
    }

    #[test]
    fn a_directory_names_its_domain() {
        assert_eq!(Address::of_directory("00:01.0"), None);
        let below_vmd = Address::of_directory("10000:e1:00.0").expect("an address");
        assert_eq!(below_vmd.domain(), 0x10000);
        assert_eq!(RootBus::of_directory("pci10000:e0").expect("a root bus").bus, 0xe0);
        for name in ["pci0000", "pci0000:000", "0000:00", "pci_bus", "pci0000:00x"] {
            assert_eq!(RootBus::of_directory(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn an_address_is_read_as_it_is_written(domain: u32, bus: u8, device in 0..32u8, function in 0..8u8) {
            let address = Address::new(domain, bus, device, function).expect("in range");
            prop_assert_eq!(address.to_string().parse::<Address>().expect("read"), address);
            prop_assert_eq!(
                (address.domain(), address.bus(), address.device(), address.function()),
                (domain, bus, device, function)
            );
            let root = RootBus { domain, bus };
            prop_assert_eq!(RootBus::of_directory(&root.to_string()), Some(root));
        }
    }
}
