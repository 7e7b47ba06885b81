//! Machines for the tests of this module.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Held, NotFree, Roots, User};

const FUNCTION: &str = "0000:01:00.0";
/// The head of `/proc/swaps`.
pub const SWAPS: &str = "Filename Type Size Used Priority\n";

/// A machine with one function and one process, in a directory with the form of `/sys`, `/proc` and
/// `/dev`.
pub struct Machine(pub tempfile::TempDir);

impl Machine {
    pub fn new() -> Self {
        let machine = Self(tempfile::tempdir().expect("a directory"));
        machine.put("proc/self/mountinfo", "22 1 0:5 / / rw - tmpfs none rw\n");
        machine.link("proc/self/ns/mnt", "mnt:[1]");
        machine.put("proc/swaps", SWAPS);
        machine.put(&format!("{}/class", machine.function()), "0x010802\n");
        let target = machine.0.path().join(machine.function());
        machine.link(&format!("sys/bus/pci/devices/{FUNCTION}"), target);
        machine.put("dev/null", "");
        machine.make("sys/class/block");
        machine
    }

    pub fn function(&self) -> String {
        format!("sys/devices/pci0000:00/0000:00:01.0/{FUNCTION}")
    }

    pub fn make(&self, path: &str) {
        fs::create_dir_all(self.0.path().join(path)).expect("a directory");
    }

    pub fn put(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    pub fn link(&self, path: &str, target: impl AsRef<Path>) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        symlink(target, path).expect("a link");
    }

    pub fn remove(&self, path: &str) {
        let path = self.0.path().join(path);
        match path.is_dir() {
            true => fs::remove_dir_all(path).expect("a directory"),
            false => fs::remove_file(path).expect("a file"),
        }
    }

    /// A device of a class at a path below the function.
    pub fn device(&self, path: &str, class: &str, files: &[(&str, &str)]) -> String {
        self.device_at(&format!("{}/{path}", self.function()), class, files)
    }

    fn device_at(&self, path: &str, class: &str, files: &[(&str, &str)]) -> String {
        self.link(&format!("{path}/subsystem"), format!("../../class/{class}"));
        files.iter().for_each(|(name, text)| self.put(&format!("{path}/{name}"), text));
        path.to_owned()
    }

    /// A block device of a name and a number, at a path.
    pub fn block(&self, path: &str, number: &str) -> String {
        let name = path.rsplit('/').next().expect("a name");
        let uevent = format!("DEVNAME={name}\n");
        self.device_at(path, "block", &[("dev", number), ("uevent", &uevent)]);
        self.make(&format!("{path}/holders"));
        self.link(&format!("sys/class/block/{name}"), self.0.path().join(path));
        path.to_owned()
    }

    /// The disk of an NVMe drive, with two partitions.
    pub fn disk(&self) -> String {
        let disk = self.block(&format!("{}/nvme/nvme0/nvme0n1", self.function()), "259:0\n");
        for (partition, number) in [("1", "259:1"), ("2", "259:2")] {
            let path = self.block(&format!("{disk}/nvme0n1p{partition}"), number);
            self.put(&format!("{path}/partition"), partition);
        }
        disk
    }

    pub fn hold(&self) -> Result<Held, NotFree> {
        let [sys, proc, dev] = ["sys", "proc", "dev"].map(|name| self.0.path().join(name));
        let sys = sys.canonicalize().expect("a directory");
        let roots = Roots { sys: &sys, proc: &proc, dev: &dev };
        roots.hold(&[FUNCTION.parse().expect("an address")])
    }

    #[track_caller]
    pub fn users(&self) -> Vec<String> {
        match self.hold() {
            Err(NotFree::InUse { users, .. }) => users.iter().map(User::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn unknown(&self) -> String {
        let error = self.hold().expect_err("it is held");
        assert!(matches!(error, NotFree::Unknown { .. }), "{error}");
        error.to_string()
    }
}
