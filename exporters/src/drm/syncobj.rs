//! Sync objects: boxes for fences, on a card.
//!
//! A fence says that a piece of work is done, once and for ever. A [`Syncobj`] holds one at a time, a
//! [`Timeline`] one for each of ever higher points. Drivers put fences in when they are given work;
//! others come from a sync file, or from the CPU, which signals. Fences know no driver: one that came
//! from any device may be put into the sync object of any other, and waited for there.
//!
//! # Safety
//!
//! The law of this module: the ioctl's number is built from the type that it passes, which is the
//! kernel's as `drm-ffi` has it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use drm::control::{Device as _, syncobj};
use drm_ffi::drm_syncobj_handle;
use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl, opcode};
use rustix::time::{ClockId, clock_gettime};

use super::{Card, DrmError};

/// `DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_IMPORT_SYNC_FILE`.
const IMPORT_SYNC_FILE: u32 = 1;

/// A box that holds one fence or none. It is destroyed when dropped; whoever waits for its fence goes
/// on waiting.
///
/// ```no_run
/// use std::os::fd::AsFd;
/// use std::time::Duration;
/// use exporters::drm::{Card, Node};
/// use exporters::{DmaBuf, Intent};
///
/// /// Waits until nobody writes into a buffer any more.
/// fn settled(dma_buf: &DmaBuf) -> Result<(), Box<dyn std::error::Error>> {
///     let done = Card::find("virtio_gpu", Node::Render)?.syncobj()?;
///     done.import_sync_file(dma_buf.export_sync_file(Intent::Read)?.as_fd())?;
///     Ok(done.wait(Duration::from_secs(1))?)
/// }
/// ```
#[derive(Debug)]
pub struct Syncobj {
    card: Card,
    handle: syncobj::Handle,
}

impl Card {
    /// Makes an empty sync object (`DRM_IOCTL_SYNCOBJ_CREATE`, since Linux 4.12).
    ///
    /// # Errors
    /// [`DrmError::Unavailable`] if the driver has none.
    pub fn syncobj(&self) -> Result<Syncobj, DrmError> {
        self.syncobjs()?;
        let handle = self.device().create_syncobj(false);
        let handle = handle.map_err(self.failed("DRM_IOCTL_SYNCOBJ_CREATE"))?;
        Ok(Syncobj { card: self.clone(), handle })
    }

    /// Makes a timeline at point zero (since Linux 5.2).
    ///
    /// # Errors
    /// [`DrmError::Unavailable`] if the driver has none.
    pub fn timeline(&self) -> Result<Timeline, DrmError> {
        self.timelines()?;
        Ok(Timeline { object: self.syncobj()? })
    }

    /// Opens the sync object that another process gave by [`Syncobj::share`]: one box, two handles.
    ///
    /// # Errors
    /// [`DrmError::Unavailable`] if the driver has none, [`DrmError::Kernel`] if `fd` is something
    /// else, such as a sync file.
    pub fn shared_syncobj(&self, fd: BorrowedFd<'_>) -> Result<Syncobj, DrmError> {
        self.syncobjs()?;
        let handle = self.device().fd_to_syncobj(fd, false);
        let handle = handle.map_err(self.failed("DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE"))?;
        Ok(Syncobj { card: self.clone(), handle })
    }

    /// Opens the timeline that another process gave by [`Timeline::share`].
    ///
    /// # Errors
    /// As [`shared_syncobj`](Self::shared_syncobj).
    pub fn shared_timeline(&self, fd: BorrowedFd<'_>) -> Result<Timeline, DrmError> {
        self.timelines()?;
        Ok(Timeline { object: self.shared_syncobj(fd)? })
    }
}

impl Syncobj {
    /// Puts a fence in that is signalled already (`DRM_IOCTL_SYNCOBJ_SIGNAL`).
    ///
    /// # Errors
    /// [`DrmError::Kernel`].
    pub fn signal(&self) -> Result<(), DrmError> {
        let done = self.card.device().syncobj_signal(&[self.handle]);
        done.map_err(self.card.failed("DRM_IOCTL_SYNCOBJ_SIGNAL"))
    }

    /// Takes the fence out (`DRM_IOCTL_SYNCOBJ_RESET`).
    ///
    /// # Errors
    /// [`DrmError::Kernel`].
    pub fn reset(&self) -> Result<(), DrmError> {
        let done = self.card.device().syncobj_reset(&[self.handle]);
        done.map_err(self.card.failed("DRM_IOCTL_SYNCOBJ_RESET"))
    }

