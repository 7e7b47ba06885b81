//! Files in `/dev` that the kernel gives to one at a time.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use exporters::Absent;
use exporters::outside::outside;
use rustix::fs::{FileType, Mode, OFlags, fstat, major, minor, open};
use rustix::io::Errno;

use super::below::Block;
use crate::pci::PciError;
use crate::pci::sysfs::Directory;

/// A file that another exclusive open is refused of while somebody has it so.
#[derive(Debug)]
pub(super) struct Exclusive {
    /// The file.
    pub node: PathBuf,
    /// The numbers of the device that it must be.
    number: String,
    kind: FileType,
}

impl Exclusive {
    /// A disk. While it is held, nobody gets one of its partitions either; nor can it be had while
    /// somebody has one.
    pub fn disk(dev: &Path, disk: &Block) -> Self {
        Self {
            node: dev.join(disk.node()),
            number: disk.number.clone(),
            kind: FileType::BlockDevice,
        }
    }

    /// The VFIO group of a function that VFIO has, or `None` if it has it not.
    pub fn vfio_group(
        sys: &Path,
        dev: &Path,
        function: Directory<'_>,
    ) -> Result<Option<Self>, PciError> {
        let driver = function.link_name("driver")?;
        if !driver.is_some_and(|driver| is_vfio(&driver)) {
            return Ok(None);
        }
        let group = function.link_name("iommu_group")?;
        let Some(group) = group else {
            return Err(function.content("iommu_group", "a group, because VFIO has it,", "none"));
        };
        let number = Directory(&sys.join("class/vfio").join(&group)).text("dev")?;
        let node = dev.join("vfio").join(group);
        Ok(Some(Self { node, number, kind: FileType::CharacterDevice }))
    }

    /// The file, or `None` if somebody else has it.
    pub fn open(&self) -> Result<Option<OwnedFd>, Absent> {
        // Without O_NONBLOCK, a drive with no medium would not open, and one with a tray would close it.
        let how = OFlags::RDONLY | OFlags::EXCL | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match open(&self.node, how, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::BUSY) => return Ok(None),
            Err(error) => return Err(self.unopened(error)),
        };
        let stat = fstat(&file).map_err(|error| self.unopened(error))?;
        let number = format!("{}:{}", major(stat.st_rdev), minor(stat.st_rdev));
        if FileType::from_raw_mode(stat.st_mode) != self.kind || number != self.number {
            return Err(Absent::new(
                format!("{} is not the device {} there", outside(&self.node), self.number),
                format!("run where {} is the machine's own", outside(&self.node)),
            ));
        }
        Ok(Some(file))
    }

    fn unopened(&self, error: Errno) -> Absent {
        let node = outside(&self.node);
        match error {
            Errno::NOENT => Absent::new(
                format!(
                    "there is no {node} here, so that the kernel cannot be asked whether somebody has it"
                ),
                format!("run where {node} is, outside of a container"),
            ),
            Errno::ACCESS | Errno::PERM => Absent::new(
                format!("{node} may not be opened ({error})"),
                "run as root, outside of a container that keeps devices from it",
            ),
            error => Absent::new(
                format!("{node} cannot be opened ({error})"),
                format!("run as root where {node} is the machine's own and answers"),
            ),
        }
    }
}

/// Whether a driver is VFIO's: vfio-pci, or a variant of it for one maker's devices.
pub(in crate::pci) fn is_vfio(driver: &str) -> bool {
    driver.ends_with("vfio-pci") || driver.ends_with("vfio_pci")
}

#[cfg(test)]
mod tests {
    use super::super::machine::Machine;

    #[test]
    fn what_vfio_has_is_held_by_its_group() {
        let machine = Machine::new();
        machine.link(&format!("{}/driver", machine.function()), "../drivers/vfio-pci");
        assert!(machine.unknown().contains("iommu_group"));
        machine.link(&format!("{}/iommu_group", machine.function()), "../iommu_groups/7");
        assert!(machine.unknown().contains("dev cannot be read"));
        machine.put("sys/class/vfio/7/dev", "1:3\n");
        let words = machine.unknown();
        assert!(words.contains("there is no") && words.contains("vfio/7"), "{words}");
        machine.link("dev/vfio/7", "/dev/zero");
        assert!(machine.unknown().contains("is not the device 1:3"));
        machine.remove("dev/vfio/7");
        machine.link("dev/vfio/7", "/dev/null");
        let held = machine.hold().expect("free");
        assert_eq!(held.files.len(), 1);
    }
}
