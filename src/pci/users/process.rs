//! Processes, and what they are called.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use exporters::outside::outside;

use crate::pci::PciError;
use crate::pci::sysfs::names;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The name of its program, or nothing if it has ended.
    pub name: String,
}

impl Process {
    pub(super) fn read(proc: &Path, pid: u32) -> Self {
        let name = fs::read(proc.join(pid.to_string()).join("comm")).unwrap_or_default();
        Self { pid, name: String::from_utf8_lossy(&name).trim_end().to_owned() }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, outside(&self.name))
    }
}

/// The processes there are.
pub(super) fn all(proc: &Path) -> Result<Vec<u32>, PciError> {
    Ok(names(proc)?.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Whether an error says that a process has ended since it was seen.
pub(super) fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}
