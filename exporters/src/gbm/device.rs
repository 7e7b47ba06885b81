//! A DRM node that `libgbm` has opened.
//!
//! # Safety
//!
//! The laws of this module, of `create` and of `bo`, beside that of `library`:
//!
//! 1. A `gbm_device` is destroyed once, after every `gbm_bo` made from it, each of which owns a share
//!    of it, and before its file is closed.
//! 2. `libgbm` promises nothing to threads: each call on a device, or on a bo of it, is made under
//!    the lock of its [`Opening`].
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drm_fourcc::{DrmFourcc, DrmModifier};
use rustix::fs::{FileType, Mode, OFlags};

use super::error::GbmError;
use super::library::{self, Gbm, RawBo, RawDevice};
use crate::Absent;
use crate::outside::{Outside, outside};

/// `DRM_MAJOR`: the major number of all DRM nodes.
const DRM_MAJOR: u32 = 226;

bitflags::bitflags! {
    /// What a picture will be used for (`enum gbm_bo_flags`); a driver refuses what it cannot do.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Usage: u32 {
        /// A display shows it.
        const SCANOUT = 1 << 0;
        /// A display shows it as its cursor.
        const CURSOR = 1 << 1;
        /// A GPU draws into it.
        const RENDERING = 1 << 2;
        /// Its rows follow each other untiled. Without a list of modifiers the layout stays implicit
        /// all the same, as not every driver then tells.
        const LINEAR = 1 << 4;
    }
}

/// A DRM node opened by `libgbm`. A clone is another handle on the same.
///
/// It may be used by several threads, one at a time: calls wait for each other.
#[derive(Clone)]
pub struct Device {
    shared: Arc<Shared>,
}

struct Shared {
    node: String,
    first: Arc<Opening>,
    /// For buffers that are already alive on the others.
    more: Mutex<Vec<Arc<Opening>>>,
}

/// The node, opened once: a file with GEM handles of its own.
///
/// The kernel gives a buffer one handle in each opening, and counts no users of that. Mesa's software
/// drivers close the handle with the first of two pictures made of one buffer, and then the other
/// shows whatever buffer next gets its number. So no buffer is alive twice in an opening: a second
/// picture of it is made in another.
pub(super) struct Opening {
    pub(super) gbm: &'static Gbm,
    pub(super) raw: NonNull<RawDevice>,
    alive: Mutex<Vec<Alive>>,
    fd: OwnedFd,
}

/// A buffer that others know of, or come from others, and the picture that it is here.
pub(super) struct Alive {
    pub(super) inode: u64,
    pub(super) bo: NonNull<RawBo>,
}

// SAFETY: law 2: all that happens behind the pointers happens under the lock, on whichever thread.
unsafe impl Send for Opening {}
// SAFETY: as above.
unsafe impl Sync for Opening {}

impl Drop for Opening {
    fn drop(&mut self) {
        // SAFETY: law 1: the last share is gone, and the file is closed after this.
        unsafe { (self.gbm.device_destroy)(self.raw.as_ptr()) };
    }
}

impl Opening {
    fn new(fd: OwnedFd, node: &str) -> Result<Arc<Self>, GbmError> {
        let gbm = library::gbm()?;
        clear_errno();
        // SAFETY: the library's law; the descriptor is open, and stays so (law 1).
        let raw =
            NonNull::new(unsafe { (gbm.create_device)(fd.as_raw_fd()) }).ok_or_else(|| {
                GbmError::Refused {
                    call: "gbm_create_device",
                    what: "a device".to_owned(),
                    node: node.to_owned(),
                    source: io::Error::last_os_error(),
                    fix: "install the driver's part of Mesa (Debian, Ubuntu: libgl1-mesa-dri)",
                }
            })?;
        Ok(Arc::new(Self { gbm, raw, alive: Mutex::new(Vec::new()), fd }))
    }

