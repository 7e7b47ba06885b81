//! Timeline semaphores of a program's own: a value that is reached when copies are done, and one that a copy waits for.
//!
//! A renderer waits for the value on the GPU, in a submission of its own (`vkQueueSubmit` with
//! `VkTimelineSemaphoreSubmitInfo`), and no thread of its CPU waits. The same semaphore orders it the other way round:
//! a copy begins when the renderer has drawn the last frame that used what is replaced.
//!
//! # Safety
//!
//! The law of this module: the semaphore is a timeline, of the device, and alive, as who adopted it promised.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ash::vk;

use super::capabilities::TimelineFunctions;
use super::device::Device;
use super::error::{VulkanError, failed};

/// A timeline semaphore of the program's own.
pub struct Timeline {
    device: Device,
    functions: TimelineFunctions,
    raw: vk::Semaphore,
    /// How far ahead of its value it may be signalled (`maxTimelineSemaphoreValueDifference`).
    reach: u64,
    /// The highest value that was submitted here to be signalled.
    last: Mutex<u64>,
}

impl Device {
    /// Takes a timeline semaphore of the program's own, which is never destroyed here.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use exporters::vulkan::{Buffer, CopyRegion, Device, Ticket, VulkanError, ash::vk};
    ///
    /// /// Copies, and has `semaphore` reach 7 when that is done: the renderer waits for it on the GPU.
    /// fn upload(
    ///     device: &Device,
    ///     semaphore: vk::Semaphore,
    ///     from: &Arc<Buffer>,
    ///     to: &Arc<Buffer>,
    /// ) -> Result<Ticket, VulkanError> {
    ///     // SAFETY: a timeline of this device, which the program destroys after the transfers.
    ///     let timeline = unsafe { device.adopt_timeline(semaphore) }?;
    ///     let mut transfer = device.transfer()?;
    ///     let all = CopyRegion { src_offset: 0, dst_offset: 0, len: to.len() };
    ///     let _ = transfer.copy(from, to, &[all])?;
    ///     transfer.signal(&timeline, 7)
    /// }
    /// ```
    ///
    /// # Safety
    /// Each with the chapter of the Vulkan specification that asks for it:
    ///
    /// * It is a semaphore of this device, of the type `VK_SEMAPHORE_TYPE_TIMELINE` ("Semaphores").
    /// * It is destroyed only after the answer's last share, and after all transfers that signal it or wait for it
    ///   ("Semaphore Destruction").
    /// * The program either signals it or has it signalled here, not both: each value must be higher than every one
    ///   that is pending ("Semaphore Signaling").
    ///
    /// # Errors
    /// [`VulkanError::Unavailable`] without timeline semaphores ([`Device::timelines`]).
    pub unsafe fn adopt_timeline(
        &self,
        semaphore: vk::Semaphore,
    ) -> Result<Arc<Timeline>, VulkanError> {
        let functions = self.timeline_functions().map_err(VulkanError::Unavailable)?.clone();
        let mut limits = vk::PhysicalDeviceTimelineSemaphoreProperties::default();
        let mut query = vk::PhysicalDeviceProperties2::default().push_next(&mut limits);
        // SAFETY: instance and device are alive, and have timeline semaphores.
        unsafe { self.instance().get_physical_device_properties2(self.physical(), &mut query) };
        Ok(Arc::new(Timeline {
            device: self.clone(),
            functions,
            raw: semaphore,
            reach: limits.max_timeline_semaphore_value_difference,
            last: Mutex::new(0),
        }))
    }
}

impl Timeline {
    /// What it has reached.
    ///
    /// # Errors
    /// [`VulkanError::Call`] if the device is lost.
    pub fn value(&self) -> Result<u64, VulkanError> {
        // SAFETY: the module's law.
        unsafe { self.functions.value(self.raw) }.map_err(failed("vkGetSemaphoreCounterValue"))
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timeline").field(&self.raw).finish()
    }
}

/// A value of a timeline.
#[derive(Clone, Debug)]
pub(super) struct Point {
    pub(super) timeline: Arc<Timeline>,
    pub(super) value: u64,
}

impl Point {
    pub(super) fn raw(&self) -> vk::Semaphore {
        self.timeline.raw
    }

    pub(super) fn is_of(&self, device: &Device) -> bool {
        self.timeline.device == *device
    }

    /// Whether it may be signalled next (VUID-VkSubmitInfo-pSignalSemaphores-03242 and -03244). Until the answer is
    /// dropped nobody else signals here; it is set when the signal was submitted.
    pub(super) fn claim(&self) -> Result<MutexGuard<'_, u64>, VulkanError> {
        let last = self.timeline.last.lock().unwrap_or_else(PoisonError::into_inner);
        may_follow(self.value, *last, self.timeline.value()?, self.timeline.reach)?;
        Ok(last)
    }
}

/// Whether a timeline that has reached a value may be signalled with another, after the last.
fn may_follow(value: u64, last: u64, reached: u64, reach: u64) -> Result<(), VulkanError> {
    let (above, most) = (last.max(reached), reached.saturating_add(reach));
    if value > above && value <= most {
        return Ok(());
    }
    Err(VulkanError::Value { value, above, most })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_higher_than_all_before_and_within_reach() {
        for (value, last, reached) in [(1, 0, 0), (8, 7, 3), (8, 2, 7), (13, 7, 3)] {
            assert!(may_follow(value, last, reached, 10).is_ok(), "{value}, {last}, {reached}");
        }
        for (value, last, reached) in [(0, 0, 0), (7, 7, 3), (7, 2, 7), (14, 7, 3)] {
            let refused = may_follow(value, last, reached, 10);
            assert!(
                matches!(refused, Err(VulkanError::Value { .. })),
                "{value}, {last}, {reached}"
            );
        }
        assert!(may_follow(u64::MAX, 7, 7, u64::MAX).is_ok());
    }
}
