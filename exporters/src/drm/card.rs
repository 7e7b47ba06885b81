//! A node in `/dev/dri`, opened, and what its driver can.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drm::node::{DrmNode, NodeType};
use drm::{Device as _, DriverCapability};

use super::DrmError;
use super::handles::Handles;
use crate::Absent;
use crate::outside::outside;

const DIR: &str = "/dev/dri";

/// `DRM_PRIME_CAP_IMPORT` and `DRM_PRIME_CAP_EXPORT`.
const PRIME_IMPORT: u64 = 1;
const PRIME_EXPORT: u64 = 2;

/// Which of a device's nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// `cardN`: displays, dumb buffers and everything else.
    Primary,
    /// `renderDN`: work and PRIME, no displays and no dumb buffers, and open to more users.
    Render,
}

/// The nodes on this machine, sorted: primary nodes first, each kind by its number.
///
/// # Errors
/// [`DrmError::Unavailable`] if there is no `/dev/dri`.
pub fn nodes() -> Result<Vec<PathBuf>, DrmError> {
    let entries = fs::read_dir(DIR).map_err(|e| unavailable(Path::new(DIR), &e))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut numbered: Vec<_> = names.filter_map(|name| Some((number(&name)?, name))).collect();
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, name)| Path::new(DIR).join(name)).collect())
}

/// A name's place among the nodes, if it is one's.
fn number(name: &str) -> Option<(bool, u32)> {
    match name.strip_prefix("card") {
        Some(digits) => Some((false, digits.parse().ok()?)),
        None => Some((true, name.strip_prefix("renderD")?.parse().ok()?)),
    }
}

/// A DRM node, opened.
///
/// A clone is another handle on the same open file, which is closed with the last of the clones and
/// of the buffers and sync objects that were made on it.
///
/// The first to open a primary node becomes the *master* of its displays. A card gives that up at
/// once, so that a display server that starts later can have it; a program that shows pictures takes
/// it back with `DRM_IOCTL_SET_MASTER` on [`as_fd`](AsFd::as_fd).
#[derive(Clone, Debug)]
pub struct Card {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: Device,
    path: PathBuf,
    node: Node,
    driver: String,
    dumb: bool,
    prime: u64,
    syncobj: bool,
    timeline: bool,
    handles: Handles,
}

/// The open file, with the ioctls of the crate `drm`, which only this module's neighbours may call:
/// some of them close what a [`Gem`](super::Gem) owns.
#[derive(Debug)]
pub(super) struct Device(File);

