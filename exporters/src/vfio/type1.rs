//! VFIO's own way to an IOMMU, type 1: groups of devices in a container file.
//!
//! Devices come in *groups*, the smallest sets that the IOMMU can tell apart, and a container takes
//! whole groups. Memory is mapped by the address at which this process has it, a BAR like any other.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE};

use super::error::VfioError;
use super::function::{Function, Kernel};
use super::iommu::{IoSpace, Iommu};
use super::mappable::Mappable;
use super::ranges::FreeRanges;
use super::sys;
use crate::outside::outside;
use crate::{Absent, DmaBuf, Intent};

const CONTAINER: &str = "/dev/vfio/vfio";

/// A container file and the groups in it.
#[derive(Debug)]
pub(super) struct Type1 {
    file: File,
    groups: Mutex<BTreeMap<u32, OwnedFd>>,
}

impl Type1 {
    pub(super) fn new() -> Result<Self, VfioError> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(CONTAINER)
            .map_err(|e| VfioError::Unavailable(no_container(&e)))?;
        let failed = |step| VfioError::kernel(step, CONTAINER);
        let version = sys::api_version(file.as_fd()).map_err(failed("VFIO_GET_API_VERSION"))?;
        let type1 = sys::has_type1(file.as_fd()).map_err(failed("VFIO_CHECK_EXTENSION"))?;
        if version != 0 || !type1 {
            return Err(VfioError::Unavailable(Absent::new(
                format!("{CONTAINER} has version {version} and {}", words(type1)),
                "load the module: modprobe vfio_iommu_type1",
            )));
        }
        Ok(Self { file, groups: Mutex::default() })
    }

    fn add(&self, first: bool, group: u32, address: &str) -> Result<OwnedFd, VfioError> {
        let path = format!("/dev/vfio/{group}");
        let failed = |step| VfioError::kernel(step, path.clone());
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| no_group(address, &path, e))?;
        if !sys::is_viable(file.as_fd()).map_err(failed("VFIO_GROUP_GET_STATUS"))? {
            return Err(VfioError::Device { device: address.into(), why: not_viable(group) });
        }
        sys::set_container(file.as_fd(), self.fd()).map_err(failed("VFIO_GROUP_SET_CONTAINER"))?;
        if first {
            sys::set_type1(self.fd()).map_err(VfioError::kernel("VFIO_SET_IOMMU", CONTAINER))?;
        }
        Ok(file.into())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Iommu for Type1 {
    fn name(&self) -> &'static str {
        "type1"
    }

    fn open(&self, address: &str) -> Result<Box<dyn Function>, VfioError> {
        let group = group_of(address)?;
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let first = groups.is_empty();
        let opened = match groups.entry(group) {
            Entry::Occupied(opened) => opened.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.add(first, group, address)?),
        };
        Ok(Box::new(Kernel::new(device_of(opened, address)?, address)?))
    }

    fn space(&self) -> Result<IoSpace, VfioError> {
        let info = sys::iommu_info(self.fd());
        Ok(io_space(&info.map_err(VfioError::kernel("VFIO_IOMMU_GET_INFO", CONTAINER))?))
    }

    #[allow(unsafe_code)]
    unsafe fn map(
        &self,
        memory: &dyn Mappable,
        iova: u64,
        len: u64,
        intent: Intent,
    ) -> Result<(), String> {
        let flags = match intent {
            Intent::Read => VFIO_DMA_MAP_FLAG_READ,
            Intent::Write => VFIO_DMA_MAP_FLAG_WRITE,
            Intent::ReadWrite => VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        };
        // SAFETY: the caller's.
        let mapped = unsafe { sys::map_dma(self.fd(), memory.map().as_ptr(), iova, len, flags) };
        mapped.map_err(|error| why_refused(&error))
    }

    fn map_dma_buf(&self, _: &DmaBuf, _: u64, _: u64, _: Intent) -> Result<(), String> {
        Err("type1 takes memory that this process has mapped, and no dma-buf; map the memory behind \
             it, or take Container::iommufd where the kernel has it"
            .into())
    }

    fn unmap(&self, iova: u64, len: u64) -> io::Result<()> {
        sys::unmap_dma(self.fd(), iova, len)
    }
}

/// The file of a device of a group.
fn device_of(group: &OwnedFd, address: &str) -> Result<OwnedFd, VfioError> {
    let name = CString::new(address).unwrap_or_default();
    sys::device(group.as_fd(), &name).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::BUSY) => VfioError::Device {
            device: address.into(),
            why: Absent::new("it is open already", "end the process that uses it"),
        },
        Some(Errno::NODEV) => VfioError::Device {
            device: address.into(),
            why: Absent::new("it is not bound to vfio-pci", format!("bufmap bind {address}")),
        },
        _ => VfioError::kernel("VFIO_GROUP_GET_DEVICE_FD", address)(error),
    })
}

const fn words(type1: bool) -> &'static str {
    if type1 { "type1, and version 0 is known" } else { "no type1" }
}

