//! A driver that only listens, for unit tests.
//!
//! No layer and no software driver minds how shared memory passes from queue family to queue family
//! and from layout to layout, so tests on them cannot fail for it: what the driver is told is recorded
//! here instead.
//!
//! # Safety
//!
//! The law of this module: each function has the type that Vulkan gives its name. ash fills in
//! functions that panic for those that are not there.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::Arc;

use ash::vk;

use super::device::Hal;

/// What one barrier passes: from which family and layout to which. A buffer has no layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) families: [u32; 2],
    pub(super) layouts: Option<[vk::ImageLayout; 2]>,
}

thread_local! {
    static PASSES: RefCell<Vec<Pass>> = const { RefCell::new(Vec::new()) };
}

/// The queue family of the driver that only listens.
pub(super) const OURS: u32 = 7;

/// What the driver was told meanwhile.
pub(super) fn passes(tell: impl FnOnce(vk::CommandBuffer)) -> Vec<Pass> {
    tell(vk::CommandBuffer::null());
    PASSES.take()
}

/// A driver that only listens.
pub(super) fn listener() -> Arc<Hal> {
    // SAFETY: the module's law.
    let (ash, instance) = unsafe {
        let table = ash::StaticFn { get_instance_proc_addr };
        let instance = ash::Instance::load(&table, vk::Instance::null());
        (ash::Device::load(instance.fp_v1_0(), vk::Device::null()), instance)
    };
    Arc::new(Hal {
        memory_fd: ash::khr::external_memory_fd::Device::new(&instance, &ash),
        modifiers: ash::ext::image_drm_format_modifier::Device::new(&instance, &ash),
        physical: vk::PhysicalDevice::null(),
        memory: vk::PhysicalDeviceMemoryProperties::default(),
        family: OURS,
        ash,
        instance,
    })
}

unsafe extern "system" fn get_instance_proc_addr(
    _: vk::Instance,
    name: *const c_char,
) -> vk::PFN_vkVoidFunction {
    // SAFETY: ash passes a string that ends with a zero byte.
    let name = unsafe { CStr::from_ptr(name) };
    let function = match name == c"vkGetDeviceProcAddr" {
        true => get_device_proc_addr as *const c_void,
        false => ptr::null(),
    };
    // SAFETY: a function or null.
    unsafe { std::mem::transmute::<*const c_void, vk::PFN_vkVoidFunction>(function) }
}

unsafe extern "system" fn get_device_proc_addr(
    _: vk::Device,
    name: *const c_char,
) -> vk::PFN_vkVoidFunction {
    // SAFETY: as above.
    let function = match unsafe { CStr::from_ptr(name) }.to_bytes() {
        b"vkCmdPipelineBarrier" => barrier as *const c_void,
        b"vkDestroyBuffer" | b"vkDestroyImage" => destroy as *const c_void,
        _ => ptr::null(),
    };
    // SAFETY: as above.
    unsafe { std::mem::transmute::<*const c_void, vk::PFN_vkVoidFunction>(function) }
}

unsafe extern "system" fn destroy(_: vk::Device, _: u64, _: *const vk::AllocationCallbacks<'_>) {}

unsafe extern "system" fn barrier(
    _: vk::CommandBuffer,
    _: vk::PipelineStageFlags,
    _: vk::PipelineStageFlags,
    _: vk::DependencyFlags,
    _: u32,
    _: *const vk::MemoryBarrier<'_>,
    buffers: u32,
    buffer: *const vk::BufferMemoryBarrier<'_>,
    images: u32,
    image: *const vk::ImageMemoryBarrier<'_>,
) {
    // SAFETY: as many as there are said to be, for the length of the call.
    let (buffers, images) = unsafe { (all(buffer, buffers), all(image, images)) };
    let buffers = buffers.iter().map(|barrier| Pass {
        families: [barrier.src_queue_family_index, barrier.dst_queue_family_index],
        layouts: None,
    });
    let images = images.iter().map(|barrier| Pass {
        families: [barrier.src_queue_family_index, barrier.dst_queue_family_index],
        layouts: Some([barrier.old_layout, barrier.new_layout]),
    });
    PASSES.with_borrow_mut(|passes| passes.extend(buffers.chain(images)));
}

unsafe fn all<'a, T>(first: *const T, count: u32) -> &'a [T] {
    match count {
        0 => &[],
        // SAFETY: the caller's promise.
        _ => unsafe { std::slice::from_raw_parts(first, count as usize) },
    }
}
