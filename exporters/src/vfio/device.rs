//! A PCI device that VFIO gave to this process.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use iomap::{Phyr, PhyrKind, PhyrList, PhysAddr};
use rustix::event::EventfdFlags;
use rustix::io::Errno;
use vfio_bindings::bindings::vfio::*;

use super::container::Container;
use super::error::VfioError;
use super::function::{Function, Interrupt, RegionInfo};
use super::sys;
use crate::DmaBuf;

/// The command register, and the bit that lets a device begin transfers (PCI Local Bus
/// Specification 3.0, 6.2.2).
pub(super) const COMMAND: u64 = 4;
pub(super) const BUS_MASTER: u16 = 1 << 2;

/// A device that is bound to vfio-pci and open. A clone is another handle on the same.
///
/// VFIO resets it when it is opened and when the last handle is gone, if it can be reset.
#[derive(Clone, Debug)]
pub struct Device {
    open: Arc<Open>,
}

#[derive(Debug)]
struct Open {
    function: Box<dyn Function>,
    address: String,
    container: Arc<Container>,
}

impl Container {
    /// Opens the device at a PCI address (`0000:02:00.0`), which must be bound to vfio-pci, and adds
    /// it to the container; with type1, its whole group.
    ///
    /// # Errors
    /// [`VfioError::Device`] if there is no such device, no IOMMU, another driver has it or a device
    /// of its group, or somebody uses it already; [`VfioError::Unavailable`] if this user may not.
    pub fn open(self: &Arc<Self>, address: &str) -> Result<Device, VfioError> {
        Ok(Device::new(self.attach(address)?, address, Arc::clone(self)))
    }
}

impl Device {
    pub(super) fn new(
        function: Box<dyn Function>,
        address: &str,
        container: Arc<Container>,
    ) -> Self {
        Self { open: Arc::new(Open { function, address: address.into(), container }) }
    }

    /// Its PCI address.
    pub fn address(&self) -> &str {
        &self.open.address
    }

    /// The container it is in.
    pub fn container(&self) -> &Arc<Container> {
        &self.open.container
    }

    /// The length of a BAR (0 to 5) in bytes.
    ///
    /// # Errors
    /// [`VfioError::Region`] if there is none of this number.
    pub fn region_len(&self, index: u32) -> Result<u64, VfioError> {
        Ok(self.region(index)?.len)
    }

    /// Lets the device begin transfers, or forbids it. It is off when a device is opened.
    ///
    /// # Errors
    /// [`VfioError::Kernel`] if its configuration space cannot be reached.
    pub fn set_bus_master(&self, on: bool) -> Result<(), VfioError> {
        let mut bytes = [0; 2];
        self.read_config(COMMAND, &mut bytes)?;
        let command = u16::from_le_bytes(bytes);
        let command = if on { command | BUS_MASTER } else { command & !BUS_MASTER };
        let at = self.configuration()? + COMMAND;
        self.open
            .function
            .file()
            .write_all_at(&command.to_le_bytes(), at)
            .map_err(self.failed("writing its command register"))
    }

    /// Reads configuration space, as VFIO shows it.
    ///
    /// # Errors
    /// [`VfioError::Kernel`] past its end.
    pub fn read_config(&self, offset: u64, bytes: &mut [u8]) -> Result<(), VfioError> {
        let at = self.configuration()?.saturating_add(offset);
        let read = self.open.function.file().read_exact_at(bytes, at);
        read.map_err(self.failed("reading its configuration space"))
    }

    fn configuration(&self) -> Result<u64, VfioError> {
        Ok(self.region(VFIO_PCI_CONFIG_REGION_INDEX)?.offset)
    }

    /// Resets the function. Its mappings stay, and are `SIGBUS` to touch while the reset is at work;
    /// dma-bufs of its BARs are revoked meanwhile.
    ///
    /// # Errors
    /// [`VfioError::Kernel`] if it cannot be reset.
    pub fn reset(&self) -> Result<(), VfioError> {
        self.open.function.reset().map_err(self.failed("VFIO_DEVICE_RESET"))
    }

    /// Waits for the device, for so long: the thread sleeps. A device of software, which tests and
    /// fuzzers have, does its work meanwhile instead.
    pub fn rest(&self, time: Duration) {
        self.open.function.rest(time);
    }

    /// How many interrupts of a kind it has.
    ///
    /// # Errors
    /// [`VfioError::Kernel`] if the kernel does not know the kind.
    pub fn interrupts(&self, kind: Interrupt) -> Result<u32, VfioError> {
        self.open.function.interrupts(kind).map_err(self.failed("VFIO_DEVICE_GET_IRQ_INFO"))
    }

