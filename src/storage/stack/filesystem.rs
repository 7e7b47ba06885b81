//! The file system that a file lies on.

use std::path::Path;

use exporters::Absent;
use exporters::outside::outside;
use rustix::fs::{AtFlags, StatxFlags, major, minor, stat, statx};

use super::layer::Layer;
use crate::storage::file::SourceFile;
use iomap::mounts::{self, Mount};

/// The numbers of a block device that is the file itself.
pub(super) fn own_number(file: &SourceFile) -> Option<String> {
    let stat = rustix::fs::fstat(file).ok()?;
    Some(number(stat.st_rdev))
}

pub(super) fn number(device: u64) -> String {
    format!("{}:{}", major(device), minor(device))
}

/// Adds the file system, and returns the numbers of the block device that it is on.
pub(super) fn layer(file: &SourceFile, mountinfo: &str, layers: &mut Vec<Layer>) -> Option<String> {
    let device = number(file.device());
    let Some(mount) = mount(file, mountinfo, &device) else {
        layers.push(Layer::passes("a file system"));
        return Some(device);
    };
    let name = format!("{} on {}", outside(&mount.kind), outside(&mount.on));
    if let Some(hindrance) = hindrance(&mount) {
        layers.push(Layer::hinders(name, hindrance));
        return None;
    }
    layers.push(Layer::passes(name));
    match device.starts_with("0:") {
        // btrfs, whose files have the number of a subvolume.
        true => stat(Path::new(&mount.source)).ok().map(|source| number(source.st_rdev)),
        false => Some(device),
    }
}

/// The mount that the file was opened in, by its number (since Linux 5.8), or by the device's.
fn mount(file: &SourceFile, mountinfo: &str, device: &str) -> Option<Mount> {
    let id = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .ok()
        .filter(|stat| stat.stx_mask & StatxFlags::MNT_ID.bits() != 0)
        .map(|stat| stat.stx_mnt_id);
    let fits = |mount: &Mount| match id {
        Some(id) => mount.id == id,
        None => mount.device == device,
    };
    mounts::parse(mountinfo).flatten().find(fits)
}

/// Why a file system's files cannot be read by a drive alone.
fn hindrance(mount: &Mount) -> Option<Absent> {
    let kind = mount.kind.as_str();
    let family = kind.split('.').next().unwrap_or(kind);
    match family {
        "overlay" => Some(Absent::new(
            "it lies in an overlay, whose files are those of other file systems",
            format!("open the file below the overlay: {}", directories(&mount.options)),
        )),
        "tmpfs" | "ramfs" | "hugetlbfs" | "devtmpfs" => {
            Some(Absent::new(format!("{kind} keeps it in memory, and no drive has it"), DISK))
        }
        "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "9p" | "afs" | "virtiofs" | "lustre"
        | "gfs2" | "ocfs2" | "orangefs" => {
            Some(Absent::new(format!("{kind} fetches it from another machine"), DISK))
        }
        "fuse" | "fuseblk" => {
            Some(Absent::new(format!("a program ({kind}) moves its bytes"), DISK))
        }
        "zfs" | "bcachefs" => Some(Absent::new(
            format!("{kind} moves and checks its bytes by the CPU"),
            "put it on ext4 or xfs",
        )),
        "squashfs" | "erofs" | "cramfs" => {
            Some(Absent::new(format!("{kind} packs it, and the CPU unpacks it"), DISK))
        }
        _ => None,
    }
}

const DISK: &str = "copy it to a file system on an NVMe drive of this machine";

/// The directories that an overlay is made of.
fn directories(options: &str) -> String {
    let named = |option: &&str| option.starts_with("lowerdir") || option.starts_with("upperdir");
    let found: Vec<_> = options.split(',').filter(named).collect();
    match found.is_empty() {
        true => "see /proc/self/mountinfo for its directories".into(),
        false => found.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_that_move_bytes_are_named() {
        let mount = |kind: &str, options: &str| {
            let line = format!("7 1 0:9 / /x rw - {kind} source {options}");
            mounts::parse(&line).flatten().next().expect("a mount")
        };
        for kind in ["ext4", "xfs", "btrfs", "vfat", "f2fs"] {
            assert_eq!(hindrance(&mount(kind, "rw")), None, "{kind}");
        }
        for kind in ["tmpfs", "nfs4", "fuse.sshfs", "9p", "zfs", "squashfs"] {
            let why = hindrance(&mount(kind, "rw")).expect(kind).to_string();
            assert!(why.contains(kind), "{why}");
        }
        let overlay = mount("overlay", "rw,lowerdir=/a,upperdir=/b,workdir=/w");
        let why = hindrance(&overlay).expect("an overlay").to_string();
        assert!(why.contains("lowerdir=/a, upperdir=/b"), "{why}");
    }
}
