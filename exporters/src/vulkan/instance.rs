//! The loader and the instance: the way in to all drivers.
//!
//! The loader is opened when first needed and stays for the life of the process, so that a program
//! runs where Vulkan is not installed, and no driver is unloaded under its own threads.
//!
//! # Safety
//!
//! The laws of this module: the loader is the system's `libvulkan.so.1`, whose functions have the
//! types that the Vulkan registry gives them; and an [`Instance`] is destroyed after everything
//! made from it, because each such thing owns a share of it.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::sync::OnceLock;

use ash::{Entry, ext, vk};

use super::error::{VulkanError, failed};
use super::validation::{LAYER, ValidationLog};
use crate::Absent;

/// An instance and, if it was asked for, its validation.
pub(crate) struct Instance {
    pub(crate) raw: ash::Instance,
    validation: Option<Validation>,
}

struct Validation {
    log: ValidationLog,
    messenger: vk::DebugUtilsMessengerEXT,
    debug_utils: ext::debug_utils::Instance,
}

impl Instance {
    /// Makes an instance, with the validation layer if `validate`.
    pub(super) fn new(validate: bool) -> Result<Self, VulkanError> {
        Self::with(validate, &[])
    }

    /// As [`new`](Self::new), with extensions that the loader has beside those of validation.
    pub(crate) fn with(validate: bool, more: &[&CStr]) -> Result<Self, VulkanError> {
        let entry = entry()?;
        check_loader(entry)?;
        let log = validate.then(ValidationLog::default);
        if validate {
            check_layer(entry)?;
        }

        let app = vk::ApplicationInfo::default()
            .application_name(c"bufmap")
            .api_version(vk::API_VERSION_1_3);
        let layers = [LAYER.as_ptr()];
        let mut extensions: Vec<_> = more.iter().map(|name| name.as_ptr()).collect();
        if validate {
            extensions
                .extend([ext::debug_utils::NAME, ext::validation_features::NAME].map(CStr::as_ptr));
        }
        let mut create = vk::InstanceCreateInfo::default()
            .application_info(&app)
            .enabled_extension_names(&extensions);
        let mut messenger = log.as_ref().map(ValidationLog::messenger);
        let checks = [vk::ValidationFeatureEnableEXT::SYNCHRONIZATION_VALIDATION];
        let mut features =
            vk::ValidationFeaturesEXT::default().enabled_validation_features(&checks);
        if let Some(messenger) = &mut messenger {
            create =
                create.enabled_layer_names(&layers).push_next(messenger).push_next(&mut features);
        }
        // SAFETY: all that `create` points at lives through the call; the log lives with the
        // instance.
        let raw = unsafe { entry.create_instance(&create, None) }.map_err(no_driver)?;
        let mut instance = Self { raw, validation: None };
        if let Some(log) = log {
            let debug_utils = ext::debug_utils::Instance::new(entry, &instance.raw);
            // SAFETY: as above.
            let messenger =
                unsafe { debug_utils.create_debug_utils_messenger(&log.messenger(), None) }
                    .map_err(failed("vkCreateDebugUtilsMessengerEXT"))?;
            instance.validation = Some(Validation { log, messenger, debug_utils });
        }
        Ok(instance)
    }

    /// The validation layer's messages, if it is on.
    pub(crate) fn validation(&self) -> Option<&ValidationLog> {
        self.validation.as_ref().map(|validation| &validation.log)
    }

    /// All devices of all drivers, in the loader's order.
    pub(super) fn physical_devices(&self) -> Result<Vec<vk::PhysicalDevice>, VulkanError> {
        // SAFETY: the instance is alive.
        let devices = unsafe { self.raw.enumerate_physical_devices() }.map_err(no_driver)?;
        if devices.is_empty() {
            return Err(VulkanError::NoDevice { why: "its drivers report no device" });
        }
        Ok(devices)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: everything made from the instance is gone (the module's law).
        unsafe {
            if let Some(v) = &self.validation {
                v.debug_utils.destroy_debug_utils_messenger(v.messenger, None);
            }
            self.raw.destroy_instance(None);
        }
    }
}

pub(crate) fn entry() -> Result<&'static Entry, VulkanError> {
    static ENTRY: OnceLock<Entry> = OnceLock::new();
    if let Some(entry) = ENTRY.get() {
        return Ok(entry);
    }
    // SAFETY: the module's law on the loader.
    let entry =
        unsafe { Entry::load() }.map_err(|e| VulkanError::NoLoader { why: e.to_string() })?;
    Ok(ENTRY.get_or_init(|| entry))
}

fn check_loader(entry: &Entry) -> Result<(), VulkanError> {
    // SAFETY: the loader is loaded.
    let version = unsafe { entry.try_enumerate_instance_version() }
        .map_err(failed("vkEnumerateInstanceVersion"))?;
    match version {
        Some(version) if version >= vk::API_VERSION_1_1 => Ok(()),
        _ => Err(VulkanError::Unsupported {
            what: "external memory through this Vulkan loader".into(),
            since: "Vulkan 1.1",
        }),
    }
}

fn check_layer(entry: &Entry) -> Result<(), VulkanError> {
    // SAFETY: the loader is loaded.
    let layers = unsafe { entry.enumerate_instance_layer_properties() }
        .map_err(failed("vkEnumerateInstanceLayerProperties"))?;
    if layers.iter().any(|layer| layer.layer_name_as_c_str() == Ok(LAYER)) {
        return Ok(());
    }
    Err(VulkanError::Unavailable(Absent::new(
        "Vulkan's validation layer is not installed",
        "install it (Debian, Ubuntu: vulkan-validationlayers), or unset BUFMAP_VULKAN_VALIDATION",
    )))
}

/// A loader without a driver fails with `ERROR_INCOMPATIBLE_DRIVER`, at one step or another.
fn no_driver(result: vk::Result) -> VulkanError {
    match result {
        vk::Result::ERROR_INCOMPATIBLE_DRIVER => {
            VulkanError::NoDevice { why: "the loader has no driver" }
        }
        vk::Result::ERROR_INITIALIZATION_FAILED => {
            VulkanError::NoDevice { why: "the drivers cannot be initialised" }
        }
        result => VulkanError::Call { call: "setting Vulkan up", result },
    }
}

/// Whether a list of extensions has `name`.
pub(crate) fn has(extensions: &[vk::ExtensionProperties], name: &CStr) -> bool {
    extensions.iter().any(|extension| extension.extension_name_as_c_str() == Ok(name))
}
