//! What a device can do: the functions of the extensions and features that it was created with, and its driver's answers.
//!
//! Who opened the device makes no difference here: [`Enabled`] says what was switched on, and whatever was not is absent
//! with a reason.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. An instance that is borrowed is alive, and the device that is asked about is one of its own.
//! 2. An extension's functions are there only if the device was created with that extension.
#![allow(unsafe_code)]

use std::ffi::CStr;

use ash::vk::ExternalMemoryFeatureFlags as Features;
use ash::vk::ExternalMemoryHandleTypeFlags as Handle;
use ash::{ext, khr, vk};

use super::info::DeviceInfo;
use crate::Absent;

/// What every buffer may be used for: copies, and shaders that read and write it.
pub(super) const BUFFER_USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::TRANSFER_SRC.as_raw()
        | vk::BufferUsageFlags::TRANSFER_DST.as_raw()
        | vk::BufferUsageFlags::STORAGE_BUFFER.as_raw(),
);

/// By which handles buffers come and go here.
const HANDLES: [Handle; 2] = [Handle::DMA_BUF_EXT, Handle::HOST_ALLOCATION_EXT];

/// What a device was created with.
pub(super) struct Enabled<'a> {
    /// The version of Vulkan that may be used: the lesser of the instance's and the device's.
    pub(super) version: u32,
    pub(super) extensions: &'a [&'a CStr],
    /// The feature `timelineSemaphore`, or why it is not on.
    pub(super) timelines: Result<(), Absent>,
}

impl Enabled<'_> {
    pub(super) fn has(&self, extension: &CStr) -> bool {
        self.extensions.contains(&extension)
    }
}

/// What a device can do.
pub(super) struct Abilities {
    pub(super) memory_fd: Result<khr::external_memory_fd::Device, Absent>,
    pub(super) memory_host: Result<ext::external_memory_host::Device, Absent>,
    pub(super) semaphore_fd: Result<khr::external_semaphore_fd::Device, Absent>,
    pub(super) image_modifiers: Result<ext::image_drm_format_modifier::Device, Absent>,
    pub(super) timelines: Result<TimelineFunctions, Absent>,
    /// The family that stands for users outside this instance, in ownership transfers.
    pub(super) foreign_family: u32,
    pub(super) has_budget: bool,
    /// Asked for once: the driver takes as long to answer as for a small allocation.
    external: [(Handle, Features); 2],
}

impl Abilities {
    pub(super) fn new(
        instance: &ash::Instance,
        physical: vk::PhysicalDevice,
        device: &ash::Device,
        info: &DeviceInfo,
        enabled: &Enabled<'_>,
    ) -> Self {
        let foreign = enabled.has(ext::queue_family_foreign::NAME);
        let families = [vk::QUEUE_FAMILY_EXTERNAL, vk::QUEUE_FAMILY_FOREIGN_EXT];
        Self {
            memory_fd: info
                .extension("VK_KHR_external_memory_fd")
                .map(|()| khr::external_memory_fd::Device::new(instance, device)),
            memory_host: info
                .extension("VK_EXT_external_memory_host")
                .map(|()| ext::external_memory_host::Device::new(instance, device)),
            semaphore_fd: takes_sync_files(instance, physical, info)
                .map(|()| khr::external_semaphore_fd::Device::new(instance, device)),
            image_modifiers: info
                .extension("VK_EXT_image_drm_format_modifier")
                .map(|()| ext::image_drm_format_modifier::Device::new(instance, device)),
            timelines: TimelineFunctions::new(instance, device, enabled),
            foreign_family: families[usize::from(foreign)],
            has_budget: enabled.has(ext::memory_budget::NAME),
            external: HANDLES.map(|handle| (handle, external(instance, physical, handle))),
        }
    }

    /// What can be done with buffers whose memory is of a handle type, one of [`HANDLES`].
    pub(super) fn external(&self, handle: Handle) -> Features {
        let known = self.external.iter().find(|(known, _)| *known == handle);
        known.map_or(Features::empty(), |&(_, features)| features)
    }
}

