//! What lies between a file and its drive.
//!
//! A drive can write into a peer's memory only what it holds as it is, in one place, and if whatever
//! stands between the file and the drive hands requests on unchanged: a file system's own blocks, a
//! partition, volumes in a row. Encryption, compression, parity, another file or a network between
//! them move the bytes by the CPU. [`Stack`] names every layer, from the file down, and what it means.
//!
//! | from | what it tells |
//! |---|---|
//! | `data` | the file's own bytes: packed, encrypted, inside an inode |
//! | `filesystem` | what is mounted, and on which device |
//! | `device` | block devices, one on another, down to the drives |

mod data;
mod device;
mod filesystem;
mod layer;

use std::fmt;
use std::fs;
use std::path::Path;

use exporters::Absent;

pub use layer::Layer;

use crate::pci::{Address, Class, block};
use crate::storage::file::SourceFile;

/// The layers between a file and its drives, from the file down.
///
/// ```no_run
/// use bufmap::storage::file::SourceFile;
/// use bufmap::storage::stack::Stack;
///
/// let stack = Stack::below(&SourceFile::open("model.safetensors")?);
/// println!("{stack}");
/// match stack.drive() {
///     Ok(drive) => println!("{drive} reads it"),
///     Err(absent) => println!("{absent}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    layers: Vec<Layer>,
    drives: Vec<Address>,
}

impl Stack {
    /// What lies below a file or a block device. What this user may not see is a layer that hinders.
    pub fn below(file: &SourceFile) -> Self {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut layers = Vec::new();
        let number = match file.is_block_device() {
            true => filesystem::own_number(file),
            false => {
                layers.extend(data::layers(file));
                filesystem::layer(file, &mountinfo, &mut layers)
            }
        };
        let mut drives = Vec::new();
        if let Some(number) = number {
            let mut disks = Vec::new();
            device::walk(Path::new("/sys"), &number, &mut layers, &mut disks);
            for disk in disks {
                behind(&disk, &mut layers, &mut drives);
            }
        }
        drives.sort_unstable();
        drives.dedup();
        Self { layers, drives }
    }

    /// The disk that a file's own device is, or a partition of, and where on the disk that device
    /// begins, in bytes.
    ///
    /// # Errors
    /// Absent if something that moves or spreads blocks lies between, a volume included.
    pub fn disk(file: &SourceFile) -> Result<(String, u64), Absent> {
        let number = match file.is_block_device() {
            true => filesystem::own_number(file),
            false => Some(filesystem::number(file.device())),
        };
        let disk = number.and_then(|number| device::disk(Path::new("/sys"), &number));
        disk.ok_or_else(|| {
            Absent::new(
                "its device is neither a disk nor a partition of one",
                "copy the file to a file system that is made on a drive or a partition itself",
            )
        })
    }

    /// The layers, from the file down.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The one drive that reads the file alone.
    ///
    /// # Errors
    /// Absent if a layer hinders it, or if there are several or none.
    pub fn drive(&self) -> Result<Address, Absent> {
        if let Some(why) = self.layers.iter().find_map(|layer| layer.hindrance.clone()) {
            return Err(why);
        }
        match self.drives[..] {
            [drive] => Ok(drive),
            [] => Err(Absent::new(
                "what drive it lies on is not known",
                "read it through the system's memory",
            )),
            [..] => {
                let all: Vec<_> = self.drives.iter().map(Address::to_string).collect();
                Err(Absent::new(
                    format!("its bytes are spread over several drives ({})", all.join(", ")),
                    "put it on one drive",
                ))
            }
        }
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.layers.iter().map(|layer| layer.name.as_str()).collect();
        f.write_str(&names.join(", on "))
    }
}

/// Adds a disk and the function behind which it stands.
fn behind(disk: &str, layers: &mut Vec<Layer>, drives: &mut Vec<Address>) {
    let functions = match block::behind(disk) {
        Ok(functions) => functions,
        Err(error) => {
            let why = Absent::new(error.to_string(), "see whether the drive is still there");
            return layers.push(Layer::hinders(format!("disk {disk}"), why));
        }
    };
    let layer = match functions[..] {
        [(function, Class::NVME)] => {
            drives.push(function);
            Layer::passes(format!("drive {disk} ({function})"))
        }
        [(function, _)] => Layer::hinders(
            format!("disk {disk} ({function})"),
            Absent::new(
                format!(
                    "{disk} is no NVMe drive, and of the kernel's drivers only nvme takes a peer's memory"
                ),
                "put the file on an NVMe drive",
            ),
        ),
        [] => Layer::hinders(
            format!("disk {disk}"),
            Absent::new(
                format!("{disk} is no PCI drive: what stands between moves the bytes"),
                "put the file on an NVMe drive of this machine",
            ),
        ),
        [..] => Layer::hinders(
            format!("drive {disk}"),
            Absent::new(
                format!(
                    "several controllers stand before {disk}, and which of them reads is the kernel's choice"
                ),
                "switch multipath off (nvme_core.multipath=N) to choose a controller",
            ),
        ),
    };
    layers.push(layer);
}