/// The IOMMU's pages and the ranges it translates (`VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE`, since
/// Linux 5.4). The first page is left out, so that no address is zero.
fn io_space(info: &[u32]) -> IoSpace {
    let word = |index: usize| info.get(index).copied().unwrap_or(0);
    let long = |index: usize| u64::from(word(index)) | u64::from(word(index + 1)) << 32;
    let pages = long(2);
    let page = if pages == 0 { 4096 } else { 1 << pages.trailing_zeros().min(30) };

    let mut free = FreeRanges::default();
    let mut least = page;
    let mut at = word(4) as usize / 4;
    // No chain has more links than words. The ranges are in order and apart.
    for _ in 0..info.len() {
        if at == 0 {
            break;
        }
        if word(at) & 0xffff == 1 {
            let ranges = (word(at + 2) as usize).min(info.len());
            for range in (0..ranges).map(|range| at + 4 + 4 * range) {
                let end = long(range + 2).saturating_add(1);
                free.add(long(range).max(least)..end);
                least = least.max(end);
            }
        }
        at = word(at + 1) as usize / 4;
    }
    if free.longest() == 0 {
        free.add(page..1 << 32);
    }
    IoSpace { free, page }
}

/// The number of the group that a function is in.
fn group_of(address: &str) -> Result<u32, VfioError> {
    let function = Path::new("/sys/bus/pci/devices").join(address);
    let refused = |why: Absent| VfioError::Device { device: address.into(), why };
    if address.contains('/') || !function.exists() {
        return Err(refused(Absent::new("there is no such PCI function", "lspci -D lists them")));
    }
    let link: PathBuf = fs::read_link(function.join("iommu_group")).map_err(|_| {
        refused(Absent::new(
            "it is in no IOMMU group, so VFIO cannot confine it",
            "switch the IOMMU on, in the firmware and by intel_iommu=on or amd_iommu=on",
        ))
    })?;
    let number = link.file_name().and_then(|name| name.to_str()?.parse().ok());
    number.ok_or_else(|| refused(Absent::new(format!("its group is {}", outside(&link)), "")))
}

fn no_container(error: &io::Error) -> Absent {
    match error.kind() {
        io::ErrorKind::NotFound => Absent::new(
            format!("{CONTAINER} does not exist"),
            "load the modules: modprobe vfio-pci vfio_iommu_type1",
        ),
        _ => Absent::new(format!("{CONTAINER}: {error}"), "run as root, or own it"),
    }
}

fn no_group(address: &str, path: &str, error: io::Error) -> VfioError {
    let device = address.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => VfioError::Device {
            device,
            why: Absent::new(
                format!("{path} does not exist, so the driver is another than vfio-pci"),
                format!("bufmap bind {address}"),
            ),
        },
        io::ErrorKind::ResourceBusy => VfioError::Device {
            device,
            why: Absent::new(format!("another process has {path} open"), "end that process"),
        },
        io::ErrorKind::PermissionDenied => VfioError::Unavailable(Absent::new(
            format!("{path}: {error}"),
            "run as root, or own it",
        )),
        _ => VfioError::kernel("open", path)(error),
    }
}

fn not_viable(group: u32) -> Absent {
    let others = fs::read_dir(format!("/sys/kernel/iommu_groups/{group}/devices"));
    let names = others.into_iter().flatten().flatten();
    let list: Vec<_> =
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    Absent::new(
        format!("another driver has a device of its IOMMU group {group}: {}", list.join(", ")),
        "bind all of them to vfio-pci, or use a slot whose port isolates (ACS)",
    )
}

fn why_refused(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => format!(
            "{error}: it is more than this process may pin; raise RLIMIT_MEMLOCK (ulimit -l)"
        ),
        Some(libc::ENOSPC) => format!(
            "{error}: the container has as many mappings as it may; raise \
             /sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
        ),
        Some(libc::EFAULT) => format!(
            "{error}: not all of it can be reached; a BAR is mapped while its device is on and open, \
             and a GPU's buffer while its driver keeps it in the GPU's own memory"
        ),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ranges_of_an_iommu_are_read() {
        // As Linux 7.2 answers for an Intel IOMMU: 0 to 0xfedfffff, then from 0xfef00000.
        let mut info = vec![80, 3, 0x4020_1000, 0, 24, 0];
        info.extend([1 | 1 << 16, 0, 2, 0]);
        info.extend([0, 0, 0xfedf_ffff, 0, 0xfef0_0000, 0, 0xffff_ffff, 0x7f]);
        let mut space = io_space(&info);
        assert_eq!(space.page, 4096);
        assert_eq!(space.free.take(0xfedf_f000, 4096), Some(0x1000..0xfee0_0000));
        assert_eq!(space.free.take(4096, 4096), Some(0xfef0_0000..0xfef0_1000));
        assert_eq!(space.free.longest(), (0x7f_ffff_ffff + 1) - 0xfef0_1000);
    }

    proptest! {
        #[test]
        fn whatever_is_answered_there_are_addresses(
            info in proptest::collection::vec(prop_oneof![0u32..64, any::<u32>()], 0..40)
        ) {
            prop_assert!(io_space(&info).free.longest() > 0);
        }
    }

    #[test]
    fn a_function_that_is_not_there_is_said() {
        for address in ["ffff:ff:1f.7", "../../class", ""] {
            let error = group_of(address).expect_err("no such function").to_string();
            assert!(error.contains("PCI function") || error.contains("group"), "{error}");
        }
    }
}
