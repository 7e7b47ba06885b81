//! A Vulkan device under the validation layer, where that is installed.

use exporters::vulkan::{Device, VulkanError};

use crate::common::{Outcome, Stop, check, need};

pub fn open() -> Result<Device, Stop> {
    match Device::open_validated(None) {
        Err(VulkanError::Unavailable(_)) => need(Device::open(None)),
        device => need(device),
    }
}

/// Runs a trial on a device and fails it for what the validation layer says, up to the device's end.
pub fn on_device(run: fn(&Device) -> Outcome) -> Outcome {
    let device = open()?;
    let log = device.validation().cloned();
    let outcome = run(&device);
    drop(device);
    outcome?;
    let mut errors = log.map(|log| log.errors()).unwrap_or_default();
    errors.dedup();
    check(errors.is_empty(), errors.join("\n"))
}
