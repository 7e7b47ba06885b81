//! Configuration space: what kind of port a function is, and its Access Control Services.
//!
//! Only the words that are needed are read, because a few devices do not bear a read of all of
//! them, and the lists of capabilities are followed as far as such a list can be long and no
//! further, whatever a device says (PCI Express Base Specification, chapter 7).
//!
//! The first 64 bytes are everybody's to read; the capabilities lie beyond, which the kernel shows
//! to root (`CAP_SYS_ADMIN`) only. What cannot be read is [`Absent`] and never taken for zero.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use exporters::Absent;
use exporters::outside::outside;

/// The part of configuration space that conventional PCI has, in bytes.
const CONVENTIONAL: u16 = 256;

/// All of it, in bytes.
const EXTENDED: u16 = 4096;

/// Where the first capability can lie: behind the header.
const BEHIND_HEADER: u16 = 0x40;

/// More capabilities than there is room for.
const MANY_CAPABILITIES: u16 = (CONVENTIONAL - BEHIND_HEADER) / 4;
const MANY_EXTENDED: u16 = (EXTENDED - CONVENTIONAL) / 4;

/// The capability that every PCI Express function has.
const PCI_EXPRESS: u8 = 0x10;

/// The extended capability with the Access Control Services.
const ACCESS_CONTROL: u16 = 0x000d;

/// What a PCI Express function is to the tree (the field Device/Port Type).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortType {
    /// A device at the end of a link.
    Endpoint,
    /// The same, by the older rules.
    LegacyEndpoint,
    /// The port of a root complex, with a link below it.
    RootPort,
    /// A switch's port towards the root.
    Upstream,
    /// A switch's port towards a device.
    Downstream,
    /// A bridge to conventional PCI.
    ToPci,
    /// A bridge from conventional PCI.
    FromPci,
    /// A device inside the root complex.
    IntegratedEndpoint,
    /// A collector of the events of such devices.
    EventCollector,
    /// A number without a meaning so far.
    Other(u8),
}

impl PortType {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Endpoint,
            1 => Self::LegacyEndpoint,
            4 => Self::RootPort,
            5 => Self::Upstream,
            6 => Self::Downstream,
            7 => Self::ToPci,
            8 => Self::FromPci,
            9 => Self::IntegratedEndpoint,
            10 => Self::EventCollector,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Endpoint => "endpoint",
            Self::LegacyEndpoint => "legacy endpoint",
            Self::RootPort => "root port",
            Self::Upstream => "switch upstream port",
            Self::Downstream => "switch downstream port",
            Self::ToPci => "bridge to PCI",
            Self::FromPci => "bridge from PCI",
            Self::IntegratedEndpoint => "integrated endpoint",
            Self::EventCollector => "event collector",
            Self::Other(number) => return write!(f, "port of type {number}"),
        })
    }
}

bitflags::bitflags! {
    /// Access Control Services: what a port, or a function beside others, can do or does to
    /// requests that go from one device to another.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AcsBits: u16 {
        /// Refuses requests whose sender is not on the bus below.
        const SOURCE_VALIDATION = 1 << 0;
        /// Refuses requests that claim to be translated already.
        const TRANSLATION_BLOCKING = 1 << 1;
        /// Sends requests between devices up to the root complex instead of across.
        const REQUEST_REDIRECT = 1 << 2;
        /// The same for the answers to them.
        const COMPLETION_REDIRECT = 1 << 3;
        /// Passes on upwards what came from above and was redirected.
        const UPSTREAM_FORWARDING = 1 << 4;
        /// Decides about each pair of ports by a table.
        const EGRESS_CONTROL = 1 << 5;
        /// Lets translated requests across all the same.
        const DIRECT_TRANSLATED = 1 << 6;
        const _ = !0;
    }
}

impl AcsBits {
    /// Those which make the kernel take traffic between devices for redirected.
    pub const REDIRECTS: Self =
        Self::REQUEST_REDIRECT.union(Self::COMPLETION_REDIRECT).union(Self::EGRESS_CONTROL);
}

/// The specification's names, `P2P Request Redirect + P2P Completion Redirect`.
impl fmt::Display for AcsBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(AcsBits, &str); 7] = [
            (AcsBits::SOURCE_VALIDATION, "Source Validation"),
            (AcsBits::TRANSLATION_BLOCKING, "Translation Blocking"),
            (AcsBits::REQUEST_REDIRECT, "P2P Request Redirect"),
            (AcsBits::COMPLETION_REDIRECT, "P2P Completion Redirect"),
            (AcsBits::UPSTREAM_FORWARDING, "Upstream Forwarding"),
            (AcsBits::EGRESS_CONTROL, "P2P Egress Control"),
            (AcsBits::DIRECT_TRANSLATED, "Direct Translated P2P"),
        ];
        let set: Vec<_> =
            NAMES.iter().filter(|(bit, _)| self.contains(*bit)).map(|(_, name)| *name).collect();
        f.write_str(if set.is_empty() { "none" } else { "" })?;
        f.write_str(&set.join(" + "))
    }
}

