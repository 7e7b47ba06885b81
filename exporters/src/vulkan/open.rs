//! Opening a device: which one, with which queue, and with every extension that is of use here.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. An instance that is borrowed is alive, and the device that is asked about is one of its own.
//! 2. Extensions and features are switched on only if the driver has them.
#![allow(unsafe_code)]

use std::sync::Mutex;

use ash::{ext, khr, vk};

use super::capabilities::Enabled;
use super::compute::compute_family;
use super::device::{Device, Opened};
use super::error::{VulkanError, failed};
use super::info::{DeviceInfo, Scope, describe};
use super::instance::{Instance, has};
use super::queue::Queue;
use crate::Absent;

impl Device {
    /// Opens a device: by its index in [`devices`](super::devices) or a part of its name, of any
    /// case; without a selector the best there is (a discrete GPU before an integrated, virtual or
    /// software one).
    ///
    /// With `BUFMAP_VULKAN_VALIDATION=1` in the environment it is as
    /// [`open_validated`](Self::open_validated).
    ///
    /// # Errors
    /// [`VulkanError::NoLoader`], [`VulkanError::NoDevice`], [`VulkanError::NoSuchDevice`];
    /// [`VulkanError::Unsupported`] if it has no Vulkan 1.2 (its timeline semaphores are used).
    pub fn open(selector: Option<&str>) -> Result<Self, VulkanError> {
        let validate = std::env::var_os("BUFMAP_VULKAN_VALIDATION").is_some_and(|on| on == "1");
        open(selector, validate)
    }

    /// As [`open`](Self::open), under Khronos' validation layer, whose messages are kept for
    /// [`validation`](Self::validation).
    ///
    /// # Errors
    /// Also [`VulkanError::Unavailable`] if the layer is not installed.
    pub fn open_validated(selector: Option<&str>) -> Result<Self, VulkanError> {
        open(selector, true)
    }
}

fn open(selector: Option<&str>, validate: bool) -> Result<Device, VulkanError> {
    let instance = Instance::new(validate)?;
    let (physical, info) = select(&instance, selector)?;
    // SAFETY: law 1.
    let (available, families) = unsafe {
        (
            instance
                .raw
                .enumerate_device_extension_properties(physical)
                .map_err(failed("vkEnumerateDeviceExtensionProperties"))?,
            instance.raw.get_physical_device_queue_family_properties(physical),
        )
    };
    let every: Vec<_> = (0..families.len() as u32).collect();
    let family = best_family(&families, &every).ok_or_else(|| {
        VulkanError::Unavailable(Absent::new(
            format!("{} has no queue that copies", info.name),
            "take another device",
        ))
    })?;

    let wanted = [
        khr::external_memory_fd::NAME,
        khr::external_semaphore_fd::NAME,
        ext::external_memory_dma_buf::NAME,
        ext::external_memory_host::NAME,
        ext::image_drm_format_modifier::NAME,
        ext::queue_family_foreign::NAME,
        ext::memory_budget::NAME,
    ];
    let extensions: Vec<_> = wanted.into_iter().filter(|name| has(&available, name)).collect();
    let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
    // For shaders, where the queue that copies runs none.
    let shaders = compute_family(&families, family).filter(|shaders| *shaders != family);
    let create = |family| {
        vk::DeviceQueueCreateInfo::default().queue_family_index(family).queue_priorities(&[1.0])
    };
    let queues: Vec<_> = [family].into_iter().chain(shaders).map(create).collect();
    let mut timeline =
        vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
    // For pictures of several planes, which not every device has.
    let mut planes = several_planes(&instance, physical);
    let create = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&names)
        .push_next(&mut timeline)
        .push_next(&mut planes);
    // SAFETY: all that `create` points at lives through the call; law 2, and timeline semaphores
    // come with Vulkan 1.2.
    let raw = unsafe { instance.raw.create_device(physical, &create, None) }
        .map_err(failed("vkCreateDevice"))?;
    let opened = Opened { raw: raw.clone(), instance };
    let queue = |family: u32| Queue {
        // SAFETY: the device was created with this queue.
        raw: unsafe { raw.get_device_queue(family, 0) },
        family,
        properties: families[family as usize],
        lock: Box::new(Mutex::new(())),
    };
    let queues = (queue(family), shaders.map(queue));
    let version = vk::API_VERSION_1_2;
    let enabled = Enabled { version, extensions: &extensions, timelines: Ok(()) };
    Ok(Device::new(
        opened.instance.raw.clone(),
        physical,
        raw,
        queues,
        info,
        &enabled,
        Some(opened),
    ))
}

