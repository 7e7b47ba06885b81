//! Which driver has a function, and giving it to another.
//!
//! A function is moved by its `driver_override` (`Documentation/ABI/testing/sysfs-bus-pci`, since
//! Linux 3.16): the name that it holds is the only driver that may take the function, whatever the
//! driver says it supports.
//!
//! A disk whose driver is taken away is gone, in use or not. So a function is moved in two steps. A
//! [`Plan`] is made only of functions that nobody uses, and holds them; then it is carried out. To
//! see whether a plan can be made is a dry run.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use exporters::outside::outside;

use super::users::is_vfio;
use super::{Address, Held, NotFree, hold};

/// Why a function did not change its driver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// There is no such function.
    #[error("there is no PCI function {0}; lspci -D lists them")]
    NoFunction(Address),
    /// No driver can have this name.
    #[error(
        "`{}` is no driver's name: it is one of those in /sys/bus/pci/drivers, such as vfio-pci",
        outside(.0)
    )]
    Name(String),
    /// The driver is not loaded.
    #[error("the driver {driver} is not loaded; modprobe {driver}")]
    NotLoaded {
        /// Its name.
        driver: DriverName,
    },
    /// VFIO gives out only what an IOMMU keeps apart.
    #[error(
        "{0}: it is in no IOMMU group, so VFIO would not give it out: switch the IOMMU on, in the firmware \
         and by intel_iommu=on or amd_iommu=on"
    )]
    NoGroup(Address),
    /// Somebody uses the function, or that cannot be told.
    #[error(transparent)]
    NotFree(#[from] NotFree),
    /// The kernel offered the function to the driver, which did not take it.
    #[error("{address}: {driver} did not take it; the kernel's log says why{}", has(.now, *.address))]
    Refused {
        /// The function.
        address: Address,
        /// The driver that was to take it.
        driver: DriverName,
        /// The driver that has it now.
        now: Option<String>,
    },
    /// sysfs refused.
    #[error("{}: {source}{}", outside(path), remedy(.source))]
    Write {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn has(now: &Option<String>, address: Address) -> String {
    match now {
        Some(driver) => format!("; {driver} has it"),
        None => format!(
            "; it is without a driver now, and bufmap unbind {address} has the kernel find one"
        ),
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root",
        io::ErrorKind::ReadOnlyFilesystem => {
            "; run where sysfs can be written, outside of a container"
        }
        _ => "",
    }
}

/// A name that a driver can have: a letter or a digit, then no slash and nothing that is not printed.
///
/// ```
/// use bufmap::pci::driver::DriverName;
///
/// assert!("vfio-pci".parse::<DriverName>().is_ok());
/// assert!("..".parse::<DriverName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverName(String);

impl DriverName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DriverName {
    type Err = DriverError;

    fn from_str(text: &str) -> Result<Self, DriverError> {
        let printed = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        let plain = text.bytes().all(|byte| printed(byte) && byte != b'/');
        match plain && text.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            true => Ok(Self(text.to_owned())),
            false => Err(DriverError::Name(text.to_owned())),
        }
    }
}

impl fmt::Display for DriverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
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

/// Functions that are to get another driver, that nobody uses, and that nobody can begin to use.
///
/// ```no_run
/// use bufmap::pci::driver::Plan;
///
/// let drive = "0000:02:00.0".parse()?;
/// Plan::bind(&[drive], &"vfio-pci".parse()?)?.carry_out(|_, _| ())?;
/// // ... and back to the driver that the kernel chooses.
/// Plan::release(&[drive])?.carry_out(|_, _| ())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is moved before it is carried out"]
pub struct Plan {
    moves: Vec<Move>,
    /// `None` for whichever the kernel chooses.
    to: Option<DriverName>,
    held: Held,
}

/// A function of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Move {
    /// Where it stands.
    pub address: Address,
    /// The driver that has it when the plan is made, or `None`.
    pub from: Option<String>,
}

impl Plan {
    /// Functions to be given to a driver, and to no other from then on. What the driver has already
    /// stays as it is, in use or not.
    ///
    /// # Errors
    /// [`DriverError`], in all cases in which it is known beforehand that the plan could not be carried
    /// out; nothing has changed then.
    pub fn bind(functions: &[Address], driver: &DriverName) -> Result<Self, DriverError> {
        let directories = functions.iter().map(|&address| directory(address));
        let directories = directories.collect::<Result<Vec<_>, _>>()?;
        let place = drivers().join(driver.as_str());
        if !place.try_exists().map_err(|source| DriverError::Write { path: place, source })? {
            return Err(DriverError::NotLoaded { driver: driver.clone() });
        }
        for (&address, directory) in functions.iter().zip(directories) {
            if is_vfio(driver.as_str()) && !directory.join("iommu_group").exists() {
                return Err(DriverError::NoGroup(address));
            }
        }
        Self::new(functions, Some(driver.clone()))
    }

    /// Functions to be given back to the kernel, which finds a driver for each as at boot.
    ///
    /// # Errors
    /// Those of [`Plan::bind`].
    pub fn release(functions: &[Address]) -> Result<Self, DriverError> {
        Self::new(functions, None)
    }

