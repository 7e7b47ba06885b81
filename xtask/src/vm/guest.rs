//! What a guest is made of: a root file system with a kernel, and an initramfs that finds it.
//!
//! Both are made once, from Debian's packages, and kept in the user's cache directory.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use crate::apt_sources::Mirror;
use crate::child::{self, Error};
use crate::files;
use crate::inputs;
use crate::packages;

/// Debian's release that the guest runs, and where its kernel and Mesa come from.
const SUITE: &str = "trixie";
const NEWER: &str = "trixie-backports";

/// What the guest holds beside the release's base.
const INCLUDED: &str = "busybox-static,kmod,e2fsprogs,iproute2,libvulkan1,mesa-vulkan-drivers,\
    vulkan-validationlayers,rdma-core,ibverbs-providers,ibverbs-utils,linux-image-amd64";

/// The modules that the initramfs needs to mount the root, each before those that need it.
const MODULES: [&str; 5] = [
    "fs/netfs/netfs.ko",
    "net/9p/9pnet.ko",
    "fs/9p/9p.ko",
    "net/9p/9pnet_virtio.ko",
    "fs/overlayfs/overlay.ko",
];

/// How modules are compressed: the ending of their names, and what unpacks them.
const PACKED: [(&str, &str); 4] =
    [("", "cat"), (".xz", "xzcat"), (".zst", "zstdcat"), (".gz", "zcat")];

/// The packages whose versions are worth printing.
const RECORDED: &str = "linux-image-amd64 mesa-vulkan-drivers libvulkan1 rdma-core";

/// A prepared guest.
pub struct Guest {
    pub root: PathBuf,
    pub kernel: Kernel,
    pub initramfs: PathBuf,
    /// The versions of what it is made of.
    pub versions: String,
}

/// A kernel and its modules.
pub struct Kernel {
    pub version: String,
    pub image: PathBuf,
    /// The directory of this version's modules.
    pub modules: PathBuf,
}

impl Kernel {
    /// The newest kernel in a root's `/boot`.
    fn of(root: &Path) -> Result<Self, Error> {
        let boot = root.join("boot");
        let files = fs::read_dir(&boot).map_err(files::file_error("read", &boot))?.flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let version =
            names.filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned())).max();
        let version = version.ok_or_else(|| Error::Missing {
            what: format!("there is no kernel in {}", boot.display()),
            remedy: "install one there, or name one with --kernel".to_owned(),
        })?;
        let image = boot.join(format!("vmlinuz-{version}"));
        Ok(Self { modules: root.join("usr/lib/modules").join(&version), version, image })
    }

    /// A kernel's image that the user names, with its modules in `modules` or in the root.
    fn given(image: &Path, modules: Option<&Path>, root: &Path) -> Result<Self, Error> {
        let bytes = fs::read(image).map_err(files::file_error("read", image))?;
        let version = version(&bytes).ok_or_else(|| Error::Missing {
            what: format!("{} is no image of an x86 kernel", image.display()),
            remedy: "name a bzImage, such as /boot/vmlinuz-*".to_owned(),
        })?;
        let modules = match modules {
            Some(directory) => directory.to_owned(),
            None => root.join("usr/lib/modules").join(&version),
        };
        Ok(Self { version, image: image.to_owned(), modules })
    }
}

/// The version that a bzImage names (`Documentation/arch/x86/boot.rst`, `kernel_version`).
fn version(image: &[u8]) -> Option<String> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let at = 0x200 + usize::from(u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?));
    let text = image.get(at..)?.split(|byte| matches!(byte, 0 | b' ')).next()?;
    Some(std::str::from_utf8(text).ok()?.to_owned())
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
    Ok(Guest { kernel: Kernel::of(&root)?, initramfs: place.join("initramfs"), root, versions })
}

/// What the user gives in place of what is made from Debian's packages.
#[derive(Args)]
pub struct Given {
    /// A root file system of your own, with a kernel in /boot or one named by --kernel
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// A kernel of your own, an x86 bzImage
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The modules of the kernel named by --kernel (such as /lib/modules/VERSION), if the root has them not
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
}

impl Given {
    /// Whether a root has to be made for it.
    pub fn needs_root(&self) -> bool {
        self.root.is_none()
    }

