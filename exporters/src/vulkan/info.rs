//! What a device is and what it can do for us.
//!
//! # Safety
//!
//! The law of this module: a structure is chained to a query only if the device's version or an
//! extension of its has it.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fmt;

use ash::{ext, khr, vk};

use super::error::{VulkanError, failed};
use super::heap::{Heap, MemoryType};
use super::instance::{Instance, has};
use crate::Absent;
use crate::outside::Outside;

/// The extensions that bring memory and fences in and out, what for, in the order they are reported.
const EXTENSIONS: [(&CStr, &str, &str); 6] = [
    (khr::external_memory_fd::NAME, "VK_KHR_external_memory_fd", "share memory by descriptors"),
    (
        ext::external_memory_dma_buf::NAME,
        "VK_EXT_external_memory_dma_buf",
        "import and export dma-bufs",
    ),
    (
        ext::external_memory_host::NAME,
        "VK_EXT_external_memory_host",
        "import pages of this process",
    ),
    (
        ext::queue_family_foreign::NAME,
        "VK_EXT_queue_family_foreign",
        "order its caches with those of other drivers",
    ),
    (
        khr::external_semaphore_fd::NAME,
        "VK_KHR_external_semaphore_fd",
        "wait for other drivers' fences and give its own",
    ),
    (
        ext::image_drm_format_modifier::NAME,
        "VK_EXT_image_drm_format_modifier",
        "name the layouts of images",
    ),
];

/// What sort of device it is, as its driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the system's memory.
    Integrated,
    /// A GPU seen through a virtual machine.
    Virtual,
    /// A software driver, such as Mesa's lavapipe.
    Cpu,
    /// Something else.
    Other,
}

impl DeviceKind {
    /// How gladly it is taken where none was named: lower is better.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::Discrete => 0,
            Self::Integrated => 1,
            Self::Virtual => 2,
            Self::Cpu => 3,
            Self::Other => 4,
        }
    }
}

impl From<vk::PhysicalDeviceType> for DeviceKind {
    fn from(kind: vk::PhysicalDeviceType) -> Self {
        match kind {
            vk::PhysicalDeviceType::DISCRETE_GPU => Self::Discrete,
            vk::PhysicalDeviceType::INTEGRATED_GPU => Self::Integrated,
            vk::PhysicalDeviceType::VIRTUAL_GPU => Self::Virtual,
            vk::PhysicalDeviceType::CPU => Self::Cpu,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Virtual => "virtual",
            Self::Cpu => "cpu",
            Self::Other => "other",
        })
    }
}

/// A version of Vulkan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion(u32);

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] =
            [vk::api_version_major, vk::api_version_minor, vk::api_version_patch]
                .map(|part| part(self.0));
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// A Vulkan device and what it offers.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Its place in the loader's list, which [`Device::open`](super::Device::open) takes.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// What sort of device it is.
    pub kind: DeviceKind,
    /// Its driver and the driver's version, in the driver's words.
    pub driver: String,
    /// The version of Vulkan it has, of a program's own device no more than its instance was made for. At least 1.2
    /// is needed to open it.
    pub api_version: ApiVersion,
    /// Whether its memory is the system's own, so that imported pages are as good as any buffer and
    /// copying them would gain nothing. True for integrated GPUs and software drivers.
    pub shares_system_memory: bool,
    /// The extensions that bring memory and fences in and out, and why one is not there: the driver has it not, or a
    /// program's own device was created without it.
    pub extensions: Vec<(&'static str, Result<(), Absent>)>,
    /// `minImportedHostPointerAlignment` in bytes: what address and length of imported pages must be
    /// multiples of. Absent if pages cannot be imported.
    pub host_import_alignment: Option<usize>,
    /// Its PCI address (`0000:01:00.0`), if it is a PCI device and the driver tells
    /// (`VK_EXT_pci_bus_info`).
    pub pci_address: Option<String>,
    /// The longest buffer in bytes: the lesser of `maxMemoryAllocationSize` and `maxBufferSize`.
    pub max_buffer: usize,
    /// The memories it has, in the driver's order.
    pub heaps: Vec<Heap>,
    /// How memory of the heaps can be had, in the driver's order, best first among equals (Vulkan,
    /// "Device Memory Properties").
    pub memory_types: Vec<MemoryType>,
    /// Every extension of its driver, sorted by name.
    pub offered: Vec<String>,
}

impl DeviceInfo {
    /// Whether an extension of [`extensions`](Self::extensions) is there.
    ///
    /// # Errors
    /// Absent, with the reason.
    pub fn extension(&self, name: &str) -> Result<(), Absent> {
        match self.extensions.iter().find(|(known, _)| *known == name) {
            Some((_, there)) => there.clone(),
            None => Err(Absent::new(
                format!("{name} is no extension that is asked for"),
                "see DeviceInfo::extensions",
            )),
        }
    }

    /// Whether it can be opened at all.
    pub(super) fn usable(&self) -> bool {
        self.api_version.0 >= vk::API_VERSION_1_2
    }
}

