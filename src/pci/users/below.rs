//! What hangs below a function in sysfs: all that its driver, and the drivers of what that driver
//! finds, have made of it.

use std::path::{Path, PathBuf};

use exporters::Absent;
use exporters::outside::outside;

use super::user::User;
use crate::pci::sysfs::{Directory, hexadecimal, is_missing, names};
use crate::pci::{Address, PciError};

/// A block device with a file in `/dev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Its name in sysfs.
    pub name: String,
    /// Its numbers, `259:0`.
    pub number: String,
    /// Its directory, with all links followed.
    pub directory: PathBuf,
}

impl Block {
    pub fn read(directory: PathBuf) -> Result<Self, PciError> {
        let number = Directory(&directory).text("dev")?;
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, number, directory })
    }

    /// Its partitions.
    pub fn partitions(&self) -> Result<Vec<Self>, PciError> {
        let mut partitions = Vec::new();
        for name in names(&self.directory)? {
            let directory = self.directory.join(name);
            if directory.is_dir() && Directory(&directory).optional("partition")?.is_some() {
                partitions.push(Self::read(directory)?);
            }
        }
        Ok(partitions)
    }

    /// What it is called in `/dev`, where a name may have directories.
    pub fn node(&self) -> String {
        self.name.replace('!', "/")
    }
}

/// What hangs below a function.
#[derive(Debug, Default)]
pub(super) struct Below {
    /// The disks, not their partitions.
    pub disks: Vec<Block>,
    /// All that has a file in `/dev`, by its name there.
    pub nodes: Vec<String>,
    /// Who uses it by being there.
    pub users: Vec<User>,
    /// What is there and cannot be looked at.
    pub unknown: Vec<Absent>,
    /// Disks that are ways to another and have no file in `/dev`.
    ways: Vec<String>,
}

impl Below {
    /// All below the directory of a function, which has no links.
    pub fn read(sys: &Path, function: &Path) -> Result<Self, PciError> {
        let mut below = Self::default();
        below.walk(function)?;
        below.of_several_controllers(sys, function)?;
        for way in &below.ways {
            if !below.disks.iter().any(|disk| is_way_to(way, &disk.name)) {
                below.unknown.push(Absent::new(
                    format!("{way} is a way to a disk that is not to be seen"),
                    "run outside of the container, once the drive is whole",
                ));
            }
        }
        Ok(below)
    }

    fn walk(&mut self, directory: &Path) -> Result<(), PciError> {
        let entries = std::fs::read_dir(directory).map_err(PciError::read(directory))?;
        for entry in entries {
            let entry = entry.map_err(PciError::read(directory))?;
            let path = entry.path();
            if entry.file_type().map_err(PciError::read(&path))?.is_dir() {
                self.visit(&path)?;
                self.walk(&path)?;
            }
        }
        Ok(())
    }

