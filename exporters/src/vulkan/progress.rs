//! How much of what was submitted is done: counted by a timeline semaphore, or by fences where there is none.
//!
//! A submission has a number, one more than the last. A timeline reaches the number; of fences each submission has one,
//! which is signalled after all that was submitted before it (Vulkan, "Signal Operation Order").
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. The semaphore and the fences are ours, and destroyed once, when [`Progress`] is dropped: who submits with them
//!    waits until all is done, or forgets it.
//! 2. A fence is reset only after it was signalled, so that nothing pending uses it.
#![allow(unsafe_code)]

use std::collections::VecDeque;

use ash::vk;

use super::capabilities::TimelineFunctions;
use super::device::Device;
use super::error::{VulkanError, failed};

/// The count of what is done.
pub(super) enum Progress {
    Timeline(Counter),
    Fences(Fences),
}

/// What a submission is to signal, so that it is counted.
pub(super) enum Mark {
    /// The semaphore, at the submission's number.
    Timeline(vk::Semaphore),
    Fence(vk::Fence),
}

impl Progress {
    pub(super) fn new(device: &Device) -> Result<Self, VulkanError> {
        match device.timeline_functions() {
            Ok(functions) => Ok(Self::Timeline(Counter::new(device, functions.clone())?)),
            Err(_) => Ok(Self::Fences(Fences::new(device))),
        }
    }

    /// For the next submission.
    pub(super) fn mark(&mut self) -> Result<Mark, VulkanError> {
        match self {
            Self::Timeline(counter) => Ok(Mark::Timeline(counter.semaphore)),
            Self::Fences(fences) => fences.take().map(Mark::Fence),
        }
    }

    /// What was marked was submitted, and has this number.
    pub(super) fn submitted(&mut self, mark: Mark, number: u64) {
        if let (Self::Fences(fences), Mark::Fence(fence)) = (self, mark) {
            fences.pending.push_back((number, fence));
        }
    }

    /// What was marked was not submitted.
    pub(super) fn refused(&mut self, mark: Mark) {
        if let (Self::Fences(fences), Mark::Fence(fence)) = (self, mark) {
            fences.idle.push(fence);
        }
    }

    /// The number of the last submission that is done.
    pub(super) fn done(&mut self) -> Result<u64, VulkanError> {
        match self {
            Self::Timeline(counter) => counter.done(),
            Self::Fences(fences) => fences.done(),
        }
    }

    /// Waits until the submission of a number is done.
    pub(super) fn wait(&mut self, number: u64) -> Result<(), VulkanError> {
        match self {
            Self::Timeline(counter) => counter.wait(number),
            Self::Fences(fences) => fences.wait(number),
        }
    }
}

pub(super) struct Counter {
    device: Device,
    functions: TimelineFunctions,
    semaphore: vk::Semaphore,
}

impl Counter {
    fn new(device: &Device, functions: TimelineFunctions) -> Result<Self, VulkanError> {
        let mut timeline =
            vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let create = vk::SemaphoreCreateInfo::default().push_next(&mut timeline);
        // SAFETY: the device is alive and has timeline semaphores.
        let semaphore = unsafe { device.ash().create_semaphore(&create, None) }
            .map_err(failed("vkCreateSemaphore"))?;
        Ok(Self { device: device.clone(), functions, semaphore })
    }

    fn done(&self) -> Result<u64, VulkanError> {
        // SAFETY: law 1, and it is a timeline.
        unsafe { self.functions.value(self.semaphore) }
            .map_err(failed("vkGetSemaphoreCounterValue"))
    }

    fn wait(&self, number: u64) -> Result<(), VulkanError> {
        loop {
            // SAFETY: law 1, and it is a timeline.
            match unsafe { self.functions.wait(self.semaphore, number, u64::MAX) } {
                Err(vk::Result::TIMEOUT) => continue,
                result => return result.map_err(failed("vkWaitSemaphores")),
            }
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // SAFETY: law 1.
        unsafe { self.device.ash().destroy_semaphore(self.semaphore, None) };
    }
}

pub(super) struct Fences {
    device: Device,
    /// Of each submission that was not seen to be done, its number and its fence.
    pending: VecDeque<(u64, vk::Fence)>,
    /// Not signalled.
    idle: Vec<vk::Fence>,
    done: u64,
}

impl Fences {
    fn new(device: &Device) -> Self {
        Self { device: device.clone(), pending: VecDeque::new(), idle: Vec::new(), done: 0 }
    }

    fn take(&mut self) -> Result<vk::Fence, VulkanError> {
        if let Some(fence) = self.idle.pop() {
            return Ok(fence);
        }
        // SAFETY: the device is alive.
        unsafe { self.device.ash().create_fence(&<_>::default(), None) }
            .map_err(failed("vkCreateFence"))
    }

    fn done(&mut self) -> Result<u64, VulkanError> {
        while let Some(&(number, fence)) = self.pending.front() {
            // SAFETY: law 1.
            let signalled = unsafe { self.device.ash().get_fence_status(fence) }
                .map_err(failed("vkGetFenceStatus"))?;
            if !signalled {
                break;
            }
            self.pending.pop_front();
            self.done = number;
            // SAFETY: law 2.
            match unsafe { self.device.ash().reset_fences(&[fence]) } {
                Ok(()) => self.idle.push(fence),
                Err(result) => {
                    // SAFETY: law 1; it is in neither list any more.
                    unsafe { self.device.ash().destroy_fence(fence, None) };
                    return Err(failed("vkResetFences")(result));
                }
            }
        }
        Ok(self.done)
    }

    fn wait(&mut self, number: u64) -> Result<(), VulkanError> {
        let of = |pending: &&(u64, vk::Fence)| pending.0 >= number;
        let Some(&(_, fence)) = self.pending.iter().find(of) else { return Ok(()) };
        loop {
            // SAFETY: law 1.
            match unsafe { self.device.ash().wait_for_fences(&[fence], true, u64::MAX) } {
                Err(vk::Result::TIMEOUT) => continue,
                result => return result.map_err(failed("vkWaitForFences")),
            }
        }
    }
}

impl Drop for Fences {
    fn drop(&mut self) {
        let pending = self.pending.drain(..).map(|(_, fence)| fence);
        for fence in self.idle.drain(..).chain(pending) {
            // SAFETY: law 1.
            unsafe { self.device.ash().destroy_fence(fence, None) };
        }
    }
}
