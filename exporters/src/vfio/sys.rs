//! The calls of VFIO and of iommufd, one function each.
//!
//! The interfaces are `linux/vfio.h` and `linux/iommufd.h`, whose structures come from the crates
//! `vfio-bindings` and `iommufd-bindings`; their rules are in `Documentation/driver-api/vfio.rst` and
//! `Documentation/userspace-api/iommufd.rst`.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. Each call passes what the header names for it: the structure, or a buffer that begins with it
//!    and is as long as its `argsz` or `size` says.
//! 2. A call that answers with a file descriptor gives a new one.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use iommufd_bindings::iommufd::*;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use vfio_bindings::bindings::vfio::*;

/// `_IO(VFIO_TYPE, VFIO_BASE + number)`.
const fn call(number: u32) -> Opcode {
    opcode::none(VFIO_TYPE, (VFIO_BASE + number) as u8)
}

const GET_API_VERSION: Opcode = call(0);
const CHECK_EXTENSION: Opcode = call(1);
const SET_IOMMU: Opcode = call(2);
const GROUP_GET_STATUS: Opcode = call(3);
const GROUP_SET_CONTAINER: Opcode = call(4);
const GROUP_GET_DEVICE_FD: Opcode = call(6);
const DEVICE_GET_INFO: Opcode = call(7);
const DEVICE_GET_REGION_INFO: Opcode = call(8);
const DEVICE_GET_IRQ_INFO: Opcode = call(9);
const DEVICE_SET_IRQS: Opcode = call(10);
const DEVICE_RESET: Opcode = call(11);
const IOMMU_GET_INFO: Opcode = call(12);
const IOMMU_MAP_DMA: Opcode = call(13);
const IOMMU_UNMAP_DMA: Opcode = call(14);
const DEVICE_FEATURE: Opcode = call(17);
const DEVICE_BIND_IOMMUFD: Opcode = call(18);
const DEVICE_ATTACH_IOMMUFD_PT: Opcode = call(19);

/// `_IO(IOMMUFD_TYPE, number)`.
const fn iommufd_call(number: u32) -> Opcode {
    opcode::none(IOMMUFD_TYPE, number as u8)
}

const IOAS_ALLOC: Opcode = iommufd_call(IOMMUFD_CMD_IOAS_ALLOC);
const IOAS_IOVA_RANGES: Opcode = iommufd_call(IOMMUFD_CMD_IOAS_IOVA_RANGES);
const IOAS_MAP: Opcode = iommufd_call(IOMMUFD_CMD_IOAS_MAP);
const IOAS_MAP_FILE: Opcode = iommufd_call(IOMMUFD_CMD_IOAS_MAP_FILE);
const IOAS_UNMAP: Opcode = iommufd_call(IOMMUFD_CMD_IOAS_UNMAP);

/// A call whose argument is a pointer or a number, and whose result is a number.
struct Call {
    opcode: Opcode,
    argument: *mut c_void,
}

// SAFETY: the module's first law holds for `opcode` and `argument` wherever a `Call` is made.
unsafe impl Ioctl for Call {
    type Output = u32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<u32> {
        Ok(out as u32)
    }
}

fn by_pointer<T>(fd: BorrowedFd<'_>, opcode: Opcode, argument: &mut T) -> io::Result<u32> {
    let argument = (&raw mut *argument).cast();
    // SAFETY: the module's first law, which each function below upholds; the argument outlives the
    // call.
    Ok(unsafe { ioctl(fd, Call { opcode, argument }) }?)
}

fn by_words(fd: BorrowedFd<'_>, opcode: Opcode, words: &mut [u32]) -> io::Result<u32> {
    let argument = words.as_mut_ptr().cast();
    // SAFETY: as in `by_pointer`.
    Ok(unsafe { ioctl(fd, Call { opcode, argument }) }?)
}

fn by_number(fd: BorrowedFd<'_>, opcode: Opcode, number: u32) -> io::Result<u32> {
    let argument = std::ptr::without_provenance_mut(number as usize);
    // SAFETY: the module's first law: these calls take a number.
    Ok(unsafe { ioctl(fd, Call { opcode, argument }) }?)
}

fn new_fd(answer: u32) -> OwnedFd {
    // SAFETY: the module's second law.
    unsafe { OwnedFd::from_raw_fd(answer as RawFd) }
}

const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

pub(super) fn api_version(container: BorrowedFd<'_>) -> io::Result<u32> {
    by_number(container, GET_API_VERSION, 0)
}

pub(super) fn has_type1(container: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(by_number(container, CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU)? > 0)
}

pub(super) fn set_type1(container: BorrowedFd<'_>) -> io::Result<()> {
    by_number(container, SET_IOMMU, VFIO_TYPE1v2_IOMMU).map(drop)
}

/// Whether every device of the group is VFIO's, or no driver's.
pub(super) fn is_viable(group: BorrowedFd<'_>) -> io::Result<bool> {
    let mut status = vfio_group_status { argsz: size::<vfio_group_status>(), flags: 0 };
    by_pointer(group, GROUP_GET_STATUS, &mut status)?;
    Ok(status.flags & VFIO_GROUP_FLAGS_VIABLE != 0)
}

