//! Who uses functions, so that they are not taken from them.
//!
//! There are three answers, and only one of them lets a function go: nobody uses it ([`Held`]);
//! somebody does, by name ([`NotFree::InUse`]); it cannot be found out ([`NotFree::Unknown`]).
//!
//! For a disk the proof is the kernel's. Whoever mounts it or one of its partitions, swaps to it or
//! makes a volume of it has it exclusively, in whatever mount namespace, and another exclusive open of
//! the disk (`O_EXCL`, open(2)) fails with `EBUSY`. For what VFIO has it is the group's file, which the
//! kernel opens once. As long as these files are open, nobody begins to use what was free. Mounts,
//! swaps, holders and programs are looked at besides, to say who it is.

mod below;
mod exclusive;
mod findings;
mod holders;
#[cfg(test)]
mod machine;
mod mounted;
mod process;
mod programs;
mod swaps;
mod user;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use exporters::Absent;
use exporters::outside::outside;

use super::sysfs::{Directory, names};
use super::{Address, Class, PciError};
use below::Below;
use exclusive::Exclusive;
pub(super) use exclusive::is_vfio;
use findings::{Findings, Roots, unread};
pub use process::Process;
pub use user::User;

/// Why a function may not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotFree {
    /// Somebody uses it.
    #[error("{address} is in use: {}", in_a_row(.users))]
    InUse {
        /// The function.
        address: Address,
        /// Everybody who is seen to.
        users: Vec<User>,
    },
    /// Nobody is seen to use it, but not everything could be looked at.
    #[error("{address} is not taken, because it cannot be told whether it is in use: {}", by_remedy(.reasons))]
    Unknown {
        /// The function.
        address: Address,
        /// What could not be found out, and how it can.
        reasons: Vec<Absent>,
    },
}

fn in_a_row(users: &[User]) -> String {
    users.iter().map(User::to_string).collect::<Vec<_>>().join("; ")
}

/// Reasons in a row, and after those with one remedy, the remedy.
fn by_remedy(reasons: &[Absent]) -> String {
    let same = reasons.chunk_by(|one, next| one.fix == next.fix);
    let told = same.map(|same| {
        let whys: Vec<_> = same.iter().map(|reason| &*reason.why).collect();
        format!("{}; {}", whys.join(", "), same[0].fix)
    });
    told.collect::<Vec<_>>().join("; ")
}

/// Functions that nobody else uses, and nobody can begin to use while this is held.
///
/// That is so for their disks and for VFIO. Network interfaces may be set up, and character devices
/// opened, at any time.
#[derive(Debug, Default)]
#[must_use = "others may use the functions once it is dropped"]
pub struct Held {
    functions: Vec<Address>,
    files: Vec<(PathBuf, OwnedFd)>,
}

impl Held {
    /// The functions.
    pub fn functions(&self) -> &[Address] {
        &self.functions
    }
}

/// Holds functions of this machine if nobody uses them, and says who does otherwise. Needs root.
///
/// A program that has a file of `/dev` open which belongs to a function uses it: a disk, a GPU, a sound
/// card. It is seen by the file's usual name. What is in use without an open file is not seen: memory
/// that was mapped before the file was closed, and files that are open in an io_uring alone.
///
/// # Errors
/// [`NotFree`], of the first function that is not free.
pub fn hold(functions: &[Address]) -> Result<Held, NotFree> {
    Roots { sys: "/sys".as_ref(), proc: "/proc".as_ref(), dev: "/dev".as_ref() }.hold(functions)
}

impl Roots<'_> {
    fn hold(&self, functions: &[Address]) -> Result<Held, NotFree> {
        let mut held = Held::default();
        for &address in functions {
            let Findings { mut users, unknown: mut reasons } = self.look(address, &mut held.files);
            users.dedup();
            reasons.dedup();
            match (users.is_empty(), reasons.is_empty()) {
                (false, _) => return Err(NotFree::InUse { address, users }),
                (true, false) => return Err(NotFree::Unknown { address, reasons }),
                (true, true) => held.functions.push(address),
            }
        }
        Ok(held)
    }

    /// Opens what can be opened for oneself alone, then looks for others.
    fn look(&self, address: Address, files: &mut Vec<(PathBuf, OwnedFd)>) -> Findings {
        let mut findings = Findings::default();
        let function = self.sys.join("bus/pci/devices").join(address.to_string());
        let function = match function.canonicalize().map_err(PciError::read(function)) {
            Ok(function) => function,
            Err(error) => {
                findings.unknown.push(unread(&error));
                return findings;
            }
        };
        let directory = Directory(&function);
        let class = findings.read(Class::read(directory).map(Some));
        if class.is_some_and(Class::is_bridge) {
            findings.users.push(User::Bus);
            return findings;
        }
        findings.own(directory, class);
        let mut below = match Below::read(self.sys, &function) {
            Ok(below) => below,
            Err(error) => {
                findings.unknown.push(unread(&error));
                return findings;
            }
        };
        findings.users.append(&mut below.users);
        findings.unknown.append(&mut below.unknown);

        let mut taken = Vec::new();
        let mut exclusives: Vec<_> =
            below.disks.iter().map(|disk| Exclusive::disk(self.dev, disk)).collect();
        exclusives.extend(findings.read(Exclusive::vfio_group(self.sys, self.dev, directory)));
        for exclusive in &exclusives {
            if files.iter().any(|(node, _)| *node == exclusive.node) {
                continue;
            }
            match exclusive.open() {
                Ok(Some(file)) => files.push((exclusive.node.clone(), file)),
                Ok(None) => taken.push(exclusive.node.clone()),
                Err(reason) => findings.unknown.push(reason),
            }
        }
        if !below.disks.is_empty() {
            holders::look(self, &below.disks, &mut findings);
        }
        let mut nodes: Vec<_> = exclusives.into_iter().map(|exclusive| exclusive.node).collect();
        nodes.extend(below.nodes.iter().map(|name| self.dev.join(name)));
        programs::who_has_open(self, &nodes, files, &mut findings);
        // Whoever mounts or holds a disk has it exclusively, too.
        if findings.users.is_empty() {
            findings.users.extend(taken.into_iter().map(|node| User::Exclusive { node }));
        }
        findings
    }
}

