//! The power of a slot, which a guest can switch off itself: what sits in the slot is gone at that
//! moment, and nobody is told. So a device is pulled out of a running machine.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bufmap::pci::Address;
use libtest_mimic::Failed;

use crate::check;

/// Where the list of capabilities begins, and the number of the PCI Express one (PCIe Base
/// Specification, 7.5).
const CAPABILITIES: u64 = 0x34;
const PCI_EXPRESS: u8 = 0x10;

/// The Slot Control register in it, and its bits: the power is off, and so is the light that tells
/// of it.
const SLOT_CONTROL: u64 = 0x18;
const POWER_OFF: u16 = 1 << 10;
const LIGHT_OFF: u16 = 0b11 << 8;

/// Pulls the device with this function out. The kernel goes on to believe that it is there; so that it
/// does not wait a minute for it to come back from a reset, it is to reset it in no way.
///
/// # Errors
/// Fails the test if it sits in no slot whose power can be switched off.
pub fn pull(function: Address) -> Result<(), Failed> {
    let directory = Path::new("/sys/bus/pci/devices").join(function.to_string()).canonicalize()?;
    let port = directory.parent().ok_or("a function without a bus")?;
    let port = OpenOptions::new().read(true).write(true).open(port.join("config"))?;
    let byte = |at| -> Result<u8, Failed> {
        let mut byte = [0];
        port.read_exact_at(&mut byte, at)?;
        Ok(byte[0])
    };
    let mut at = byte(CAPABILITIES)?;
    while at != 0 && byte(at.into())? != PCI_EXPRESS {
        at = byte(u64::from(at) + 1)?;
    }
    check(at != 0, "there is no PCIe port above it")?;
    let at = u64::from(at) + SLOT_CONTROL;
    let control = u16::from_le_bytes([byte(at)?, byte(at + 1)?]);
    port.write_all_at(&(control | POWER_OFF | LIGHT_OFF).to_le_bytes(), at)?;
    Ok(fs::write(directory.join("reset_method"), "\n")?)
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
