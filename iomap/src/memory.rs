//! System memory that this process owns.
//!
//! [`Memory`] is a mapping made by the kernel (`mmap`), never by Rust's allocator, and no Rust
//! reference to its bytes ever exists: hardware and other processes may write it at any time. Its
//! bytes are reached through [`BufMap`]s, which cannot outlive it.
//!
//! # Safety
//!
//! The one law of this module: the mapping stays where it is, readable and writable over its whole
//! length, until the [`Memory`] is dropped. Nothing here remaps or truncates it, and a memfd is
//! sealed against shrinking before it is mapped.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, madvise};

use crate::Caching;
use crate::available::{Shortage, is_available};
use crate::map::{Access, BufMap, Location};

/// The size of the pages behind a [`Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageSize {
    /// The machine's ordinary page (4 KiB on x86-64).
    Base,
    /// 2 MiB pages from the machine's hugetlb pool (`/proc/sys/vm/nr_hugepages`).
    Huge2M,
    /// 1 GiB pages from the machine's hugetlb pool.
    Huge1G,
}

impl PageSize {
    /// The size of one page in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::Base => rustix::param::page_size(),
            Self::Huge2M => 2 << 20,
            Self::Huge1G => 1 << 30,
        }
    }
}

/// Why memory could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// A length of zero, or one that overflows when rounded up to whole pages.
    #[error("a buffer of {len} bytes cannot be mapped: ask for 1 byte to {max} bytes", max = isize::MAX)]
    Length {
        /// The length asked for, in bytes.
        len: usize,
    },
    /// More than there is. The kernel would promise it and end a process when the promise falls due.
    #[error(transparent)]
    TooLittle(#[from] Shortage),
    /// A slice of memory that others may have mapped.
    #[error(
        "the memory is behind a memfd, which others may write: copy the bytes out, or take anonymous memory"
    )]
    Shared,
    /// The kernel refused.
    #[error("{step} of {len} bytes in {page}-byte pages: {source}; {}", remedy(*page, source))]
    Kernel {
        /// What was being done.
        step: &'static str,
        /// The length asked for, rounded up to whole pages, in bytes.
        len: usize,
        /// The page size asked for, in bytes.
        page: usize,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn remedy(page: usize, error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "raise the process's limit on open files (`ulimit -n`)",
        Some(libc::ENFILE) => "raise the machine's limit on open files (sysctl fs.file-max)",
        Some(libc::EAGAIN) => "raise the limit on locked memory (`ulimit -l`)",
        Some(libc::EPERM) => "see the container's seccomp profile",
        Some(libc::ENOSYS) => "this kernel or sandbox does not have the system call",
        _ if page != PageSize::Base.bytes() => "reserve huge pages in /proc/sys/vm/nr_hugepages",
        Some(libc::ENOMEM) => {
            "raise the process's limit on its addresses (`ulimit -v`) or on its mappings (sysctl \
             vm.max_map_count), or ask for less"
        }
        _ => "ask for less",
    }
}

/// System memory owned by this process, anonymous or behind a memfd.
///
/// The length is rounded up to whole pages and the bytes start as zero.
///
/// ```
/// let memory = iomap::Memory::anonymous(4096, iomap::PageSize::Base)?;
/// memory.map().write(8, 42u32)?;
/// assert_eq!(memory.map().read::<u32>(8)?, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Memory {
    pages: MmapRaw,
    memfd: Option<File>,
    page_size: PageSize,
}

impl Memory {
    /// Private anonymous memory of at least `len` bytes.
    ///
    /// # Errors
    /// [`MemoryError`] when `len` is out of range or the kernel has no such pages.
    pub fn anonymous(len: usize, page_size: PageSize) -> Result<Self, MemoryError> {
        let len = affordable(len, page_size)?;
        let mut options = MmapOptions::new();
        options.len(len);
        if page_size != PageSize::Base {
            options.huge(Some(page_size.bytes().trailing_zeros() as u8));
        }
        let pages = options.map_anon().map_err(|source| MemoryError::Kernel {
            step: "mmap",
            len,
            page: page_size.bytes(),
            source,
        })?;
        Ok(Self { pages: pages.into(), memfd: None, page_size })
    }

