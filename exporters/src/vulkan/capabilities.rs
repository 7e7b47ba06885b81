//! What a device can do, by its driver's answers.
//!
//! # Safety
//!
//! The law of this module: an instance that is borrowed is alive, and the device that is asked about
//! is one of its own.
#![allow(unsafe_code)]

use ash::vk;
use ash::vk::ExternalMemoryFeatureFlags as Features;
use ash::vk::ExternalMemoryHandleTypeFlags as Handle;

use super::info::DeviceInfo;
use super::instance::Instance;
use crate::Absent;

/// What every buffer may be used for: copies, and shaders that read and write it.
pub(super) const BUFFER_USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::TRANSFER_SRC.as_raw()
        | vk::BufferUsageFlags::TRANSFER_DST.as_raw()
        | vk::BufferUsageFlags::STORAGE_BUFFER.as_raw(),
);

/// What a device can do with buffers whose memory is of a handle type.
pub(super) fn external(
    instance: &Instance,
    device: vk::PhysicalDevice,
    handle: Handle,
) -> Features {
    let query =
        vk::PhysicalDeviceExternalBufferInfo::default().usage(BUFFER_USAGE).handle_type(handle);
    let mut answer = vk::ExternalBufferProperties::default();
    // SAFETY: the instance is alive and the device is one of its own, of Vulkan 1.1 or later.
    unsafe {
        let raw = &instance.raw;
        raw.get_physical_device_external_buffer_properties(device, &query, &mut answer);
    }
    answer.external_memory_properties.external_memory_features
}

/// Whether a device takes sync files and gives them.
pub(super) fn takes_sync_files(
    instance: &Instance,
    device: vk::PhysicalDevice,
    info: &DeviceInfo,
) -> Result<(), Absent> {
    use vk::ExternalSemaphoreFeatureFlags as Features;
    use vk::ExternalSemaphoreHandleTypeFlags as Handle;
    info.extension("VK_KHR_external_semaphore_fd")?;
    let query = vk::PhysicalDeviceExternalSemaphoreInfo::default().handle_type(Handle::SYNC_FD);
    let mut answer = vk::ExternalSemaphoreProperties::default();
    // SAFETY: the instance is alive and the device is one of its own, of Vulkan 1.1 or later.
    unsafe {
        instance.raw.get_physical_device_external_semaphore_properties(device, &query, &mut answer);
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

/// The feature for formats of several planes, on if the device has it.
pub(super) fn several_planes(
    instance: &Instance,
    device: vk::PhysicalDevice,
) -> vk::PhysicalDeviceSamplerYcbcrConversionFeatures<'static> {
    let mut planes = vk::PhysicalDeviceSamplerYcbcrConversionFeatures::default();
    let mut query = vk::PhysicalDeviceFeatures2::default().push_next(&mut planes);
    // SAFETY: the instance is alive and the device is one of its own, of Vulkan 1.2 or later.
    unsafe { instance.raw.get_physical_device_features2(device, &mut query) };
    planes.p_next = std::ptr::null_mut();
    planes
}
