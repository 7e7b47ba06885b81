//! A dma-buf: the kernel's currency for buffers between devices, subsystems and processes.
//!
//! [`DmaBuf`] owns the file descriptor and asks it for its size and its exporter. The CPU reaches
//! the bytes through a [`Mapping`], and only between the two ends of a bracket: a device may hold
//! the newest bytes in a cache of its own, and the kernel moves them when told that the CPU begins
//! (`DMA_BUF_SYNC_START`) and that it has finished (`DMA_BUF_SYNC_END`). The bracket is the guard
//! [`CpuAccess`]. When it is opened it waits for the fences that are on the buffer by then: a reader
//! for the writers, a writer for all. A device's work that begins later it does not hold back, and it
//! puts no fence on the buffer. To wait elsewhere, a sync file is taken from the dma-buf
//! ([`DmaBuf::export_sync_file`]).
//!
//! The interface is `linux/dma-buf.h`; its rules are in `Documentation/driver-api/dma-buf.rst`.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. Each ioctl's number is built from the very type that it passes, and that type has the
//!    kernel's layout, which constant assertions hold.
//! 2. A [`Mapping`] stays where it is, over its whole length, until it is dropped. A dma-buf has
//!    one size for life, and the file behind a mapping lives as long as the mapping does.
#![allow(unsafe_code)]

mod access;
mod error;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use iomap::{Access, BufMap, Caching, Location};
use memmap2::{MmapOptions, MmapRaw};
use rustix::io::Errno;
use rustix::ioctl::{Setter, Updater, ioctl, opcode};

pub(crate) use access::{Bytes, Turns};
pub use access::{CpuAccess, Intent};
pub use error::DmaBufError;
use error::NAME_LEN;

use crate::Absent;
use crate::apart::Apart;
use crate::foreign::{FdInfo, describe};
use crate::outside::outside;

/// `DMA_BUF_MAGIC`, "DMAB": the magic number of the file system all dma-bufs lie on, since
/// Linux 5.3 (`linux/magic.h`).
const DMA_BUF_MAGIC: u64 = 0x444d_4142;

/// Exporters of plain, cached system memory. Others may export VRAM, mapped write-combining.
const CACHED_EXPORTERS: [&str; 3] = ["udmabuf", "system", "default_cma_region"];

/// `struct dma_buf_sync`, since Linux 4.6.
#[repr(C)]
struct Sync {
    flags: u64,
}

/// `struct dma_buf_export_sync_file` and `struct dma_buf_import_sync_file`, since Linux 6.0.
#[repr(C)]
struct SyncFile {
    flags: u32,
    fd: i32,
}

const _: () = assert!(size_of::<Sync>() == 8);
const _: () = assert!(size_of::<SyncFile>() == 8 && std::mem::offset_of!(SyncFile, fd) == 4);

const SYNC_END: u64 = 1 << 2;

/// An owned dma-buf.
///
/// A clone is another handle on the same file descriptor; the descriptor is closed with the last
/// of the clones and of the [`Mapping`]s.
///
/// ```no_run
/// use exporters::{DmaHeap, Intent};
///
/// let dma_buf = DmaHeap::open("system")?.allocate(1 << 20)?;
/// println!("{} bytes by {}", dma_buf.len(), dma_buf.exporter());
/// let mapping = dma_buf.map()?;
/// let access = mapping.begin_cpu_access(Intent::Write)?;
/// access.map().copy_from_slice(0, b"pixels")?;
/// access.finish()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct DmaBuf {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    len: usize,
    /// Asked for when first needed: that takes the kernel longer than all the rest.
    exporter: OnceLock<String>,
}

impl DmaBuf {
    /// Takes a file descriptor that is a dma-buf, such as one received from another process.
    ///
    /// It waits for nobody, whatever file it is: what it is asked first is answered by the kernel alone. Its size
    /// is asked of the kernel too, once: a size that a peer claims is not to be believed, and asking moves the file
    /// position that all duplicates share.
    ///
    /// # Errors
    /// [`DmaBufError::NotADmaBuf`] for any other kind of file, [`DmaBufError::Unknown`] where `/proc` is not
    /// mounted. The descriptor is closed by a thread of its own then: another process's file can hang in `close`
    /// (see [`socket`](crate::socket#what-is-refused-is-closed)).
    pub fn new(fd: OwnedFd) -> Result<Self, DmaBufError> {
        let fd = Apart::new(fd);
        check(fd.as_fd())?;
        Self::answering(fd.known())
    }

