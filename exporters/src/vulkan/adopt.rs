//! A program's own device, for everything that a device opened here is for.
//!
//! The program says what it created the device with ([`Handles`]), because Vulkan does not tell. What is missing is no
//! refusal but a step down, and absent with a reason where it is asked for:
//!
//! | not switched on | then |
//! |---|---|
//! | `VK_EXT_external_memory_dma_buf`, `VK_EXT_external_memory_host` | pages of this process cannot be imported: staging memory is the device's own ([`Device::staging`](super::Device::staging)) |
//! | `VK_KHR_external_semaphore_fd` | the CPU waits for sync files, and copies end in none |
//! | `VK_EXT_queue_family_foreign` | shared memory is passed to `VK_QUEUE_FAMILY_EXTERNAL` |
//! | `VK_EXT_image_drm_format_modifier` | no images over dma-bufs |
//! | `VK_EXT_memory_budget` | errors say how large a heap is, instead of how much of it is free |
//! | the feature `timelineSemaphore` | copies are counted by fences, and end in no value of the program's semaphore |
//!
//! # Safety
//!
//! The law of this module: what is asked of the handles rests on the promises of [`Device::adopt`]'s caller.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fmt;

use ash::vk;

use super::capabilities::Enabled;
use super::device::Device;
use super::error::{VulkanError, failed};
use super::info::{Scope, describe};
use super::open::best_family;
use super::queue::{Queue, QueueLock};
use crate::Absent;

/// A program's own Vulkan device, and what it was created with: for [`Device::adopt`].
#[must_use = "it is made a device by Device::adopt"]
pub struct Handles<'a> {
    instance: ash::Instance,
    physical: vk::PhysicalDevice,
    device: ash::Device,
    version: u32,
    extensions: &'a [&'a CStr],
    timelines: Result<(), Absent>,
    queues: Vec<(u32, vk::Queue, Box<dyn QueueLock>)>,
}

impl<'a> Handles<'a> {
    /// A device that `instance` created of `physical`. `api_version` is what the instance was made for
    /// (`VkApplicationInfo::apiVersion`), such as `vk::API_VERSION_1_2`; at least 1.1 is needed.
    pub fn new(
        instance: &ash::Instance,
        physical: vk::PhysicalDevice,
        device: &ash::Device,
        api_version: u32,
    ) -> Self {
        Self {
            instance: instance.clone(),
            physical,
            device: device.clone(),
            version: api_version,
            extensions: &[],
            timelines: Err(Absent::new(
                "the program's device was created without the feature timelineSemaphore",
                "switch it on (VkPhysicalDeviceTimelineSemaphoreFeatures) and say so to Device::adopt; until then \
                 copies are counted by fences",
            )),
            queues: Vec::new(),
        }
    }

    /// The device extensions that it was created with (`ppEnabledExtensionNames`).
    pub fn extensions(mut self, names: &'a [&'a CStr]) -> Self {
        self.extensions = names;
        self
    }

    /// It was created with the feature `timelineSemaphore`.
    pub fn timeline_semaphores(mut self) -> Self {
        self.timelines = Ok(());
        self
    }

    /// A queue of it that may be submitted to under `lock`. Of several, the best for copies is used: of a family for
    /// transfers alone before one for compute, and that before one that draws.
    pub fn queue(mut self, family: u32, queue: vk::Queue, lock: impl QueueLock + 'static) -> Self {
        self.queues.push((family, queue, Box::new(lock)));
        self
    }
}

impl fmt::Debug for Handles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let families: Vec<_> = self.queues.iter().map(|(family, ..)| family).collect();
        f.debug_struct("Handles")
            .field("device", &self.device.handle())
            .field("extensions", &self.extensions)
            .field("queue_families", &families)
            .finish_non_exhaustive()
    }
}

