//! What it costs the processor to export, import and map a buffer, in instructions, beside the same
//! steps written directly: calls of `libdrm` and of `ash`, and ioctls where there is no library.
//!
//! A step is done and undone, so that it can be repeated, and the buffer is a frame of 1920 x 1080
//! pixels. Both ways end in one state: a dma-buf comes with its size, which anybody has to ask for.
#![allow(unsafe_code)]

mod libdrm;

use std::error::Error;
use std::ffi::{c_int, c_ulong, c_void};
use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::ptr;
use std::time::Instant;

use bufmap_bench::{Outcome, check};
use exporters::drm::{Card, Node};
use exporters::vulkan::Device;
use exporters::vulkan::ash::{self, khr, vk};
use exporters::{DmaBuf, DmaHeap, Intent, Udmabuf};
use iomap::{Memory, PageSize};
use libtest_mimic::Failed;

use libdrm::Libdrm;

const WIDTH: u32 = 1920;
const HEIGHT: u32 = 1080;
const LEN: usize = (WIDTH * HEIGHT * 4) as usize;
const PAGE: usize = 4096;

/// How often a step is done; the cheapest counts, which is one that no timer of the kernel's has
/// interrupted.
const TRIES: usize = 40;

/// By how much another compiler moves a step: a twentieth of the shortest one is 135 instructions.
const COMPILERS: u64 = 50;

fn main() -> ExitCode {
    bufmap_bench::run("gpu-counted", &[("a_step_costs_what_it_costs_directly", costs)])
}

/// A step, ours and directly.
struct Step<'a> {
    name: &'static str,
    ours: Box<dyn FnMut() -> Outcome + 'a>,
    directly: Box<dyn FnMut() -> Outcome + 'a>,
}

fn step<'a>(
    name: &'static str,
    ours: impl FnMut() -> Outcome + 'a,
    directly: impl FnMut() -> Outcome + 'a,
) -> Step<'a> {
    Step { name, ours: Box::new(ours), directly: Box::new(directly) }
}

fn costs() -> Outcome {
    let memory = Memory::memfd("frame", LEN, PageSize::Base)?;
    memory.map().fill(7)?;
    let memfd = memory.fd().ok_or("no memfd")?;
    let udmabuf = Udmabuf::open()?;
    let node = File::options().read(true).write(true).open("/dev/udmabuf")?;
    let heap = DmaHeap::open("system")?;
    let heap_node = File::open("/dev/dma_heap/system")?;
    let card = Card::find("vgem", Node::Primary)?;
    let vgem = File::options().read(true).write(true).open(card.path())?;
    let (vgem, libdrm) = (vgem.as_fd(), Libdrm::open()?);
    let frame = udmabuf.create(&memory, 0..LEN)?;
    let of_heap = heap.allocate(LEN)?;
    let dumb = card.dumb_buffer(WIDTH, HEIGHT, 32)?;
    let device = Device::open(None)?;
    let vulkan = Direct::open()?;

    let mut steps = [
        step(
            "udmabuf of a memfd's pages",
            || undone(udmabuf.create(&memory, 0..LEN)),
            || size(udmabuf_create(&node, memfd)?.as_fd()),
        ),
        step(
            "buffer of the system heap",
            || undone(heap.allocate(LEN)),
            || size(heap_allocate(&heap_node)?.as_fd()),
        ),
        step(
            "dumb buffer, mapped and exported",
            || undone(card.dumb_buffer(WIDTH, HEIGHT, 32)),
            || dumb_buffer(&libdrm, vgem),
        ),
        step(
            "import by DRM",
            || undone(card.import(&frame)),
            || {
                let handle = libdrm.import(vgem, frame.as_fd())?;
                libdrm.close(vgem, handle)
            },
        ),
        step(
            "dma-buf of a handle",
            || undone(dumb.gem().dma_buf()),
            || size(libdrm.export(card.as_fd(), dumb.gem().handle().get())?.as_fd()),
        ),
        step(
            "udmabuf received, mapped and looked at",
            || look(&frame),
            || look_directly(frame.as_fd()),
        ),
        step(
            "heap's received, mapped and looked at",
            || look(&of_heap),
            || look_directly(of_heap.as_fd()),
        ),
        step(
            "import by Vulkan",
            || undone(device.import_dma_buf(&frame)),
            || vulkan.import(frame.as_fd(), LEN),
        ),
        step(
            "export by Vulkan",
            || undone(device.allocate(LEN, true)?.export_dma_buf()),
            || vulkan.export(LEN),
        ),
    ];
    let mut slow = Vec::new();
    println!("instructions                                 ours   directly   ratio");
    for Step { name, ours, directly } in &mut steps {
        let (ours, directly) = (cheapest(ours)?, cheapest(directly)?);
        let ratio = ours as f64 / directly as f64;
        println!("{name:<38} {ours:>10} {directly:>10}   {ratio:.3}");
        if ours > directly + directly / 20 + COMPILERS {
            slow.push(*name);
        }
    }
    drop(steps);
    check(slow.is_empty(), format!("more than 5 % above the direct way: {slow:?}"))
}

