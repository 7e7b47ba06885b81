//! Vulkan devices under the validation layer.

use bufmap::exporters::vulkan::Device;

use crate::{Outcome, check};

/// Runs a test on a device, up to the device's end.
///
/// # Errors
/// Fails the test if it fails, or if the layer has anything to say.
pub fn on_device(test: impl FnOnce(&Device) -> Outcome) -> Outcome {
    let device = Device::open_validated(None)?;
    let log = device.validation().cloned().ok_or("no validation")?;
    test(&device)?;
    drop(device);
    check(log.messages().is_empty(), format!("{:#?}", log.messages()))
}