impl AsFd for Device {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl drm::Device for Device {}
impl drm::control::Device for Device {}

impl Card {
    /// Opens a node by its path and asks what its driver can.
    ///
    /// # Errors
    /// [`DrmError::Unavailable`] if it is not there, is no DRM node, or this user may not open it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DrmError> {
        let path = path.as_ref();
        let file = File::options().read(true).write(true).open(path);
        let file = file.map_err(|e| unavailable(path, &e))?;
        let node = match DrmNode::from_file(&file).map(|node| node.ty()) {
            Ok(NodeType::Primary) => Node::Primary,
            Ok(NodeType::Render) => Node::Render,
            _ => return Err(no_node(path).into()),
        };
        let file = Device(file);
        let driver = file.get_driver().map_err(|source| DrmError::Kernel {
            card: path.to_owned(),
            step: "DRM_IOCTL_VERSION",
            source,
        })?;
        if node == Node::Primary {
            // Refused to whoever is not the master, and then there is nothing to give up.
            let _ = file.release_master_lock();
        }
        // A capability that a kernel does not know is one that it has not.
        let has = |capability| file.get_driver_capability(capability).unwrap_or(0);
        let inner = Inner {
            path: path.to_owned(),
            node,
            driver: outside(driver.name()).to_string(),
            dumb: has(DriverCapability::DumbBuffer) != 0 || makes_dumb_buffers(&file),
            prime: has(DriverCapability::Prime),
            syncobj: has(DriverCapability::SyncObj) != 0,
            timeline: has(DriverCapability::TimelineSyncObj) != 0,
            handles: Handles::default(),
            file,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens the first node of this kind whose driver has this name (`vgem`, `virtio_gpu`, `amdgpu`).
    ///
    /// # Errors
    /// [`DrmError::Unavailable`] if there is none, with what was there instead.
    pub fn find(driver: &str, node: Node) -> Result<Self, DrmError> {
        let mut others = Vec::new();
        for path in nodes()? {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(number);
            if name.is_none_or(|(render, _)| render != (node == Node::Render)) {
                continue;
            }
            match Self::open(&path) {
                Ok(card) if card.driver() == driver => return Ok(card),
                Ok(card) => others.push(format!("{} is of {}", outside(&path), card.driver())),
                Err(e) => others.push(e.to_string()),
            }
        }
        let others =
            if others.is_empty() { "there are none".to_owned() } else { others.join(", ") };
        Err(DrmError::Unavailable(Absent::new(
            format!("no {node:?} node of the driver {driver} ({others})"),
            format!("load the driver (modprobe {driver}), or name one that is there"),
        )))
    }

    /// The node's path, as it was opened.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Which kind of node it is.
    pub fn node(&self) -> Node {
        self.inner.node
    }

    /// The driver's name.
    pub fn driver(&self) -> &str {
        &self.inner.driver
    }

    /// Whether it makes dumb buffers (`DRM_CAP_DUMB_BUFFER`, or a trial where the driver has no
    /// displays and the kernel does not tell).
    ///
    /// # Errors
    /// Absent on a render node, and where the driver has none.
    pub fn dumb_buffers(&self) -> Result<(), Absent> {
        if self.node() == Node::Render {
            return Err(Absent::new(
                format!("{} is a render node, which makes no dumb buffers", outside(self.path())),
                "open the device's primary node (/dev/dri/cardN)",
            ));
        }
        self.has(self.inner.dumb, "makes no dumb buffers", "let GBM or Vulkan make them")
    }

    /// Whether it takes other drivers' dma-bufs (`DRM_PRIME_CAP_IMPORT`).
    ///
    /// # Errors
    /// Absent where the driver does not.
    pub fn prime_import(&self) -> Result<(), Absent> {
        let has = self.inner.prime & PRIME_IMPORT != 0;
        self.has(has, "imports no dma-bufs", "copy the bytes into a buffer of its own")
    }

    /// Whether it makes dma-bufs of its buffers (`DRM_PRIME_CAP_EXPORT`).
    ///
    /// # Errors
    /// Absent where the driver does not.
    pub fn prime_export(&self) -> Result<(), Absent> {
        let has = self.inner.prime & PRIME_EXPORT != 0;
        self.has(has, "exports no dma-bufs", "make the buffer elsewhere and import it here")
    }

    /// Whether it has sync objects (`DRM_CAP_SYNCOBJ`, since Linux 4.12).
    ///
    /// # Errors
    /// Absent where the driver has none.
    pub fn syncobjs(&self) -> Result<(), Absent> {
        let fix = "use the dma-buf's sync files, or another card's sync objects: fences fit all";
        self.has(self.inner.syncobj, "has no sync objects", fix)
    }

    /// Whether its sync objects can be timelines (`DRM_CAP_SYNCOBJ_TIMELINE`, since Linux 5.2).
    ///
    /// # Errors
    /// Absent where the driver has none.
    pub fn timelines(&self) -> Result<(), Absent> {
        let fix = "use a sync object for each point, or another card's timelines: fences fit all";
        self.has(self.inner.timeline, "has no timelines", fix)
    }

    fn has(&self, has: bool, lacks: &str, fix: &'static str) -> Result<(), Absent> {
        if has {
            return Ok(());
        }
        let why = format!("the driver {} of {} {lacks}", self.driver(), outside(self.path()));
        Err(Absent::new(why, fix))
    }

    pub(super) fn device(&self) -> &Device {
        &self.inner.file
    }

    pub(super) fn handles(&self) -> &Handles {
        &self.inner.handles
    }

    /// Refuses what was made on another open file, where the same number means something else.
    pub(super) fn must_be(&self, other: &Self) -> Result<(), DrmError> {
        match Arc::ptr_eq(&self.inner, &other.inner) {
            true => Ok(()),
            false => Err(DrmError::OtherFile {
                card: self.path().to_owned(),
                other: other.path().to_owned(),
            }),
        }
    }

    /// What makes an answer of the kernel's an error that names this card.
    pub(super) fn failed(&self, step: &'static str) -> impl FnOnce(io::Error) -> DrmError {
        move |source| DrmError::Kernel { card: self.path().to_owned(), step, source }
    }
}

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.file.as_fd()
    }
}

/// Tries. The kernel answers for drivers with displays only, and vgem, which has none, makes them.
fn makes_dumb_buffers(file: &Device) -> bool {
    let made = drm_ffi::mode::dumbbuffer::create(file.as_fd(), 64, 1, 32, 0);
    made.is_ok_and(|made| drm_ffi::gem::close(file.as_fd(), made.handle).is_ok())
}

fn no_node(path: &Path) -> Absent {
    Absent::new(
        format!("{} is no primary or render node of a DRM driver", outside(path)),
        "name one of /dev/dri/card* or /dev/dri/renderD*",
    )
}

fn unavailable(path: &Path, error: &io::Error) -> Absent {
    let fix = match error.kind() {
        io::ErrorKind::NotFound => "load a DRM driver (modprobe vgem makes one without a device)",
        io::ErrorKind::PermissionDenied => {
            "join the group that owns it (video for card*, render for renderD*), or be root"
        }
        _ => "see drm in the kernel's documentation",
    };
    Absent::new(format!("{} cannot be opened: {error}", outside(path)), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_told_from_what_else_lies_there() {
        assert_eq!(number("card0"), Some((false, 0)));
        assert_eq!(number("renderD129"), Some((true, 129)));
        assert!(number("card2") < number("card10") && number("card10") < number("renderD128"));
        for other in ["by-path", "card", "card-1", "renderD", "controlD64", "card0-HDMI"] {
            assert_eq!(number(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_node_is_absent_with_a_reason() {
        let answer = Card::open("/dev/null");
        let Err(DrmError::Unavailable(absent)) = answer else { panic!("{answer:?}") };
        assert!(absent.why.contains("/dev/null is no primary or render node"), "{absent}");
        let answer = Card::open("/dev/dri/no-such-card");
        let Err(DrmError::Unavailable(absent)) = answer else { panic!("{answer:?}") };
        assert!(absent.why.contains("cannot be opened"), "{absent}");
    }
}
