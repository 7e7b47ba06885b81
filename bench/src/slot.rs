//! The power of a slot, which a guest can switch off itself: what sits in the slot is gone at that
//! moment, and nobody is told. So a device is pulled out of a running machine.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bufmap::pci::Address;
use libtest_mimic::Failed;

use crate::check;

/// Where the list of capabilities begins, and the number of the PCI Express one (PCIe Base
/// Specification, 7.5).
const CAPABILITIES: u64 = 0x34;
const PCI_EXPRESS: u8 = 0x10;

/// The command register of a bridge and the bit that opens its windows, and the numbers of the first and
/// the last bus below it (PCI-to-PCI Bridge Architecture Specification, 3.2).
const COMMAND: u64 = 0x04;
const MEMORY_SPACE: u8 = 1 << 1;
const BUSES_BELOW: u64 = 0x19;

/// The Slot Control register in it, and its bits: the power is off, and so is the light that tells
/// of it.
const SLOT_CONTROL: u64 = 0x18;
const POWER_OFF: u16 = 1 << 10;
const LIGHT_OFF: u16 = 0b11 << 8;

/// Pulls the device with this function, which vfio-pci has, out. So that the kernel does not wait a
/// minute for it to come back from a reset, it is to reset it in no way.
///
/// # Errors
/// Fails the test if it sits in no slot whose power can be switched off.
pub fn pull(function: Address) -> Result<(), Failed> {
    power_off(function)?;
    Ok(fs::write(directory(function).join("reset_method"), "\n")?)
}

fn directory(function: Address) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(function.to_string())
}

/// Pulls the device with this function out.
///
/// # Errors
/// Fails the test if it sits in no slot whose power can be switched off.
pub fn power_off(function: Address) -> Result<(), Failed> {
    let port = Port::above(function)?;
    let mut at = port.byte(CAPABILITIES)?;
    while at != 0 && port.byte(at.into())? != PCI_EXPRESS {
        at = port.byte(u64::from(at) + 1)?;
    }
    check(at != 0, "there is no PCIe port above it")?;
    let at = u64::from(at) + SLOT_CONTROL;
    let control = u16::from_le_bytes([port.byte(at)?, port.byte(at + 1)?]);
    port.write(at, &(control | POWER_OFF | LIGHT_OFF).to_le_bytes())
}

/// Cuts off the bus of the device with this function at the port above it, as if the link were down:
/// what is written to the device goes nowhere, what is read of it is ones, and nobody is told. What it
/// was doing it does. (QEMU 7.2 does not outlive it if a drive is pulled out that reads into another
/// drive's memory: it goes on with what it has freed.)
///
/// # Errors
/// Fails the test if there is no port above it.
pub fn cut_off(function: Address) -> Result<(), Failed> {
    let port = Port::above(function)?;
    port.write(BUSES_BELOW, &[0, 0])?;
    port.write(COMMAND, &[port.byte(COMMAND)? & !MEMORY_SPACE])
}

/// The configuration space of a port.
struct Port(File);

impl Port {
    fn above(function: Address) -> Result<Self, Failed> {
        let directory = directory(function).canonicalize()?;
        let port = directory.parent().ok_or("a function without a bus")?;
        Ok(Self(OpenOptions::new().read(true).write(true).open(port.join("config"))?))
    }

    fn byte(&self, at: u64) -> Result<u8, Failed> {
        let mut byte = [0];
        self.0.read_exact_at(&mut byte, at)?;
        Ok(byte[0])
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Failed> {
        Ok(self.0.write_all_at(bytes, at)?)
    }
}

/// Has the kernel take note that a function is gone, or believe it.
///
/// # Errors
/// Fails the test if there is no such function.
pub fn forget(function: Address) -> Result<(), Failed> {
    Ok(fs::write(format!("/sys/bus/pci/devices/{function}/remove"), "1")?)
}

/// Has the kernel look for functions that it does not know, or was made to forget.
///
/// # Errors
/// Fails the test if the kernel refuses.
pub fn look_again() -> Result<(), Failed> {
    Ok(fs::write("/sys/bus/pci/rescan", "1")?)
}