/// The Access Control Services of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acs {
    /// What it could do.
    pub capability: AcsBits,
    /// What it does at this moment.
    pub control: AcsBits,
}

/// What configuration space says of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its kind, or `None` for conventional PCI.
    pub port: Option<PortType>,
    /// Its Access Control Services, or `None` if it has none.
    pub acs: Option<Acs>,
}

/// Reads the attribute `config` of a function.
pub(super) fn read(path: &Path) -> Result<Config, Absent> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let space = |offset: u16| word(&file, offset).map_err(|error| unreadable(path, &error));
    parse(space)?.map_err(|gap| match gap {
        Gap::Header => Absent::new(
            format!("{} ends inside the header of 64 bytes", outside(path)),
            "if this is a recording, record it again",
        ),
        Gap::Capabilities => Absent::new(
            "the capabilities in configuration space are shown to root only",
            "run as root (CAP_SYS_ADMIN)",
        ),
        Gap::Silence => Absent::new(
            "the device does not answer to reads of its configuration space",
            "see whether it was unplugged or has no power",
        ),
    })
}

fn unreadable(path: &Path, error: &io::Error) -> Absent {
    Absent::new(
        format!("{} cannot be read: {error}", outside(path)),
        "see whether the device is still there, and the kernel's log (dmesg)",
    )
}

