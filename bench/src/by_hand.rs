//! What an administrator does in sysfs, and bufmap would not.

use std::fs;
use std::io;

use bufmap::pci::{Address, driver};
use libtest_mimic::Failed;

/// Takes a function from its driver, which the kernel does whoever uses it, and has the kernel find one
/// for it. Returns that driver's name. Waits as long as VFIO waits for a program that has it.
///
/// # Errors
/// Fails the test if the function has no driver to be taken from.
pub fn unbind(address: Address) -> Result<Option<String>, Failed> {
    let function = format!("/sys/bus/pci/devices/{address}");
    fs::write(format!("{function}/driver_override"), "\n")?;
    fs::write(format!("{function}/driver/unbind"), address.to_string())?;
    // The kernel says that no driver takes it by an error.
    match fs::write("/sys/bus/pci/drivers_probe", address.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error.into()),
        _ => Ok(driver::driver(address)?),
    }
}
