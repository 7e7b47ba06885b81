//! Which disk stands behind which function.
//!
//! A disk's directory lies below its function's. An NVMe drive that can be reached by several
//! controllers is the exception: its disk lies below a subsystem, which links to the controllers.

use std::path::{Path, PathBuf};

use super::sysfs::{Directory, is_missing, names, resolved};
use super::{Address, BlockDevice, Class, PciError};

/// The unit of a disk's size in sysfs, in bytes, whatever its own blocks are.
const SECTOR: u64 = 512;

/// The disks that sysfs knows, each with the functions behind which it stands.
pub(super) fn read(sys: &Path) -> Result<Vec<(BlockDevice, Vec<Address>)>, PciError> {
    let list = sys.join("block");
    let names = match names(&list) {
        Err(PciError::Read { source, .. }) if is_missing(&source) => return Ok(Vec::new()),
        names => names?,
    };
    let mut disks = Vec::new();
    for name in names {
        match disk(sys, &list.join(&name), name) {
            Ok(disk) => disks.extend(disk),
            // It was there when the list was read.
            Err(PciError::Read { source, .. }) if is_missing(&source) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(disks)
}

/// The functions behind which a disk of this name stands, and what they are for. There are several for
/// a drive that can be reached by several controllers, and none for what is no PCI device's.
pub(crate) fn behind(disk: &str) -> Result<Vec<(Address, Class)>, PciError> {
    let sys = resolved("/sys".as_ref())?;
    let disk = resolved(&sys.join("block").join(disk))?;
    let of = |function: Address| {
        let path = sys.join("bus/pci/devices").join(function.to_string());
        Ok((function, Class::read(Directory(&path))?))
    };
    functions(&sys, &disk)?.into_iter().map(of).collect()
}

/// A disk, or `None` for one that is no PCI function's or only a path to another disk.
fn disk(
    sys: &Path,
    link: &Path,
    name: String,
) -> Result<Option<(BlockDevice, Vec<Address>)>, PciError> {
    let path = resolved(link)?;
    let functions = functions(sys, &path)?;
    let directory = Directory(&path);
    if functions.is_empty() || directory.optional("hidden")?.as_deref() == Some("1") {
        return Ok(None);
    }
    let size = directory.text("size")?;
    let len = size.parse::<u64>().ok().and_then(|sectors| sectors.checked_mul(SECTOR));
    let len = len.ok_or_else(|| directory.content("size", "a number of sectors", &size))?;
    let namespace = match directory.optional("nsid")? {
        None => None,
        Some(text) => match text.parse() {
            Ok(namespace) => Some(namespace),
            Err(_) => return Err(directory.content("nsid", "a namespace's number", &text)),
        },
    };
    Ok(Some((BlockDevice { name, len, namespace }, functions)))
}

fn functions(sys: &Path, disk: &Path) -> Result<Vec<Address>, PciError> {
    if let Some(function) = function_above(sys, disk) {
        return Ok(vec![function]);
    }
    let Some(subsystem) = disk.parent().filter(|parent| is_subsystem(parent)) else {
        return Ok(Vec::new());
    };
    let controllers: Vec<PathBuf> = names(subsystem)?
        .iter()
        .map(|name| subsystem.join(name))
        .filter(|path| path.is_symlink())
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    let mut functions: Vec<_> =
        controllers.iter().filter_map(|path| function_above(sys, path)).collect();
    functions.dedup();
    Ok(functions)
}

fn is_subsystem(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nvme-subsys"))
}

/// The function whose directory a path lies in most closely.
fn function_above(sys: &Path, path: &Path) -> Option<Address> {
    let below = path.strip_prefix(sys).ok()?;
    let mut parts = below.components().rev();
    parts.find_map(|part| Address::of_directory(part.as_os_str().to_str()?))
}