/// The 32 bits at an offset, or `None` past the end of what is shown.
fn word(file: &File, offset: u16) -> io::Result<Option<u32>> {
    let mut bytes = [0; 4];
    match file.read_exact_at(&mut bytes, u64::from(offset)) {
        Ok(()) => Ok(Some(u32::from_le_bytes(bytes))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why a configuration space tells nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    /// The header is not whole.
    Header,
    /// What lies behind the header is not shown.
    Capabilities,
    /// All ones: nobody is there.
    Silence,
}

/// Reads what a [`Config`] needs, by a function that gives the 32 bits at an offset that is a
/// multiple of four, or `None` where nothing more is shown.
fn parse<E>(
    mut space: impl FnMut(u16) -> Result<Option<u32>, E>,
) -> Result<Result<Config, Gap>, E> {
    let (Some(ids), Some(status), Some(kind), Some(pointer)) =
        (space(0x00)?, space(0x04)?, space(0x0c)?, space(0x34)?)
    else {
        return Ok(Err(Gap::Header));
    };
    // A virtual function has all ones for its identity, but not for its status.
    if ids == !0 && status == !0 {
        return Ok(Err(Gap::Silence));
    }
    if space(CONVENTIONAL - 4)?.is_none() {
        return Ok(Err(Gap::Capabilities));
    }
    let has_list = status >> 16 & 0x10 != 0;
    let first = match kind >> 16 & 0x7f {
        2 => space(0x14)?.unwrap_or(0), // CardBus keeps the list's beginning here.
        _ => pointer,
    };
    let express = match has_list {
        true => capability(&mut space, first as u8, PCI_EXPRESS)?,
        false => None,
    };
    let port = express.map(|header| PortType::of((header >> 20 & 0xf) as u8));
    let acs = extended(&mut space, ACCESS_CONTROL)?;
    Ok(Ok(Config { port, acs: acs.map(access_control) }))
}

/// The first 32 bits of a capability.
fn capability<E>(
    space: &mut impl FnMut(u16) -> Result<Option<u32>, E>,
    first: u8,
    id: u8,
) -> Result<Option<u32>, E> {
    let mut at = u16::from(first & !3);
    for _ in 0..MANY_CAPABILITIES {
        if at < BEHIND_HEADER {
            break;
        }
        let Some(header) = space(at)? else { break };
        match header as u8 {
            0xff => break,
            found if found == id => return Ok(Some(header)),
            _ => at = u16::from((header >> 8) as u8 & !3),
        }
    }
    Ok(None)
}

/// The 32 bits behind the header of an extended capability.
fn extended<E>(
    space: &mut impl FnMut(u16) -> Result<Option<u32>, E>,
    id: u16,
) -> Result<Option<u32>, E> {
    let mut at = CONVENTIONAL;
    for _ in 0..MANY_EXTENDED {
        if at < CONVENTIONAL {
            break;
        }
        let Some(header) = space(at)? else { break };
        if header as u16 == id {
            return space(at + 4);
        }
        at = (header >> 20) as u16 & !3;
    }
    Ok(None)
}

/// The capability is the lower half, the control the upper.
fn access_control(registers: u32) -> Acs {
    Acs {
        capability: AcsBits::from_bits_retain(registers as u16),
        control: AcsBits::from_bits_retain((registers >> 16) as u16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::convert::Infallible;

    /// Parses bytes, and counts the words that were read.
    fn parsed(bytes: &[u8]) -> (Result<Config, Gap>, usize) {
        let reads = Cell::new(0);
        let space = |offset: u16| -> Result<Option<u32>, Infallible> {
            assert_eq!(offset % 4, 0, "an aligned read");
            reads.set(reads.get() + 1);
            let word = bytes.get(usize::from(offset)..usize::from(offset) + 4);
            Ok(word.map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))))
        };
        let Ok(config) = parse(space);
        (config, reads.get())
    }

    fn put(bytes: &mut [u8], at: usize, word: u32) {
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }

    /// A downstream port whose Access Control Services come third in the list.
    fn downstream_port() -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        put(&mut bytes, 0x00, 0x8796_10b5);
        put(&mut bytes, 0x04, 0x0010_0006);
        put(&mut bytes, 0x0c, 0x0001_0000);
        put(&mut bytes, 0x34, 0x40);
        put(&mut bytes, 0x40, 0xc803_4801);
        put(&mut bytes, 0x48, 0x0062_0010);
        put(&mut bytes, 0x100, 0x1481_0001);
        put(&mut bytes, 0x148, 0x1c01_0003);
        put(&mut bytes, 0x1c0, 0x0001_000d);
        put(&mut bytes, 0x1c4, 0x001d_005f);
        bytes
    }

    #[test]
    fn a_port_and_its_services_are_found() {
        let config = parsed(&downstream_port()).0.expect("a whole space");
        assert_eq!(config.port, Some(PortType::Downstream));
        let acs = config.acs.expect("services");
        assert_eq!(acs.capability.bits(), 0x5f);
        assert_eq!(
            acs.control.to_string(),
            "Source Validation + P2P Request Redirect + P2P Completion Redirect + Upstream Forwarding"
        );
        assert!(acs.control.intersects(AcsBits::REDIRECTS));
    }

    #[test]
    fn what_is_not_shown_is_a_gap() {
        let bytes = downstream_port();
        assert_eq!(parsed(&bytes[..64]).0, Err(Gap::Capabilities));
        assert_eq!(parsed(&bytes[..128]).0, Err(Gap::Capabilities));
        assert_eq!(parsed(&bytes[..55]).0, Err(Gap::Header));
        assert_eq!(parsed(&[]).0, Err(Gap::Header));
        assert_eq!(parsed(&[0xff; 4096]).0, Err(Gap::Silence));
        let conventional = parsed(&bytes[..256]).0.expect("a whole space of conventional PCI");
        assert_eq!((conventional.port, conventional.acs), (Some(PortType::Downstream), None));
    }

    #[test]
    fn a_virtual_function_has_no_identity_and_is_there() {
        let mut bytes = downstream_port();
        put(&mut bytes, 0x00, !0);
        assert!(parsed(&bytes).0.is_ok());
    }

    #[test]
    fn lists_in_a_circle_end() {
        let mut bytes = downstream_port();
        put(&mut bytes, 0x48, 0x0000_4005);
        put(&mut bytes, 0x148, 0x1001_0003);
        let (config, reads) = parsed(&bytes);
        assert_eq!(config, Ok(Config { port: None, acs: None }));
        assert!(reads <= 5 + usize::from(MANY_CAPABILITIES + MANY_EXTENDED), "{reads} reads");
    }

    proptest! {
        #[test]
        fn any_bytes_end_and_do_not_panic(
            len in prop::sample::select(vec![0, 3, 64, 128, 255, 256, 1000, 4096]),
            seed in prop::collection::vec(any::<u8>(), 1..512),
            list: bool,
        ) {
            let mut bytes: Vec<u8> = seed.iter().copied().cycle().take(len).collect();
            if list && len > 64 {
                bytes[6] |= 0x10;
            }
            let (_, reads) = parsed(&bytes);
            prop_assert!(reads <= 7 + usize::from(MANY_CAPABILITIES + MANY_EXTENDED));
        }

        #[test]
        fn services_are_found_wherever_they_stand(at in 0x101..0x3fbu16, capability: u16, control: u16) {
            let at = at * 4;
            let mut bytes = downstream_port();
            put(&mut bytes, 0x100, u32::from(at) << 20 | 1);
            put(&mut bytes, usize::from(at), 0x0001_000d);
            put(&mut bytes, usize::from(at) + 4, u32::from(control) << 16 | u32::from(capability));
            let acs = parsed(&bytes).0.expect("a whole space").acs.expect("services");
            prop_assert_eq!((acs.capability.bits(), acs.control.bits()), (capability, control));
        }
    }
}
