//! Block devices, one on another, down to the disks (`Documentation/ABI/testing/sysfs-block`).

use std::fs;
use std::path::Path;

use exporters::Absent;
use exporters::outside::outside;

use super::layer::Layer;

/// The unit of places in sysfs, whatever a drive's blocks are, in bytes.
const SECTOR: u64 = 512;

/// Devices lie on each other no deeper than this.
const DEEPEST: usize = 32;

/// Adds the layers below the block device with these numbers (`259:2`), and the names of the disks at
/// the bottom. `sys` is where sysfs is mounted.
pub(super) fn walk(sys: &Path, number: &str, layers: &mut Vec<Layer>, disks: &mut Vec<String>) {
    descend(sys, number, layers, disks, DEEPEST);
}

/// The disk that the device with these numbers is or is a partition of, and where it begins there,
/// in bytes.
pub(super) fn disk(sys: &Path, number: &str) -> Option<(String, u64)> {
    let directory = sys.join("dev/block").join(number).canonicalize().ok()?;
    let is_partition = directory.join("partition").exists();
    let disk = if is_partition { directory.parent()? } else { &directory };
    let name = disk.file_name()?.to_string_lossy().into_owned();
    if layer(disk, &name).is_some() {
        return None;
    }
    let sectors: u64 = if is_partition { read(&directory, "start").parse().ok()? } else { 0 };
    Some((name, sectors.checked_mul(SECTOR)?))
}

fn descend(
    sys: &Path,
    number: &str,
    layers: &mut Vec<Layer>,
    disks: &mut Vec<String>,
    deeper: usize,
) {
    let Ok(directory) = sys.join("dev/block").join(number).canonicalize() else {
        layers.push(Layer::hinders(
            format!("device {number}"),
            Absent::new(
                format!("device {number} is no block device: it is in memory, on a network, or spread over others"),
                "copy the file to a file system on an NVMe drive",
            ),
        ));
        return;
    };
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if directory.join("partition").exists() {
        layers.push(Layer::passes(format!("partition {name}")));
        let disk = directory.parent().map(|disk| read(disk, "dev")).unwrap_or_default();
        if deeper > 0 && !disk.is_empty() {
            descend(sys, &disk, layers, disks, deeper - 1);
        }
        return;
    }
    let Some(layer) = layer(&directory, &name) else {
        disks.push(name);
        return;
    };
    layers.push(layer);
    let below = fs::read_dir(directory.join("slaves")).into_iter().flatten().flatten();
    let mut numbers: Vec<_> = below.map(|slave| read(&slave.path(), "dev")).collect();
    numbers.sort_unstable();
    for number in numbers.iter().filter(|_| deeper > 0) {
        descend(sys, number, layers, disks, deeper - 1);
    }
}

/// What a device that is made of others is, or `None` for a disk.
fn layer(directory: &Path, name: &str) -> Option<Layer> {
    if directory.join("dm").exists() {
        return Some(mapped(&read(directory, "dm/uuid"), &read(directory, "dm/name")));
    }
    if directory.join("md").exists() {
        return Some(raid(&read(directory, "md/level"), name));
    }
    if directory.join("loop").exists() {
        let file = read(directory, "loop/backing_file");
        return Some(Layer::hinders(
            format!("loop device {name} of {file}"),
            Absent::new(
                format!("{name} reads it from the file {file}"),
                format!("read {file} itself"),
            ),
        ));
    }
    let elsewhere = [
        ("zram", "packs it in memory"),
        ("ram", "keeps it in memory"),
        ("nbd", "fetches it by a network"),
        ("rbd", "fetches it by a network"),
        ("drbd", "mirrors it by a network"),
        ("bcache", "caches it on another"),
    ];
    let (_, what) = elsewhere.iter().find(|(prefix, _)| name.starts_with(prefix))?;
    Some(Layer::hinders(
        name,
        Absent::new(format!("{name} {what}"), "copy the file to an NVMe drive of this machine"),
    ))
}

/// A device-mapper device, by its maker's mark. What its table says is root's to know; a volume that
/// is more than blocks in a row shows when its path is proved.
fn mapped(uuid: &str, name: &str) -> Layer {
    let maker = uuid.split('-').next().unwrap_or_default();
    let hinders = |what: &str, why: &str, fix: &'static str| {
        Layer::hinders(format!("{what} {name}"), Absent::new(format!("{what} {name}: {why}"), fix))
    };
    match maker {
        "CRYPT" => hinders(
            "dm-crypt",
            "the CPU decrypts what the drive holds",
            "put the file on a volume that is not encrypted, or a drive that encrypts by itself (OPAL)",
        ),
        "INTEGRITY" | "VERITY" => hinders(
            "dm-integrity",
            "the CPU checks every block",
            "put the file on a volume without",
        ),
        "LVM" => Layer::passes(format!("volume {name}")),
        "mpath" => Layer::passes(format!("paths {name}")),
        _ => Layer::passes(format!("device-mapper {name}")),
    }
}