    /// Waits until there is a fence and it is signalled (`DRM_IOCTL_SYNCOBJ_WAIT`); with a limit of
    /// zero it only looks.
    ///
    /// # Errors
    /// [`DrmError::TimedOut`] after `limit`.
    pub fn wait(&self, limit: Duration) -> Result<(), DrmError> {
        let until = deadline(limit);
        self.card.wait("DRM_IOCTL_SYNCOBJ_WAIT", limit, || {
            self.card.device().syncobj_wait(&[self.handle], until, true, true)
        })
    }

    /// The fence that is in it now, as a sync file to wait for with `poll`, or to put on a dma-buf
    /// ([`DmaBuf::import_sync_file`](crate::DmaBuf::import_sync_file)).
    ///
    /// # Errors
    /// [`DrmError::NoFence`] while it is empty.
    pub fn export_sync_file(&self) -> Result<OwnedFd, DrmError> {
        let file = self.card.device().syncobj_to_fd(self.handle, true);
        file.map_err(|e| self.card.no_fence("export of a sync file", e))
    }

    /// Puts a sync file's fence in, in the place of what was there: one of
    /// [`DmaBuf::export_sync_file`](crate::DmaBuf::export_sync_file), say. The file stays the
    /// caller's.
    ///
    /// # Errors
    /// [`DrmError::Kernel`] if `sync_file` is no sync file.
    pub fn import_sync_file(&self, sync_file: BorrowedFd<'_>) -> Result<(), DrmError> {
        const FD_TO_HANDLE: u32 = opcode::read_write::<drm_syncobj_handle>(b'd', 0xc2);
        // The crate `drm` asks for it with a handle of zero, which no sync object has.
        let mut import = drm_syncobj_handle {
            handle: self.handle.into(),
            flags: IMPORT_SYNC_FILE,
            fd: sync_file.as_raw_fd(),
            ..Default::default()
        };
        // SAFETY: the module's law; the kernel takes no ownership of the descriptor.
        unsafe { ioctl(&self.card, Updater::<FD_TO_HANDLE, _>::new(&mut import)) }
            .map_err(|e| self.card.failed("import of a sync file")(e.into()))
    }

    /// The box itself, for another process or card to open ([`Card::shared_syncobj`]): what one puts
    /// in, the other sees.
    ///
    /// # Errors
    /// [`DrmError::Kernel`].
    pub fn share(&self) -> Result<OwnedFd, DrmError> {
        let fd = self.card.device().syncobj_to_fd(self.handle, false);
        fd.map_err(self.card.failed("DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD"))
    }
}

impl Drop for Syncobj {
    fn drop(&mut self) {
        // Refused only to a handle that is not there, and this one is ours alone.
        let _ = self.card.device().destroy_syncobj(self.handle);
    }
}

/// A box of fences in the order of their points: to wait for a point is to wait for all up to it.
///
/// Points are given in rising order; the first is at least 1.
///
/// ```no_run
/// use std::time::Duration;
/// use exporters::drm::{Card, Node};
///
/// let frames = Card::find("virtio_gpu", Node::Render)?.timeline()?;
/// frames.signal(7)?;
/// frames.wait(6, Duration::ZERO)?;
/// assert_eq!(frames.point()?, 7);
/// # Ok::<(), exporters::drm::DrmError>(())
/// ```
#[derive(Debug)]
pub struct Timeline {
    object: Syncobj,
}

impl Timeline {
    /// The highest point that is signalled (`DRM_IOCTL_SYNCOBJ_QUERY`).
    ///
    /// # Errors
    /// [`DrmError::Kernel`].
    pub fn point(&self) -> Result<u64, DrmError> {
        let mut point = [0];
        let card = self.card();
        let done = card.device().syncobj_timeline_query(&[self.object.handle], &mut point, false);
        done.map_err(card.failed("DRM_IOCTL_SYNCOBJ_QUERY"))?;
        Ok(point[0])
    }

    /// Signals a point (`DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL`), which is reached once those before it
    /// are.
    ///
    /// # Errors
    /// [`DrmError::Kernel`].
    pub fn signal(&self, point: u64) -> Result<(), DrmError> {
        let done = self.card().device().syncobj_timeline_signal(&[self.object.handle], &[point]);
        done.map_err(self.card().failed("DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL"))
    }

    /// Waits until a point is reached (`DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT`); it need not have a fence
    /// yet. With a limit of zero it only looks.
    ///
    /// # Errors
    /// [`DrmError::TimedOut`] after `limit`.
    pub fn wait(&self, point: u64, limit: Duration) -> Result<(), DrmError> {
        let until = deadline(limit);
        self.wait_for(point, until, limit, false)
    }