/// Lets go of what a step made.
fn undone<T>(made: Result<T, impl Error + Send + Sync + 'static>) -> Outcome {
    Ok(made.map(drop)?)
}

fn cheapest(step: &mut dyn FnMut() -> Outcome) -> Result<u64, Failed> {
    let mut costs = Vec::new();
    for _ in 0..TRIES {
        let start = Instant::now();
        step()?;
        costs.push(start.elapsed().as_nanos() as u64);
    }
    costs.into_iter().min().ok_or_else(|| "no tries".into())
}

fn last<T>() -> Result<T, Failed> {
    Err(io::Error::last_os_error().into())
}

/// Asks for a dma-buf's size, as whoever uses one must.
fn size(fd: BorrowedFd<'_>) -> Outcome {
    // SAFETY: no memory is involved.
    match unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_END) } {
        -1 => last(),
        len => check(len as usize >= LEN, len),
    }
}

/// # Safety
/// `argument` is what the ioctl `request` takes.
unsafe fn ioctl<T>(
    fd: BorrowedFd<'_>,
    request: c_ulong,
    argument: &mut T,
) -> Result<c_int, Failed> {
    // SAFETY: the caller's promise.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, ptr::from_mut(argument)) } {
        -1 => last(),
        answer => Ok(answer),
    }
}

fn udmabuf_create(node: &File, memfd: BorrowedFd<'_>) -> Result<OwnedFd, Failed> {
    #[repr(C)]
    struct Create {
        memfd: u32,
        flags: u32,
        offset: u64,
        size: u64,
    }
    const UDMABUF_CREATE: c_ulong = 0x4018_7542;
    let len = LEN as u64;
    let mut create = Create { memfd: memfd.as_raw_fd() as u32, flags: 1, offset: 0, size: len };
    // SAFETY: the structure is the header's, and the answer a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(ioctl(node.as_fd(), UDMABUF_CREATE, &mut create)?) })
}

fn heap_allocate(node: &File) -> Result<OwnedFd, Failed> {
    #[repr(C)]
    struct Allocation {
        len: u64,
        fd: u32,
        fd_flags: u32,
        heap_flags: u64,
    }
    const DMA_HEAP_IOCTL_ALLOC: c_ulong = 0xc018_4800;
    let flags = (libc::O_CLOEXEC | libc::O_RDWR) as u32;
    let mut data = Allocation { len: LEN as u64, fd: 0, fd_flags: flags, heap_flags: 0 };
    // SAFETY: the structure is the header's, and it brings a new descriptor.
    unsafe {
        ioctl(node.as_fd(), DMA_HEAP_IOCTL_ALLOC, &mut data)?;
        Ok(OwnedFd::from_raw_fd(data.fd as i32))
    }
}

fn dumb_buffer(libdrm: &Libdrm, card: BorrowedFd<'_>) -> Outcome {
    let handle = libdrm.create(card, WIDTH, HEIGHT)?;
    let dma_buf = libdrm.export(card, handle)?;
    size(dma_buf.as_fd())?;
    let mapping = Mapping::new(card, libdrm.place(card, handle)? as i64)?;
    drop(mapping);
    libdrm.destroy(card, handle)
}

/// A frame's bytes in this process.
struct Mapping(*mut c_void);

impl Mapping {
    fn new(fd: BorrowedFd<'_>, offset: i64) -> Result<Self, Failed> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let fd = fd.as_raw_fd();
        // SAFETY: a new mapping, at no chosen place.
        let pages =
            unsafe { libc::mmap(ptr::null_mut(), LEN, access, libc::MAP_SHARED, fd, offset) };
        if pages == libc::MAP_FAILED { last() } else { Ok(Self(pages)) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and of this length.
        unsafe { libc::munmap(self.0, LEN) };
    }
}

/// A descriptor as it comes from another process, and all that it takes to see its bytes: one of each
/// page, because a page that nobody looks at is not mapped.
fn look(received: &DmaBuf) -> Outcome {
    let dma_buf = DmaBuf::new(received.as_fd().try_clone_to_owned()?)?;
    let mapping = dma_buf.map()?;
    let access = mapping.begin_cpu_access(Intent::Read)?;
    for at in (0..LEN).step_by(PAGE) {
        black_box(access.map().read::<u8>(at)?);
    }
    Ok(access.finish()?)
}

fn look_directly(received: BorrowedFd<'_>) -> Outcome {
    const DMA_BUF_IOCTL_SYNC: c_ulong = 0x4008_6200;
    let fd = received.try_clone_to_owned()?;
    size(fd.as_fd())?;
    let mapping = Mapping::new(fd.as_fd(), 0)?;
    // SAFETY: the ioctl takes 64 bits of flags; the mapping is of this length.
    unsafe {
        ioctl(fd.as_fd(), DMA_BUF_IOCTL_SYNC, &mut 1u64)?;
        for at in (0..LEN).step_by(PAGE) {
            black_box(mapping.0.cast::<u8>().add(at).read_volatile());
        }
        ioctl(fd.as_fd(), DMA_BUF_IOCTL_SYNC, &mut 5u64)?;
    }
    Ok(())
}

/// Vulkan by `ash` alone.
struct Direct {
    instance: ash::Instance,
    device: ash::Device,
    memory_fd: khr::external_memory_fd::Device,
    types: vk::PhysicalDeviceMemoryProperties,
    _entry: ash::Entry,
}

const DMA_BUF: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::DMA_BUF_EXT;

impl Direct {
    fn open() -> Result<Self, Failed> {
        let name = |name: &'static std::ffi::CStr| name.as_ptr();
        // SAFETY: what is passed is valid and outlives each call; the parts are dropped in order.
        unsafe {
            let entry = ash::Entry::load()?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
            let create = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = entry.create_instance(&create, None)?;
            let physical = *instance.enumerate_physical_devices()?.first().ok_or("no device")?;
            let types = instance.get_physical_device_memory_properties(physical);
            let queue = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
            let extensions = [
                name(khr::external_memory_fd::NAME),
                name(ash::ext::external_memory_dma_buf::NAME),
            ];
            let create = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queue)
                .enabled_extension_names(&extensions);
            let device = instance.create_device(physical, &create, None)?;
            let memory_fd = khr::external_memory_fd::Device::new(&instance, &device);
            Ok(Self { instance, device, memory_fd, types, _entry: entry })
        }
    }

