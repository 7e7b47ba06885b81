//! What a disk is used for by the kernel: file systems, swap spaces, and other block devices that are
//! made of it, up to the last.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::below::Block;
use super::findings::{Findings, Roots, unread};
use super::mounted::{self, Mounted};
use super::swaps;
use super::user::User;
use crate::pci::PciError;
use crate::pci::sysfs::{Directory, names, resolved};

/// Names everybody who uses the disks.
pub(super) fn look(roots: &Roots<'_>, disks: &[Block], findings: &mut Findings) {
    let block = roots.sys.join("class/block");
    let search = Search {
        mounts: mounted::read(roots.proc, findings),
        swaps: findings.read(swaps::read(roots.proc)),
        loops: findings.read(loops(&block)),
        block,
    };
    let mut seen = BTreeSet::new();
    for disk in disks {
        if let Err(error) = search.users(disk, &mut seen, &mut findings.users) {
            findings.unknown.push(unread(&error));
        }
    }
}

struct Search {
    block: PathBuf,
    mounts: Vec<Mounted>,
    swaps: Vec<PathBuf>,
    /// Loop devices, each with its file.
    loops: Vec<(String, PathBuf)>,
}

impl Search {
    /// Adds the users of a block device, its partitions, and all that is made of them.
    fn users(
        &self,
        device: &Block,
        seen: &mut BTreeSet<String>,
        users: &mut Vec<User>,
    ) -> Result<(), PciError> {
        if !seen.insert(device.name.clone()) {
            return Ok(());
        }
        let called = called(device)?;
        let is_this = |path: &Path| called.iter().any(|name| path.ends_with(name));
        for Mounted { mount, by } in &self.mounts {
            // btrfs has numbers of its own.
            let by_source = mount.device.starts_with("0:") && is_this(Path::new(&mount.source));
            if mount.device == device.number || by_source {
                let (device, on) = (device.name.clone(), mount.on.clone());
                users.push(User::Mount { device, on, by: by.clone() });
            }
        }
        if self.swaps.iter().any(|swap| is_this(swap)) {
            users.push(User::Swap { device: device.name.clone() });
        }
        let mut holders = names(&device.directory.join("holders"))?;
        let loops = self.loops.iter().filter(|(_, file)| is_this(file));
        holders.extend(loops.map(|(name, _)| name.clone()));
        for holder in holders {
            users.push(User::Holder { device: device.name.clone(), holder: holder.clone() });
            let directory = resolved(&self.block.join(&holder))?;
            self.users(&Block::read(directory)?, seen, users)?;
        }
        for partition in device.partitions()? {
            self.users(&partition, seen, users)?;
        }
        Ok(())
    }
}

/// The ends of the paths by which a device is known, wherever `/dev` is mounted.
fn called(device: &Block) -> Result<Vec<PathBuf>, PciError> {
    let mut called = vec![PathBuf::from(device.node())];
    let mapped = Directory(&device.directory).optional("dm/name")?;
    called.extend(mapped.map(|name| Path::new("mapper").join(name)));
    Ok(called)
}

/// The loop devices that have a file. Those over a disk are not among its holders in sysfs.
fn loops(block: &Path) -> Result<Vec<(String, PathBuf)>, PciError> {
    let mut loops = Vec::new();
    for name in names(block)? {
        let device = block.join(&name);
        let file = Directory(&device).optional("loop/backing_file")?;
        loops.extend(file.map(|file| (name, PathBuf::from(file))));
    }
    Ok(loops)
}

#[cfg(test)]
mod tests {
    use super::super::machine::{Machine, SWAPS};

    #[test]
    fn mounts_are_seen_in_every_namespace() {
        let machine = Machine::new();
        machine.disk();
        machine.put("proc/self/mountinfo", "22 1 259:1 / /here rw - ext4 /dev/nvme0n1p1 rw\n");
        for (pid, namespace, text) in [
            // Of the same namespace.
            (1, 1, "22 1 259:1 / /here rw - ext4 /dev/nvme0n1p1 rw\n"),
            (
                70,
                2,
                "30 1 0:40 / /there rw - btrfs /dev/nvme0n1p2 rw\n31 1 259:7 / /n rw - xfs a rw\n",
            ),
            (71, 2, "nonsense"),
        ] {
            machine.put(&format!("proc/{pid}/mountinfo"), text);
            machine.link(&format!("proc/{pid}/ns/mnt"), format!("mnt:[{namespace}]"));
            machine.put(&format!("proc/{pid}/comm"), "shell\n");
            machine.make(&format!("proc/{pid}/fd"));
        }
        assert_eq!(
            machine.users(),
            [
                "nvme0n1p1 is mounted on /here; umount /here",
                "nvme0n1p2 is mounted on /there in the mount namespace of process 70 (shell); \
             nsenter -t 70 -m umount /there",
            ]
        );
    }

    #[test]
    fn holders_are_followed_to_the_last() {
        let machine = Machine::new();
        let disk = machine.disk();
        let (crypt, volume) = ("sys/devices/virtual/block/dm-0", "sys/devices/virtual/block/dm-1");
        machine.block(crypt, "254:0");
        machine.block(volume, "254:1");
        machine.put(&format!("{volume}/dm/name"), "vg-root\n");
        machine.make(&format!("{disk}/nvme0n1p2/holders/dm-0"));
        machine.make(&format!("{crypt}/holders/dm-1"));
        // In a circle.
        machine.make(&format!("{volume}/holders/dm-0"));
        machine.put("proc/self/mountinfo", "22 1 0:39 / / rw - btrfs /dev/mapper/vg-root rw\n");
        machine.put("proc/swaps", format!("{SWAPS}/dev/dm-0 partition 4 0 -2\n"));
        let loop3 = machine.block("sys/devices/virtual/block/loop3", "7:3");
        machine.put(&format!("{loop3}/loop/backing_file"), "/dev/nvme0n1p1\n");
        let users = machine.users();
        for expected in [
            "loop3 is made of nvme0n1p1; take loop3 apart first",
            "dm-0 is made of nvme0n1p2; take dm-0 apart first",
            "the system swaps to dm-0; swapoff /dev/dm-0",
            "dm-1 is made of dm-0; take dm-1 apart first",
            "dm-1 is mounted on /; umount /",
        ] {
            assert!(users.iter().any(|user| user == expected), "{expected}: {users:?}");
        }
    }
}
