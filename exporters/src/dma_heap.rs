//! dma-heaps: memory allocated as a dma-buf from the start.
//!
//! Each heap is a device node in `/dev/dma_heap`. `system` gives ordinary pages; others, such as
//! `default_cma_region`, give memory that a device without an IOMMU can use in one piece. The
//! interface is `linux/dma-heap.h`, available since Linux 5.6; the heaps are described in
//! `Documentation/userspace-api/dma-buf-heaps.rst`.
//!
//! # Safety
//!
//! The law of this module: the ioctl's number is built from the very type that it passes, which has
//! the kernel's layout.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use iomap::{Shortage, is_available};
use rustix::fs::OFlags;
use rustix::ioctl::{Updater, ioctl, opcode};

use crate::Absent;
use crate::dmabuf::{DmaBuf, DmaBufError};
use crate::export::{CpuView, Export, ExportError, Exporter, PhyrSource, Provider};
use crate::outside::outside;

const DIR: &str = "/dev/dma_heap";

/// `struct dma_heap_allocation_data`.
#[repr(C)]
struct AllocationData {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

const _: () = assert!(size_of::<AllocationData>() == 24);
const _: () = assert!(std::mem::offset_of!(AllocationData, heap_flags) == 16);

/// Why a heap gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DmaHeapError {
    /// There is no such heap, or not for this user.
    #[error(transparent)]
    Unavailable(Absent),
    /// A length of zero.
    #[error("heap {heap}: a buffer has at least one byte", heap = outside(heap))]
    Empty {
        /// The heap's name.
        heap: String,
    },
    /// More of the system heap than there is. The kernel would not refuse (seen on
    /// Linux 7.2): it would go on until the out-of-memory killer ends this process or another.
    #[error("heap {heap}: {source}", heap = outside(heap))]
    OutOfMemory {
        /// The heap's name.
        heap: String,
        /// What there is instead.
        source: Shortage,
    },
    /// The heap refused.
    #[error("heap {heap}, {len} bytes: {source}", heap = outside(heap))]
    Kernel {
        /// The heap's name.
        heap: String,
        /// What was asked for, in bytes.
        len: usize,
        /// Its answer.
        source: io::Error,
    },
    /// What it made is no dma-buf we can use.
    #[error(transparent)]
    DmaBuf(#[from] DmaBufError),
}

/// The names of the heaps on this machine, sorted.
///
/// # Errors
/// [`DmaHeapError::Unavailable`] if the kernel has none.
pub fn heaps() -> Result<Vec<String>, DmaHeapError> {
    let entries = std::fs::read_dir(DIR).map_err(|e| unavailable(DIR, &e))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// A heap, opened.
#[derive(Debug)]
pub struct DmaHeap {
    name: String,
    heap: File,
}

impl DmaHeap {
    /// Opens a heap by its name, one of [`heaps`].
    ///
    /// # Errors
    /// [`DmaHeapError::Unavailable`] if it is not there or this user may not open it.
    pub fn open(name: &str) -> Result<Self, DmaHeapError> {
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(DmaHeapError::Unavailable(Absent::new(
                format!("`{}` is no name of a heap", outside(name)),
                "name one of those in /dev/dma_heap",
            )));
        }
        let path = format!("{DIR}/{name}");
        let heap = File::open(&path).map_err(|e| unavailable(&path, &e))?;
        Ok(Self { name: name.to_owned(), heap })
    }

    /// Allocates a dma-buf of `len` bytes, rounded up to whole pages. The bytes are zero.
    ///
    /// # Errors
    /// [`DmaHeapError::Empty`]; [`DmaHeapError::OutOfMemory`] for more of a heap of ordinary pages
    /// than there is; [`DmaHeapError::Kernel`] if another heap has no more.
    pub fn allocate(&self, len: usize) -> Result<DmaBuf, DmaHeapError> {
        if len == 0 {
            return Err(DmaHeapError::Empty { heap: self.name.clone() });
        }
        if self.name.starts_with("system") {
            is_available(len)
                .map_err(|source| DmaHeapError::OutOfMemory { heap: self.name.clone(), source })?;
        }
        const ALLOC: u32 = opcode::read_write::<AllocationData>(b'H', 0);
        let mut data = AllocationData {
            len: len as u64,
            fd: 0,
            fd_flags: (OFlags::CLOEXEC | OFlags::RDWR).bits(),
            heap_flags: 0,
        };
        // SAFETY: the module's law; the kernel fills in `fd`.
        unsafe { ioctl(&self.heap, Updater::<ALLOC, _>::new(&mut data)) }
            .map_err(|e| DmaHeapError::Kernel { heap: self.name.clone(), len, source: e.into() })?;
        // SAFETY: the ioctl succeeded, so `fd` is a new descriptor that is ours alone.
        let fd = unsafe { OwnedFd::from_raw_fd(data.fd as i32) };
        Ok(DmaBuf::made(fd)?)
    }
}

impl Exporter for DmaHeap {
    fn name(&self) -> &str {
        &self.name
    }

    fn export(&self, len: usize) -> Result<Export, ExportError> {
        let dma_buf = self.allocate(len).map_err(|e| ExportError::new(self.name(), e))?;
        let cpu = match dma_buf.map() {
            Ok(mapping) => Ok(CpuView::new(Arc::new(mapping), vec![dma_buf.clone()])),
            Err(e) => Err(Absent::new(
                format!("heap {} cannot be mapped: {e}", self.name),
                "let a device read and write it, or take another heap",
            )),
        };
        Ok(Export {
            len: dma_buf.len(),
            provider: Provider::DmaHeap(self.name.clone()),
            cpu,
            phyrs: PhyrSource::Absent(Absent::new(
                "the kernel keeps the physical addresses of a heap's pages to itself",
                "map the dma-buf through the IOMMU, or share a memfd by /dev/udmabuf instead",
            )),
            dma_bufs: Ok(vec![dma_buf]),
        })
    }
}

fn unavailable(path: &str, error: &io::Error) -> DmaHeapError {
    let fix = match error.kind() {
        io::ErrorKind::NotFound => "take a kernel with CONFIG_DMABUF_HEAPS and that heap",
        io::ErrorKind::PermissionDenied => "ask the administrator for a udev rule, or be root",
        _ => "see dma-buf-heaps in the kernel's documentation",
    };
    DmaHeapError::Unavailable(Absent::new(
        format!("{} cannot be opened: {error}", outside(path)),
        fix,
    ))
}
