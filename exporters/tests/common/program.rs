//! A program with a Vulkan device of its own, made by `ash` alone, under the validation layer where that is installed.

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use exporters::vulkan::ash::{Entry, ext, khr, vk};
use exporters::vulkan::{Device, Handles, ash};

use super::common::{Outcome, Stop, check, need};

/// What the layer says.
type Log = Mutex<Vec<String>>;

/// With what the program creates its device.
#[derive(Clone, Copy)]
pub struct Wishes {
    pub version: u32,
    pub extensions: &'static [&'static CStr],
    pub timelines: bool,
}

/// All that is of use.
pub const ALL: Wishes = Wishes {
    version: vk::API_VERSION_1_2,
    extensions: &[
        khr::external_memory_fd::NAME,
        khr::external_semaphore_fd::NAME,
        ext::external_memory_dma_buf::NAME,
        ext::external_memory_host::NAME,
        ext::queue_family_foreign::NAME,
    ],
    timelines: true,
};

/// Nothing that Vulkan 1.1 does not have by itself.
pub const BARE: Wishes = Wishes { version: vk::API_VERSION_1_1, extensions: &[], timelines: false };

/// Without timeline semaphores, with all else.
pub const NO_TIMELINES: Wishes = Wishes { timelines: false, ..ALL };

/// Vulkan 1.1, with timeline semaphores by their extension.
pub const BY_EXTENSION: Wishes = Wishes {
    version: vk::API_VERSION_1_1,
    extensions: &[khr::timeline_semaphore::NAME],
    timelines: true,
};

/// Runs a trial on devices with all, with nothing and in between, each up to its end, where the layer counts what is
/// left.
pub fn on_each(run: fn(&Program, &Device) -> Outcome) -> Outcome {
    for wishes in [ALL, NO_TIMELINES, BY_EXTENSION, BARE] {
        on(wishes, run)?;
    }
    Ok(())
}

pub fn on(wishes: Wishes, run: fn(&Program, &Device) -> Outcome) -> Outcome {
    let program = Program::open(wishes)?;
    let outcome = program.adopt().and_then(|device| run(&program, &device));
    let end = program.end();
    outcome?;
    end
}

/// The lock of the program's queue, which counts.
#[derive(Default)]
pub struct Lock {
    mutex: Mutex<()>,
    held: AtomicBool,
    taken: AtomicUsize,
}

impl Lock {
    /// How often it was taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether somebody has it.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    pub fn with<T>(&self, run: impl FnOnce() -> T) -> T {
        let _guard = self.mutex.lock().expect("no panic");
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.held.store(true, Ordering::Relaxed);
        let done = run();
        self.held.store(false, Ordering::Relaxed);
        done
    }
}

/// The program. What is made of its device is dropped before it.
pub struct Program {
    _entry: Entry,
    pub instance: ash::Instance,
    pub physical: vk::PhysicalDevice,
    pub device: ash::Device,
    pub family: u32,
    pub queue: vk::Queue,
    pub lock: Arc<Lock>,
    pub wishes: Wishes,
    enabled: Vec<&'static CStr>,
    debug: Option<(ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT)>,
    log: Arc<Log>,
}

