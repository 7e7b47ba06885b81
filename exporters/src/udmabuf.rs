//! `/dev/udmabuf`: a dma-buf made of a memfd's pages.
//!
//! The pages stay the memfd's: what is written through one is seen through the other, and the
//! driver pins them for the life of the dma-buf. So a file can be read into a memfd by DMA
//! (`O_DIRECT` refuses a dma-buf's own mapping), and a GPU imports the very same pages.
//!
//! The driver limits one dma-buf to `size_limit_mb` (64 MiB before Linux 7.3 unless the administrator says
//! otherwise, in `/sys/module/udmabuf/parameters`), so a larger memory becomes several. The
//! interface is `linux/udmabuf.h`, available since Linux 4.20.
//!
//! # Safety
//!
//! The law of this module: each ioctl's number is built from the type that `linux/udmabuf.h` names
//! for it, what is passed begins with that type and has the kernel's layout, and its result is a
//! new file descriptor.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use iomap::{Memory, PageSize};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

use crate::Absent;
use crate::dmabuf::{DmaBuf, DmaBufError};
use crate::export::{CpuView, Export, ExportError, Exporter, PhyrSource, Provider};

/// `struct udmabuf_create`.
#[repr(C)]
struct Create {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

/// `struct udmabuf_create_item`.
#[repr(C)]
struct Item {
    memfd: u32,
    pad: u32,
    offset: u64,
    size: u64,
}

/// `struct udmabuf_create_list`, the part before its items.
#[repr(C)]
struct ListHead {
    flags: u32,
    count: u32,
}

const _: () = assert!(size_of::<Create>() == 24 && std::mem::offset_of!(Create, offset) == 8);
const _: () = assert!(size_of::<Item>() == 24 && std::mem::offset_of!(Item, offset) == 8);
const _: () = assert!(size_of::<ListHead>() == 8);

/// `UDMABUF_FLAGS_CLOEXEC`.
const CLOEXEC: u32 = 1;

/// Why no dma-buf was made of a memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UdmabufError {
    /// The driver is not there, or not for this user.
    #[error(transparent)]
    Unavailable(Absent),
    /// Memory that the driver cannot take.
    #[error("anonymous memory of {len} bytes has no memfd to make a dma-buf of; use Memory::memfd")]
    NoMemfd {
        /// The memory's length in bytes.
        len: usize,
    },
    /// A piece that is empty, not of whole pages, or outside its memory.
    #[error(
        "bytes {} to {} of a memory of {len}: a piece lies inside its memory and begins and ends \
         at a page's edge ({page} bytes)", range.start, range.end
    )]
    Range {
        /// The piece.
        range: Range<usize>,
        /// The memory's length in bytes.
        len: usize,
        /// The page size in bytes.
        page: usize,
    },
    /// More than one dma-buf may hold.
    #[error(
        "{len} bytes in {pieces} pieces: one udmabuf holds {limit} bytes in {list_limit} pieces at \
         most; raise size_limit_mb or list_limit in /sys/module/udmabuf/parameters"
    )]
    TooLarge {
        /// What was asked for, in bytes.
        len: usize,
        /// In how many pieces.
        pieces: usize,
        /// The driver's limit in bytes.
        limit: usize,
        /// The driver's limit of pieces.
        list_limit: usize,
    },
    /// The driver refused.
    #[error("/dev/udmabuf, {len} bytes: {source}; {}", remedy(source))]
    Kernel {
        /// What was asked for, in bytes.
        len: usize,
        /// Its answer.
        source: io::Error,
    },
    /// What it made is no dma-buf we can use.
    #[error(transparent)]
    DmaBuf(#[from] DmaBufError),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "raise the process's limit on open files (`ulimit -n`)",
        Some(libc::ENFILE) => "raise the machine's limit on open files (sysctl fs.file-max)",
        Some(libc::ENOMEM) => "close other programs, or raise the container's limit on memory",
        _ => "the driver's reason may be in the kernel's log (dmesg)",
    }
}

/// The driver, opened, with its limits.
///
/// ```no_run
/// use std::sync::Arc;
/// use exporters::Udmabuf;
/// use iomap::{Memory, PageSize};
///
/// let memory = Arc::new(Memory::memfd("frames", 8 << 20, PageSize::Base)?);
/// let shared = Udmabuf::open()?.share(memory)?;
/// println!("{} dma-bufs", shared.dma_bufs().len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Udmabuf {
    driver: File,
    limit: usize,
    list_limit: usize,
}