    fn new(functions: &[Address], to: Option<DriverName>) -> Result<Self, DriverError> {
        let mut moves: Vec<Move> = Vec::new();
        for &address in functions {
            if !moves.iter().any(|planned| planned.address == address) {
                moves.push(Move { address, from: driver(address)? });
            }
        }
        let leave = moves.iter().filter(|planned| !stays(planned, to.as_ref()));
        let leave: Vec<_> = leave.map(|planned| planned.address).collect();
        let held = hold(&leave)?;
        for planned in &moves {
            writable(&directory(planned.address)?.join("driver_override"))?;
            if let Some(from) = planned.from.as_ref().filter(|_| leave.contains(&planned.address)) {
                writable(&drivers().join(from).join("unbind"))?;
            }
        }
        writable(&probing())?;
        Ok(Self { moves, to, held })
    }

    /// The functions.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// Moves all of them, and tells of each, with the driver that has it then, once that is seen.
    ///
    /// # Errors
    /// [`DriverError`]; the functions that were not told of may be without a driver then.
    pub fn carry_out(self, mut done: impl FnMut(&Move, Option<&str>)) -> Result<(), DriverError> {
        let Self { moves, to, held } = self;
        let mut left = Vec::new();
        let mut result = Ok(());
        for planned in &moves {
            result = leave(planned, to.as_ref(), &held);
            if result.is_err() {
                break;
            }
            left.push(planned);
        }
        // Whose file is still open keeps its name, and the same drive would come back as another.
        drop(held);
        for planned in left {
            let arrived = arrive(planned, to.as_ref());
            match arrived {
                Ok(now) => done(planned, now.as_deref()),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }
}

/// Gives a function that nobody uses to the driver `name`, and to no other from then on.
///
/// # Errors
/// [`DriverError`]; the function may be without a driver then.
pub fn bind(address: Address, name: &str) -> Result<(), DriverError> {
    Plan::bind(&[address], &name.parse()?)?.carry_out(|_, _| ())
}

/// Gives a function that nobody uses back to the kernel, which finds a driver for it as at boot. Returns
/// that driver's name, or `None` if none took it.
///
/// # Errors
/// [`DriverError`].
pub fn release(address: Address) -> Result<Option<String>, DriverError> {
    let mut driver = None;
    Plan::release(&[address])?.carry_out(|_, now| driver = now.map(str::to_owned))?;
    Ok(driver)
}

/// Whether a function has the driver already that it is to have.
fn stays(planned: &Move, to: Option<&DriverName>) -> bool {
    to.is_some_and(|to| planned.from.as_deref() == Some(to.as_str()))
}

/// Says who may have a function, and takes it from the driver that had it when it was looked at: from
/// another, who was not seen to be unused, it is not taken.
fn leave(planned: &Move, to: Option<&DriverName>, held: &Held) -> Result<(), DriverError> {
    let name = to.map_or("\n", DriverName::as_str);
    write(directory(planned.address)?.join("driver_override"), name)?;
    match &planned.from {
        Some(from) if held.functions().contains(&planned.address) => {
            write(drivers().join(from).join("unbind"), &planned.address.to_string())
        }
        _ => Ok(()),
    }
}

fn arrive(planned: &Move, to: Option<&DriverName>) -> Result<Option<String>, DriverError> {
    let address = planned.address;
    if !stays(planned, to) {
        probe(address)?;
    }
    let now = driver(address)?;
    match to {
        Some(driver) if now.as_deref() != Some(driver.as_str()) => {
            Err(DriverError::Refused { address, driver: driver.clone(), now })
        }
        _ => Ok(now),
    }
}

fn directory(address: Address) -> Result<PathBuf, DriverError> {
    let function = Path::new("/sys/bus/pci/devices").join(address.to_string());
    if function.exists() { Ok(function) } else { Err(DriverError::NoFunction(address)) }
}

fn drivers() -> PathBuf {
    PathBuf::from("/sys/bus/pci/drivers")
}

fn probing() -> PathBuf {
    PathBuf::from("/sys/bus/pci/drivers_probe")
}

fn probe(address: Address) -> Result<(), DriverError> {
    // The kernel says `ENODEV` or the like if a driver does not take it; who has it then is asked.
    match write(probing(), &address.to_string()) {
        Err(DriverError::Write { source, .. })
            if source.kind() != io::ErrorKind::PermissionDenied =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Sees whether a file can be written, and leaves it as it is.
fn writable(path: &Path) -> Result<(), DriverError> {
    let opened = OpenOptions::new().write(true).open(path);
    opened.map(drop).map_err(|source| DriverError::Write { path: path.to_owned(), source })
}

fn write(path: PathBuf, text: &str) -> Result<(), DriverError> {
    let written = OpenOptions::new().write(true).open(&path);
    let written = written.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| DriverError::Write { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drivers_name_is_a_plain_name() {
        for name in ["vfio-pci", "nvme", "8250_mid", "xhci_hcd", "Old Sound", "a.b"] {
            assert_eq!(name.parse::<DriverName>().expect(name).as_str(), name);
        }
        for text in
            ["", ".", "..", "/", "a/b", "../devices", "a\0b", "a\n", "\n", "-r", "vfio\u{202e}"]
        {
            let error = text.parse::<DriverName>().expect_err(text).to_string();
            assert!(error.contains("is no driver's name") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_driver_that_is_not_loaded_is_named_before_anything_is_done() {
        let error =
            Plan::bind(&[], &"no-such-driver".parse().expect("a name")).expect_err("a plan");
        assert!(
            matches!(error, DriverError::NotLoaded { .. } | DriverError::Write { .. }),
            "{error}"
        );
    }
}