/// The functions of timeline semaphores: of Vulkan 1.2, or of the extension before it.
#[derive(Clone)]
pub(super) struct TimelineFunctions {
    device: vk::Device,
    value: vk::PFN_vkGetSemaphoreCounterValue,
    wait: vk::PFN_vkWaitSemaphores,
}

impl TimelineFunctions {
    fn new(
        instance: &ash::Instance,
        device: &ash::Device,
        enabled: &Enabled<'_>,
    ) -> Result<Self, Absent> {
        enabled.timelines.clone()?;
        if enabled.version >= vk::API_VERSION_1_2 {
            let functions = device.fp_v1_2();
            return Ok(Self {
                device: device.handle(),
                value: functions.get_semaphore_counter_value,
                wait: functions.wait_semaphores,
            });
        }
        if enabled.has(khr::timeline_semaphore::NAME) {
            let extension = khr::timeline_semaphore::Device::new(instance, device);
            let functions = extension.fp();
            return Ok(Self {
                device: device.handle(),
                value: functions.get_semaphore_counter_value_khr,
                wait: functions.wait_semaphores_khr,
            });
        }
        Err(Absent::new(
            "the device has neither Vulkan 1.2 nor VK_KHR_timeline_semaphore",
            "make the instance for Vulkan 1.2 or later; until then copies are counted by fences",
        ))
    }

    /// What a timeline has reached.
    ///
    /// # Safety
    /// The semaphore is a timeline of this device, and alive.
    pub(super) unsafe fn value(&self, semaphore: vk::Semaphore) -> ash::prelude::VkResult<u64> {
        let mut value = 0;
        // SAFETY: the caller's promise, and law 2.
        unsafe { (self.value)(self.device, semaphore, &mut value) }.result_with_success(value)
    }

    /// Waits until a timeline has reached a value, or `nanoseconds` are over (`TIMEOUT`).
    ///
    /// # Safety
    /// As [`value`](Self::value).
    pub(super) unsafe fn wait(
        &self,
        semaphore: vk::Semaphore,
        value: u64,
        nanoseconds: u64,
    ) -> ash::prelude::VkResult<()> {
        let (semaphores, values) = ([semaphore], [value]);
        let wait = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        // SAFETY: the caller's promise, and law 2.
        unsafe { (self.wait)(self.device, &wait, nanoseconds) }.result()
    }
}

/// What a device can do with buffers whose memory is of a handle type.
fn external(instance: &ash::Instance, device: vk::PhysicalDevice, handle: Handle) -> Features {
    let query =
        vk::PhysicalDeviceExternalBufferInfo::default().usage(BUFFER_USAGE).handle_type(handle);
    let mut answer = vk::ExternalBufferProperties::default();
    // SAFETY: law 1; both are of Vulkan 1.1 or later.
    unsafe { instance.get_physical_device_external_buffer_properties(device, &query, &mut answer) };
    answer.external_memory_properties.external_memory_features
}

/// Whether a device takes sync files and gives them.
fn takes_sync_files(
    instance: &ash::Instance,
    device: vk::PhysicalDevice,
    info: &DeviceInfo,
) -> Result<(), Absent> {
    use vk::ExternalSemaphoreFeatureFlags as Features;
    use vk::ExternalSemaphoreHandleTypeFlags as Handle;
    info.extension("VK_KHR_external_semaphore_fd")?;
    let query = vk::PhysicalDeviceExternalSemaphoreInfo::default().handle_type(Handle::SYNC_FD);
    let mut answer = vk::ExternalSemaphoreProperties::default();
    // SAFETY: law 1; both are of Vulkan 1.1 or later.
    unsafe {
        instance.get_physical_device_external_semaphore_properties(device, &query, &mut answer);
    }
    let both = Features::IMPORTABLE | Features::EXPORTABLE;
    if answer.external_semaphore_features.contains(both) {
        return Ok(());
    }
    Err(Absent::new(
        format!("{} has VK_KHR_external_semaphore_fd, but not for sync files", info.name),
        "update the driver or take another device; until then the CPU waits",
    ))
}