impl Findings {
    /// What the function's own files say.
    fn own(&mut self, directory: Directory<'_>, class: Option<Class>) {
        let boot_screen = directory.optional("boot_vga");
        match self.read(boot_screen).as_deref() {
            Some("1") => self.users.push(User::BootScreen),
            Some("0") => {}
            Some(other) => {
                self.unknown.push(unread(&directory.content("boot_vga", "0 or 1", other)));
            }
            None if class.is_some_and(Class::is_vga) => self.unknown.push(Absent::new(
                format!("{} says not whether the console uses it", outside(directory.0)),
                "run on a kernel that does (its file boot_vga)",
            )),
            None => {}
        }
        let virtual_functions = names(directory.0).and_then(|names| {
            let links = names.iter().filter(|name| name.starts_with("virtfn"));
            links.map(|name| directory.link_name(name)).collect::<Result<Vec<_>, _>>()
        });
        let addresses = self.read(virtual_functions).into_iter().flatten();
        let addresses = addresses.filter_map(|name| Address::of_directory(&name));
        self.users.extend(addresses.map(|address| User::Function { address }));
    }
}

#[cfg(test)]
mod tests {
    use super::machine::Machine;

    #[test]
    fn what_nothing_is_made_of_is_free() {
        let held = Machine::new().hold().expect("free");
        assert_eq!(held.functions().len(), 1);
    }

    #[test]
    fn a_disk_whose_node_is_not_to_be_had_is_not_free() {
        let machine = Machine::new();
        machine.disk();
        let words = machine.unknown();
        assert!(
            words.contains("there is no") && words.contains("outside of a container"),
            "{words}"
        );
        // Another file, and another device, of that name.
        machine.put("dev/nvme0n1", "");
        assert!(machine.unknown().contains("is not the device 259:0"), "{}", machine.unknown());
        machine.remove("dev/nvme0n1");
        machine.link("dev/nvme0n1", "/dev/null");
        assert!(machine.unknown().contains("is not the device 259:0"), "{}", machine.unknown());
        // What it leads to is in itself.
        machine.remove("dev/nvme0n1");
        machine.link("dev/nvme0n1", "nvme0n1");
        assert!(machine.unknown().contains("cannot be opened"), "{}", machine.unknown());
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_nothing() {
        for lost in [
            "proc/swaps",
            "proc/self/mountinfo",
            "proc/self/ns/mnt",
            "DISK/dev",
            "DISK/holders",
            "DISK/nvme0n1p1/holders",
            "DISK/nvme0n1p2/dev",
            "DISK/uevent",
            "FUNCTION/class",
            "sys/class/block",
        ] {
            let machine = Machine::new();
            let disk = machine.disk();
            let lost = lost.replace("DISK", &disk).replace("FUNCTION", &machine.function());
            machine.remove(&lost);
            let (words, name) = (machine.unknown(), lost.rsplit('/').next().expect("a name"));
            assert!(words.contains(&format!("{name} cannot be read")), "{lost}: {words}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_not_taken_for_nothing() {
        for (file, text) in [
            ("proc/swaps", "nonsense\n"),
            ("proc/swaps", "Filename Type\n/dev/nvme0n1p1\n"),
            ("proc/self/mountinfo", "22 1 259:1 /\n"),
            ("DISK/uevent", "MAJOR=259\n"),
            ("FUNCTION/class", "none\n"),
            ("FUNCTION/boot_vga", "\n"),
        ] {
            let machine = Machine::new();
            let disk = machine.disk();
            machine
                .put(&file.replace("DISK", &disk).replace("FUNCTION", &machine.function()), text);
            let words = machine.unknown();
            assert!(words.contains("is expected"), "{file}: {words}");
        }
    }

    #[test]
    fn a_screen_says_whether_it_is_the_consoles() {
        let machine = Machine::new();
        machine.put(&format!("{}/class", machine.function()), "0x030000\n");
        assert!(machine.unknown().contains("says not whether the console uses it"));
        machine.put(&format!("{}/boot_vga", machine.function()), "1\n");
        assert_eq!(machine.users(), ["it is the screen that the console uses"]);
        machine.put(&format!("{}/boot_vga", machine.function()), "0\n");
        drop(machine.hold().expect("free"));
    }
}