    /// Shared memory of at least `len` bytes behind a memfd, which other processes and
    /// `/dev/udmabuf` can take. It is sealed against shrinking and growing.
    ///
    /// # Errors
    /// [`MemoryError`] when `len` is out of range or the kernel has no such pages.
    pub fn memfd(name: &str, len: usize, page_size: PageSize) -> Result<Self, MemoryError> {
        let len = affordable(len, page_size)?;
        let failed = |step| {
            move |source: io::Error| MemoryError::Kernel {
                step,
                len,
                page: page_size.bytes(),
                source,
            }
        };
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        match page_size {
            PageSize::Base => {}
            PageSize::Huge2M => flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
            PageSize::Huge1G => flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
        }
        let memfd =
            rustix::fs::memfd_create(name, flags).map_err(|e| failed("memfd_create")(e.into()))?;
        rustix::fs::ftruncate(&memfd, len as u64).map_err(|e| failed("ftruncate")(e.into()))?;
        rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW)
            .map_err(|e| failed("sealing")(e.into()))?;
        let memfd = File::from(memfd);
        let pages = MmapOptions::new().len(len).map_raw(&memfd).map_err(failed("mmap"))?;
        Ok(Self { pages, memfd: Some(memfd), page_size })
    }

    /// The length in bytes, a multiple of the page size.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Always false: a [`Memory`] has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Its bytes as a slice, without a copy: what was loaded can be used where it lies.
    ///
    /// While a slice of it is in use no map of it is, which the compiler sees to; and nobody else has the
    /// memory, because it is anonymous. Whole pages are aligned for every type: with `bytemuck` the bytes are
    /// numbers.
    ///
    /// ```
    /// let mut memory = iomap::Memory::anonymous(4096, iomap::PageSize::Base)?;
    /// memory.map().write(8, 1.5_f32)?;
    /// let numbers: &[f32] = bytemuck::cast_slice(memory.as_mut_slice()?);
    /// assert_eq!(numbers[2], 1.5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// ```compile_fail,E0502
    /// let mut memory = iomap::Memory::anonymous(4096, iomap::PageSize::Base).unwrap();
    /// let map = memory.map();
    /// let bytes = memory.as_mut_slice().unwrap();
    /// map.fill(1).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`MemoryError::Shared`] for memory behind a memfd, which others may have mapped: copy it out by a map.
    pub fn as_mut_slice(&mut self) -> Result<&mut [u8], MemoryError> {
        if self.memfd.is_some() {
            return Err(MemoryError::Shared);
        }
        // SAFETY: the mapping is anonymous and private, readable and writable over its length until `self` is
        // dropped, and zero or written to. `self` is borrowed exclusively, so that no map of it is in use and no
        // mapping for a device, which borrows or owns it.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.pages.as_mut_ptr(), self.len()) })
    }

    /// The size of the pages behind it.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The memfd behind it, absent for anonymous memory.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.memfd.as_ref().map(AsFd::as_fd)
    }

    /// Asks for 2 MiB pages from the kernel's ordinary memory, where it has them ready
    /// (`MADV_HUGEPAGE`). Do it before the first touch: fewer page faults, fewer IOMMU and DMA
    /// entries. Anonymous memory gets them if `/sys/kernel/mm/transparent_hugepage/enabled` is not
    /// `never`, a memfd if `shmem_enabled` beside it is not; whether it did shows in the number of
    /// its physical ranges. Memory from the hugetlb pool has its pages already.
    ///
    /// # Errors
    /// [`MemoryError::Kernel`] if the kernel was built without transparent huge pages.
    pub fn advise_huge(&self) -> Result<(), MemoryError> {
        match self.page_size {
            // SAFETY: the range is this mapping, and the advice leaves its bytes and its place alone (the
            // module's law).
            PageSize::Base => unsafe {
                madvise(self.pages.as_mut_ptr().cast(), self.len(), Advice::LinuxHugepage)
            }
            .map_err(|e| self.refused("madvise(MADV_HUGEPAGE)", e.into())),
            PageSize::Huge2M | PageSize::Huge1G => Ok(()),
        }
    }

    /// Makes every page present and zeroed now, rather than one page fault at a time while a load
    /// waits. Bytes already written stay. Available since Linux 5.14 (`MADV_POPULATE_WRITE`).
    ///
    /// # Errors
    /// [`MemoryError::Kernel`] if the machine has not so much memory, or the kernel is older.
    pub fn populate(&self) -> Result<(), MemoryError> {
        self.map().populate().map_err(|e| self.refused("madvise(MADV_POPULATE_WRITE)", e))
    }

    /// How many of its bytes have no page behind them so far, and will cost one when they are written.
    ///
    /// ```
    /// let memory = iomap::Memory::anonymous(3 * 4096, iomap::PageSize::Base)?;
    /// assert_eq!(memory.absent()?, memory.len());
    /// memory.map().fill(1)?;
    /// assert_eq!(memory.absent()?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`MemoryError::Kernel`].
    pub fn absent(&self) -> Result<usize, MemoryError> {
        self.map().absent().map_err(|e| self.refused("mincore", e))
    }

    fn refused(&self, step: &'static str, source: io::Error) -> MemoryError {
        MemoryError::Kernel { step, len: self.len(), page: self.page_size.bytes(), source }
    }

    /// A read-write map of the whole memory.
    pub fn map(&self) -> BufMap<'_> {
        // SAFETY: the module's law: the mapping is readable and writable over `len` bytes until
        // `self` is dropped, which the returned lifetime prevents, and it was made by mmap.
        unsafe {
            BufMap::from_raw(
                self.pages.as_mut_ptr(),
                self.pages.len(),
                Location::System,
                Caching::WriteBack,
                Access::ReadWrite,
            )
        }
    }
}

/// The length in whole pages, if there is so much. Pages of the hugetlb pool are set aside
/// already.
fn affordable(len: usize, page_size: PageSize) -> Result<usize, MemoryError> {
    let len = whole_pages(len, page_size)?;
    if page_size == PageSize::Base {
        is_available(len)?;
    }
    Ok(len)
}

fn whole_pages(len: usize, page_size: PageSize) -> Result<usize, MemoryError> {
    match len.checked_next_multiple_of(page_size.bytes()) {
        Some(whole) if len > 0 && whole <= isize::MAX as usize => Ok(whole),
        _ => Err(MemoryError::Length { len }),
    }
}