    fn visit(&mut self, path: &Path) -> Result<(), PciError> {
        let directory = Directory(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match directory.link_name("subsystem")?.as_deref() {
            Some("block") => self.block(path, &name)?,
            Some("net") => self.interface(directory, name)?,
            Some("pci") => {
                let address = Address::of_directory(&name);
                self.users.extend(address.map(|address| User::Function { address }));
            }
            Some("mdev") => self.users.push(User::Mediated { name }),
            None if name == "net" && names(path)?.is_empty() => self.unknown.push(Absent::new(
                format!("{} has network interfaces in another network namespace", outside(path)),
                "give them back (ip -n NAMESPACE link set INTERFACE netns 1)",
            )),
            _ => {}
        }
        if directory.optional("dev")?.is_some() {
            let uevent = directory.text("uevent")?;
            let named = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="));
            let named = named.ok_or_else(|| directory.content("uevent", "a DEVNAME", &uevent))?;
            self.nodes.push(named.to_owned());
        }
        Ok(())
    }

    fn block(&mut self, path: &Path, name: &str) -> Result<(), PciError> {
        let directory = Directory(path);
        if directory.optional("hidden")?.as_deref() == Some("1") {
            self.ways.push(name.to_owned());
        } else if directory.optional("partition")?.is_none() {
            self.disks.push(Block::read(path.to_owned())?);
        }
        Ok(())
    }

    fn interface(&mut self, directory: Directory<'_>, name: String) -> Result<(), PciError> {
        const UP: u64 = 1;
        let flags = directory.text("flags")?;
        match hexadecimal(&flags) {
            Some(flags) if flags & UP == 0 => {}
            Some(_) => self.users.push(User::Interface { name }),
            None => return Err(directory.content("flags", "a hexadecimal number", &flags)),
        }
        Ok(())
    }

    /// The disks of NVMe drives that can be reached by several controllers. They lie below a subsystem,
    /// which links to its controllers.
    fn of_several_controllers(&mut self, sys: &Path, function: &Path) -> Result<(), PciError> {
        let subsystems = sys.join("class/nvme-subsystem");
        let list = match names(&subsystems) {
            // Such a drive's ways are seen below its function, and then miss their disk.
            Err(PciError::Read { source, .. }) if is_missing(&source) => return Ok(()),
            list => list?,
        };
        for name in list {
            let link = subsystems.join(name);
            let subsystem = link.canonicalize().map_err(PciError::read(link))?;
            for name in names(&subsystem)? {
                let path = subsystem.join(name);
                if !path.is_symlink() {
                    continue;
                }
                let controller = path.canonicalize().map_err(PciError::read(path))?;
                if controller.starts_with(function) {
                    self.walk(&subsystem)?;
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Whether `nvme0c1n1` is a way to `nvme0n1`.
fn is_way_to(way: &str, disk: &str) -> bool {
    let Some((controller, namespace)) = disk.rsplit_once('n') else { return false };
    let between = way.strip_prefix(controller).and_then(|rest| rest.strip_prefix('c'));
    let between = between.and_then(|rest| rest.strip_suffix(namespace)?.strip_suffix('n'));
    between.is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::machine::{Machine, SWAPS};

    #[test]
    fn a_disk_of_several_controllers_is_found() {
        let machine = Machine::new();
        let way = machine.device("nvme/nvme0/nvme0c0n1", "block", &[("hidden", "1\n")]);
        assert!(machine.unknown().contains("nvme0c0n1 is a way to a disk that is not to be seen"));
        let subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys0";
        let controller = machine.0.path().join(Path::new(&way).parent().expect("a controller"));
        machine.link(&format!("{subsystem}/nvme0"), controller);
        machine.link("sys/class/nvme-subsystem/nvme-subsys0", machine.0.path().join(subsystem));
        machine.block(&format!("{subsystem}/nvme0n1"), "259:9");
        machine.put("proc/self/mountinfo", "22 1 259:9 / / rw - ext4 /dev/nvme0n1 rw\n");
        assert_eq!(machine.users(), ["nvme0n1 is mounted on /; umount /"]);
    }

    #[test]
    fn what_hangs_far_below_counts() {
        let machine = Machine::new();
        machine.put(&format!("{}/class", machine.function()), "0x0c0330\n");
        let stick = "usb2/2-1/2-1:1.0/host3/target3:0:0/3:0:0:0/block/sda";
        machine.block(&format!("{}/{stick}", machine.function()), "8:0");
        machine.device("usb2/2-2/2-2:1.0/net/eth7", "net", &[("flags", "0x1003\n")]);
        machine.device("usb2/2-3/2-3:1.0/net/eth8", "net", &[("flags", "0x1002\n")]);
        machine.put("proc/swaps", format!("{SWAPS}/dev/sda partition 4 0 -2\n"));
        assert_eq!(
            machine.users(),
            [
                "the network interface eth7 is up; ip link set eth7 down",
                "the system swaps to sda; swapoff /dev/sda",
            ]
        );
    }

    #[test]
    fn interfaces_that_cannot_be_judged_are_not_down() {
        let flags = |text| {
            let machine = Machine::new();
            machine.device("virtio0/net/eth0", "net", &[("flags", text)]);
            machine.unknown()
        };
        assert!(flags("up\n").contains("a hexadecimal number is expected"));
        assert!(flags("").contains("a hexadecimal number is expected"));
        let machine = Machine::new();
        machine.device("virtio0/net/eth0", "net", &[]);
        assert!(machine.unknown().contains("flags cannot be read"));
        let machine = Machine::new();
        machine.make(&format!("{}/virtio0/net", machine.function()));
        assert!(machine.unknown().contains("in another network namespace"));
    }

    #[test]
    fn functions_that_depend_on_it_are_named() {
        let machine = Machine::new();
        machine.device("pci10000:e0/10000:e0:06.0", "pci", &[]);
        machine.link(&format!("{}/virtfn0", machine.function()), "../0000:01:10.0");
        machine.device("4b20d080", "mdev", &[]);
        let users = machine.users().join("; ");
        for name in ["10000:e0:06.0", "0000:01:10.0", "mediated device 4b20d080"] {
            assert!(users.contains(name), "{name}: {users}");
        }
        let machine = Machine::new();
        machine.put(&format!("{}/class", machine.function()), "0x060400\n");
        assert!(machine.users()[0].contains("a bridge"));
    }
}
