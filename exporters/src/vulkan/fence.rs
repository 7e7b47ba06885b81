//! Fences of other drivers: sync files that become semaphores and the other way round.
//!
//! A sync file is a fence of the kernel's in a file descriptor (`Documentation/driver-api/sync_file.rst`).
//! Every driver makes them and takes them, and so do dma-bufs and the sync objects of a DRM device: they
//! are how the work of one device waits for that of another without the CPU. Where a driver of Vulkan's
//! does not know them, the CPU waits.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. A [`Semaphore`] owns its handle, which is destroyed once, when it is dropped. Whoever submits work
//!    that waits for it or signals it keeps it until the work is done.
//! 2. Its payload is changed through it only while no such work is pending.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use ash::vk::ExternalSemaphoreHandleTypeFlags as Handle;
use ash::{khr, vk};

use super::device::Device;
use super::error::{VulkanError, failed};
use crate::dmabuf::duplicate;
use crate::sync_file::SyncFileError;
use crate::{Absent, Intent, SyncFile, ready};

impl Device {
    /// Whether the device's work can wait for sync files and end in them: it has
    /// `VK_KHR_external_semaphore_fd` and the driver takes and gives that kind of descriptor. Where it
    /// does not, [`Transfer`](super::Transfer) lets the CPU wait.
    ///
    /// # Errors
    /// Absent, with the reason.
    pub fn sync_files(&self) -> Result<(), Absent> {
        self.semaphore_fd().map(|_| ())
    }
}

/// A binary semaphore of a device with sync files.
#[derive(Debug)]
pub(super) struct Semaphore {
    device: Device,
    raw: vk::Semaphore,
}

impl Semaphore {
    pub(super) fn new(device: &Device) -> Result<Self, VulkanError> {
        let mut export = vk::ExportSemaphoreCreateInfo::default().handle_types(Handle::SYNC_FD);
        let create = vk::SemaphoreCreateInfo::default().push_next(&mut export);
        // SAFETY: the device is alive and can export sync files
        // (VUID-VkExportSemaphoreCreateInfo-handleTypes-01124).
        let raw = unsafe { device.ash().create_semaphore(&create, None) }
            .map_err(failed("vkCreateSemaphore"))?;
        Ok(Self { device: device.clone(), raw })
    }

    pub(super) fn raw(&self) -> vk::Semaphore {
        self.raw
    }

    /// Puts a sync file's fence in, for one wait (VUID-VkImportSemaphoreFdInfoKHR-handleType-07307).
    pub(super) fn import(&self, sync_file: SyncFile) -> Result<(), VulkanError> {
        let fd = OwnedFd::from(sync_file);
        let import = vk::ImportSemaphoreFdInfoKHR::default()
            .semaphore(self.raw)
            .flags(vk::SemaphoreImportFlags::TEMPORARY)
            .handle_type(Handle::SYNC_FD)
            .fd(fd.as_raw_fd());
        // SAFETY: law 2, and the descriptor is a sync file's
        // (VUID-VkImportSemaphoreFdInfoKHR-fd-01544).
        unsafe { functions(&self.device)?.import_semaphore_fd(&import) }
            .map_err(failed("vkImportSemaphoreFdKHR"))?;
        // It is the driver's from here on (vkImportSemaphoreFdKHR: ownership passes on success).
        let _ = fd.into_raw_fd();
        Ok(())
    }

    /// Takes the fence out that submitted work will signal
    /// (VUID-VkSemaphoreGetFdInfoKHR-handleType-03253); none if it has already. The semaphore is as new
    /// then.
    pub(super) fn export(&self) -> Result<Option<OwnedFd>, VulkanError> {
        let get =
            vk::SemaphoreGetFdInfoKHR::default().semaphore(self.raw).handle_type(Handle::SYNC_FD);
        // SAFETY: the semaphore is ours, and was made with this handle type.
        let fd = unsafe { functions(&self.device)?.get_semaphore_fd(&get) }
            .map_err(failed("vkGetSemaphoreFdKHR"))?;
        // SAFETY: a descriptor that the call returns is new and the caller's; -1 stands for a fence
        // that is signalled.
        Ok((fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

impl Drop for Semaphore {
    fn drop(&mut self) {
        // SAFETY: law 1.
        unsafe { self.device.ash().destroy_semaphore(self.raw, None) };
    }
}

fn functions(device: &Device) -> Result<&khr::external_semaphore_fd::Device, VulkanError> {
    device.semaphore_fd().map_err(VulkanError::Unavailable)
}

/// A handle of our own on a sync file. Drivers do not always look at what they are given.
pub(super) fn sync_file(fd: BorrowedFd<'_>) -> Result<SyncFile, VulkanError> {
    Ok(SyncFile::new(duplicate(fd, "sync file").map_err(VulkanError::Unavailable)?)?)
}

/// Waits by the CPU until a fence is signalled, as a device does: whatever became of the work. The
/// kernel's fences are signalled in finite time, by their drivers' promise.
pub(super) fn signalled(fence: &SyncFile) -> Result<(), VulkanError> {
    match fence.wait(Duration::MAX) {
        Ok(()) | Err(SyncFileError::Failed { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits by the CPU for a dma-buf's users, however long.
pub(super) fn settled(dma_buf: BorrowedFd<'_>, intent: Intent) -> Result<(), VulkanError> {
    match ready::settled(dma_buf, intent, Duration::MAX) {
        Ok(_) => Ok(()),
        Err(e) => Err(SyncFileError::Kernel { step: "poll of a dma-buf", source: e.into() }.into()),
    }
}
