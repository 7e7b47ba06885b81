//! A device, opened: the queue that copies, and the functions that bring memory in and out.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. Everything made from a device owns a share of it, so the device is destroyed last.
//! 2. The one queue is used under its lock (Vulkan, "Threading Behavior": a queue is externally
//!    synchronised).
//! 3. An extension's functions are there only if the device was created with that extension.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ash::vk::ExternalMemoryFeatureFlags as Features;
use ash::vk::ExternalMemoryHandleTypeFlags as Handle;
use ash::{ext, khr, vk};

use super::capabilities::{external, several_planes, takes_sync_files};
use super::error::{VulkanError, failed};
use super::info::{DeviceInfo, describe};
use super::instance::{Instance, has};
use super::validation::ValidationLog;
use crate::Absent;

/// By which handles buffers come and go here.
const HANDLES: [Handle; 2] = [Handle::DMA_BUF_EXT, Handle::HOST_ALLOCATION_EXT];

/// A Vulkan device, opened.
///
/// A clone is another handle on the same device; the device is closed with the last of them and of
/// its buffers. It may be used from several threads.
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
    raw: ash::Device,
    physical: vk::PhysicalDevice,
    info: DeviceInfo,
    memory: vk::PhysicalDeviceMemoryProperties,
    has_budget: bool,
    queue: Mutex<vk::Queue>,
    queue_family: u32,
    foreign_family: u32,
    memory_fd: Result<khr::external_memory_fd::Device, Absent>,
    memory_host: Result<ext::external_memory_host::Device, Absent>,
    semaphore_fd: Result<khr::external_semaphore_fd::Device, Absent>,
    image_modifiers: Result<ext::image_drm_format_modifier::Device, Absent>,
    /// Asked for once: the driver takes as long to answer as for a small allocation.
    external: [(Handle, Features); 2],
    /// Dropped after `raw` is destroyed in `drop`.
    instance: Instance,
}

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
        Self::create(selector, validate)
    }

    /// As [`open`](Self::open), under Khronos' validation layer, whose messages are kept for
    /// [`validation`](Self::validation).
    ///
    /// # Errors
    /// Also [`VulkanError::Unavailable`] if the layer is not installed.
    pub fn open_validated(selector: Option<&str>) -> Result<Self, VulkanError> {
        Self::create(selector, true)
    }

    fn create(selector: Option<&str>, validate: bool) -> Result<Self, VulkanError> {
        let instance = Instance::new(validate)?;
        let (physical, info) = select(&instance, selector)?;
        // SAFETY: the instance is alive and the device is one of its own.
        let (available, memory, families) = unsafe {
            (
                instance
                    .raw
                    .enumerate_device_extension_properties(physical)
                    .map_err(failed("vkEnumerateDeviceExtensionProperties"))?,
                instance.raw.get_physical_device_memory_properties(physical),
                instance.raw.get_physical_device_queue_family_properties(physical),
            )
        };
        let queue_family = transfer_family(&families).ok_or_else(|| {
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
        let enabled: Vec<_> = wanted.into_iter().filter(|name| has(&available, name)).collect();
        let names: Vec<_> = enabled.iter().map(|name| name.as_ptr()).collect();
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(queue_family)
            .queue_priorities(&[1.0])];
        let mut timeline =
            vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
        // For pictures of several planes, which not every device has.
        let mut planes = several_planes(&instance, physical);
        let create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&names)
            .push_next(&mut timeline)
            .push_next(&mut planes);
        // SAFETY: all that `create` points at lives through the call; the device has these
        // extensions and features, and timeline semaphores with Vulkan 1.2.
        let raw = unsafe { instance.raw.create_device(physical, &create, None) }
            .map_err(failed("vkCreateDevice"))?;
        // SAFETY: the device was created with this queue.
        let queue = unsafe { raw.get_device_queue(queue_family, 0) };

        let foreign = enabled.contains(&ext::queue_family_foreign::NAME);
        let memory_fd = info
            .extension("VK_KHR_external_memory_fd")
            .map(|()| khr::external_memory_fd::Device::new(&instance.raw, &raw));
        let memory_host = info
            .extension("VK_EXT_external_memory_host")
            .map(|()| ext::external_memory_host::Device::new(&instance.raw, &raw));
        let semaphore_fd = takes_sync_files(&instance, physical, &info)
            .map(|()| khr::external_semaphore_fd::Device::new(&instance.raw, &raw));
        let image_modifiers = info
            .extension("VK_EXT_image_drm_format_modifier")
            .map(|()| ext::image_drm_format_modifier::Device::new(&instance.raw, &raw));
        Ok(Self(Arc::new(Inner {
            raw,
            physical,
            info,
            memory,
            has_budget: enabled.contains(&ext::memory_budget::NAME),
            queue: Mutex::new(queue),
            queue_family,
            foreign_family: if foreign {
                vk::QUEUE_FAMILY_FOREIGN_EXT
            } else {
                vk::QUEUE_FAMILY_EXTERNAL
            },
            memory_fd,
            memory_host,
            semaphore_fd,
            image_modifiers,
            external: HANDLES.map(|handle| (handle, external(&instance, physical, handle))),
            instance,
        })))
    }

    /// What the device is and offers.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// The validation layer's messages, if it is on.
    pub fn validation(&self) -> Option<&ValidationLog> {
        self.0.instance.validation()
    }

    /// The device for users of `ash`, who keep to Vulkan's rules themselves: it must not be
    /// destroyed, and its queue is used by this crate's transfers under a lock of their own.
    pub fn ash(&self) -> &ash::Device {
        &self.0.raw
    }

    /// The family of the one queue it was created with: one for transfers only if there is such.
    pub fn queue_family(&self) -> u32 {
        self.0.queue_family
    }

    pub(super) fn lock_queue(&self) -> MutexGuard<'_, vk::Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The family that stands for users outside this instance, in ownership transfers.
    pub(super) fn foreign_family(&self) -> u32 {
        self.0.foreign_family
    }

    pub(super) fn memory(&self) -> &vk::PhysicalDeviceMemoryProperties {
        &self.0.memory
    }

    pub(super) fn memory_fd(&self) -> Result<&khr::external_memory_fd::Device, VulkanError> {
        self.0.memory_fd.as_ref().map_err(|absent| VulkanError::Unavailable(absent.clone()))
    }

    pub(super) fn memory_host(&self) -> Result<&ext::external_memory_host::Device, VulkanError> {
        self.0.memory_host.as_ref().map_err(|absent| VulkanError::Unavailable(absent.clone()))
    }

    pub(super) fn image_modifiers(
        &self,
    ) -> Result<&ext::image_drm_format_modifier::Device, VulkanError> {
        self.0.image_modifiers.as_ref().map_err(|absent| VulkanError::Unavailable(absent.clone()))
    }

    pub(super) fn instance(&self) -> &ash::Instance {
        &self.0.instance.raw
    }

    pub(super) fn physical(&self) -> vk::PhysicalDevice {
        self.0.physical
    }

    pub(super) fn semaphore_fd(&self) -> Result<&khr::external_semaphore_fd::Device, Absent> {
        self.0.semaphore_fd.as_ref().map_err(Absent::clone)
    }

    /// What can be done with buffers whose memory is of a handle type, one of [`HANDLES`].
    pub(super) fn external(&self, handle: Handle) -> Features {
        let known = self.0.external.iter().find(|(known, _)| *known == handle);
        known.map_or(Features::empty(), |&(_, features)| features)
    }

    /// How much of a heap is free in bytes: the driver's estimate, or the heap's size without one.
    pub(super) fn free(&self, heap: u32) -> u64 {
        let size = self.0.memory.memory_heaps[heap as usize].size;
        if !self.0.has_budget {
            return size;
        }
        let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let mut query = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
        // SAFETY: as above, and the device has the extension.
        unsafe {
            self.0.instance.raw.get_physical_device_memory_properties2(self.0.physical, &mut query);
        }
        let [budget, usage] = [budget.heap_budget, budget.heap_usage].map(|all| all[heap as usize]);
        budget.saturating_sub(usage).min(size)
    }
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

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: law 1: nothing made from the device is left.
        unsafe { self.raw.destroy_device(None) };
    }
}

