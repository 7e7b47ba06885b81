//! A device: its queues, and what it can do.
//!
//! How it was had and what it can do are apart. [`Device::open`] opens one, which is closed with the last handle on it;
//! [`Device::adopt`] takes a program's own, which is not ([`Opened`] is absent). Everything else goes by its
//! [`Abilities`] alone.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. Everything made from a device owns a share of it, so a device that was opened here is destroyed last. One that
//!    was adopted outlives its last share, as who adopted it promised.
//! 2. Each queue is used under its lock (`queue`).
#![allow(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ash::vk::ExternalMemoryFeatureFlags as Features;
use ash::vk::ExternalMemoryHandleTypeFlags as Handle;
use ash::{ext, khr, vk};

use super::capabilities::{Abilities, Enabled, TimelineFunctions};
use super::compute::Compute;
use super::error::VulkanError;
use super::info::DeviceInfo;
use super::instance::Instance;
use super::queue::Queue;
use super::validation::ValidationLog;
use crate::Absent;

/// A Vulkan device: opened here, or a program's own.
///
/// A clone is another handle on the same device. One that was opened here ([`open`](Self::open)) is closed with the
/// last of them and of its buffers; a program's own ([`adopt`](Self::adopt)) stays open. It may be used from several
/// threads.
///
/// ```no_run
/// use std::sync::Arc;
/// use exporters::vulkan::Device;
/// use iomap::{Memory, PageSize};
///
/// let device = Device::open(None)?;
/// let memory = Arc::new(Memory::memfd("model", 1 << 20, PageSize::Base)?);
/// memory.map().fill(7)?;
/// let pages = device.import_memory(memory)?; // no copy: the device sees these very pages
/// println!("{} imported {} bytes by {}", device.info().name, pages.len(), pages.way());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    instance: ash::Instance,
    physical: vk::PhysicalDevice,
    raw: ash::Device,
    info: DeviceInfo,
    memory: vk::PhysicalDeviceMemoryProperties,
    queue: Queue,
    /// Where shaders run, if any do.
    compute: Result<Compute, Absent>,
    abilities: Abilities,
    /// Held while memory passes to this queue's family or from it, so that the copies that rely on it come after.
    passing: Mutex<()>,
    /// Of a device that was opened here, what closes it.
    opened: Option<Opened>,
}

/// A device that was opened here, to be closed.
pub(super) struct Opened {
    pub(super) raw: ash::Device,
    /// Dropped after `raw` is destroyed in `drop`.
    pub(super) instance: Instance,
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: law 1: nothing made from the device is left.
        unsafe { self.raw.destroy_device(None) };
    }
}

impl Device {
    /// A device of `instance`, which was created with what `enabled` says and with these queues: that of the copies, and
    /// another for shaders if that runs none.
    pub(super) fn new(
        instance: ash::Instance,
        physical: vk::PhysicalDevice,
        raw: ash::Device,
        (queue, shaders): (Queue, Option<Queue>),
        info: DeviceInfo,
        enabled: &Enabled<'_>,
        opened: Option<Opened>,
    ) -> Self {
        Self(Arc::new(Inner {
            compute: Compute::of(&queue, shaders, &info.name),
            abilities: Abilities::new(&instance, physical, &raw, &info, enabled),
            // SAFETY: the instance is alive, and the device one of its own.
            memory: unsafe { instance.get_physical_device_memory_properties(physical) },
            instance,
            physical,
            raw,
            info,
            queue,
            passing: Mutex::new(()),
            opened,
        }))
    }

    /// What the device is and offers. Of a program's own, an extension that it was not created with is absent.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// The validation layer's messages, if the device was opened here and the layer is on.
    pub fn validation(&self) -> Option<&ValidationLog> {
        self.0.opened.as_ref()?.instance.validation()
    }

    /// The device for users of `ash`, who keep to Vulkan's rules themselves: it must not be
    /// destroyed, and its queue is used by this crate's transfers under its lock.
    pub fn ash(&self) -> &ash::Device {
        &self.0.raw
    }

