//! One function of a PCI device, as sysfs describes it.

use std::fmt;
use std::path::Path;

use exporters::Absent;

use super::config::{self, Config};
use super::sysfs::{Directory, is_missing};
use super::{Address, Bar, PciError, RootBus, bar};

/// What a function is for: base class, subclass and programming interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(u32);

impl Class {
    /// An NVMe controller.
    pub const NVME: Self = Self(0x01_08_02);

    pub(super) fn read(function: Directory<'_>) -> Result<Self, PciError> {
        function.hexadecimal("class", 0xff_ffff).map(Self)
    }

    /// The class of 24 bits, `0xBBSSPP`.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Base class and subclass, `0xBBSS`.
    pub const fn base_and_sub(self) -> u16 {
        (self.0 >> 8) as u16
    }

    /// Whether it is a bridge to another PCI bus, as each port of a switch and a root port is.
    pub const fn is_bridge(self) -> bool {
        self.base_and_sub() == 0x0604
    }

    /// Whether it is a display that the firmware may have set up.
    pub(super) const fn is_vga(self) -> bool {
        matches!(self.base_and_sub(), 0x0300 | 0x0001)
    }

    /// Whether it is a display controller, or computes like one.
    pub const fn is_gpu(self) -> bool {
        matches!(self.0 >> 16, 0x03) || self.base_and_sub() == 0x1200
    }
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Class({self})")
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

/// The functions that an IOMMU cannot tell apart, or will not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IommuGroup {
    /// Its number.
    pub number: u32,
    /// What the kernel does with its addresses unless a driver wants otherwise: `DMA` or `DMA-FQ`
    /// (translated), `identity` (passed through), `blocked`, `unmanaged`; `None` where the kernel
    /// does not say.
    pub kind: Option<String>,
}

impl IommuGroup {
    /// Whether the addresses that the functions use are physical ones, as long as a kernel driver
    /// has them.
    pub fn is_identity(&self) -> bool {
        self.kind.as_deref() == Some("identity")
    }
}

/// Memory of a function that its driver has given to the kernel for peers (`p2pmem` in sysfs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerMemory {
    /// Its size in bytes.
    pub size: u64,
    /// What of it is not in use, in bytes.
    pub available: u64,
    /// Whether drivers in the kernel may take of it by themselves. User space may in either case.
    pub published: bool,
}

/// A disk behind a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its name, `nvme0n1`.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// The namespace, for an NVMe drive.
    pub namespace: Option<u32>,
}

/// A function of a PCI device: what the kernel knows of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Function {
    /// Where it stands.
    pub address: Address,
    /// Who made it.
    pub vendor: u16,
    /// What its maker calls it.
    pub device: u16,
    /// What it is for.
    pub class: Class,
    /// The driver that has it, or `None`.
    pub driver: Option<String>,
    /// The node of memory and processors that it is near to, or `None` where the firmware is silent.
    pub numa_node: Option<u32>,
    /// The root bus that it is below of.
    pub root_bus: RootBus,
    /// The bridge directly above it, or `None` on the root bus.
    pub upstream: Option<Address>,
    /// The function that it is a virtual one of (SR-IOV), or `None`.
    pub physical_function: Option<Address>,
    /// Its base address registers, those that it has.
    pub bars: Vec<Bar>,
    /// What its configuration space says, or why that is not known.
    pub config: Result<Config, Absent>,
    /// Its IOMMU group, or `None` without an IOMMU.
    pub iommu_group: Option<IommuGroup>,
    /// Its memory for peers, or `None` if its driver has given none.
    pub peer_memory: Option<PeerMemory>,
    /// The disks behind it.
    pub block_devices: Vec<BlockDevice>,
}

impl Function {
    /// Reads the function whose directory, with all links followed, is `path`.
    pub(super) fn in_directory(
        path: &Path,
        address: Address,
        upstream: Option<Address>,
        root_bus: RootBus,
    ) -> Result<Self, PciError> {
        let directory = Directory(path);
        Ok(Self {
            address,
            vendor: directory.hexadecimal("vendor", 0xffff)? as u16,
            device: directory.hexadecimal("device", 0xffff)? as u16,
            class: Class::read(directory)?,
            driver: directory.link_name("driver")?,
            numa_node: numa_node(directory)?,
            root_bus,
            upstream,
            physical_function: physical_function(directory)?,
            bars: bar::read(directory)?,
            config: config::read(&path.join("config")),
            iommu_group: iommu_group(directory)?,
            peer_memory: peer_memory(directory)?,
            block_devices: Vec::new(),
        })
    }

    /// What kind of port it is, or `None` if it is conventional PCI or that is not known.
    pub fn port(&self) -> Option<config::PortType> {
        self.config.as_ref().ok()?.port
    }
}

/// Maker and device, `10b5:8796`.
pub(super) struct Identity(pub u16, pub u16);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.0, self.1)
    }
}

/// The kernel writes -1 for none, and leaves the attribute out where it knows no nodes.
fn numa_node(function: Directory<'_>) -> Result<Option<u32>, PciError> {
    let Some(text) = function.optional("numa_node")? else { return Ok(None) };
    match text.parse::<i32>() {
        Ok(node) => Ok(u32::try_from(node).ok()),
        Err(_) => Err(function.content("numa_node", "a node's number", &text)),
    }
}

fn physical_function(function: Directory<'_>) -> Result<Option<Address>, PciError> {
    let Some(name) = function.link_name("physfn")? else { return Ok(None) };
    let address = Address::of_directory(&name);
    address.map(Some).ok_or_else(|| function.content("physfn", "a link to a function", &name))
}

fn iommu_group(function: Directory<'_>) -> Result<Option<IommuGroup>, PciError> {
    let Some(name) = function.link_name("iommu_group")? else { return Ok(None) };
    let Ok(number) = name.parse() else {
        return Err(function.content("iommu_group", "a link to a group's number", &name));
    };
    // Available since Linux 4.11; since 5.15 it tells DMA-FQ from DMA.
    Ok(Some(IommuGroup { number, kind: function.optional("iommu_group/type")? }))
}

fn peer_memory(function: Directory<'_>) -> Result<Option<PeerMemory>, PciError> {
    let Some(size) = function.optional("p2pmem/size")? else { return Ok(None) };
    let bytes = |name: &str, text: String| {
        text.parse().map_err(|_| function.content(name, "a number of bytes", &text))
    };
    let size = bytes("p2pmem/size", size)?;
    let available = bytes("p2pmem/available", function.text("p2pmem/available")?)?;
    let published = match function.text("p2pmem/published")?.as_str() {
        "0" => false,
        "1" => true,
        other => return Err(function.content("p2pmem/published", "0 or 1", other)),
    };
    Ok(Some(PeerMemory { size, available, published }))
}

/// Whether an error means that the function went away while it was read.
pub(super) fn went_away(error: &PciError, path: &Path) -> bool {
    matches!(error, PciError::Read { source, .. } if is_missing(source))
        && !path.join("vendor").exists()
}