    fn buffer(&self, len: usize) -> Result<(vk::Buffer, vk::MemoryRequirements), Failed> {
        use vk::BufferUsageFlags as Usage;
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(DMA_BUF);
        let create = vk::BufferCreateInfo::default()
            .size(len as u64)
            .usage(Usage::TRANSFER_SRC | Usage::TRANSFER_DST | Usage::STORAGE_BUFFER)
            .push_next(&mut external);
        // SAFETY: `create` is valid and the device alive.
        unsafe {
            let buffer = self.device.create_buffer(&create, None)?;
            Ok((buffer, self.device.get_buffer_memory_requirements(buffer)))
        }
    }

    fn of_type(&self, bits: u32) -> u32 {
        let types = self.types.memory_types_as_slice().iter().zip(0..);
        let mut fitting = types.filter(|&(kind, index)| {
            let local = vk::MemoryPropertyFlags::DEVICE_LOCAL;
            bits & (1 << index) != 0 && kind.property_flags.contains(local)
        });
        fitting.next().map_or(0, |(_, index)| index)
    }

    fn import(&self, fd: BorrowedFd<'_>, len: usize) -> Outcome {
        let (buffer, need) = self.buffer(len)?;
        let fd = fd.try_clone_to_owned()?;
        let mut properties = vk::MemoryFdPropertiesKHR::default();
        // SAFETY: as `Device::import_dma_buf`, whose steps these are.
        unsafe {
            self.memory_fd.get_memory_fd_properties(DMA_BUF, fd.as_raw_fd(), &mut properties)?;
            let bits = need.memory_type_bits & properties.memory_type_bits;
            let mut import = vk::ImportMemoryFdInfoKHR::default()
                .handle_type(DMA_BUF)
                .fd(std::os::fd::IntoRawFd::into_raw_fd(fd));
            let allocate = vk::MemoryAllocateInfo::default()
                .allocation_size(len as u64)
                .memory_type_index(self.of_type(bits))
                .push_next(&mut import);
            let memory = self.device.allocate_memory(&allocate, None)?;
            self.device.bind_buffer_memory(buffer, memory, 0)?;
            self.device.destroy_buffer(buffer, None);
            self.device.free_memory(memory, None);
        }
        Ok(())
    }

    fn export(&self, len: usize) -> Outcome {
        let (buffer, need) = self.buffer(len)?;
        let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(DMA_BUF);
        let allocate = vk::MemoryAllocateInfo::default()
            .allocation_size(need.size)
            .memory_type_index(self.of_type(need.memory_type_bits))
            .push_next(&mut export);
        // SAFETY: as `Device::allocate` and `Buffer::export_dma_buf`, whose steps these are.
        unsafe {
            let memory = self.device.allocate_memory(&allocate, None)?;
            self.device.bind_buffer_memory(buffer, memory, 0)?;
            let everything = vk::MemoryMapFlags::empty();
            self.device.map_memory(memory, 0, vk::WHOLE_SIZE, everything)?;
            let get = vk::MemoryGetFdInfoKHR::default().memory(memory).handle_type(DMA_BUF);
            let fd = OwnedFd::from_raw_fd(self.memory_fd.get_memory_fd(&get)?);
            size(fd.as_fd())?;
            self.device.destroy_buffer(buffer, None);
            self.device.free_memory(memory, None);
        }
        Ok(())
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        // SAFETY: nothing made of them is left.
        unsafe {
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}