/// The Vulkan devices of this machine, in the loader's order, software ones among them.
///
/// # Errors
/// [`VulkanError::NoLoader`] if Vulkan is not installed, [`VulkanError::NoDevice`] if it is and has
/// no driver or no device.
pub fn devices() -> Result<Vec<DeviceInfo>, VulkanError> {
    let instance = Instance::new(false)?;
    let devices = instance.physical_devices()?;
    devices
        .into_iter()
        .enumerate()
        .map(|(index, device)| describe(&instance.raw, index, device, Scope::Driver))
        .collect()
}

/// What a device is asked about.
#[derive(Clone, Copy)]
pub(super) enum Scope<'a> {
    /// All that its driver offers.
    Driver,
    /// What a program's own device was created with, by an instance for a version of Vulkan.
    Created { version: u32, extensions: &'a [&'a CStr] },
}

impl Scope<'_> {
    /// Whether an extension is there, of those that the driver offers.
    fn has(
        self,
        available: &[vk::ExtensionProperties],
        (extension, called, purpose): (&CStr, &str, &str),
        device: &str,
    ) -> Result<(), Absent> {
        if !has(available, extension) {
            return Err(Absent::new(
                format!("the driver of {device} has no {called} to {purpose}"),
                "update the driver or take another device",
            ));
        }
        match self {
            Self::Created { extensions, .. } if !extensions.contains(&extension) => {
                Err(Absent::new(
                    format!("the program's device was created without {called} to {purpose}"),
                    "switch it on (VkDeviceCreateInfo) and say so to Device::adopt",
                ))
            }
            _ => Ok(()),
        }
    }
}

/// Asks a device what it is.
pub(super) fn describe(
    instance: &ash::Instance,
    index: usize,
    device: vk::PhysicalDevice,
    scope: Scope<'_>,
) -> Result<DeviceInfo, VulkanError> {
    // SAFETY: the instance is alive and the device is one of its own.
    let available = unsafe { instance.enumerate_device_extension_properties(device) }
        .map_err(failed("vkEnumerateDeviceExtensionProperties"))?;
    // SAFETY: as above.
    let (version, memory) = unsafe {
        (
            instance.get_physical_device_properties(device).api_version,
            instance.get_physical_device_memory_properties(device),
        )
    };
    // What a newer version has may be asked for only if the instance is for it too.
    let version = match scope {
        Scope::Driver => version,
        Scope::Created { version: instance, .. } => version.min(instance),
    };
    let mut names: Vec<_> =
        available.iter().map(|extension| text(extension.extension_name_as_c_str().ok())).collect();
    names.sort_unstable();

    let mut allocation = vk::PhysicalDeviceMaintenance3Properties::default();
    let mut driver = vk::PhysicalDeviceDriverProperties::default();
    let mut buffer = vk::PhysicalDeviceMaintenance4Properties::default();
    let mut host = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
    let mut pci = vk::PhysicalDevicePCIBusInfoPropertiesEXT::default();
    let tells_pci = has(&available, ext::pci_bus_info::NAME);
    let imports_host = has(&available, ext::external_memory_host::NAME);
    let mut query = vk::PhysicalDeviceProperties2::default();
    if version >= vk::API_VERSION_1_1 {
        query = query.push_next(&mut allocation);
    }
    if version >= vk::API_VERSION_1_2 {
        query = query.push_next(&mut driver);
    }
    if version >= vk::API_VERSION_1_3 {
        query = query.push_next(&mut buffer);
    }
    if imports_host {
        query = query.push_next(&mut host);
    }
    if tells_pci {
        query = query.push_next(&mut pci);
    }
    // SAFETY: as above, and the chain obeys the module's law.
    unsafe { instance.get_physical_device_properties2(device, &mut query) };
    let properties = query.properties;

    let kind = DeviceKind::from(properties.device_type);
    let name = text(properties.device_name_as_c_str().ok());
    // A limit that was not asked for reads as zero and is none.
    let max = [allocation.max_memory_allocation_size, buffer.max_buffer_size]
        .into_iter()
        .filter(|&limit| limit > 0)
        .fold(isize::MAX as u64, u64::min);
    let extensions: Vec<_> =
        EXTENSIONS.map(|named| (named.1, scope.has(&available, named, &name))).into();
    Ok(DeviceInfo {
        index,
        kind,
        driver: [driver.driver_name_as_c_str().ok(), driver.driver_info_as_c_str().ok()]
            .map(text)
            .join(" ")
            .trim()
            .to_owned(),
        api_version: ApiVersion(version),
        shares_system_memory: matches!(kind, DeviceKind::Integrated | DeviceKind::Cpu),
        host_import_alignment: extensions
            .iter()
            .any(|(called, there)| *called == "VK_EXT_external_memory_host" && there.is_ok())
            .then_some(host.min_imported_host_pointer_alignment as usize),
        extensions,
        pci_address: tells_pci.then(|| {
            let (bus, device, function) = (pci.pci_bus, pci.pci_device, pci.pci_function);
            format!("{:04x}:{bus:02x}:{device:02x}.{function:x}", pci.pci_domain)
        }),
        max_buffer: max as usize,
        heaps: memory.memory_heaps_as_slice().iter().map(Heap::from).collect(),
        memory_types: memory.memory_types_as_slice().iter().map(MemoryType::from).collect(),
        offered: names,
        name,
    })
}

/// A name that a driver gave itself.
fn text(text: Option<&CStr>) -> String {
    text.map_or_else(String::new, |text| Outside::bytes(text.to_bytes()).to_string())
}
