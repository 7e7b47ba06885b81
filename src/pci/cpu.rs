//! The processor, as far as it decides about peer-to-peer traffic.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::PciError;

/// The first family of AMD's Zen processors.
const ZEN: u32 = 0x17;

/// Where the paragraph of the first processor certainly ends.
const FIRST_PARAGRAPH: u64 = 64 << 10;

/// Who made the machine's first processor, and its family, from `/proc/cpuinfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// What the processor calls its maker, such as `AuthenticAMD`; `None` where cpuinfo does not
    /// say, as on other architectures than x86.
    pub vendor: Option<String>,
    /// The family.
    pub family: Option<u32>,
}

impl Cpu {
    /// Reads a file of the form of `/proc/cpuinfo`.
    pub(super) fn read(path: &Path) -> Result<Self, PciError> {
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(PciError::read(path))?;
        file.take(FIRST_PARAGRAPH).read_to_end(&mut bytes).map_err(PciError::read(path))?;
        Ok(Self::of(&String::from_utf8_lossy(&bytes)))
    }

    fn of(text: &str) -> Self {
        let first = text.split("\n\n").next().unwrap_or_default();
        let value = |key: &str| {
            first.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                (name.trim() == key).then(|| value.trim())
            })
        };
        Self {
            vendor: value("vendor_id").map(str::to_owned),
            family: value("cpu family").and_then(|family| family.parse().ok()),
        }
    }

    /// Whether the kernel takes every host bridge of this processor to forward between devices: AMD
    /// of family 0x17 (Zen) and later. Hygon's processors are of that family and not of that maker.
    pub fn forwards_between_devices(&self) -> bool {
        self.vendor.as_deref() == Some("AuthenticAMD") && self.family >= Some(ZEN)
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.vendor, self.family) {
            (Some(vendor), Some(family)) => write!(f, "{vendor} family {family:#x}"),
            (Some(vendor), None) => f.write_str(vendor),
            (None, _) => f.write_str("a processor that does not name its maker"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(vendor: &str, family: u32) -> Cpu {
        Cpu::of(&format!(
            "processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 1\n\n\
             processor\t: 1\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\n"
        ))
    }

    #[test]
    fn zen_and_later_forward() {
        assert!(cpu("AuthenticAMD", 0x17).forwards_between_devices());
        assert!(cpu("AuthenticAMD", 0x1a).forwards_between_devices());
        assert!(!cpu("AuthenticAMD", 0x15).forwards_between_devices());
        assert!(!cpu("HygonGenuine", 0x18).forwards_between_devices());
        assert!(!cpu("GenuineIntel", 6).forwards_between_devices());
        assert_eq!(cpu("AuthenticAMD", 0x17).to_string(), "AuthenticAMD family 0x17");
    }

    #[test]
    fn what_cpuinfo_does_not_say_is_not_guessed() {
        for text in ["", "\n\n", "vendor_id", "processor : 0\nCPU implementer : 0x41\n"] {
            assert_eq!(Cpu::of(text), Cpu::default(), "{text:?}");
        }
        let odd = Cpu::of("vendor_id: AuthenticAMD\ncpu family: many\n");
        assert!(!odd.forwards_between_devices());
    }
}
