//! Vulkan.
/// Why.
#[derive(Debug, thiserror::Error)]
pub enum VulkanError {}
