//! Devices under the validation layer, whose words are kept.

use std::sync::Mutex;

use bufmap_bench::{Outcome, check};
use exporters::vulkan::{self, ValidationLog};
use exporters::wgpu::{self as shared_wgpu, wgpu};
use libtest_mimic::Failed;

static LOGS: Mutex<Vec<ValidationLog>> = Mutex::new(Vec::new());

/// A Vulkan device.
pub fn vulkan() -> Result<vulkan::Device, Failed> {
    let device = vulkan::Device::open_validated(None)?;
    keep(device.validation());
    Ok(device)
}

/// A device of wgpu.
pub fn of_wgpu() -> Result<shared_wgpu::Device, Failed> {
    let device = shared_wgpu::Device::open_validated(None, &wgpu::DeviceDescriptor::default())?;
    keep(device.validation());
    Ok(device)
}

fn keep(log: Option<&ValidationLog>) {
    if let (Ok(mut logs), Some(log)) = (LOGS.lock(), log) {
        logs.push(log.clone());
    }
}

/// Fails if the layer has complained of any of the devices since this was last asked.
pub fn are_valid() -> Outcome {
    let logs = LOGS.lock().map(|mut logs| std::mem::take(&mut *logs)).unwrap_or_default();
    let errors: Vec<_> = logs.iter().flat_map(ValidationLog::errors).collect();
    check(errors.is_empty(), format!("the validation layer complains: {errors:#?}"))
}
