//! What Khronos' validation layer says about our use of Vulkan.
//!
//! # Safety
//!
//! The law of this module: the layer calls back with a pointer to the [`ValidationLog`]'s shared
//! part, which the instance keeps until after it is destroyed.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use ash::vk;

/// The validation layer's name.
pub(super) const LAYER: &CStr = c"VK_LAYER_KHRONOS_validation";

/// One message of the validation layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidationMessage {
    /// Whether it is an error, else a warning.
    pub error: bool,
    /// The rule that was broken (a VUID), if the layer names one, and its words.
    pub text: String,
}

type Messages = Mutex<Vec<ValidationMessage>>;

/// The messages of the validation layer. A clone shows the same list, and may outlive the device
/// to see what was said of its end.
#[derive(Clone, Debug, Default)]
pub struct ValidationLog(Arc<Messages>);

impl ValidationLog {
    /// All messages so far.
    pub fn messages(&self) -> Vec<ValidationMessage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The errors among them.
    pub fn errors(&self) -> Vec<String> {
        self.messages().into_iter().filter(|m| m.error).map(|m| m.text).collect()
    }

    /// What is passed to Vulkan for it to call [`log`]; valid while this or a clone is kept.
    pub(super) fn messenger(&self) -> vk::DebugUtilsMessengerCreateInfoEXT<'static> {
        use vk::DebugUtilsMessageSeverityFlagsEXT as Severity;
        use vk::DebugUtilsMessageTypeFlagsEXT as Type;
        vk::DebugUtilsMessengerCreateInfoEXT::default()
            .message_severity(Severity::WARNING | Severity::ERROR)
            .message_type(Type::VALIDATION | Type::PERFORMANCE)
            .pfn_user_callback(Some(log))
            .user_data(Arc::as_ptr(&self.0).cast_mut().cast())
    }
}

unsafe extern "system" fn log(
    severity: vk::DebugUtilsMessageSeverityFlagsEXT,
    _: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    user_data: *mut c_void,
) -> vk::Bool32 {
    // SAFETY: the layer passes valid data, or null, for the length of the call.
    let message = unsafe { data.as_ref().and_then(|data| data.message_as_c_str()) };
    let text = message.map_or_else(String::new, |text| text.to_string_lossy().into_owned());
    let error = severity.contains(vk::DebugUtilsMessageSeverityFlagsEXT::ERROR);
    // SAFETY: the module's law.
    let messages = unsafe { &*user_data.cast::<Messages>() };
    messages.lock().unwrap_or_else(PoisonError::into_inner).push(ValidationMessage { error, text });
    // Anything else would make the offending call fail; the log is for tests to judge.
    vk::FALSE
}