    /// Takes a file that is known to answer: a driver in this process made it, or [`check`] has passed it.
    pub(crate) fn answering(fd: OwnedFd) -> Result<Self, DmaBufError> {
        let fs = rustix::fs::fstatfs(&fd).map_err(new_failed("fstatfs"))?;
        if fs.f_type as u64 != DMA_BUF_MAGIC {
            return Err(not_a_dma_buf(fd.as_fd()));
        }
        Self::made(fd)
    }

    /// Takes what the kernel has just made as a dma-buf.
    #[inline]
    pub(crate) fn made(fd: OwnedFd) -> Result<Self, DmaBufError> {
        let end = rustix::fs::SeekFrom::End(0);
        let len = rustix::fs::seek(&fd, end).map_err(new_failed("lseek"))? as usize;
        Ok(Self { inner: Arc::new(Inner { fd, len, exporter: OnceLock::new() }) })
    }

    /// The size in bytes, a multiple of the page size.
    pub fn len(&self) -> usize {
        self.inner.len
    }

    /// Whether the size is zero, which no exporter makes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The exporter's name from `/proc/thread-self/fdinfo`: `udmabuf`, a heap's or a driver's. Empty where
    /// `/proc` is not mounted.
    pub fn exporter(&self) -> &str {
        let name =
            || self.told("exp_name").map_or_else(String::new, |name| outside(&name).to_string());
        self.inner.exporter.get_or_init(name)
    }

    /// The name that was given to this buffer, if any (since Linux 5.3).
    pub fn name(&self) -> Option<String> {
        self.told("name")
    }

    fn told(&self, key: &str) -> Option<String> {
        FdInfo::of(self.as_fd()).ok()?.line(key).map(str::to_owned)
    }

    /// Names the buffer for `/sys/kernel/debug/dma_buf` and `/proc/PID/fdinfo`
    /// (`DMA_BUF_SET_NAME`, since Linux 5.3).
    ///
    /// # Errors
    /// [`DmaBufError::Name`] if it is longer than 31 bytes or has a zero byte.
    pub fn set_name(&self, name: &str) -> Result<(), DmaBufError> {
        let mut bytes = [0u8; NAME_LEN];
        if name.len() >= NAME_LEN || name.contains('\0') {
            return Err(DmaBufError::Name { len: name.len() });
        }
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        // The number is made of the size of a pointer, which is what the header's macro names.
        const SET_NAME: u32 = opcode::write::<*const u8>(b'b', 1);
        // SAFETY: DMA_BUF_SET_NAME reads a string that ends with a zero byte, as `bytes` does.
        unsafe { ioctl(self, Setter::<SET_NAME, _>::new(bytes)) }
            .map_err(|e| self.failed("DMA_BUF_SET_NAME", e))
    }

    /// Maps the buffer for the CPU: for reading and writing, or for reading only where the exporter
    /// allows no more.
    ///
    /// # Errors
    /// [`DmaBufError::Kernel`] if the exporter has no CPU mapping at all.
    pub fn map(&self) -> Result<Mapping, DmaBufError> {
        let mut options = MmapOptions::new();
        options.len(self.len());
        let (pages, access) = match options.map_raw(&self.inner.fd) {
            Ok(pages) => (pages, Access::ReadWrite),
            Err(_) => {
                let pages = options
                    .map_raw_read_only(&self.inner.fd)
                    .map_err(|e| self.kernel("mmap", e))?;
                (pages, Access::ReadOnly)
            }
        };
        Ok(Mapping { pages, access, dma_buf: self.clone() })
    }