impl Program {
    /// Opens the first device that there is, with those wishes that its driver has.
    pub fn open(wishes: Wishes) -> Result<Self, Stop> {
        // SAFETY: the system's loader, whose functions are what the registry says.
        #[allow(unsafe_code)]
        let entry = need(unsafe { Entry::load() })?;
        let layer = c"VK_LAYER_KHRONOS_validation";
        // SAFETY: the loader is loaded.
        #[allow(unsafe_code)]
        let layers = unsafe { entry.enumerate_instance_layer_properties() }?;
        let validated = layers.iter().any(|one| one.layer_name_as_c_str() == Ok(layer));
        let (mut names, mut extensions) = (vec![], vec![]);
        if validated {
            names.push(layer.as_ptr());
            extensions
                .extend([ext::debug_utils::NAME, ext::validation_features::NAME].map(CStr::as_ptr));
        } else {
            eprintln!("note: without validation, whose layer is not installed");
        }
        let log = Arc::new(Log::default());
        let app = vk::ApplicationInfo::default().api_version(wishes.version);
        let checks = [vk::ValidationFeatureEnableEXT::SYNCHRONIZATION_VALIDATION];
        let mut features =
            vk::ValidationFeaturesEXT::default().enabled_validation_features(&checks);
        let mut messenger = messenger(&log);
        let mut create = vk::InstanceCreateInfo::default()
            .application_info(&app)
            .enabled_layer_names(&names)
            .enabled_extension_names(&extensions);
        if validated {
            create = create.push_next(&mut features).push_next(&mut messenger);
        }
        // SAFETY: what is asked for is there, and the log lives until the instance is destroyed.
        #[allow(unsafe_code)]
        let (instance, physical) = unsafe {
            let instance = need(entry.create_instance(&create, None))?;
            let physical = instance.enumerate_physical_devices()?;
            (instance, need(physical.first().copied().ok_or("Vulkan has no device"))?)
        };
        let mut debug = None;
        if validated {
            let functions = ext::debug_utils::Instance::new(&entry, &instance);
            // SAFETY: as above.
            #[allow(unsafe_code)]
            let made =
                unsafe { functions.create_debug_utils_messenger(&self::messenger(&log), None) }?;
            debug = Some((functions, made));
        }
        // SAFETY: the instance is alive.
        #[allow(unsafe_code)]
        let (offered, families) = unsafe {
            (
                instance.enumerate_device_extension_properties(physical)?,
                instance.get_physical_device_queue_family_properties(physical),
            )
        };
        let has = |name: &CStr| offered.iter().any(|e| e.extension_name_as_c_str() == Ok(name));
        let enabled: Vec<_> = wishes.extensions.iter().copied().filter(|name| has(name)).collect();
        let draws = |family: &vk::QueueFamilyProperties| {
            family.queue_flags.contains(vk::QueueFlags::GRAPHICS)
        };
        let family = need(families.iter().position(draws).ok_or("no queue that draws"))? as u32;
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family)
            .queue_priorities(&[1.0])];
        let pointers: Vec<_> = enabled.iter().map(|name| name.as_ptr()).collect();
        let mut timelines =
            vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
        // SAFETY: the instance is alive.
        #[allow(unsafe_code)]
        let supported = unsafe { instance.get_physical_device_features(physical) };
        let features = vk::PhysicalDeviceFeatures::default()
            .texture_compression_bc(supported.texture_compression_bc == vk::TRUE);
        let mut create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&pointers)
            .enabled_features(&features);
        if wishes.timelines {
            create = create.push_next(&mut timelines);
        }
        // SAFETY: the driver has these extensions and features.
        #[allow(unsafe_code)]
        let (device, queue) = unsafe {
            let device = need(instance.create_device(physical, &create, None))?;
            let queue = device.get_device_queue(family, 0);
            (device, queue)
        };
        let lock = Arc::new(Lock::default());
        Ok(Self {
            _entry: entry,
            instance,
            physical,
            device,
            family,
            queue,
            lock,
            wishes,
            enabled,
            debug,
            log,
        })
    }

    /// Its device, for this crate.
    pub fn adopt(&self) -> Result<Device, Stop> {
        let lock = self.lock.clone();
        let mut handles =
            Handles::new(&self.instance, self.physical, &self.device, self.wishes.version)
                .extensions(&self.enabled)
                .queue(self.family, self.queue, move |submit: &mut dyn FnMut()| lock.with(submit));
        if self.wishes.timelines {
            handles = handles.timeline_semaphores();
        }
        // SAFETY: as it was created above; every trial drops what it makes of it before the program.
        #[allow(unsafe_code)]
        Ok(unsafe { Device::adopt(handles) }?)
    }

    /// Ends the program, whose device must be idle, and fails for what the layer has said, which counts what was not
    /// destroyed.
    pub fn end(self) -> Outcome {
        // SAFETY: all that was made of the device is gone, or the layer says so.
        #[allow(unsafe_code)]
        unsafe {
            self.device.device_wait_idle()?;
            self.device.destroy_device(None);
            if let Some((functions, messenger)) = self.debug {
                functions.destroy_debug_utils_messenger(messenger, None);
            }
            self.instance.destroy_instance(None);
        }
        let mut said = std::mem::take(&mut *self.log.lock().expect("no panic"));
        said.dedup();
        check(said.is_empty(), said.join("\n"))
    }

    /// What the layer has said so far, taken out; none without the layer.
    pub fn said(&self) -> Option<Vec<String>> {
        self.debug.as_ref()?;
        Some(std::mem::take(&mut *self.log.lock().expect("no panic")))
    }
}

fn messenger(log: &Arc<Log>) -> vk::DebugUtilsMessengerCreateInfoEXT<'static> {
    use vk::DebugUtilsMessageSeverityFlagsEXT as Severity;
    use vk::DebugUtilsMessageTypeFlagsEXT as Type;
    vk::DebugUtilsMessengerCreateInfoEXT::default()
        .message_severity(Severity::WARNING | Severity::ERROR)
        .message_type(Type::VALIDATION)
        .pfn_user_callback(Some(hear))
        .user_data(Arc::as_ptr(log).cast_mut().cast())
}

#[allow(unsafe_code)]
unsafe extern "system" fn hear(
    _: vk::DebugUtilsMessageSeverityFlagsEXT,
    _: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    log: *mut c_void,
) -> vk::Bool32 {
    // SAFETY: the layer passes valid data for the length of the call, and the log outlives the instance.
    let (message, log) = unsafe { (data.as_ref(), &*log.cast::<Log>()) };
    // SAFETY: so is its text.
    let text = message.and_then(|data| unsafe { data.message_as_c_str() });
    let text = text.map_or_else(String::new, |text| text.to_string_lossy().into_owned());
    log.lock().expect("no panic").push(text);
    vk::FALSE
}