    /// The library's functions, the right to call them on this device (law 2), and what is alive.
    pub(super) fn lock(&self) -> (&'static Gbm, MutexGuard<'_, Vec<Alive>>) {
        (self.gbm, self.alive.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Device {
    /// Opens a DRM node: a render node (`/dev/dri/renderD*`) for a GPU, the primary node
    /// (`/dev/dri/card*`) for a driver that only displays, whose memory is made nowhere else.
    ///
    /// # Errors
    /// [`GbmError::Unavailable`] without the node, the right to it, or `libgbm.so.1`; and as
    /// [`new`](Self::new).
    pub fn open(node: impl AsRef<Path>) -> Result<Self, GbmError> {
        let node = node.as_ref();
        let fd = rustix::fs::open(node, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| GbmError::Unavailable(unavailable(node, &errno.into())))?;
        Self::new(fd)
    }

    /// Takes an open DRM node.
    ///
    /// The file must be the device's own: `libgbm` imports and closes GEM handles on it, which are
    /// shared by all duplicates of a descriptor. So open the node anew instead of duplicating one
    /// that another library uses.
    ///
    /// # Errors
    /// [`GbmError::NotADrmNode`], [`GbmError::Unavailable`] without `libgbm.so.1`,
    /// [`GbmError::Unsupported`] if that is too old, [`GbmError::Refused`] if it has no driver.
    pub fn new(fd: OwnedFd) -> Result<Self, GbmError> {
        let node = describe(fd.as_fd());
        if !is_drm(fd.as_fd()) {
            return Err(GbmError::NotADrmNode { node });
        }
        let first = Opening::new(fd, &node)?;
        Ok(Self { shared: Arc::new(Shared { node, first, more: Mutex::default() }) })
    }

    /// The node's path.
    pub fn node(&self) -> &str {
        &self.shared.node
    }

    /// The back end of `libgbm`: `drm` for Mesa's.
    pub fn backend(&self) -> String {
        let (gbm, _alive) = self.shared.first.lock();
        // SAFETY: law 2; the name is a string that ends with a zero and lives with the device.
        unsafe {
            let name = (gbm.device_get_backend_name)(self.raw());
            match name.is_null() {
                true => String::new(),
                false => Outside::bytes(CStr::from_ptr(name).to_bytes()).to_string(),
            }
        }
    }

    /// Whether pictures of this format can be made for this use.
    pub fn supports(&self, format: DrmFourcc, usage: Usage) -> bool {
        let (gbm, _alive) = self.shared.first.lock();
        // SAFETY: law 2.
        let answer =
            unsafe { (gbm.device_is_format_supported)(self.raw(), format as u32, usage.bits()) };
        answer == 1
    }

    /// How many planes a picture of this format and modifier has, absent if the device does not take
    /// such.
    pub fn plane_count(&self, format: DrmFourcc, modifier: DrmModifier) -> Option<usize> {
        let (gbm, _alive) = self.shared.first.lock();
        // SAFETY: law 2.
        let count = unsafe {
            let (format, modifier) = (format as u32, modifier.into());
            (gbm.device_get_format_modifier_plane_count)(self.raw(), format, modifier)
        };
        usize::try_from(count).ok().filter(|&count| count > 0)
    }

    /// Imports into the first opening in which none of these buffers is alive, made now if there is
    /// none.
    pub(super) fn in_an_opening_without(
        &self,
        inodes: &[u64],
        import: impl FnOnce(&Opening, &mut Vec<Alive>) -> Result<NonNull<RawBo>, GbmError>,
    ) -> Result<(Arc<Opening>, NonNull<RawBo>), GbmError> {
        let mut more = self.shared.more.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |alive: &[Alive]| !alive.iter().any(|one| inodes.contains(&one.inode));
        for opening in std::iter::once(&self.shared.first).chain(more.iter()) {
            let (_, mut alive) = opening.lock();
            if is_free(&alive) {
                return Ok((opening.clone(), import(opening, &mut alive)?));
            }
        }
        let opening = Opening::new(self.open_again()?, self.node())?;
        more.push(opening.clone());
        let (_, mut alive) = opening.lock();
        let bo = import(&opening, &mut alive)?;
        drop(alive);
        Ok((opening, bo))
    }

    /// The node, opened anew: a duplicate of the descriptor would share its handles.
    fn open_again(&self) -> Result<OwnedFd, GbmError> {
        let path = format!("/proc/self/fd/{}", self.as_fd().as_raw_fd());
        rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
            GbmError::Unavailable(unavailable(Path::new(self.node()), &errno.into()))
        })
    }

    /// What a refusal is reported as.
    pub(super) fn refused(&self, call: &'static str, what: String, source: io::Error) -> GbmError {
        let fix = match source.raw_os_error() {
            Some(libc::EACCES) => {
                "a driver that only displays makes its memory through its primary node, /dev/dri/card*"
            }
            _ => "ask Device::supports and Device::plane_count, or take a smaller picture",
        };
        GbmError::Refused { call, what, node: self.node().to_owned(), source, fix }
    }

    /// The first opening, in which pictures are made.
    pub(super) fn first(&self) -> &Arc<Opening> {
        &self.shared.first
    }

    pub(super) fn raw(&self) -> *mut RawDevice {
        self.shared.first.raw.as_ptr()
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.first.fd.as_fd()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("node", &self.node()).finish_non_exhaustive()
    }
}

/// Drivers that refuse often set no error number; then an old one must not be taken for theirs.
pub(super) fn clear_errno() {
    // SAFETY: the address is this thread's own `errno`.
    unsafe { *libc::__errno_location() = 0 };
}

fn is_drm(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && rustix::fs::major(stat.st_rdev) == DRM_MAJOR
    })
}

fn describe(fd: BorrowedFd<'_>) -> String {
    match std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())) {
        Ok(path) => outside(&path).to_string(),
        Err(_) => "the file".to_owned(),
    }
}

fn unavailable(node: &Path, error: &io::Error) -> Absent {
    let fix = match error.kind() {
        io::ErrorKind::NotFound => "see /dev/dri for the nodes there are, or load a GPU's driver",
        io::ErrorKind::PermissionDenied => {
            "join the groups that own the nodes (render and video on many systems)"
        }
        _ => "name a node in /dev/dri",
    };
    Absent::new(format!("{} cannot be opened: {error}", outside(node)), fix)
}