pub(crate) fn select(
    instance: &Instance,
    selector: Option<&str>,
) -> Result<(vk::PhysicalDevice, DeviceInfo), VulkanError> {
    let mut found = Vec::new();
    for (index, device) in instance.physical_devices()?.into_iter().enumerate() {
        found.push((device, describe(instance, index, device)?));
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

/// A family for transfers only drives the GPU's copy engines beside its other work; failing that,
/// compute or graphics can copy too, whether they say so or not (Vulkan, "Queues").
fn transfer_family(families: &[vk::QueueFamilyProperties]) -> Option<u32> {
    use vk::QueueFlags as Queue;
    let first = |test: &dyn Fn(Queue) -> bool| {
        families.iter().position(|f| f.queue_count > 0 && test(f.queue_flags))
    };
    let work = Queue::GRAPHICS | Queue::COMPUTE;
    let video = Queue::VIDEO_DECODE_KHR | Queue::VIDEO_ENCODE_KHR;
    first(&|f| f.contains(Queue::TRANSFER) && !f.intersects(work | video))
        .or_else(|| first(&|f| f.contains(Queue::COMPUTE) && !f.contains(Queue::GRAPHICS)))
        .or_else(|| first(&|f| f.intersects(work | Queue::TRANSFER)))
        .map(|index| index as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dedicated_transfer_family_is_preferred() {
        use vk::QueueFlags as Queue;
        let families = |flags: &[Queue]| {
            let family = |&queue_flags| vk::QueueFamilyProperties {
                queue_flags,
                queue_count: 1,
                ..Default::default()
            };
            transfer_family(&flags.iter().map(family).collect::<Vec<_>>())
        };
        let all = Queue::GRAPHICS | Queue::COMPUTE | Queue::TRANSFER;
        let video = Queue::VIDEO_DECODE_KHR | Queue::TRANSFER;
        assert_eq!(families(&[all, Queue::COMPUTE, video, Queue::TRANSFER]), Some(3));
        assert_eq!(families(&[all, Queue::COMPUTE]), Some(1));
        assert_eq!(families(&[Queue::GRAPHICS]), Some(0));
        assert_eq!(families(&[]), None);
    }
}
