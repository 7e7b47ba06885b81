//! What a guest is made of: a root file system with a kernel, and an initramfs that finds it.
//!
//! Both are made once, from Debian's packages, and kept in the user's cache directory.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use super::kernel::Kernel;
use crate::apt_sources::Mirror;
use crate::child::{self, Error};
use crate::debian;
use crate::files;
use crate::inputs;
use crate::packages;

/// Debian's release that the guest runs, and where its kernel and Mesa come from.
const SUITE: &str = "trixie";
const NEWER: &str = "trixie-backports";

/// What the guest holds beside the release's base.
const INCLUDED: &str = "busybox-static,kmod,e2fsprogs,iproute2,libvulkan1,mesa-vulkan-drivers,\
    libgbm1,vulkan-validationlayers,rdma-core,ibverbs-providers,ibverbs-utils,linux-image-amd64,\
    kmscube,gstreamer1.0-tools,gstreamer1.0-plugins-base";

/// The elements of a package of GStreamer's that are wanted, without the hundreds of megabytes that its
/// others need, and where they lie in it.
const ELEMENTS: [&str; 2] = ["libgstkms.so", "libgstunixfd.so"];
const ELEMENTS_OF: &str = "gstreamer1.0-plugins-bad";
const ELEMENTS_IN: &str = "./usr/lib/x86_64-linux-gnu/gstreamer-1.0";

/// The modules that the initramfs needs to mount the root, each before those that need it.
const MODULES: [&str; 5] = [
    "fs/netfs/netfs.ko",
    "net/9p/9pnet.ko",
    "fs/9p/9p.ko",
    "net/9p/9pnet_virtio.ko",
    "fs/overlayfs/overlay.ko",
];

/// The modules of the guest's own disk, each before those that need it. The guest would find them in
/// its root as well, but takes a second to unpack them.
const SOONER: [&str; 5] = [
    "lib/crc/crc16.ko",
    "fs/mbcache.ko",
    "fs/jbd2/jbd2.ko",
    "fs/ext4/ext4.ko",
    "drivers/block/virtio_blk.ko",
];

/// How modules are compressed: the ending of their names, and what unpacks them.
const PACKED: [(&str, &str); 4] =
    [("", "cat"), (".xz", "xzcat"), (".zst", "zstdcat"), (".gz", "zcat")];

/// The file of the unpacked kernel.
const UNPACKED: &str = "vmlinux";

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

/// All that decides what a guest is made of, but for the versions of its packages.
fn recipe() -> String {
    format!(
        "{SUITE} {NEWER} {INCLUDED} {} {MODULES:?} {SOONER:?} {UNPACKED}\n{}",
        add_elements(),
        include_str!("init.sh")
    )
}

/// What mmdebstrap runs, with the root as its argument, once all packages are there.
fn add_elements() -> String {
    let files = ELEMENTS.map(|element| format!("{ELEMENTS_IN}/{element}")).join(" ");
    format!(
        "cd \"$1/tmp\" && APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" apt-get -q download {ELEMENTS_OF} && \
         dpkg-deb --fsys-tarfile {ELEMENTS_OF}_*.deb | tar -x -C \"$1\" {files} && rm {ELEMENTS_OF}_*.deb"
    )
}

/// The guest in the cache, made now if it is not there.
pub fn prepare() -> Result<Guest, Error> {
    let place = inputs::cache()?.join("vm");
    files::make_directory(&place)?;
    let _one_at_a_time = files::lock(&place.join(".lock"))?;
    // A guest made by an older recipe is made anew.
    let made_by = place.join("recipe");
    if fs::read_to_string(&made_by).ok() != Some(recipe()) {
        // One whose making is cut short is made by no recipe.
        fs::write(&made_by, "").map_err(files::file_error("write", &made_by))?;
        make(&place)?;
        fs::write(&made_by, recipe()).map_err(files::file_error("write", &made_by))?;
    }
    let root = place.join("root");
    let versions = fs::read_to_string(place.join("versions"))
        .map_err(files::file_error("read", &place.join("versions")))?;
    let kernel = Kernel::of(&root)?.unpacked(place.join(UNPACKED));
    Ok(Guest { kernel, initramfs: place.join("initramfs"), root, versions })
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
        kernel.unpack(&place.join(UNPACKED))?;
        let kernel = kernel.unpacked(place.join(UNPACKED));
        let versions = format!("kernel {} in {}\n", kernel.version, root.display());
        Ok(Guest { kernel, initramfs: place.join("initramfs"), root, versions })
    }
}

fn make(place: &Path) -> Result<(), Error> {
    let root = place.join("root");
    remove_root(&root)?;
    make_root(&root, &debian::mirror()?)?;
    let kernel = Kernel::of(&root)?;
    make_initramfs(place, &root, &kernel)?;
    kernel.unpack(&place.join(UNPACKED))?;
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
    make.arg(format!("--customize-hook={}", add_elements()));
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
    for (module, must) in MODULES.map(|m| (m, true)).into_iter().chain(SOONER.map(|m| (m, false))) {
        match unpack_module(kernel, module, &tree.join("modules")) {
            Ok(false) => {}
            Ok(true) => list += &format!("{}\n", file_name(module)),
            Err(error) if must => return Err(error),
            // Elsewhere in this kernel's tree: modprobe will find it.
            Err(_) => {}
        }
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
