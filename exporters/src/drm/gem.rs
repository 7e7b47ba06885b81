//! GEM handles that own what they name.
//!
//! A handle is a number on one open file, and the kernel gives the same number to everybody who asks
//! there for the same buffer: to import a dma-buf twice, or to import one that was exported from this
//! file, makes no second handle. One `DRM_IOCTL_GEM_CLOSE` takes it from all of them. So each card
//! counts the owners of its handles, and the last one closes.
//!
//! # Safety
//!
//! The law of this module: a handle is closed when its last [`Gem`] is dropped and at no other time.
//! No memory hangs on it, for mappings and dma-bufs keep their buffer themselves; what would break is
//! ownership, as with a file descriptor that is closed twice. Hence [`Card::adopt`] is unsafe.
#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use drm::control::Device as _;
use rustix::io::Errno;

use super::{Card, DrmError};
use crate::Absent;
use crate::dmabuf::DmaBuf;
use crate::outside::outside;

/// A buffer of a driver's, by its handle on a [`Card`].
///
/// Clones and repeated imports share the handle; it is closed with the last of them. The buffer
/// itself lives on in dma-bufs, mappings and framebuffers that were made of it.
#[derive(Debug)]
pub struct Gem {
    card: Card,
    handle: NonZeroU32,
}

impl Gem {
    /// Counts an owner of the handle that `make` gets from the kernel.
    pub(super) fn own(
        card: &Card,
        make: impl FnOnce() -> Result<NonZeroU32, DrmError>,
    ) -> Result<Self, DrmError> {
        let mut owners = card.handles().lock();
        let handle = make()?;
        *owners.entry(handle).or_default() += 1;
        Ok(Self { card: card.clone(), handle })
    }

    /// As [`own`](Self::own), for several handles that come with what else the kernel says. One that
    /// comes twice has two owners.
    pub(super) fn own_all<T>(
        card: &Card,
        make: impl FnOnce() -> Result<(T, Vec<NonZeroU32>), DrmError>,
    ) -> Result<(T, Vec<Self>), DrmError> {
        let mut owners = card.handles().lock();
        let (said, handles) = make()?;
        let own = |handle| {
            *owners.entry(handle).or_default() += 1;
            Self { card: card.clone(), handle }
        };
        Ok((said, handles.into_iter().map(own).collect()))
    }

    /// The handle, for ioctls on this card's file. It is good while this lives.
    pub fn handle(&self) -> NonZeroU32 {
        self.handle
    }

    /// The card on which the handle is good.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Makes a dma-buf of the buffer (`DRM_IOCTL_PRIME_HANDLE_TO_FD`), which any driver may import
    /// and which keeps the buffer alive without the handle.
    ///
    /// # Errors
    /// [`DrmError::Unavailable`] if the driver exports none, [`DrmError::Kernel`] if it refuses this
    /// buffer.
    pub fn dma_buf(&self) -> Result<DmaBuf, DrmError> {
        self.card.prime_export()?;
        export(self.card.device(), self.handle, self.card.failed("DRM_IOCTL_PRIME_HANDLE_TO_FD"))
    }
}

impl Clone for Gem {
    fn clone(&self) -> Self {
        *self.card.handles().lock().entry(self.handle).or_default() += 1;
        Self { card: self.card.clone(), handle: self.handle }
    }
}

impl Drop for Gem {
    fn drop(&mut self) {
        let mut owners = self.card.handles().lock();
        let left = owners.get_mut(&self.handle).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            owners.remove(&self.handle);
            // Refused only to a handle that somebody else has closed, and then there is no more to do.
            let _ = self.card.device().close_buffer(self.handle.into());
        }
    }
}

impl Card {
    /// Makes a handle for a dma-buf, whoever exported it (`DRM_IOCTL_PRIME_FD_TO_HANDLE`).
    ///
    /// # Errors
    /// [`DrmError::Unavailable`] if the driver imports none, or none but its own (virtio-gpu without
    /// blob resources says that it imports, and then does not); [`DrmError::Kernel`] if it cannot use
    /// this one: its device may not reach that memory.
    pub fn import(&self, dma_buf: &DmaBuf) -> Result<Gem, DrmError> {
        self.prime_import()?;
        Gem::own(self, || {
            let made = self.device().prime_fd_to_buffer(dma_buf.as_fd());
            made.map(Into::into).map_err(|e| match Errno::from_io_error(&e) {
                Some(Errno::NODEV) => self.takes_none_of(dma_buf).into(),
                _ => self.failed("DRM_IOCTL_PRIME_FD_TO_HANDLE")(e),
            })
        })
    }

    /// Takes over a handle that a driver's own ioctl made on this card's file
    /// ([`as_fd`](AsFd::as_fd)).
    ///
    /// # Safety
    /// The handle was made on this very file and nobody else will close it: as
    /// [`OwnedFd::from_raw_fd`](std::os::fd::FromRawFd::from_raw_fd) asks of a descriptor.
    pub unsafe fn adopt(&self, handle: NonZeroU32) -> Gem {
        *self.handles().lock().entry(handle).or_default() += 1;
        Gem { card: self.clone(), handle }
    }

    fn takes_none_of(&self, dma_buf: &DmaBuf) -> Absent {
        let (driver, path) = (self.driver(), outside(self.path()));
        Absent::new(
            format!("the driver {driver} of {path} takes no dma-buf of {:?}", dma_buf.exporter()),
            "copy the bytes into a buffer of its own, or let another card use the dma-buf",
        )
    }
}

/// Makes a dma-buf of a handle that belongs to somebody else: a program that opened the node `fd`
/// itself, and made the buffer by itself or by a library. The handle stays theirs.
///
/// # Errors
/// [`DrmError::Kernel`] for a number that is no handle on that file (`ENOENT`), a file that is no
/// DRM node (`ENOTTY`), or a driver that does not export (`ENOSYS`).
///
/// ```no_run
/// use std::fs::File;
/// use std::num::NonZeroU32;
/// use std::os::fd::AsFd;
///
/// # fn made_by_the_program(_: &File) -> NonZeroU32 { NonZeroU32::MIN }
/// let node = File::options().read(true).write(true).open("/dev/dri/renderD128")?;
/// let handle = made_by_the_program(&node);
/// let dma_buf = exporters::drm::export_handle(node.as_fd(), handle)?;
/// println!("{} bytes", dma_buf.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn export_handle(fd: BorrowedFd<'_>, handle: NonZeroU32) -> Result<DmaBuf, DrmError> {
    export(&Borrowed(fd), handle, |source| DrmError::Kernel {
        card: PathBuf::from(format!("file descriptor {}", fd.as_raw_fd())),
        step: "DRM_IOCTL_PRIME_HANDLE_TO_FD",
        source,
    })
}

struct Borrowed<'a>(BorrowedFd<'a>);

impl AsFd for Borrowed<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0
    }
}

impl drm::Device for Borrowed<'_> {}
impl drm::control::Device for Borrowed<'_> {}

fn export(
    device: &impl drm::control::Device,
    handle: NonZeroU32,
    failed: impl FnOnce(io::Error) -> DrmError,
) -> Result<DmaBuf, DrmError> {
    let fd = device.buffer_to_prime_fd(handle.into(), drm::CLOEXEC | drm::RDWR);
    Ok(DmaBuf::made(fd.map_err(failed)?)?)
}
