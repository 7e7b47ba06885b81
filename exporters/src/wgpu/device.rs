//! A device of wgpu, and the Vulkan beneath it.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. What [`Hal`] holds are copies of handles and function tables of a device that wgpu owns. They
//!    are used only while wgpu's device lives: whoever has a `Hal` has a [`Device`] too, or is owned by
//!    a wgpu object, which lets go of what it owns before it lets go of its device.
//! 2. The queue is wgpu's. Everything is submitted through [`wgpu::Queue::submit`], which holds the
//!    queue's lock (Vulkan, "Threading Behavior": a queue is externally synchronised).
//! 3. A raw command encoder is only written to between its creation and its end, and by nobody else.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fmt;
use std::sync::Arc;

use ash::{ext, khr, vk};
use wgpu::hal::api::Vulkan;

use super::caught::caught;
use super::error::{WgpuError, lacks};
use crate::Absent;
use crate::vulkan::ValidationLog;

/// The extensions that sharing needs, and what for.
pub(super) const EXTENSIONS: [(&CStr, &str); 4] = [
    (khr::external_memory_fd::NAME, "share memory by descriptors"),
    (ext::external_memory_dma_buf::NAME, "import and export dma-bufs"),
    (ext::image_drm_format_modifier::NAME, "say how pixels lie"),
    (ext::queue_family_foreign::NAME, "order its caches with those of other drivers"),
];

/// A device of wgpu that shares buffers and textures as dma-bufs.
///
/// A clone is another handle on the same device. See the [module](super) for an example.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    hal: Arc<Hal>,
    validation: Option<ValidationLog>,
}

/// The Vulkan beneath a device of wgpu (law 1).
pub(super) struct Hal {
    pub(super) ash: ash::Device,
    pub(super) instance: ash::Instance,
    pub(super) physical: vk::PhysicalDevice,
    pub(super) memory: vk::PhysicalDeviceMemoryProperties,
    pub(super) memory_fd: khr::external_memory_fd::Device,
    pub(super) modifiers: ext::image_drm_format_modifier::Device,
    pub(super) family: u32,
}

impl Device {
    /// Takes a program's own device and its queue.
    ///
    /// wgpu switches on three of the four extensions by itself wherever the driver has them, and never
    /// the fourth, `VK_EXT_queue_family_foreign`: a program adds it to the list that
    /// `wgpu::hal::vulkan::Adapter::open_with_callback` hands it, or leaves the opening to
    /// [`open`](Self::open).
    ///
    /// # Errors
    /// [`WgpuError::Unavailable`] with the reason if the device is not Vulkan's, was opened without
    /// one of the extensions, or the queue is another device's.
    pub fn new(device: wgpu::Device, queue: wgpu::Queue) -> Result<Self, WgpuError> {
        Self::with(device, queue, None)
    }

    pub(super) fn with(
        device: wgpu::Device,
        queue: wgpu::Queue,
        validation: Option<ValidationLog>,
    ) -> Result<Self, WgpuError> {
        let hal = Arc::new(Hal::of(&device, &queue).map_err(WgpuError::Unavailable)?);
        Ok(Self(Arc::new(Inner { device, queue, hal, validation })))
    }

    /// wgpu's device.
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// wgpu's queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// The validation layer's messages, if [`open`](Self::open) switched it on.
    pub fn validation(&self) -> Option<&ValidationLog> {
        self.0.validation.as_ref()
    }

    pub(super) fn hal(&self) -> &Arc<Hal> {
        &self.0.hal
    }

    /// Has wgpu do something, and returns what it has against it instead of leaving it to the
    /// program's handler, which by default panics.
    pub(super) fn caught<T>(
        &self,
        doing: &'static str,
        run: impl FnOnce() -> T,
    ) -> Result<T, WgpuError> {
        caught(self.device(), doing, run)
    }

    /// Records commands that wgpu does not see.
    pub(super) fn record(
        &self,
        write: impl FnOnce(vk::CommandBuffer),
    ) -> Result<wgpu::CommandBuffer, WgpuError> {
        let mut encoder = self.device().create_command_encoder(&Default::default());
        // SAFETY: law 3; `write` neither ends nor destroys the command buffer.
        let written = unsafe {
            encoder.as_hal_mut::<Vulkan, _, _>(|hal| hal.map(|hal| write(hal.raw_handle())))
        };
        match written {
            Some(()) => Ok(encoder.finish()),
            None => Err(WgpuError::Wgpu {
                doing: "recording a barrier",
                why: "it has no command buffer for it; the device may be lost".to_owned(),
            }),
        }
    }

    /// Waits until a submission is done.
    pub(super) fn wait(&self, index: wgpu::SubmissionIndex) -> Result<(), WgpuError> {
        let wait = wgpu::PollType::Wait { submission_index: Some(index), timeout: None };
        match self.device().poll(wait) {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(WgpuError::Wgpu { doing: "waiting for the device", why: error.to_string() })
            }
        }
    }
}

impl Hal {
    fn of(device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Self, Absent> {
        // SAFETY: nothing is destroyed through either guard.
        let (hal, hal_queue) = unsafe { (device.as_hal::<Vulkan>(), queue.as_hal::<Vulkan>()) };
        let (Some(hal), Some(hal_queue)) = (hal, hal_queue) else {
            return Err(Absent::new(
                "wgpu's device is not a Vulkan device",
                "take an adapter of wgpu::Backend::Vulkan",
            ));
        };
        if hal.raw_device().handle() != hal_queue.raw_device().handle() {
            return Err(Absent::new(
                "the queue is another device's",
                "take the queue that came with the device",
            ));
        }
        for (name, purpose) in EXTENSIONS {
            if !hal.enabled_device_extensions().contains(&name) {
                return Err(Absent::new(
                    format!(
                        "wgpu's device was opened without {}, to {purpose}",
                        name.to_string_lossy()
                    ),
                    "open it with exporters::wgpu::Device::open, or add the extension in \
                     open_with_callback of wgpu-hal's Vulkan adapter",
                ));
            }
        }
        let (ash, instance) = (hal.raw_device(), hal.shared_instance().raw_instance());
        let physical = hal.raw_physical_device();
        Ok(Self {
            // SAFETY: the instance is alive, and the device is one of its own.
            memory: unsafe { instance.get_physical_device_memory_properties(physical) },
            memory_fd: khr::external_memory_fd::Device::new(instance, ash),
            modifiers: ext::image_drm_format_modifier::Device::new(instance, ash),
            family: hal.queue_family_index(),
            ash: ash.clone(),
            instance: instance.clone(),
            physical,
        })
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Device").field(self.device()).finish()
    }
}

/// A limit of the adapter's that the program's wishes exceed.
pub(super) fn beyond(what: &str) -> WgpuError {
    lacks(format!("the adapter has not {what}"), "ask for what Adapter::features and limits say")
}
