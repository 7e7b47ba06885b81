//! Who uses a function, so that it is not taken from them.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::Function;
use crate::mounts;

/// Somebody who uses a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// A file system is mounted from a disk or a partition.
    Mount {
        /// The block device's name.
        device: String,
        /// Where it is mounted.
        on: PathBuf,
    },
    /// The system swaps to it.
    Swap {
        /// The block device's name.
        device: String,
    },
    /// Another block device is made of it: a volume, a RAID, an encrypted disk.
    Holder {
        /// The block device's name.
        device: String,
        /// What is made of it.
        holder: String,
    },
    /// A program has it for itself.
    Exclusive {
        /// The block device's name.
        device: String,
    },
    /// A network interface is up.
    Interface {
        /// Its name.
        name: String,
    },
    /// The screen that the firmware and the console use.
    BootScreen,
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mount { device, on } => {
                write!(f, "{device} is mounted on {}; umount {}", on.display(), on.display())
            }
            Self::Swap { device } => {
                write!(f, "the system swaps to {device}; swapoff /dev/{device}")
            }
            Self::Holder { device, holder } => {
                write!(f, "{holder} is made of {device}; take {holder} apart first")
            }
            Self::Exclusive { device } => {
                write!(f, "a program has {device} for itself; end it (fuser -v /dev/{device})")
            }
            Self::Interface { name } => {
                write!(f, "the network interface {name} is up; ip link set {name} down")
            }
            Self::BootScreen => f.write_str("it is the screen that the console uses"),
        }
    }
}

/// Everybody who is seen to use a function on this machine. A program that merely has a disk open is
/// not seen.
pub fn users(function: &Function) -> Vec<User> {
    users_in(function, Path::new("/sys"), Path::new("/proc"))
}

fn users_in(function: &Function, sys: &Path, proc: &Path) -> Vec<User> {
    let mountinfo = fs::read_to_string(proc.join("self/mountinfo")).unwrap_or_default();
    let swaps = fs::read_to_string(proc.join("swaps")).unwrap_or_default();
    let mut users = Vec::new();
    for disk in &function.block_devices {
        for device in with_partitions(&sys.join("class/block"), &disk.name) {
            let directory = sys.join("class/block").join(&device);
            let number = fs::read_to_string(directory.join("dev")).unwrap_or_default();
            let mounted = mounts::parse(&mountinfo).filter(|mount| mount.device == number.trim());
            users.extend(mounted.map(|mount| User::Mount { device: device.clone(), on: mount.on }));
            if is_swap(&swaps, &device) {
                users.push(User::Swap { device: device.clone() });
            }
            let holders = names(&directory.join("holders"));
            users.extend(holders.map(|holder| User::Holder { device: device.clone(), holder }));
        }
        // Whoever mounts or holds a disk has it for himself, too.
        if users.is_empty() && is_taken(&Path::new("/dev").join(&disk.name)) {
            users.push(User::Exclusive { device: disk.name.clone() });
        }
    }
    let own = sys.join("bus/pci/devices").join(function.address.to_string());
    for name in names(&own.join("net")) {
        let flags = fs::read_to_string(own.join("net").join(&name).join("flags"));
        if flags.is_ok_and(|flags| is_up(&flags)) {
            users.push(User::Interface { name });
        }
    }
    if fs::read_to_string(own.join("boot_vga")).is_ok_and(|text| text.trim() == "1") {
        users.push(User::BootScreen);
    }
    users
}

/// A disk and its partitions, by name.
fn with_partitions(block: &Path, disk: &str) -> Vec<String> {
    let is_partition = |name: &String| block.join(disk).join(name).join("partition").exists();
    let partitions = names(&block.join(disk)).filter(is_partition);
    std::iter::once(disk.to_owned()).chain(partitions).collect()
}

/// Whether the system swaps to a block device, by the lines of `/proc/swaps`.
fn is_swap(swaps: &str, device: &str) -> bool {
    let file = |line: &str| line.split_whitespace().next().map(str::to_owned);
    swaps.lines().skip(1).filter_map(file).any(|path| path == format!("/dev/{device}"))
}

/// Whether a block device cannot be had for oneself, because another has it.
fn is_taken(device: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
    open(device, flags, Mode::empty()).is_err_and(|error| error == Errno::BUSY)
}

/// Whether a network interface is up (`IFF_UP`), by its flags in hexadecimal.
fn is_up(flags: &str) -> bool {
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16);
    flags.is_ok_and(|flags| flags & 1 != 0)
}

fn names(directory: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swaps_are_found_by_name() {
        let swaps = "Filename  Type  Size  Used  Priority\n/dev/nvme0n1p4  partition 1 0 -2\n";
        assert!(is_swap(swaps, "nvme0n1p4") && !is_swap(swaps, "nvme0n1"));
    }

    #[test]
    fn an_interface_is_up_by_its_flag() {
        assert!(is_up("0x1003\n") && !is_up("0x1002\n") && !is_up(""));
    }
}
