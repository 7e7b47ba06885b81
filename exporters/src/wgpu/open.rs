//! Opening a device of wgpu with everything that sharing needs.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. The instance is ours, and wgpu's share of it is given back by a callback that runs after
//!    everything that wgpu made of it is gone.
//! 2. Extensions are added only if the driver has them.
#![allow(unsafe_code)]

use ash::{khr, vk};
use wgpu::hal::api::Vulkan;
use wgpu::hal::vulkan as hal;

use super::device::{Device, EXTENSIONS, beyond};
use super::error::{WgpuError, lacks};
use crate::Absent;
use crate::vulkan::error::failed;
use crate::vulkan::instance::{Instance, entry, has};
use crate::vulkan::open::select;

impl Device {
    /// Opens a device by wgpu on Vulkan: by its index in [`devices`](crate::vulkan::devices) or a part
    /// of its name, without a selector the best there is. The four extensions are switched on, beside
    /// the features and limits of `wishes`.
    ///
    /// With `BUFMAP_VULKAN_VALIDATION=1` in the environment it is as
    /// [`open_validated`](Self::open_validated).
    ///
    /// # Errors
    /// [`WgpuError::Vulkan`] without a loader, a driver or such a device;
    /// [`WgpuError::Unavailable`] with the reason if the driver lacks an extension, a feature or a
    /// limit; [`WgpuError::Wgpu`] if wgpu does not open it.
    pub fn open(
        selector: Option<&str>,
        wishes: &wgpu::DeviceDescriptor<'_>,
    ) -> Result<Self, WgpuError> {
        let validate = std::env::var_os("BUFMAP_VULKAN_VALIDATION").is_some_and(|on| on == "1");
        create(selector, wishes, validate)
    }

    /// As [`open`](Self::open), under Khronos' validation layer, whose messages are kept for
    /// [`validation`](Self::validation).
    ///
    /// # Errors
    /// Also [`WgpuError::Vulkan`] if the layer is not installed.
    pub fn open_validated(
        selector: Option<&str>,
        wishes: &wgpu::DeviceDescriptor<'_>,
    ) -> Result<Self, WgpuError> {
        create(selector, wishes, true)
    }
}

fn create(
    selector: Option<&str>,
    wishes: &wgpu::DeviceDescriptor<'_>,
    validate: bool,
) -> Result<Device, WgpuError> {
    let flags = wgpu::InstanceFlags::empty();
    let refused = |why: &dyn std::fmt::Display| WgpuError::Wgpu {
        doing: "opening the device",
        why: why.to_string(),
    };
    let entry = entry()?;
    // The highest that wgpu knows, which `Instance` asks for too.
    let version = vk::API_VERSION_1_3;
    let extensions = hal::Instance::desired_extensions(entry, version, flags)
        .map_err(|error| refused(&error))?;
    let ours = Instance::with(validate, &extensions)?;
    let (physical, info) = select(&ours, selector)?;
    // SAFETY: the instance is alive and the device is one of its own.
    let available = unsafe { ours.raw.enumerate_device_extension_properties(physical) }
        .map_err(failed("vkEnumerateDeviceExtensionProperties"))?;
    for (name, purpose) in EXTENSIONS {
        if !has(&available, name) {
            return Err(WgpuError::Unavailable(Absent::new(
                format!("{} has no {} to {purpose}", info.name, name.to_string_lossy()),
                "update the driver or take another device",
            )));
        }
    }

    let (raw, log) = (ours.raw.clone(), ours.validation().cloned());
    let give_back = Box::new(move || drop(ours));
    // SAFETY: law 1; the instance was made with these extensions and this version.
    let instance = unsafe {
        hal::Instance::from_raw(
            entry.clone(),
            raw,
            version,
            0,
            None,
            extensions,
            flags,
            wgpu::MemoryBudgetThresholds::default(),
            false,
            Some(give_back),
        )
    }
    .map_err(|error| refused(&error))?;
    let exposed = instance
        .expose_adapter(physical)
        .ok_or_else(|| lacks(format!("wgpu does not take {}", info.name), "take another device"))?;
    let features = wishes.required_features;
    if !exposed.features.contains(features) {
        return Err(beyond(&(features - exposed.features).to_string()));
    }
    if !wishes.required_limits.check_limits(&exposed.capabilities.limits) {
        return Err(beyond("the limits asked for"));
    }

    let add: Box<hal::CreateDeviceCallback<'_>> = Box::new(|device| {
        let semaphores = khr::external_semaphore_fd::NAME;
        let wanted = EXTENSIONS.map(|(name, _)| name).into_iter().chain([semaphores]);
        for name in wanted.filter(|name| has(&available, name)) {
            if !device.extensions.contains(&name) {
                device.extensions.push(name);
            }
        }
    });
    // SAFETY: law 2; the adapter has the features.
    let open = unsafe {
        exposed.adapter.open_with_callback(
            features,
            &wishes.required_limits,
            &wishes.memory_hints,
            Some(add),
        )
    }
    .map_err(|error| refused(&error))?;
    // SAFETY: instance, adapter and device were made of each other, the device with these features.
    let (device, queue) = unsafe {
        let instance = wgpu::Instance::from_hal::<Vulkan>(instance);
        let adapter = instance.create_adapter_from_hal(exposed);
        adapter.create_device_from_hal(open, wishes).map_err(|error| refused(&error))?
    };
    Device::with(device, queue, log)
}
