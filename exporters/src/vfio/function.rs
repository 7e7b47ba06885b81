//! What is behind a [`Device`](super::Device): the kernel, or a device of software. Its regions and its interrupts.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX,
};

use super::error::VfioError;
use super::sys;
use crate::Absent;

/// A region as the kernel describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RegionInfo {
    pub(super) flags: u32,
    /// Where it begins in the device's file.
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// A kind of interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interrupt {
    /// Message-signalled, as many as the device's table has (MSI-X).
    MsiX,
    /// The kernel asks this process to let go of the device, because somebody unbinds it or pulls
    /// it out. It waits until the last handle is closed.
    Release,
}

impl Interrupt {
    pub(super) const fn index(self) -> u32 {
        match self {
            Self::MsiX => VFIO_PCI_MSIX_IRQ_INDEX,
            Self::Release => VFIO_PCI_REQ_IRQ_INDEX,
        }
    }
}

/// A PCI function, as far as it is not reached through its file: regions are mapped from
/// [`file`](Self::file), and configuration space is read and written in it.
pub(super) trait Function: fmt::Debug + Send + Sync {
    fn file(&self) -> &File;

    fn region(&self, index: u32) -> io::Result<RegionInfo>;

    fn reset(&self) -> io::Result<()>;

    /// How many interrupts of a kind it has.
    fn interrupts(&self, kind: Interrupt) -> io::Result<u32>;

    /// Has the first interrupts of a kind signal eventfds; with none, switches all of them off.
    fn listen(&self, kind: Interrupt, eventfds: &[BorrowedFd<'_>]) -> io::Result<()>;

    /// Gives the function time to work.
    fn rest(&self, time: Duration);
}

/// A function that the kernel's VFIO gave.
#[derive(Debug)]
pub(super) struct Kernel(File);

impl Kernel {
    pub(super) fn new(fd: OwnedFd, address: &str) -> Result<Self, VfioError> {
        let info = sys::device_info(fd.as_fd())
            .map_err(VfioError::kernel("VFIO_DEVICE_GET_INFO", address))?;
        if info.flags & VFIO_DEVICE_FLAGS_PCI == 0 {
            return Err(VfioError::Device {
                device: address.into(),
                why: Absent::new("it is no PCI device", "pass the address of one"),
            });
        }
        Ok(Self(fd.into()))
    }
}

impl Function for Kernel {
    fn file(&self) -> &File {
        &self.0
    }

    fn region(&self, index: u32) -> io::Result<RegionInfo> {
        let info = sys::region_info(self.0.as_fd(), index)?;
        Ok(RegionInfo { flags: info.flags, offset: info.offset, len: info.size })
    }

    fn reset(&self) -> io::Result<()> {
        sys::reset(self.0.as_fd())
    }

    fn interrupts(&self, kind: Interrupt) -> io::Result<u32> {
        sys::interrupts(self.0.as_fd(), kind.index())
    }

    fn listen(&self, kind: Interrupt, eventfds: &[BorrowedFd<'_>]) -> io::Result<()> {
        sys::set_interrupts(self.0.as_fd(), kind.index(), eventfds)
    }

    fn rest(&self, time: Duration) {
        thread::sleep(time);
    }
}