impl Udmabuf {
    /// Opens `/dev/udmabuf` and reads its limits.
    ///
    /// # Errors
    /// [`UdmabufError::Unavailable`] if it is not there or this user may not open it.
    pub fn open() -> Result<Self, UdmabufError> {
        let driver = File::options()
            .read(true)
            .write(true)
            .open("/dev/udmabuf")
            .map_err(|e| UdmabufError::Unavailable(unavailable(&e)))?;
        let limit = parameter("size_limit_mb").unwrap_or(64).saturating_mul(1 << 20);
        Ok(Self { driver, limit, list_limit: parameter("list_limit").unwrap_or(1024) })
    }

    /// The size of the largest dma-buf it makes, in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Makes dma-bufs of all of `memory`: one if it is within the [`limit`](Self::limit), else as
    /// many as it takes, each of the limit's size but the last.
    ///
    /// # Errors
    /// [`UdmabufError::NoMemfd`] for anonymous memory, [`UdmabufError::Kernel`] if the driver
    /// refuses.
    pub fn share(&self, memory: Arc<Memory>) -> Result<SharedMemory, UdmabufError> {
        let step = part_len(self.limit, memory.page_size().bytes());
        let dma_bufs = (0..memory.len())
            .step_by(step)
            .map(|offset| self.create(&memory, offset..memory.len().min(offset + step)))
            .collect::<Result<_, _>>()?;
        Ok(SharedMemory { memory, dma_bufs })
    }

    /// Makes one dma-buf of a part of `memory` (`UDMABUF_CREATE`), of whole pages.
    ///
    /// The pages live as long as the dma-buf, even past the memory they came from.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub fn create(&self, memory: &Memory, part: Range<usize>) -> Result<DmaBuf, UdmabufError> {
        self.check(&[(memory, part.clone())])?;
        let len = part.len();
        let mut create = Create {
            memfd: memfd(memory)?,
            flags: CLOEXEC,
            offset: part.start as u64,
            size: len as u64,
        };
        let pointer = (&raw mut create).cast();
        // SAFETY: the module's law; `create` outlives the call.
        let call = unsafe { NewFd::new(opcode::write::<Create>(b'u', 0x42), pointer) };
        self.call(call, len)
    }

    /// Makes one dma-buf of several parts, in their order (`UDMABUF_CREATE_LIST`).
    ///
    /// # Errors
    /// [`UdmabufError::Range`] for a part that is not whole pages inside its memory,
    /// [`UdmabufError::TooLarge`] over the driver's limits, [`UdmabufError::NoMemfd`] for anonymous
    /// memory, [`UdmabufError::Kernel`] if the driver refuses.
    pub fn gather(&self, parts: &[(&Memory, Range<usize>)]) -> Result<DmaBuf, UdmabufError> {
        let len = self.check(parts)?;
        // Head and items have one size in words, so a vector of words holds both, aligned.
        let mut words: Vec<u64> = Vec::with_capacity(1 + 3 * parts.len());
        words.push(word(CLOEXEC, parts.len() as u32));
        for (memory, part) in parts {
            words.extend([word(memfd(memory)?, 0), part.start as u64, part.len() as u64]);
        }
        let pointer = words.as_mut_ptr().cast();
        // SAFETY: the module's law: `words` holds a `ListHead` and `count` `Item`s, field by field,
        // and outlives the call.
        let call = unsafe { NewFd::new(opcode::write::<ListHead>(b'u', 0x43), pointer) };
        self.call(call, len)
    }

    fn call(&self, call: NewFd, len: usize) -> Result<DmaBuf, UdmabufError> {
        // SAFETY: the module's law, which the maker of `call` upheld.
        let fd = unsafe { ioctl(&self.driver, call) }
            .map_err(|e| UdmabufError::Kernel { len, source: e.into() })?;
        Ok(DmaBuf::made(fd)?)
    }

    fn check(&self, parts: &[(&Memory, Range<usize>)]) -> Result<usize, UdmabufError> {
        let page = PageSize::Base.bytes();
        let mut total = 0usize;
        for (memory, range) in parts {
            let whole = range.start.is_multiple_of(page) && range.end.is_multiple_of(page);
            if range.is_empty() || range.end > memory.len() || !whole {
                return Err(UdmabufError::Range { range: range.clone(), len: memory.len(), page });
            }
            total = total.saturating_add(range.len());
        }
        if parts.is_empty() || total > self.limit || parts.len() > self.list_limit {
            return Err(UdmabufError::TooLarge {
                len: total,
                pieces: parts.len(),
                limit: self.limit,
                list_limit: self.list_limit,
            });
        }
        Ok(total)
    }
}