/// The feature for formats of several planes, on if the device has it.
fn several_planes(
    instance: &Instance,
    device: vk::PhysicalDevice,
) -> vk::PhysicalDeviceSamplerYcbcrConversionFeatures<'static> {
    let mut planes = vk::PhysicalDeviceSamplerYcbcrConversionFeatures::default();
    let mut query = vk::PhysicalDeviceFeatures2::default().push_next(&mut planes);
    // SAFETY: law 1; both are of Vulkan 1.2 or later.
    unsafe { instance.raw.get_physical_device_features2(device, &mut query) };
    planes.p_next = std::ptr::null_mut();
    planes
}

pub(crate) fn select(
    instance: &Instance,
    selector: Option<&str>,
) -> Result<(vk::PhysicalDevice, DeviceInfo), VulkanError> {
    let mut found = Vec::new();
    for (index, device) in instance.physical_devices()?.into_iter().enumerate() {
        found.push((device, describe(&instance.raw, index, device, Scope::Driver)?));
    }
    let names: Vec<String> = found.iter().map(|(_, info)| info.name.clone()).collect();
    let chosen = match selector {
        None => found
            .into_iter()
            .filter(|(_, info)| info.usable())
            .min_by_key(|(_, info)| info.kind.rank()),
        Some(selector) => found.into_iter().find(|(_, info)| matches(info, selector)),
    };
    match chosen {
        Some((device, info)) if info.usable() => Ok((device, info)),
        Some((_, info)) => Err(VulkanError::Unsupported {
            what: format!("{} (Vulkan {})", info.name, info.api_version),
            since: "Vulkan 1.2",
        }),
        None => Err(VulkanError::NoSuchDevice {
            selector: selector.unwrap_or("any with Vulkan 1.2").to_owned(),
            have: names,
        }),
    }
}

fn matches(info: &DeviceInfo, selector: &str) -> bool {
    match selector.parse::<usize>() {
        Ok(index) => info.index == index,
        Err(_) => info.name.to_lowercase().contains(&selector.to_lowercase()),
    }
}

/// The family among `candidates` that copies best. A family for transfers only drives the GPU's copy
/// engines beside its other work; failing that, compute or graphics can copy too, whether they say so
/// or not (Vulkan, "Queues").
pub(super) fn best_family(
    families: &[vk::QueueFamilyProperties],
    candidates: &[u32],
) -> Option<u32> {
    use vk::QueueFlags as Queue;
    let first = |test: &dyn Fn(Queue) -> bool| {
        candidates.iter().copied().find(|&candidate| {
            let family = families.get(candidate as usize);
            family.is_some_and(|family| family.queue_count > 0 && test(family.queue_flags))
        })
    };
    let work = Queue::GRAPHICS | Queue::COMPUTE;
    let video = Queue::VIDEO_DECODE_KHR | Queue::VIDEO_ENCODE_KHR;
    first(&|f| f.contains(Queue::TRANSFER) && !f.intersects(work | video))
        .or_else(|| first(&|f| f.contains(Queue::COMPUTE) && !f.contains(Queue::GRAPHICS)))
        .or_else(|| first(&|f| f.intersects(work | Queue::TRANSFER)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dedicated_transfer_family_is_preferred() {
        use vk::QueueFlags as Queue;
        let best = |flags: &[Queue], candidates: &[u32]| {
            let family = |&queue_flags| vk::QueueFamilyProperties {
                queue_flags,
                queue_count: 1,
                ..Default::default()
            };
            best_family(&flags.iter().map(family).collect::<Vec<_>>(), candidates)
        };
        let all = Queue::GRAPHICS | Queue::COMPUTE | Queue::TRANSFER;
        let video = Queue::VIDEO_DECODE_KHR | Queue::TRANSFER;
        let four = [all, Queue::COMPUTE, video, Queue::TRANSFER];
        assert_eq!(best(&four, &[0, 1, 2, 3]), Some(3));
        assert_eq!(best(&four, &[2, 0, 1]), Some(1));
        assert_eq!(best(&four, &[0, 7]), Some(0));
        assert_eq!(best(&[Queue::GRAPHICS], &[0]), Some(0));
        assert_eq!(best(&[], &[0]), None);
        assert_eq!(best(&four, &[]), None);
    }
}
