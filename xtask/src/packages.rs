//! Programs and drivers of the system that tests and benchmarks use, and their installation by apt-get.
//!
//! What is there is found by looking for the thing itself, not for its package, so that a machine with another package
//! manager is judged rightly. Only apt-get is used to install, and only by root or where sudo asks for no password.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::{self, Error};
use crate::inputs;
use crate::steps::Outcome;

/// A package, named as in Debian and Ubuntu.
pub struct Package {
    name: &'static str,
    is_there: fn() -> bool,
}

/// Vulkan's loader and a driver in software.
pub const VULKAN: [Package; 2] = [
    Package { name: "libvulkan1", is_there: has_vulkan_loader },
    Package { name: "mesa-vulkan-drivers", is_there: has_software_driver },
];

/// The flexible I/O tester, which benchmarks compare with.
pub const FIO: Package = Package { name: "fio", is_there: || program("fio").is_some() };

/// What fetches one of the real files.
pub const PIP: Package =
    Package { name: "python3-pip", is_there: || inputs::are_cached() || inputs::has_pip() };

/// All that tests use beside [`VULKAN`], [`FIO`] and [`PIP`].
pub const TOOLS: [Package; 3] = [
    Package { name: "vulkan-validationlayers", is_there: has_validation_layer },
    Package { name: "valgrind", is_there: || program("valgrind").is_some() },
    Package { name: "squashfs-tools", is_there: || program("mksquashfs").is_some() },
];

/// What makes and boots the guests of the bench.
const BENCH: [Package; 7] = [
    Package { name: "qemu-system-x86", is_there: || program("qemu-system-x86_64").is_some() },
    Package { name: "mmdebstrap", is_there: || program("mmdebstrap").is_some() },
    Package { name: "cpio", is_there: || program("cpio").is_some() },
    Package { name: "xz-utils", is_there: || program("xz").is_some() },
    Package { name: "zstd", is_there: || program("zstd").is_some() },
    Package { name: "debian-archive-keyring", is_there: has_archive_keys },
    // Without root, mmdebstrap works in a user namespace with user ids of its own.
    Package { name: "uidmap", is_there: || is_root() || program("newuidmap").is_some() },
];

/// Whether this user is root.
pub fn is_root() -> bool {
    child::output(Command::new("id").arg("-u"), "").is_ok_and(|id| id.trim() == "0")
}

fn has_archive_keys() -> bool {
    Path::new("/usr/share/keyrings/debian-archive-keyring.gpg").exists()
}

/// Installs what the bench needs, where that is allowed. The error says what is missing.
pub fn bench_is_there(install: bool) -> Result<(), String> {
    match provide(&BENCH, install) {
        Outcome::Done => Ok(()),
        Outcome::Skipped(why) | Outcome::Failed(why) => Err(why),
    }
}

/// Installs those of `packages` that are not there, if `install` allows it and this user may.
pub fn provide<'p>(packages: impl IntoIterator<Item = &'p Package>, install: bool) -> Outcome {
    let wanted: Vec<_> = packages.into_iter().collect();
    let missing = names_of_missing(&wanted);
    if missing.is_empty() {
        println!("all there: {}", wanted.iter().map(|p| p.name).collect::<Vec<_>>().join(" "));
        return Outcome::Done;
    }
    let why_not = match apt_get() {
        _ if !install => "--no-install".to_owned(),
        Err(why) => why,
        Ok(apt_get) => match install_all(&apt_get, &missing) {
            Ok(()) if names_of_missing(&wanted).is_empty() => return Outcome::Done,
            Ok(()) => "installed, and still not found".to_owned(),
            Err(error) => error.to_string(),
        },
    };
    let missing = names_of_missing(&wanted).join(" ");
    Outcome::Skipped(format!(
        "not there: {missing} ({why_not}); what needs them is left out; to install: {}",
        install_command(&missing)
    ))
}

/// How to get a Vulkan device on a machine without a GPU.
pub fn vulkan_remedy() -> String {
    let names: Vec<_> = VULKAN.iter().map(|package| package.name).collect();
    format!("for a Vulkan device in software: {}", install_command(&names.join(" ")))
}

fn install_command(names: &str) -> String {
    let hint = "(or your package manager's counterpart)";
    match apt_get() {
        Ok(_) => format!("apt-get install {names}"),
        Err(_) if program("apt-get").is_some() => format!("sudo apt-get install {names}"),
        Err(_) => format!("apt-get install {names} {hint}"),
    }
}

fn names_of_missing(packages: &[&Package]) -> Vec<&'static str> {
    packages.iter().filter(|package| !(package.is_there)()).map(|package| package.name).collect()
}

/// How to call apt-get with the right to install, or why that cannot be.
fn apt_get() -> Result<Vec<&'static str>, String> {
    if program("apt-get").is_none() {
        Err("there is no apt-get here".to_owned())
    } else if is_root() {
        Ok(vec!["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"])
    } else if child::succeeds(Command::new("sudo").args(["-n", "true"])) {
        Ok(vec!["sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"])
    } else {
        Err("not root, and no sudo without a password".to_owned())
    }
}

fn install_all(apt_get: &[&str], names: &[&str]) -> Result<(), Error> {
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(apt_get[0]);
        command.args(&apt_get[1..]).args(["-q", "-o", "DPkg::Lock::Timeout=300"]).args(arguments);
        command
    };
    let remedy = "check the network and apt's sources";
    // One broken source of many does not matter if the packages come from the others.
    if let Err(error) = child::run(&mut apt(&["update"]), remedy) {
        eprintln!("warning: {error}");
    }
    let install = ["install", "--yes", "--no-install-recommends"];
    child::run(apt(&install).args(names), remedy)
}

fn has_vulkan_loader() -> bool {
    let ldconfig = program("ldconfig").unwrap_or_else(|| "ldconfig".into());
    let libraries = child::output(Command::new(ldconfig).arg("-p"), "").unwrap_or_default();
    libraries.contains("libvulkan.so.1")
}

/// Whether Mesa's Vulkan driver in software is there, which always has a device.
pub fn has_software_driver() -> bool {
    drivers().iter().any(|manifest| manifest.starts_with("lvp_icd"))
}

fn has_validation_layer() -> bool {
    let layers = vulkan_manifests("explicit_layer.d");
    layers.iter().any(|manifest| manifest == "VkLayer_khronos_validation.json")
}

/// The manifests of the Vulkan drivers that are installed, or that the environment names instead.
fn drivers() -> Vec<String> {
    let named = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].into_iter().find_map(env::var_os);
    let Some(named) = named else { return vulkan_manifests("icd.d") };
    let files = env::split_paths(&named).filter(|path| path.exists());
    files.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
}

/// The names of the manifests in one of the directories that Vulkan's loader searches.
fn vulkan_manifests(kind: &str) -> Vec<String> {
    let mut roots = ["/etc", "/usr/local/share", "/usr/share"].map(PathBuf::from).to_vec();
    roots.extend(env::split_paths(&env::var_os("XDG_DATA_DIRS").unwrap_or_default()));
    roots.extend(env::var_os("HOME").map(|home| Path::new(&home).join(".local/share")));
    let directories = roots.into_iter().map(|root| root.join("vulkan").join(kind));
    let entries = directories.filter_map(|path| fs::read_dir(path).ok()).flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".json")).collect()
}

/// Where a program is: on the path, or in the system's directories that an ordinary user's path may lack.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut places = env::split_paths(&path).chain(system).map(|place| place.join(name));
    places.find(|place| place.is_file())
}