pub(super) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    by_pointer(group, GROUP_SET_CONTAINER, &mut container.as_raw_fd()).map(drop)
}

pub(super) fn device(group: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let argument = name.as_ptr().cast_mut().cast();
    // SAFETY: the module's first law; the kernel only reads the name.
    let answer = unsafe { ioctl(group, Call { opcode: GROUP_GET_DEVICE_FD, argument }) }?;
    Ok(new_fd(answer))
}

pub(super) fn device_info(device: BorrowedFd<'_>) -> io::Result<vfio_device_info> {
    let mut info =
        vfio_device_info { argsz: size::<vfio_device_info>(), ..vfio_device_info::default() };
    by_pointer(device, DEVICE_GET_INFO, &mut info)?;
    Ok(info)
}

pub(super) fn region_info(device: BorrowedFd<'_>, index: u32) -> io::Result<vfio_region_info> {
    let argsz = size::<vfio_region_info>();
    let mut info = vfio_region_info { argsz, index, ..vfio_region_info::default() };
    by_pointer(device, DEVICE_GET_REGION_INFO, &mut info)?;
    Ok(info)
}

/// How many interrupts the index has.
pub(super) fn interrupts(device: BorrowedFd<'_>, index: u32) -> io::Result<u32> {
    let argsz = size::<vfio_irq_info>();
    let mut info = vfio_irq_info { argsz, index, ..vfio_irq_info::default() };
    by_pointer(device, DEVICE_GET_IRQ_INFO, &mut info)?;
    Ok(info.count)
}

/// Has the first interrupts of the index signal eventfds; with none, switches all of them off.
pub(super) fn set_interrupts(
    device: BorrowedFd<'_>,
    index: u32,
    eventfds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let data = match eventfds {
        [] => VFIO_IRQ_SET_DATA_NONE,
        _ => VFIO_IRQ_SET_DATA_EVENTFD,
    };
    let len = size::<vfio_irq_set>() + 4 * eventfds.len() as u32;
    // struct vfio_irq_set: argsz, flags, index, start, count, and the data.
    let flags = data | VFIO_IRQ_SET_ACTION_TRIGGER;
    let mut words = vec![len, flags, index, 0, eventfds.len() as u32];
    words.extend(eventfds.iter().map(|fd| fd.as_raw_fd() as u32));
    by_words(device, DEVICE_SET_IRQS, &mut words).map(drop)
}

pub(super) fn reset(device: BorrowedFd<'_>) -> io::Result<()> {
    by_number(device, DEVICE_RESET, 0).map(drop)
}

/// Makes a dma-buf of one range of a region, in bytes (`VFIO_DEVICE_FEATURE_DMA_BUF`).
pub(super) fn dma_buf(
    device: BorrowedFd<'_>,
    region: u32,
    offset: u64,
    len: u64,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Feature {
        argsz: u32,
        flags: u32,
        region: u32,
        open_flags: u32,
        more_flags: u32,
        ranges: u32,
        range: vfio_region_dma_range,
    }
    const _: () = assert!(
        size_of::<Feature>()
            == size_of::<vfio_device_feature>()
                + size_of::<vfio_device_feature_dma_buf>()
                + size_of::<vfio_region_dma_range>()
    );
    let mut feature = Feature {
        argsz: size::<Feature>(),
        flags: VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
        region,
        open_flags: (libc::O_RDWR | libc::O_CLOEXEC) as u32,
        more_flags: 0,
        ranges: 1,
        range: vfio_region_dma_range { offset, length: len },
    };
    by_pointer(device, DEVICE_FEATURE, &mut feature).map(new_fd)
}

/// What an IOMMU says of itself: `struct vfio_iommu_type1_info` and its chain of capabilities, as
/// words.
pub(super) fn iommu_info(container: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut words = vec![0; size_of::<vfio_iommu_type1_info>() / 4];
    loop {
        let len = 4 * words.len() as u32;
        words[0] = len;
        by_words(container, IOMMU_GET_INFO, &mut words)?;
        // The kernel says how long it would have been.
        if words[0] <= len {
            return Ok(words);
        }
        words = vec![0; words[0].div_ceil(4) as usize];
    }
}

/// Maps `size` bytes at `vaddr` for the devices of a container, at `iova`. `flags` are
/// `VFIO_DMA_MAP_FLAG_READ` and `VFIO_DMA_MAP_FLAG_WRITE`, by the device.
///
/// # Safety
/// The bytes stay mapped in this process, or belong to nobody else, until they are unmapped: the
/// kernel pins system memory but is not told when a driver moves memory of its own.
pub(super) unsafe fn map_dma(
    container: BorrowedFd<'_>,
    vaddr: *mut u8,
    iova: u64,
    size: u64,
    flags: u32,
) -> io::Result<()> {
    let argsz = self::size::<vfio_iommu_type1_dma_map>();
    let vaddr = vaddr.expose_provenance() as u64;
    let mut map = vfio_iommu_type1_dma_map { argsz, flags, vaddr, iova, size };
    by_pointer(container, IOMMU_MAP_DMA, &mut map).map(drop)
}

