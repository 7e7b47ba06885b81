//! What Vulkan offers: heaps, memory types, extensions.

use bytesize::ByteSize;
use exporters::vulkan::{self, Device, DeviceInfo};

use crate::context::Context;
use crate::record::Teller;

/// Parts of the names of extensions by which memory, fences and layouts come and go.
const SHARING: [&str; 8] = [
    "external_memory",
    "external_semaphore",
    "external_fence",
    "timeline_semaphore",
    "drm_format_modifier",
    "physical_device_drm",
    "queue_family_foreign",
    "host_image_copy",
];

pub fn run(_: &Context, teller: &mut Teller) {
    let devices = match vulkan::devices() {
        Ok(devices) => devices,
        Err(why) => return teller.skipped("Vulkan", why),
    };
    for device in &devices {
        describe(device, teller);
    }
    match Device::open_validated(None) {
        Ok(_) => teller.fact("validation layer", "present"),
        Err(why) => teller.skipped("Khronos' validation layer", why),
    }
}

fn describe(device: &DeviceInfo, teller: &mut Teller) {
    let number = device.index;
    let pci = device.pci_address.as_deref().unwrap_or("no PCI address");
    teller.fact(
        &format!("device {number}"),
        format!(
            "{} ({}, {}), Vulkan {}, {pci}",
            device.name, device.kind, device.driver, device.api_version
        ),
    );
    for (index, heap) in device.heaps.iter().enumerate() {
        let whose = if heap.device_local { "the device's own" } else { "the system's" };
        teller.row(
            "Heaps",
            [
                ("device", number.into()),
                ("heap", index.into()),
                ("length", ByteSize::b(heap.len).display().iec().to_string().into()),
                ("whose", whose.into()),
            ],
        );
    }
    for (index, kind) in device.memory_types.iter().enumerate() {
        teller.row(
            "Memory types",
            [
                ("device", number.into()),
                ("type", index.into()),
                ("heap", kind.heap.into()),
                ("the CPU's view", kind.to_string().into()),
            ],
        );
    }
    let shares = |name: &&String| SHARING.iter().any(|part| name.contains(part));
    let names: Vec<_> = device.offered.iter().filter(shares).map(String::as_str).collect();
    teller.fact(&format!("extensions of device {number}"), names.join(", "));
    for (name, offered) in &device.extensions {
        if let Err(absent) = offered {
            teller.skipped(*name, absent);
        }
    }
}