    /// Waits until a point has a fence, signalled or not
    /// (`DRM_SYNCOBJ_WAIT_FLAGS_WAIT_AVAILABLE`): after that it can be exported.
    ///
    /// # Errors
    /// [`DrmError::TimedOut`] after `limit`.
    pub fn wait_available(&self, point: u64, limit: Duration) -> Result<(), DrmError> {
        let until = deadline(limit);
        self.wait_for(point, until, limit, true)
    }

    fn wait_for(
        &self,
        point: u64,
        until: i64,
        limit: Duration,
        available: bool,
    ) -> Result<(), DrmError> {
        let (device, handle) = (self.card().device(), self.object.handle);
        self.card().wait("DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT", limit, || {
            device.syncobj_timeline_wait(&[handle], &[point], until, true, true, available)
        })
    }

    /// Puts a sync object's fence at a point (`DRM_IOCTL_SYNCOBJ_TRANSFER`).
    ///
    /// # Errors
    /// [`DrmError::NoFence`] if it is empty; [`DrmError::OtherFile`] for one that was made on another
    /// open file, even of the same node.
    pub fn put(&self, point: u64, from: &Syncobj) -> Result<(), DrmError> {
        self.card().must_be(&from.card)?;
        self.transfer((from.handle, 0), (self.object.handle, point))
    }

    /// Puts a point's fence into a sync object of the same card (`DRM_IOCTL_SYNCOBJ_TRANSFER`).
    ///
    /// # Errors
    /// [`DrmError::NoFence`] if the point has none yet; [`DrmError::OtherFile`] as for
    /// [`put`](Self::put).
    pub fn take(&self, point: u64, into: &Syncobj) -> Result<(), DrmError> {
        self.card().must_be(&into.card)?;
        self.transfer((self.object.handle, point), (into.handle, 0))
    }

    /// A point's fence as a sync file.
    ///
    /// # Errors
    /// [`DrmError::NoFence`] if the point has none yet.
    pub fn export_sync_file(&self, point: u64) -> Result<OwnedFd, DrmError> {
        let fence = self.card().syncobj()?;
        self.take(point, &fence)?;
        fence.export_sync_file()
    }

    /// Puts a sync file's fence at a point.
    ///
    /// # Errors
    /// As [`Syncobj::import_sync_file`].
    pub fn import_sync_file(&self, point: u64, sync_file: BorrowedFd<'_>) -> Result<(), DrmError> {
        let fence = self.card().syncobj()?;
        fence.import_sync_file(sync_file)?;
        self.put(point, &fence)
    }

    /// The timeline itself, for another process or card to open ([`Card::shared_timeline`]).
    ///
    /// # Errors
    /// [`DrmError::Kernel`].
    pub fn share(&self) -> Result<OwnedFd, DrmError> {
        self.object.share()
    }

    fn transfer(
        &self,
        from: (syncobj::Handle, u64),
        to: (syncobj::Handle, u64),
    ) -> Result<(), DrmError> {
        let done = self.card().device().syncobj_timeline_transfer(from.0, to.0, from.1, to.1);
        done.map_err(|e| self.card().no_fence("DRM_IOCTL_SYNCOBJ_TRANSFER", e))
    }

    fn card(&self) -> &Card {
        &self.object.card
    }
}

impl Card {
    /// Waits by an ioctl whose limit is a time, so that it can be called again after a signal.
    fn wait(
        &self,
        step: &'static str,
        limit: Duration,
        wait: impl Fn() -> io::Result<u32>,
    ) -> Result<(), DrmError> {
        loop {
            let Err(error) = wait() else { return Ok(()) };
            match Errno::from_io_error(&error) {
                Some(Errno::INTR | Errno::AGAIN) => continue,
                Some(Errno::TIME) => {
                    return Err(DrmError::TimedOut { card: self.path().to_owned(), limit });
                }
                _ => return Err(self.failed(step)(error)),
            }
        }
    }

    /// The kernel says `EINVAL` of a box that is empty.
    fn no_fence(&self, step: &'static str, error: io::Error) -> DrmError {
        match Errno::from_io_error(&error) {
            Some(Errno::INVAL) => DrmError::NoFence { card: self.path().to_owned(), step },
            _ => self.failed(step)(error),
        }
    }
}

/// The time, on the monotonic clock and in nanoseconds, that is `limit` away from now, or the last
/// there is.
fn deadline(limit: Duration) -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::new(now.tv_sec as u64, now.tv_nsec as u32);
    now.saturating_add(limit).as_nanos().try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_a_time_to_come() {
        let now = deadline(Duration::ZERO);
        assert!(now > 0);
        let later = deadline(Duration::from_secs(3600));
        assert!((3_600_000_000_000..3_660_000_000_000).contains(&(later - now)));
        assert_eq!(deadline(Duration::MAX), i64::MAX);
    }
}