    /// The guest. A root needs what [`INCLUDED`] lists, or its counterparts.
    pub fn guest(&self) -> Result<Guest, Error> {
        if self.root.is_none() && self.kernel.is_none() {
            return prepare();
        }
        let absolute = |path: &Option<PathBuf>| {
            let absolute = path
                .as_ref()
                .map(|path| path.canonicalize().map_err(files::file_error("find", path)));
            absolute.transpose()
        };
        let root = match absolute(&self.root)? {
            Some(root) => root,
            None => prepare()?.root,
        };
        let kernel = match absolute(&self.kernel)? {
            Some(image) => Kernel::given(&image, absolute(&self.modules)?.as_deref(), &root)?,
            None => Kernel::of(&root)?,
        };
        let place = inputs::cache()?.join("vm-given");
        files::make_directory(&place)?;
        make_initramfs(&place, &root, &kernel)?;
        let versions = format!("kernel {} in {}\n", kernel.version, root.display());
        Ok(Guest { kernel, initramfs: place.join("initramfs"), root, versions })
    }
}

fn make(place: &Path) -> Result<(), Error> {
    let root = place.join("root");
    remove_root(&root)?;
    make_root(&root, &inputs::mirror()?)?;
    make_initramfs(place, &root, &Kernel::of(&root)?)?;
    let mut query = Command::new("dpkg-query");
    query.arg(format!("--admindir={}/var/lib/dpkg", root.display())).args(["-W"]);
    let versions = child::output(query.args(RECORDED.split(' ')), "the root may be damaged")?;
    let file = place.join("versions");
    fs::write(&file, versions).map_err(files::file_error("write", &file))
}

/// Removes a root. What is in one that was made without privileges belongs to other users of the
/// namespace that mmdebstrap made it in.
fn remove_root(root: &Path) -> Result<(), Error> {
    if !packages::is_root() && root.exists() {
        let mut empty = Command::new("mmdebstrap");
        empty.args(["--unshare-helper", "find"]).arg(root).args(["-mindepth", "1", "-delete"]);
        child::status(&mut empty, "remove it as root")?;
    }
    files::remove_directory(root)
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
    child::run(
        &mut make,
        "check the network; without root, mmdebstrap needs user namespaces, and this user ranges in /etc/subuid and /etc/subgid",
    )
}

fn make_initramfs(place: &Path, root: &Path, kernel: &Kernel) -> Result<(), Error> {
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

    let mut list = String::new();
    for module in MODULES {
        if !unpack_module(kernel, module, &tree.join("modules"))? {
            continue;
        }
        list += &format!("{}\n", file_name(module));
    }
    let listed = tree.join("modules/list");
    fs::write(&listed, list).map_err(files::file_error("write", &listed))?;
    pack(&tree, &place.join("initramfs"))
}

/// Unpacks a module into a directory. Returns false if the kernel has it built in.
fn unpack_module(kernel: &Kernel, module: &str, into: &Path) -> Result<bool, Error> {
    let packed = PACKED.iter().find_map(|(ending, unpack)| {
        let file = kernel.modules.join(format!("kernel/{module}{ending}"));
        file.is_file().then_some((file, *unpack))
    });
    let Some((file, unpack)) = packed else {
        let built_in = fs::read_to_string(kernel.modules.join("modules.builtin"));
        return match built_in.unwrap_or_default().contains(module) {
            true => Ok(false),
            false => Err(Error::Missing {
                what: format!(
                    "kernel {} has no {module} in {}",
                    kernel.version,
                    kernel.modules.display()
                ),
                remedy: "name the directory of its modules with --modules".to_owned(),
            }),
        };
    };
    let out = into.join(file_name(module));
    let out = File::create(&out).map_err(files::file_error("create", &out))?;
    let mut unpack = Command::new(unpack);
    unpack.arg(&file).stdin(Stdio::null()).stdout(out);
    child::status(&mut unpack, "install what unpacks it")?;
    Ok(true)
}

fn file_name(module: &str) -> &str {
    module.rsplit('/').next().unwrap_or(module)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_tells_its_version() {
        let mut image = vec![0; 0x400];
        assert_eq!(version(&image), None);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x180u16.to_le_bytes());
        image[0x380..0x38c].copy_from_slice(b"7.2.12-a (b)");
        assert_eq!(version(&image).as_deref(), Some("7.2.12-a"));
        image[0x20e..0x210].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(version(&image), None);
        assert_eq!(version(&image[..0x204]), None);
    }
}