pub(super) fn unmap_dma(container: BorrowedFd<'_>, iova: u64, size: u64) -> io::Result<()> {
    let argsz = self::size::<vfio_iommu_type1_dma_unmap>();
    let mut unmap = vfio_iommu_type1_dma_unmap { argsz, iova, size, ..Default::default() };
    by_pointer(container, IOMMU_UNMAP_DMA, &mut unmap).map(drop)
}

/// Gives a device to an iommufd.
pub(super) fn bind_iommufd(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> io::Result<()> {
    let argsz = size::<vfio_device_bind_iommufd>();
    let iommufd = iommufd.as_raw_fd();
    let mut bind = vfio_device_bind_iommufd { argsz, iommufd, ..Default::default() };
    by_pointer(device, DEVICE_BIND_IOMMUFD, &mut bind).map(drop)
}

/// Has a device's addresses translated by an address space of its iommufd.
pub(super) fn attach(device: BorrowedFd<'_>, ioas: u32) -> io::Result<()> {
    let argsz = size::<vfio_device_attach_iommufd_pt>();
    let mut attach = vfio_device_attach_iommufd_pt { argsz, pt_id: ioas, ..Default::default() };
    by_pointer(device, DEVICE_ATTACH_IOMMUFD_PT, &mut attach).map(drop)
}

/// Makes an address space, and returns its number.
pub(super) fn ioas_alloc(iommufd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut alloc = iommu_ioas_alloc { size: size::<iommu_ioas_alloc>(), flags: 0, out_ioas_id: 0 };
    by_pointer(iommufd, IOAS_ALLOC, &mut alloc)?;
    Ok(alloc.out_ioas_id)
}

/// The ranges that an address space translates, first and last address each, and what mappings are
/// aligned to, in bytes.
pub(super) fn iova_ranges(
    iommufd: BorrowedFd<'_>,
    ioas_id: u32,
) -> io::Result<(Vec<iommu_iova_range>, u64)> {
    let mut ranges: Vec<iommu_iova_range> = Vec::new();
    loop {
        let mut query = iommu_ioas_iova_ranges {
            size: size::<iommu_ioas_iova_ranges>(),
            ioas_id,
            num_iovas: ranges.len() as u32,
            __reserved: 0,
            allowed_iovas: ranges.as_mut_ptr().expose_provenance() as u64,
            out_iova_alignment: 0,
        };
        let answer = by_pointer(iommufd, IOAS_IOVA_RANGES, &mut query);
        let found = query.num_iovas as usize;
        match answer {
            // The kernel says how many there are.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) && found > ranges.len() => {
                ranges = vec![iommu_iova_range { start: 0, last: 0 }; found];
            }
            Err(error) => return Err(error),
            Ok(_) => {
                ranges.truncate(found);
                return Ok((ranges, query.out_iova_alignment));
            }
        }
    }
}

/// Maps `length` bytes at `vaddr` in an address space, at `iova`. `flags` are
/// `IOMMU_IOAS_MAP_READABLE` and `IOMMU_IOAS_MAP_WRITEABLE`, by the device.
///
/// # Safety
/// The bytes stay mapped in this process, or belong to nobody else, until they are unmapped.
pub(super) unsafe fn ioas_map(
    iommufd: BorrowedFd<'_>,
    ioas_id: u32,
    vaddr: *mut u8,
    iova: u64,
    length: u64,
    flags: u32,
) -> io::Result<()> {
    let mut map = iommu_ioas_map {
        size: size::<iommu_ioas_map>(),
        flags: flags | iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA,
        ioas_id,
        __reserved: 0,
        user_va: vaddr.expose_provenance() as u64,
        length,
        iova,
    };
    by_pointer(iommufd, IOAS_MAP, &mut map).map(drop)
}

/// Maps the first `length` bytes of a dma-buf, which the kernel keeps.
pub(super) fn ioas_map_file(
    iommufd: BorrowedFd<'_>,
    ioas_id: u32,
    file: BorrowedFd<'_>,
    iova: u64,
    length: u64,
    flags: u32,
) -> io::Result<()> {
    let mut map = iommu_ioas_map_file {
        size: size::<iommu_ioas_map_file>(),
        flags: flags | iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA,
        ioas_id,
        fd: file.as_raw_fd(),
        start: 0,
        length,
        iova,
    };
    by_pointer(iommufd, IOAS_MAP_FILE, &mut map).map(drop)
}

pub(super) fn ioas_unmap(
    iommufd: BorrowedFd<'_>,
    ioas_id: u32,
    iova: u64,
    length: u64,
) -> io::Result<()> {
    let mut unmap = iommu_ioas_unmap { size: size::<iommu_ioas_unmap>(), ioas_id, iova, length };
    by_pointer(iommufd, IOAS_UNMAP, &mut unmap).map(drop)
}
