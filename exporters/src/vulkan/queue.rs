//! The queue that copies, and the lock under which it is used.
//!
//! A queue is externally synchronised (Vulkan, "Threading Behavior"): of all who submit to it, one may at a time. Who
//! opened the device says how: this crate by a mutex of its own, a program that brings its device by a lock of its
//! own ([`QueueLock`]).
//!
//! # Safety
//!
//! The law of this module: the queue is used inside its lock alone.
#![allow(unsafe_code)]

use std::sync::{Mutex, PoisonError};

use ash::vk;

use super::error::{VulkanError, failed};

/// How a queue is locked.
///
/// A closure is one, and a mutex, whatever it guards:
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use exporters::vulkan::QueueLock;
///
/// /// What a program draws with.
/// struct Renderer {
///     frames: u64,
/// }
///
/// let renderer = Arc::new(Mutex::new(Renderer { frames: 0 }));
/// let shared = renderer.clone();
/// let lock = move |submit: &mut dyn FnMut()| {
///     let _guard = shared.lock();
///     submit();
/// };
/// let mut submitted = 0;
/// lock.locked(&mut || submitted += 1);
/// assert_eq!(submitted, 1);
/// # let _ = renderer.lock().map(|renderer| renderer.frames);
/// ```
pub trait QueueLock: Send + Sync {
    /// Calls `submit` once, on this thread, while nobody else uses the queue.
    fn locked(&self, submit: &mut dyn FnMut());
}

impl<T: Send> QueueLock for Mutex<T> {
    fn locked(&self, submit: &mut dyn FnMut()) {
        let _guard = self.lock().unwrap_or_else(PoisonError::into_inner);
        submit();
    }
}

impl<F: Fn(&mut dyn FnMut()) + Send + Sync> QueueLock for F {
    fn locked(&self, submit: &mut dyn FnMut()) {
        self(submit);
    }
}

/// A queue of a device, under its lock.
pub(super) struct Queue {
    pub(super) raw: vk::Queue,
    pub(super) family: u32,
    /// What its family does.
    pub(super) properties: vk::QueueFamilyProperties,
    pub(super) lock: Box<dyn QueueLock>,
}

impl Queue {
    /// Submits, under the lock.
    ///
    /// # Safety
    /// As `vkQueueSubmit`, but for the queue's synchronisation.
    pub(super) unsafe fn submit(
        &self,
        device: &ash::Device,
        submit: vk::SubmitInfo<'_>,
        fence: vk::Fence,
    ) -> Result<(), VulkanError> {
        let mut answer = None;
        self.lock.locked(&mut || {
            // Once, however often a lock calls.
            if answer.is_none() {
                // SAFETY: the module's law and the caller's promise.
                answer = Some(unsafe { device.queue_submit(self.raw, &[submit], fence) });
            }
        });
        answer.ok_or(VulkanError::NotSubmitted)?.map_err(failed("vkQueueSubmit"))
    }
}