impl Exporter for Udmabuf {
    fn name(&self) -> &str {
        "udmabuf"
    }

    fn export(&self, len: usize) -> Result<Export, ExportError> {
        let memory = Memory::memfd("bufmap", len, PageSize::Base)
            .map_err(|e| ExportError::new(self.name(), e))?;
        let shared = self.share(Arc::new(memory));
        Ok(shared.map_err(|e| ExportError::new(self.name(), e))?.into())
    }
}

/// A memory and the dma-bufs that are made of its pages, which keeps it alive.
#[derive(Debug)]
pub struct SharedMemory {
    memory: Arc<Memory>,
    dma_bufs: Vec<DmaBuf>,
}

impl SharedMemory {
    /// The memory.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Its dma-bufs, in order and without a gap; each but the last is as long as the first.
    pub fn dma_bufs(&self) -> &[DmaBuf] {
        &self.dma_bufs
    }
}

impl From<SharedMemory> for Export {
    fn from(shared: SharedMemory) -> Self {
        let SharedMemory { memory, dma_bufs } = shared;
        Self {
            len: memory.len(),
            provider: Provider::System,
            cpu: Ok(CpuView::new(memory.clone(), dma_bufs.clone())),
            phyrs: PhyrSource::Pages(memory),
            dma_bufs: Ok(dma_bufs),
        }
    }
}

/// An ioctl that reads what `pointer` points at and returns a new file descriptor.
struct NewFd {
    opcode: Opcode,
    pointer: *mut c_void,
}

impl NewFd {
    /// # Safety
    /// `opcode` is one whose argument is what `pointer` points at for as long as this is used, and
    /// whose result is a new file descriptor.
    unsafe fn new(opcode: Opcode, pointer: *mut c_void) -> Self {
        Self { opcode, pointer }
    }
}

// SAFETY: `new`'s contract is this trait's.
unsafe impl Ioctl for NewFd {
    type Output = OwnedFd;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.pointer
    }

    unsafe fn output_from_ptr(fd: IoctlOutput, _: *mut c_void) -> rustix::io::Result<OwnedFd> {
        // SAFETY: the ioctl succeeded, so its result is a descriptor that is ours alone.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// Two 32-bit fields that follow each other, as the word they make in memory.
fn word(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

fn memfd(memory: &Memory) -> Result<u32, UdmabufError> {
    let fd = memory.fd().ok_or(UdmabufError::NoMemfd { len: memory.len() })?;
    Ok(fd.as_raw_fd() as u32)
}

/// The limit, less what would cut a (huge) page in two where that can be helped.
fn part_len(limit: usize, page: usize) -> usize {
    match limit - limit % page {
        0 => limit.max(PageSize::Base.bytes()),
        whole => whole,
    }
}

fn parameter(name: &str) -> Option<usize> {
    let text = std::fs::read_to_string(format!("/sys/module/udmabuf/parameters/{name}")).ok()?;
    text.trim().parse().ok()
}

fn unavailable(error: &io::Error) -> Absent {
    let fix = match error.kind() {
        io::ErrorKind::NotFound => {
            "load the driver (modprobe udmabuf), or take a kernel with CONFIG_UDMABUF"
        }
        io::ErrorKind::PermissionDenied => {
            "join the group that owns it (kvm on many systems), or ask for a udev rule"
        }
        _ => "see udmabuf in the kernel's documentation",
    };
    Absent::new(format!("/dev/udmabuf cannot be opened: {error}"), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_whole_pages_where_it_can_be() {
        assert_eq!(part_len(64 << 20, 4096), 64 << 20);
        assert_eq!(part_len(3 << 20, 2 << 20), 2 << 20);
        assert_eq!(part_len(64 << 20, 1 << 30), 64 << 20);
        assert_eq!(part_len(0, 4096), PageSize::Base.bytes());
    }

    #[test]
    fn list_words_are_the_header_s_structs() {
        let item = Item { memfd: 7, pad: 0, offset: 4096, size: 8192 };
        let words = [word(item.memfd, item.pad), item.offset, item.size];
        // SAFETY: an `Item` is three words of plain integers without padding, asserted above.
        assert_eq!(words, unsafe { std::mem::transmute::<Item, [u64; 3]>(item) });
        let head = ListHead { flags: CLOEXEC, count: 3 };
        // SAFETY: as above, one word.
        let same = unsafe { std::mem::transmute::<ListHead, u64>(ListHead { ..head }) };
        assert_eq!(word(CLOEXEC, 3), same);
    }
}
