//! Which driver has a function, and giving it to another.
//!
//! A function is moved by its `driver_override` (`Documentation/ABI/testing/sysfs-bus-pci`, since
//! Linux 3.16): the name that it holds is the only driver that may take the function, whatever the
//! driver says it supports.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Address;

/// Why a function did not change its driver.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// There is no such function.
    #[error("there is no PCI function {0}; lspci -D lists them")]
    NoFunction(Address),
    /// The driver is not loaded.
    #[error("the driver {driver} is not loaded; modprobe {driver}")]
    NotLoaded {
        /// Its name.
        driver: String,
    },
    /// The kernel offered the function to the driver, which did not take it.
    #[error("{address}: {driver} did not take it; the kernel's log says why{}", has(.now))]
    Refused {
        /// The function.
        address: Address,
        /// The driver that was to take it.
        driver: String,
        /// The driver that has it now.
        now: Option<String>,
    },
    /// sysfs refused.
    #[error("{}: {source}{}", .path.display(), as_root(.source))]
    Write {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn has(now: &Option<String>) -> String {
    now.as_ref().map_or_else(String::new, |driver| format!("; {driver} has it"))
}

fn as_root(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied { "; run as root" } else { "" }
}

/// The driver that has the function, or `None`.
///
/// # Errors
/// [`DriverError::NoFunction`].
pub fn driver(address: Address) -> Result<Option<String>, DriverError> {
    let function = directory(address)?;
    let link = fs::read_link(function.join("driver")).ok();
    Ok(link.and_then(|link| Some(link.file_name()?.to_str()?.to_owned())))
}

/// Gives a function to the driver `name`, and to no other from then on.
///
/// The driver that has it lets go first: a disk that it served is gone, whether or not it is in use.
/// The caller has seen to it that it is not.
///
/// ```no_run
/// use bufmap::pci::driver;
///
/// let drive = "0000:02:00.0".parse()?;
/// driver::bind(drive, "vfio-pci")?;
/// // ... and back to the driver that the kernel chooses.
/// driver::release(drive)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`DriverError`]; the function may be without a driver then.
pub fn bind(address: Address, name: &str) -> Result<(), DriverError> {
    let function = directory(address)?;
    if name.contains('/') || !Path::new("/sys/bus/pci/drivers").join(name).exists() {
        return Err(DriverError::NotLoaded { driver: name.to_owned() });
    }
    write(function.join("driver_override"), name)?;
    if driver(address)?.is_some_and(|now| now == name) {
        return Ok(());
    }
    let_go(address, &function)?;
    probe(address)?;
    let now = driver(address)?;
    match now.as_deref() == Some(name) {
        true => Ok(()),
        false => Err(DriverError::Refused { address, driver: name.to_owned(), now }),
    }
}

/// Gives a function back to the kernel, which finds a driver for it as at boot. Returns that
/// driver's name, or `None` if none took it.
///
/// A program that has it open through vfio-pci is asked to let go, and waited for.
///
/// # Errors
/// [`DriverError`].
pub fn release(address: Address) -> Result<Option<String>, DriverError> {
    let function = directory(address)?;
    // A line without a name takes the override away.
    write(function.join("driver_override"), "\n")?;
    let_go(address, &function)?;
    probe(address)?;
    driver(address)
}

fn directory(address: Address) -> Result<PathBuf, DriverError> {
    let function = Path::new("/sys/bus/pci/devices").join(address.to_string());
    if function.exists() { Ok(function) } else { Err(DriverError::NoFunction(address)) }
}

fn let_go(address: Address, function: &Path) -> Result<(), DriverError> {
    match driver(address)? {
        Some(_) => write(function.join("driver/unbind"), &address.to_string()),
        None => Ok(()),
    }
}

fn probe(address: Address) -> Result<(), DriverError> {
    // The kernel says `ENODEV` or the like if a driver does not take it; who has it then is asked.
    match write(PathBuf::from("/sys/bus/pci/drivers_probe"), &address.to_string()) {
        Err(DriverError::Write { source, .. })
            if source.kind() != io::ErrorKind::PermissionDenied =>
        {
            Ok(())
        }
        result => result,
    }
}

fn write(path: PathBuf, text: &str) -> Result<(), DriverError> {
    fs::write(&path, text).map_err(|source| DriverError::Write { path, source })
}
