//! iommufd: address spaces of their own, to which devices are attached one by one.
//!
//! A device is opened by its own file (`/dev/vfio/devices`), bound to an iommufd and attached to an
//! address space of it (`Documentation/userspace-api/iommufd.rst`). Pages are mapped by their address
//! here and pinned. What has no pages, a BAR, is mapped by a dma-buf, whose exporter tells the kernel
//! when it takes the memory back.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use iommufd_bindings::iommufd::{
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE as READABLE,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE as WRITEABLE,
};

use super::error::VfioError;
use super::function::{Function, Kernel};
use super::iommu::{IoSpace, Iommu};
use super::mappable::Mappable;
use super::ranges::FreeRanges;
use super::sys;
use crate::outside::outside;
use crate::{Absent, DmaBuf, Intent};

const IOMMU: &str = "/dev/iommu";

/// An iommufd and its address space.
#[derive(Debug)]
pub(super) struct Iommufd {
    file: File,
    ioas: u32,
}

impl Iommufd {
    pub(super) fn new() -> Result<Self, VfioError> {
        let file = File::options().read(true).write(true).open(IOMMU);
        let file = file.map_err(|error| VfioError::Unavailable(no_iommufd(&error)))?;
        let ioas = sys::ioas_alloc(file.as_fd());
        let ioas = ioas.map_err(VfioError::kernel("IOMMU_IOAS_ALLOC", IOMMU))?;
        Ok(Self { file, ioas })
    }
}

impl Iommu for Iommufd {
    fn name(&self) -> &'static str {
        "iommufd"
    }

    fn open(&self, address: &str) -> Result<Box<dyn Function>, VfioError> {
        let path = device_file(address)?;
        let file = File::options().read(true).write(true).open(&path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => VfioError::Unavailable(Absent::new(
                format!("{path}: {error}"),
                "run as root, or own it",
            )),
            _ => VfioError::kernel("open", path.clone())(error),
        })?;
        sys::bind_iommufd(file.as_fd(), self.file.as_fd()).map_err(|error| {
            match error.raw_os_error() {
                // The first is for a file that was opened before, the second for a group in use.
                Some(libc::EINVAL | libc::EBUSY | libc::EPERM) => VfioError::Device {
                    device: address.into(),
                    why: Absent::new(
                        format!(
                            "it is open already, or a driver has a device of its group ({error})"
                        ),
                        "end the process that uses it, or bind all of the group to vfio-pci",
                    ),
                },
                _ => VfioError::kernel("VFIO_DEVICE_BIND_IOMMUFD", address)(error),
            }
        })?;
        sys::attach(file.as_fd(), self.ioas)
            .map_err(VfioError::kernel("VFIO_DEVICE_ATTACH_IOMMUFD_PT", address))?;
        Ok(Box::new(Kernel::new(file.into(), address)?))
    }

    fn space(&self) -> Result<IoSpace, VfioError> {
        let found = sys::iova_ranges(self.file.as_fd(), self.ioas);
        let (ranges, page) = found.map_err(VfioError::kernel("IOMMU_IOAS_IOVA_RANGES", IOMMU))?;
        let page = page.max(4096);
        let mut free = FreeRanges::default();
        for range in ranges {
            // The first page is left out, so that no address is zero.
            free.add(range.start.max(page)..range.last.saturating_add(1));
        }
        Ok(IoSpace { free, page })
    }

    #[allow(unsafe_code)]
    unsafe fn map(
        &self,
        memory: &dyn Mappable,
        iova: u64,
        len: u64,
        intent: Intent,
    ) -> Result<(), String> {
        if let Some(made) = memory.dma_buf() {
            return self.map_dma_buf(&made.map_err(|error| error.to_string())?, iova, len, intent);
        }
        let (iommufd, vaddr) = (self.file.as_fd(), memory.map().as_ptr());
        // SAFETY: the caller's.
        let mapped = unsafe { sys::ioas_map(iommufd, self.ioas, vaddr, iova, len, flags(intent)) };
        mapped.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOMEM) => format!(
                "{error}: it is more than this process may pin; raise RLIMIT_MEMLOCK (ulimit -l)"
            ),
            Some(libc::EFAULT) => {
                format!("{error}: not all of it is pages; iommufd maps other memory by a dma-buf")
            }
            _ => error.to_string(),
        })
    }

    fn map_dma_buf(
        &self,
        buffer: &DmaBuf,
        iova: u64,
        len: u64,
        intent: Intent,
    ) -> Result<(), String> {
        let (iommufd, file) = (self.file.as_fd(), buffer.as_fd());
        let mapped = sys::ioas_map_file(iommufd, self.ioas, file, iova, len, flags(intent));
        mapped.map_err(|error| {
            format!(
                "{error}: this kernel's iommufd takes no dma-buf of {}; vfio-pci's are taken since \
                 Linux 7.0",
                buffer.exporter()
            )
        })
    }

    fn unmap(&self, iova: u64, len: u64) -> io::Result<()> {
        sys::ioas_unmap(self.file.as_fd(), self.ioas, iova, len)
    }
}

const fn flags(intent: Intent) -> u32 {
    match intent {
        Intent::Read => READABLE,
        Intent::Write => WRITEABLE,
        Intent::ReadWrite => READABLE | WRITEABLE,
    }
}

/// A device's own file.
fn device_file(address: &str) -> Result<String, VfioError> {
    let function = Path::new("/sys/bus/pci/devices").join(address);
    let refused = |what: &'static str, fix: String| VfioError::Device {
        device: address.into(),
        why: Absent::new(what, fix),
    };
    if address.contains('/') || !function.exists() {
        return Err(refused("there is no such PCI function", "lspci -D lists them".into()));
    }
    let mut names = fs::read_dir(function.join("vfio-dev")).into_iter().flatten().flatten();
    match names.next() {
        Some(name) => Ok(format!("/dev/vfio/devices/{}", outside(&name.file_name()))),
        None => Err(refused(
            "it is not bound to vfio-pci, or the kernel has no files for single devices",
            format!("bufmap bind {address}"),
        )),
    }
}

fn no_iommufd(error: &io::Error) -> Absent {
    match error.kind() {
        io::ErrorKind::NotFound => Absent::new(
            format!("{IOMMU} does not exist"),
            "load the module (modprobe iommufd), or take a kernel with CONFIG_IOMMUFD",
        ),
        _ => Absent::new(format!("{IOMMU}: {error}"), "run as root, or own it"),
    }
}