    /// The fences now on the buffer, as a sync file to wait for with `poll` or to give to a device
    /// (`DMA_BUF_IOCTL_EXPORT_SYNC_FILE`, since Linux 6.0).
    ///
    /// To [`Read`](Intent::Read) one waits for the writers; to write, for every user.
    ///
    /// # Errors
    /// [`DmaBufError::Unsupported`] on an older kernel.
    pub fn export_sync_file(&self, intent: Intent) -> Result<OwnedFd, DmaBufError> {
        const EXPORT: u32 = opcode::read_write::<SyncFile>(b'b', 2);
        let mut sync_file = SyncFile { flags: intent.flags().into(), fd: -1 };
        // SAFETY: law 1; the kernel fills in `fd`.
        unsafe { ioctl(self, Updater::<EXPORT, _>::new(&mut sync_file)) }
            .map_err(|e| self.failed("DMA_BUF_IOCTL_EXPORT_SYNC_FILE", e))?;
        // SAFETY: the ioctl succeeded, so `fd` is a new descriptor that is ours alone.
        Ok(unsafe { OwnedFd::from_raw_fd(sync_file.fd) })
    }

    /// Puts a sync file's fences on the buffer, for others to wait for: as a reader's with
    /// [`Read`](Intent::Read), else as a writer's (`DMA_BUF_IOCTL_IMPORT_SYNC_FILE`, since
    /// Linux 6.0).
    ///
    /// # Errors
    /// [`DmaBufError::Unsupported`] on an older kernel, [`DmaBufError::Kernel`] if `sync_file` is no
    /// sync file.
    pub fn import_sync_file(
        &self,
        sync_file: BorrowedFd<'_>,
        intent: Intent,
    ) -> Result<(), DmaBufError> {
        const IMPORT: u32 = opcode::write::<SyncFile>(b'b', 3);
        let sync_file = SyncFile { flags: intent.flags().into(), fd: sync_file.as_raw_fd() };
        // SAFETY: law 1; the kernel takes no ownership of the descriptor, which outlives the call.
        unsafe { ioctl(self, Setter::<IMPORT, _>::new(sync_file)) }
            .map_err(|e| self.failed("DMA_BUF_IOCTL_IMPORT_SYNC_FILE", e))
    }

    /// One end of a bracket. A signal may interrupt it, and then it is tried again, as the header
    /// of `DMA_BUF_IOCTL_SYNC` asks.
    fn sync(&self, flags: u64) -> Result<(), DmaBufError> {
        const SYNC: u32 = opcode::write::<Sync>(b'b', 0);
        loop {
            // SAFETY: law 1.
            match unsafe { ioctl(self, Setter::<SYNC, _>::new(Sync { flags })) } {
                Err(Errno::INTR | Errno::AGAIN) => continue,
                done => return done.map_err(|e| self.failed("DMA_BUF_IOCTL_SYNC", e)),
            }
        }
    }

    fn failed(&self, step: &'static str, errno: Errno) -> DmaBufError {
        match errno {
            Errno::NOTTY if step.ends_with("SYNC_FILE") => {
                DmaBufError::Unsupported { what: "sync files of a dma-buf", since: "Linux 6.0" }
            }
            Errno::NOTTY if step == "DMA_BUF_SET_NAME" => {
                DmaBufError::Unsupported { what: "names of a dma-buf", since: "Linux 5.3" }
            }
            _ => self.kernel(step, errno.into()),
        }
    }

    fn kernel(&self, step: &'static str, source: io::Error) -> DmaBufError {
        let exporter = self.exporter().to_owned();
        DmaBufError::Kernel { step, len: self.len(), exporter, source }
    }
}

impl Turns for DmaBuf {
    fn begin(&self, intent: Intent) -> Result<(), DmaBufError> {
        self.sync(intent.flags().into())
    }

    fn end(&self, intent: Intent) -> Result<(), DmaBufError> {
        self.sync(SYNC_END | u64::from(intent.flags()))
    }
}

impl AsFd for DmaBuf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }
}