impl Device {
    /// Takes a program's own device. It is never destroyed here, nor are its instance and its queues.
    ///
    /// ```no_run
    /// use std::sync::{Arc, Mutex};
    /// use exporters::vulkan::ash::{ext, vk};
    /// use exporters::vulkan::{Device, Handles, VulkanError, ash};
    ///
    /// # struct Renderer {
    /// #     instance: ash::Instance, physical: vk::PhysicalDevice, device: ash::Device,
    /// #     family: u32, queue: vk::Queue, lock: Arc<Mutex<()>>,
    /// # }
    /// fn adopt(renderer: &Renderer) -> Result<Device, VulkanError> {
    ///     let lock = renderer.lock.clone();
    ///     let handles = Handles::new(
    ///         &renderer.instance, renderer.physical, &renderer.device, vk::API_VERSION_1_3,
    ///     )
    ///     .extensions(&[ext::external_memory_host::NAME])
    ///     .timeline_semaphores()
    ///     .queue(renderer.family, renderer.queue, move |submit: &mut dyn FnMut()| {
    ///         let _guard = lock.lock();
    ///         submit();
    ///     });
    ///     // SAFETY: the renderer created the device with exactly this, submits under the same lock, and drops what
    ///     // is made of it before the device.
    ///     unsafe { Device::adopt(handles) }
    /// }
    /// ```
    ///
    /// It takes `unsafe`:
    ///
    /// ```compile_fail,E0133
    /// # fn f(handles: exporters::vulkan::Handles<'_>) {
    /// let device = exporters::vulkan::Device::adopt(handles);
    /// # }
    /// ```
    ///
    /// # Safety
    /// Each with the chapter of the Vulkan specification that asks for it:
    ///
    /// * The handles are valid and belong together: the physical device is the instance's, the device was created of
    ///   it, the queues are the device's, of the families named ("Devices and Queues"). The loader that the functions
    ///   came from stays loaded (the `ash::Entry` is kept).
    /// * Instance and device are destroyed only after the last share of the answer: clones, buffers, transfers,
    ///   image regions ("Object Lifetime").
    /// * The instance was made for `api_version` or a later one ("Version Numbers"), and the device was created with
    ///   the extensions and the feature that are said to be on ("Extending Vulkan", "Features").
    /// * Nobody else uses a queue, submits to it or waits for it to be idle, while its lock calls what it is given;
    ///   the same goes for `vkDeviceWaitIdle`. The lock does not unwind once it has called ("Threading Behavior").
    /// * A queue is not a protected one, and its family is for graphics, compute or transfers ("Protected Memory",
    ///   "Queues").
    ///
    /// # Errors
    /// [`VulkanError::Unsupported`] before Vulkan 1.1, [`VulkanError::Unavailable`] without a queue that copies;
    /// [`VulkanError::Call`] if the driver does not say what the device is.
    pub unsafe fn adopt(handles: Handles<'_>) -> Result<Self, VulkanError> {
        let Handles { instance, physical, device, version, extensions, timelines, queues } =
            handles;
        // SAFETY: the caller's promise.
        let (properties, families, all) = unsafe {
            (
                instance.get_physical_device_properties(physical),
                instance.get_physical_device_queue_family_properties(physical),
                instance.enumerate_physical_devices(),
            )
        };
        let version = version.min(properties.api_version);
        if version < vk::API_VERSION_1_1 {
            return Err(VulkanError::Unsupported {
                what: "external memory in the program's device".into(),
                since: "Vulkan 1.1 (VkApplicationInfo::apiVersion)",
            });
        }
        let all = all.map_err(failed("vkEnumeratePhysicalDevices"))?;
        let index = all.iter().position(|other| *other == physical).unwrap_or(all.len());
        let scope = Scope::Created { version, extensions };
        let info = describe(&instance, index, physical, scope)?;

        let candidates: Vec<_> = queues.iter().map(|&(family, ..)| family).collect();
        let best = best_family(&families, &candidates);
        let chosen = queues.into_iter().find(|&(family, ..)| Some(family) == best);
        let (family, raw, lock) = chosen.ok_or_else(|| {
            VulkanError::Unavailable(Absent::new(
                format!("of {candidates:?}, the families of the queues given, none copies"),
                "give a queue of a family for graphics, compute or transfers (Handles::queue)",
            ))
        })?;
        let queue = Queue { raw, family, properties: families[family as usize], lock };
        let enabled = Enabled { version, extensions, timelines };
        Ok(Self::new(instance, physical, device, (queue, None), info, &enabled, None))
    }
}
