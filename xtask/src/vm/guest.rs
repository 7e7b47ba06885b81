//! What a guest is made of: a root file system with a kernel, and an initramfs that finds it.
//!
//! Both are made once, from Debian's packages, and kept in the user's cache directory.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::apt_sources::Mirror;
use crate::child::{self, Error};
use crate::files;
use crate::inputs;

/// Debian's release that the guest runs, and where its kernel and Mesa come from.
const SUITE: &str = "trixie";
const NEWER: &str = "trixie-backports";

/// What the guest holds beside the release's base.
const INCLUDED: &str = "busybox-static,kmod,e2fsprogs,iproute2,libvulkan1,mesa-vulkan-drivers,\
    vulkan-validationlayers,rdma-core,ibverbs-providers,ibverbs-utils,linux-image-amd64";

/// The modules that the initramfs needs to mount the root, each before those that need it.
const MODULES: [&str; 5] = [
    "fs/netfs/netfs.ko.xz",
    "net/9p/9pnet.ko.xz",
    "fs/9p/9p.ko.xz",
    "net/9p/9pnet_virtio.ko.xz",
    "fs/overlayfs/overlay.ko.xz",
];

/// The packages whose versions are worth printing.
const RECORDED: &str = "linux-image-amd64 mesa-vulkan-drivers libvulkan1 rdma-core";

/// A prepared guest.
pub struct Guest {
    pub root: PathBuf,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// The versions of what it is made of.
    pub versions: String,
}

/// All that decides what a guest is made of, but for the versions of its packages.
fn recipe() -> String {
    format!("{SUITE} {NEWER} {INCLUDED} {MODULES:?}\n{}", include_str!("init.sh"))
}

/// The guest in the cache, made now if it is not there.
pub fn prepare() -> Result<Guest, Error> {
    let place = inputs::cache()?.join("vm");
    files::make_directory(&place)?;
    let _one_at_a_time = files::lock(&place.join(".lock"))?;
    // A guest made by an older recipe is made anew.
    let made_by = place.join("recipe");
    if fs::read_to_string(&made_by).ok() != Some(recipe()) {
        make(&place)?;
        fs::write(&made_by, recipe()).map_err(files::file_error("write", &made_by))?;
    }
    let root = place.join("root");
    let versions = fs::read_to_string(place.join("versions"))
        .map_err(files::file_error("read", &place.join("versions")))?;
    Ok(Guest { kernel: kernel(&root)?.1, initramfs: place.join("initramfs"), root, versions })
}

/// A guest whose root the user gives. It needs what [`INCLUDED`] lists, or its counterparts.
pub fn given(root: &Path) -> Result<Guest, Error> {
    let place = inputs::cache()?.join("vm-given");
    files::make_directory(&place)?;
    make_initramfs(&place, root)?;
    let (version, kernel) = kernel(root)?;
    let versions = format!("kernel {version} of {}\n", root.display());
    Ok(Guest { kernel, initramfs: place.join("initramfs"), root: root.to_owned(), versions })
}

fn make(place: &Path) -> Result<(), Error> {
    let root = place.join("root");
    files::remove_directory(&root)?;
    make_root(&root, &inputs::mirror()?)?;
    make_initramfs(place, &root)?;
    let mut query = Command::new("dpkg-query");
    query.arg(format!("--admindir={}/var/lib/dpkg", root.display())).args(["-W"]);
    let versions = child::output(query.args(RECORDED.split(' ')), "the root may be damaged")?;
    let file = place.join("versions");
    fs::write(&file, versions).map_err(files::file_error("write", &file))
}

fn make_root(root: &Path, mirror: &Mirror) -> Result<(), Error> {
    let key = mirror.signed_by.as_deref().filter(|key| !key.contains('\n'));
    let options = key.map(|key| format!("[signed-by={key}] ")).unwrap_or_default();
    let mut make = Command::new("mmdebstrap");
    make.env("INITRD", "No").args(["--variant=apt", &format!("--include={INCLUDED}")]);
    make.arg(format!("--aptopt=APT::Default-Release \"{NEWER}\""));
    make.arg(SUITE).arg(root);
    for suite in [SUITE, NEWER] {
        make.arg(format!("deb {options}{} {suite} main", mirror.uri));
    }
    child::run(&mut make, "check the network; mmdebstrap needs root, or user namespaces")
}

/// The version and the image of the root's kernel.
fn kernel(root: &Path) -> Result<(String, PathBuf), Error> {
    let boot = root.join("boot");
    let files = fs::read_dir(&boot).map_err(files::file_error("read", &boot))?.flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    let version = names.filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned())).max();
    let version = version.ok_or_else(|| Error::Missing {
        what: format!("there is no kernel in {}", boot.display()),
        remedy: "remove the directory above it and run the command again".to_owned(),
    })?;
    let image = boot.join(format!("vmlinuz-{version}"));
    Ok((version, image))
}

fn make_initramfs(place: &Path, root: &Path) -> Result<(), Error> {
    let tree = place.join("initramfs.d");
    files::remove_directory(&tree)?;
    for directory in ["bin", "modules", "proc", "sys", "dev", "lower", "upper", "root"] {
        files::make_directory(&tree.join(directory))?;
    }
    let copy = |from: &Path, to: &Path| {
        fs::copy(from, to).map(drop).map_err(files::file_error("copy", from))
    };
    copy(&root.join("bin/busybox"), &tree.join("bin/busybox"))?;
    let init = tree.join("init");
    fs::write(&init, include_str!("init.sh")).map_err(files::file_error("write", &init))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&init, mode).map_err(files::file_error("make executable", &init))?;

    let (version, _) = kernel(root)?;
    let mut list = String::new();
    for module in MODULES {
        let packed = root.join("usr/lib/modules").join(&version).join("kernel").join(module);
        let name = module.rsplit('/').next().unwrap_or(module).trim_end_matches(".xz");
        let out = tree.join("modules").join(name);
        let file = File::create(&out).map_err(files::file_error("create", &out))?;
        let mut unpack = Command::new("xz");
        unpack.arg("-dc").arg(&packed).stdin(Stdio::null()).stdout(file);
        child::status(&mut unpack, "install xz-utils")?;
        list += &format!("{name}\n");
    }
    let listed = tree.join("modules/list");
    fs::write(&listed, list).map_err(files::file_error("write", &listed))?;
    pack(&tree, &place.join("initramfs"))
}

/// Packs a directory as the kernel wants an initramfs
/// (`Documentation/driver-api/early-userspace/buffer-format.rst`).
fn pack(tree: &Path, archive: &Path) -> Result<(), Error> {
    let mut find = Command::new("find");
    let names = child::output(find.arg(".").current_dir(tree), "install findutils")?;
    let file = File::create(archive).map_err(files::file_error("create", archive))?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--quiet", "-o", "-H", "newc"]).current_dir(tree).stdin(Stdio::piped()).stdout(file);
    let mut packing = cpio.spawn().map_err(|source| Error::Start {
        command: "cpio".to_owned(),
        source,
        remedy: "install cpio".to_owned(),
    })?;
    if let Some(mut stdin) = packing.stdin.take() {
        stdin.write_all(names.as_bytes()).map_err(files::file_error("write", archive))?;
    }
    child::check(&cpio, packing.wait(), "the disk may be full")
}