/// A dma-buf in this process's address space. Its bytes are reached through
/// [`begin_cpu_access`](Self::begin_cpu_access) and no other way:
///
/// ```compile_fail,E0505
/// # fn f(dma_buf: exporters::DmaBuf) -> Result<(), Box<dyn std::error::Error>> {
/// let mapping = dma_buf.map()?;
/// let access = mapping.begin_cpu_access(exporters::Intent::Read)?;
/// let map = access.map();
/// access.finish()?;
/// map.read::<u8>(0)?; // the bracket is closed: this does not compile
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Mapping {
    pages: MmapRaw,
    access: Access,
    dma_buf: DmaBuf,
}

impl Mapping {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether the length is zero, which no exporter makes.
    pub fn is_empty(&self) -> bool {
        self.pages.len() == 0
    }

    /// Whether the exporter let it be mapped for writing.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Opens a bracket (`DMA_BUF_SYNC_START`), once the devices are done whose fences are on the
    /// buffer: its writers, and to write also its readers.
    ///
    /// # Errors
    /// [`DmaBufError::ReadOnly`] if writing is intended and the mapping is read-only;
    /// [`DmaBufError::Kernel`] if the exporter fails.
    pub fn begin_cpu_access(&self, intent: Intent) -> Result<CpuAccess<'_>, DmaBufError> {
        if intent != Intent::Read && self.access == Access::ReadOnly {
            return Err(DmaBufError::ReadOnly { exporter: self.dma_buf.exporter().into() });
        }
        CpuAccess::begin([&self.dma_buf as &dyn Turns], self.map(), intent)
    }
}

impl Bytes for Mapping {
    fn map(&self) -> BufMap<'_> {
        // The kernel does not tell user space where a dma-buf lies: unless its exporter is known to
        // use plain memory, it is treated as a device's, which is right for both and slower for one.
        let (location, caching) = if CACHED_EXPORTERS.contains(&self.dma_buf.exporter()) {
            (Location::System, Caching::WriteBack)
        } else {
            (Location::Io, Caching::WriteCombining)
        };
        // SAFETY: law 2: the mapping, made by mmap, is readable, and writable if `access` says so,
        // over its length until `self` is dropped, which the returned lifetime prevents.
        unsafe {
            BufMap::from_raw(
                self.pages.as_mut_ptr(),
                self.pages.len(),
                location,
                caching,
                self.access,
            )
        }
    }
}

fn new_failed(step: &'static str) -> impl Fn(Errno) -> DmaBufError {
    move |e| DmaBufError::Kernel { step, len: 0, exporter: String::new(), source: e.into() }
}

/// Fails unless a descriptor can be of a dma-buf and of no file system that waits for whoever sent it.
pub(crate) fn check(fd: BorrowedFd<'_>) -> Result<(), DmaBufError> {
    let info = FdInfo::of(fd)
        .map_err(|e| DmaBufError::Unknown { fd: fd.as_raw_fd(), source: e.into() })?;
    match info.line("exp_name") {
        Some(_) => Ok(()),
        None => Err(not_a_dma_buf(fd)),
    }
}

fn not_a_dma_buf(fd: BorrowedFd<'_>) -> DmaBufError {
    DmaBufError::NotADmaBuf { fd: fd.as_raw_fd(), is: describe(fd) }
}

/// Whether two descriptors are of one buffer.
pub(crate) fn is_same(one: &impl AsFd, other: &impl AsFd) -> bool {
    inode(one.as_fd()).is_ok_and(|one| inode(other.as_fd()) == Ok(one))
}

/// A duplicate with `F_DUPFD_CLOEXEC`, for a driver to own.
pub(crate) fn duplicate(fd: impl AsFd, what: &'static str) -> Result<OwnedFd, Absent> {
    fd.as_fd().try_clone_to_owned().map_err(|e| {
        Absent::new(
            format!("the {what}'s descriptor cannot be duplicated: {e}"),
            "raise RLIMIT_NOFILE (ulimit -n)",
        )
    })
}

/// Which buffer a dma-buf is: each has an inode of its own since Linux 5.3.
pub(crate) fn inode(fd: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    Ok(rustix::fs::fstat(fd)?.st_ino)
}