fn raid(level: &str, name: &str) -> Layer {
    let what = format!("{level} {name}");
    match level {
        "raid4" | "raid5" | "raid6" => Layer::hinders(
            what,
            Absent::new(
                format!(
                    "{name} is {level}, whose parity is the CPU's work and goes through its memory"
                ),
                "put the file on a drive of its own, a mirror or stripes (raid1, raid0, raid10)",
            ),
        ),
        _ => Layer::passes(what),
    }
}

/// What an attribute says, which for a name may be whatever somebody gave it.
fn read(directory: &Path, name: &str) -> String {
    let text = fs::read_to_string(directory.join(name)).unwrap_or_default();
    outside(text.trim()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Name, number, files, and what it lies on.
    type Device<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

    /// Devices in a directory with the form of sysfs.
    fn sysfs(devices: &[Device<'_>]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().expect("a directory");
        let numbers = sys.path().join("dev/block");
        fs::create_dir_all(&numbers).expect("a directory");
        for (path, number, files, below) in devices {
            let directory = sys.path().join("devices").join(path);
            fs::create_dir_all(directory.join("slaves")).expect("a directory");
            fs::write(directory.join("dev"), number).expect("a file");
            for (name, text) in *files {
                let file = directory.join(name);
                fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
                fs::write(file, text).expect("a file");
            }
            for name in *below {
                let target = sys.path().join("devices").join(name);
                let link = target.file_name().expect("a name").to_owned();
                symlink(target, directory.join("slaves").join(link)).expect("a link");
            }
            symlink(&directory, numbers.join(number)).expect("a link");
        }
        sys
    }

    fn walked(sys: &tempfile::TempDir, number: &str) -> (Vec<String>, Vec<String>, Vec<String>) {
        let (mut layers, mut disks) = (Vec::new(), Vec::new());
        walk(sys.path(), number, &mut layers, &mut disks);
        let names = layers.iter().map(|layer| layer.name.clone()).collect();
        let hindrances =
            layers.iter().filter_map(|l| l.hindrance.as_ref()).map(ToString::to_string);
        (names, disks, hindrances.collect())
    }

    #[test]
    fn an_encrypted_volume_on_a_partition() {
        let sys = sysfs(&[
            ("nvme0n1", "259:0", &[], &[]),
            ("nvme0n1/nvme0n1p2", "259:2", &[("partition", "2")], &[]),
            (
                "dm-0",
                "254:0",
                &[("dm/uuid", "CRYPT-LUKS2-ab-luks\n"), ("dm/name", "luks\n")],
                &["nvme0n1/nvme0n1p2"],
            ),
            ("dm-1", "254:1", &[("dm/uuid", "LVM-abc\n"), ("dm/name", "vg-data\n")], &["dm-0"]),
        ]);
        let (names, disks, hindrances) = walked(&sys, "254:1");
        assert_eq!(names, ["volume vg-data", "dm-crypt luks", "partition nvme0n1p2"]);
        assert_eq!(disks, ["nvme0n1"]);
        assert!(hindrances.len() == 1 && hindrances[0].contains("decrypts"), "{hindrances:?}");
    }

    #[test]
    fn raids_by_their_level() {
        let two = ["nvme0n1", "nvme1n1"];
        let md = |level: &'static str| {
            let sys = sysfs(&[
                ("nvme0n1", "259:0", &[], &[]),
                ("nvme1n1", "259:1", &[], &[]),
                (
                    "md0",
                    "9:0",
                    Box::leak(Box::new([("md/level", level)])),
                    Box::leak(Box::new(two)),
                ),
            ]);
            walked(&sys, "9:0")
        };
        let (names, disks, hindrances) = md("raid0");
        assert_eq!((names, disks.len(), hindrances.len()), (vec!["raid0 md0".to_owned()], 2, 0));
        assert!(md("raid5").2[0].contains("parity"));
    }

    #[test]
    fn what_is_no_disk_is_named() {
        let sys = sysfs(&[
            ("loop3", "7:3", &[("loop/backing_file", "/images/a.img\n")], &[]),
            ("zram0", "253:0", &[], &[]),
        ]);
        assert!(walked(&sys, "7:3").2[0].contains("read /images/a.img itself"));
        assert!(walked(&sys, "253:0").2[0].contains("zram0 packs it in memory"));
        assert!(walked(&sys, "0:45").2[0].contains("no block device"));
    }

    #[test]
    fn a_circle_ends() {
        let sys = sysfs(&[("md0", "9:0", &[("md/level", "raid0")], &["md0"])]);
        assert!(walked(&sys, "9:0").0.len() <= DEEPEST + 1);
    }
}
