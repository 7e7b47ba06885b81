//! Which drive lies below a file.

use std::path::{Path, PathBuf};

use rustix::fs::{fstat, major, minor};

use crate::pci::{Address, Tree};
use crate::storage::file::SourceFile;

/// Block devices by their numbers (`Documentation/ABI/testing/sysfs-dev`).
const BLOCK_DEVICES: &str = "/sys/dev/block";

/// The PCI function of the one drive below a file: what its file system lies on, or what it is a
/// part of if it is a block device itself.
pub(super) fn below(file: &SourceFile, tree: &Tree) -> Result<Address, String> {
    let stat =
        fstat(file).map_err(|error| format!("the kernel does not tell its device: {error}"))?;
    let number = if file.is_block_device() { stat.st_rdev } else { stat.st_dev };
    let disk = disk(&format!("{}:{}", major(number), minor(number)))?;
    let name = disk.file_name().unwrap_or_default().to_string_lossy();
    let mut functions = tree.of_disk(&name).map(|function| function.address);
    match (functions.next(), functions.next()) {
        (Some(drive), None) => Ok(drive),
        (Some(_), Some(_)) => Err(format!(
            "several controllers stand before {name}, and which of them reads is the kernel's choice"
        )),
        _ => Err(format!(
            "it lies on {name}, which is no PCI drive: what stands between moves the bytes"
        )),
    }
}

/// The directory of the whole disk that a device number stands for.
fn disk(number: &str) -> Result<PathBuf, String> {
    let device = Path::new(BLOCK_DEVICES).join(number).canonicalize().map_err(|_| {
        format!(
            "its file system is no single block device's (device {number}): it is in memory, on a \
             network, or spread over others"
        )
    })?;
    match (device.join("partition").exists(), device.parent()) {
        (true, Some(disk)) => Ok(disk.to_owned()),
        _ => Ok(device),
    }
}