    /// Has the first `count` interrupts of a kind counted by eventfds, which are returned: poll them
    /// and read eight bytes. It takes the place of what was set before; zero switches them off.
    ///
    /// # Errors
    /// [`VfioError::Kernel`] if the device has not so many, or no file descriptor is left.
    pub fn listen(&self, kind: Interrupt, count: u32) -> Result<Vec<OwnedFd>, VfioError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let eventfds = (0..count)
            .map(|_| rustix::event::eventfd(0, flags))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| self.failed("eventfd")(e.into()))?;
        let borrowed: Vec<_> = eventfds.iter().map(AsFd::as_fd).collect();
        self.open.function.listen(kind, &borrowed).map_err(self.failed("VFIO_DEVICE_SET_IRQS"))?;
        Ok(eventfds)
    }

    /// A part of a BAR as a dma-buf, of whole pages. Other drivers import it for peer-to-peer; it
    /// cannot be mapped by the CPU ([`map_region`](Self::map_region) can). While the device is
    /// reset or its memory is off it is revoked, and for good once the device is closed: a driver
    /// that would use it then is refused. Available since Linux 6.19 (`CONFIG_VFIO_PCI_DMABUF`).
    ///
    /// # Errors
    /// [`VfioError::Unsupported`] if the kernel cannot; [`VfioError::Region`] for a part that is
    /// not inside the BAR; [`VfioError::Kernel`] if it refuses.
    pub fn dma_buf(&self, index: u32, range: Range<u64>) -> Result<DmaBuf, VfioError> {
        let len = self.region(index)?.len;
        if range.is_empty() || range.end > len {
            return Err(self.no_region(index, format!("bytes {range:#x?} of {len:#x}")));
        }
        let fd = sys::dma_buf(self.as_fd(), index, range.start, range.end - range.start);
        let fd = fd.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NOTTY | Errno::OPNOTSUPP) => VfioError::Unsupported {
                what: "a dma-buf of a BAR",
                since: "Linux 6.19, built with CONFIG_VFIO_PCI_DMABUF",
                device: self.address().into(),
            },
            _ => self.failed("VFIO_DEVICE_FEATURE_DMA_BUF")(error),
        })?;
        Ok(DmaBuf::made(fd)?)
    }

    /// Where bytes of a BAR lie on the memory bus, from sysfs.
    pub(super) fn phyrs(&self, index: u32, range: Range<u64>) -> Result<PhyrList, VfioError> {
        let path = format!("/sys/bus/pci/devices/{}/resource", self.address());
        let text = fs::read_to_string(&path).map_err(VfioError::kernel("read", path))?;
        let range = phyr(&text, index, range)
            .ok_or_else(|| self.no_region(index, "sysfs does not tell where it lies".into()))?;
        Ok(PhyrList::from_iter([range]))
    }

    pub(super) fn region(&self, index: u32) -> Result<RegionInfo, VfioError> {
        let info = self
            .open
            .function
            .region(index)
            .map_err(|error| self.no_region(index, error.to_string()))?;
        if info.len == 0 {
            return Err(self.no_region(index, "the device has none of this number".into()));
        }
        Ok(info)
    }

    fn no_region(&self, region: u32, why: String) -> VfioError {
        VfioError::Region { device: self.address().into(), region, why }
    }

    fn failed(&self, step: &'static str) -> impl FnOnce(io::Error) -> VfioError {
        VfioError::kernel(step, self.address())
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.open.function.file().as_fd()
    }
}

/// The bytes `range` of BAR `index` on the memory bus, by the lines of a function's `resource`: first
/// and last byte, and flags.
fn phyr(resource: &str, index: u32, range: Range<u64>) -> Option<Phyr> {
    let mut words = resource
        .lines()
        .nth(index as usize)?
        .split_whitespace()
        .map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    let (first, last) = (words.next()??, words.next()??);
    let start = first.checked_add(range.start)?;
    let len = range.end.checked_sub(range.start)?;
    let inside = first > 0 && start.checked_add(len)?.checked_sub(1)? <= last;
    inside.then(|| Phyr::new(PhyrKind::Peer, PhysAddr::new(start), len).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RESOURCE: &str = "0x0000000081040000 0x0000000081043fff 0x0000000000040200\n\
                            0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                            0x00000000c0000000 0x00000000c3ffffff 0x000000000014220c\n";

    #[test]
    fn a_part_of_a_bar_lies_where_sysfs_says() {
        let found = phyr(RESOURCE, 2, 0x1000..0x3000).expect("it is there");
        assert_eq!((found.addr(), found.len()), (PhysAddr::new(0xc000_1000), 0x2000));
        assert_eq!(found.kind(), PhyrKind::Peer);
        assert!(phyr(RESOURCE, 2, 0..0x400_0000).is_some());
        for (index, range) in [(2, 0..0x400_0001), (1, 0..1), (3, 0..1), (2, 5..5)] {
            assert_eq!(phyr(RESOURCE, index, range.clone()), None, "{index} {range:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_range_or_none(
            text in "(0x[0-9a-f]{0,17} ?){0,4}|.*", start in any::<u64>(), end in any::<u64>()
        ) {
            if let Some(range) = phyr(&text, 0, start..end) {
                prop_assert_eq!(range.len(), end - start);
            }
        }
    }
}