    /// The family of the queue that copies: one for transfers only if there is such.
    pub fn queue_family(&self) -> u32 {
        self.0.queue.family
    }

    /// Whether copies are counted by a timeline semaphore, and may end in a program's own
    /// ([`Timeline`](super::Timeline)); if not, they are counted by fences.
    ///
    /// # Errors
    /// Absent, with the reason.
    pub fn timelines(&self) -> Result<(), Absent> {
        self.timeline_functions().map(drop)
    }

    pub(super) fn timeline_functions(&self) -> Result<&TimelineFunctions, Absent> {
        self.0.abilities.timelines.as_ref().map_err(Absent::clone)
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.0.queue
    }

    /// The family of the queue on which shaders run.
    pub(super) fn compute_family(&self) -> Result<u32, Absent> {
        self.compute().map(|queue| queue.family)
    }

    /// The families that use a buffer in turns without passing it on; twice the same if it is one.
    pub(super) fn families(&self) -> [u32; 2] {
        [self.0.queue.family, self.compute_family().unwrap_or(self.0.queue.family)]
    }

    /// The queue on which shaders run.
    pub(super) fn compute(&self) -> Result<&Queue, Absent> {
        Ok(match self.0.compute.as_ref().map_err(Absent::clone)? {
            Compute::Shared => &self.0.queue,
            Compute::Own(queue) => queue,
        })
    }

    /// Until it is dropped, no memory passes to the queue's family or from it by others.
    pub(super) fn passing(&self) -> MutexGuard<'_, ()> {
        self.0.passing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The family that stands for users outside this instance, in ownership transfers.
    pub(super) fn foreign_family(&self) -> u32 {
        self.0.abilities.foreign_family
    }

    pub(super) fn memory(&self) -> &vk::PhysicalDeviceMemoryProperties {
        &self.0.memory
    }

    pub(super) fn memory_fd(&self) -> Result<&khr::external_memory_fd::Device, VulkanError> {
        there(&self.0.abilities.memory_fd)
    }

    pub(super) fn memory_host(&self) -> Result<&ext::external_memory_host::Device, VulkanError> {
        there(&self.0.abilities.memory_host)
    }

    pub(super) fn image_modifiers(
        &self,
    ) -> Result<&ext::image_drm_format_modifier::Device, VulkanError> {
        there(&self.0.abilities.image_modifiers)
    }

    pub(super) fn instance(&self) -> &ash::Instance {
        &self.0.instance
    }

    pub(super) fn physical(&self) -> vk::PhysicalDevice {
        self.0.physical
    }

    pub(super) fn semaphore_fd(&self) -> Result<&khr::external_semaphore_fd::Device, Absent> {
        self.0.abilities.semaphore_fd.as_ref().map_err(Absent::clone)
    }

    /// What can be done with buffers whose memory is of a handle type.
    pub(super) fn external(&self, handle: Handle) -> Features {
        self.0.abilities.external(handle)
    }

    /// How much of a heap is free in bytes: the driver's estimate, or the heap's size without one.
    pub(super) fn free(&self, heap: u32) -> u64 {
        let size = self.0.memory.memory_heaps[heap as usize].size;
        if !self.0.abilities.has_budget {
            return size;
        }
        let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let mut query = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
        // SAFETY: instance and device are alive, and the device has the extension.
        unsafe {
            self.0.instance.get_physical_device_memory_properties2(self.0.physical, &mut query)
        };
        let [budget, usage] = [budget.heap_budget, budget.heap_usage].map(|all| all[heap as usize]);
        budget.saturating_sub(usage).min(size)
    }
}

fn there<T>(functions: &Result<T, Absent>) -> Result<&T, VulkanError> {
    functions.as_ref().map_err(|absent| VulkanError::Unavailable(absent.clone()))
}

/// Two handles on one device are equal.
impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Device").field(&self.0.info.name).finish()
    }
}
