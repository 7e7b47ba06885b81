//! What can go wrong with a load.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::data_path::DataPath;
use super::valid::Valid;
use exporters::outside::outside;

use crate::remedy::{Call, remedy};
use crate::storage::file::{Changed, SourceFile};
use crate::storage::nvme::NvmeError;

/// Why a load failed. Every variant says what failed, where, and what to do; those that end a load
/// in the middle say which bytes of the buffer are valid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// A file could not be opened.
    #[error("{}: cannot be opened: {source}; {}", outside(path), remedy(Call::Open, source))]
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Options outside their ranges.
    #[error("{0}")]
    Options(&'static str),
    /// A request reaches past the end of its file.
    #[error(
        "{}: {len} bytes at offset {offset} reach past the end of the file at {file_len}; it may be truncated: fetch it again",
        outside(path)
    )]
    PastEnd {
        /// The file.
        path: PathBuf,
        /// Where the request begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        len: u64,
        /// The length of the file in bytes.
        file_len: u64,
    },
    /// A request names a file that the load does not have.
    #[error("a request names file {file}, of {files} files")]
    NoSuchFile {
        /// The index named.
        file: usize,
        /// How many files there are.
        files: usize,
    },
    /// A request reaches past the end of the buffer.
    #[error(
        "the buffer is too small: {needed} bytes are needed and it has {len}; give a larger one or fewer requests"
    )]
    TooSmall {
        /// The bytes that the requests need.
        needed: u64,
        /// The bytes that the buffer has.
        len: u64,
    },
    /// Two requests fill the same bytes of the buffer.
    #[error("two requests fill the same bytes of the buffer, at offset {at}")]
    Overlap {
        /// The first such byte.
        at: u64,
    },
    /// A request begins or ends inside of what the buffer's device copies as one: a texel, a block of a compressed format.
    #[error(
        "byte {at} of the buffer lies inside of one of its blocks of {granule} bytes, which its device copies whole; let ranges begin and end with a block"
    )]
    Granule {
        /// The byte of the buffer at which the range begins or ends.
        at: u64,
        /// How long a block is, in bytes.
        granule: u64,
    },
    /// The buffer's device copies more at once than one read brings.
    #[error(
        "the buffer's device copies blocks of {granule} bytes whole, and reads have no more than {block}; allow longer reads (LoaderOptions::block)"
    )]
    Block {
        /// How long a block is, in bytes.
        granule: u64,
        /// The most bytes of a read.
        block: u64,
    },
    /// The path that the caller requires cannot be had.
    #[error("{}: the path {data_path} is required and cannot be had: {why}", outside(path))]
    DataPath {
        /// The file.
        path: PathBuf,
        /// The path required.
        data_path: DataPath,
        /// Why not.
        why: String,
    },
    /// The file could not be read.
    #[error(
        "{}: reading at offset {offset} failed: {source}; {}; {valid}",
        outside(path),
        read_remedy(source)
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// The kernel's answer.
        source: io::Error,
        /// What of the buffer can be used all the same.
        valid: Valid,
    },
    /// The file ended before the bytes that it had when it was opened.
    #[error(
        "{}: the file ends at offset {at}, it had {file_len} bytes when it was opened: something shrank it while it was read; load it again once it is whole; {valid}",
        outside(path)
    )]
    Shrank {
        /// The file.
        path: PathBuf,
        /// Where it ends now, in bytes.
        at: u64,
        /// Its length when it was opened, in bytes.
        file_len: u64,
        /// What of the buffer can be used all the same.
        valid: Valid,
    },
    /// Something may have changed the file while it was loaded: the buffer may hold bytes from before
    /// and after.
    #[error(
        "{}: {why}; the buffer may hold old and new bytes and must not be used: load it again when nothing writes to it",
        outside(path)
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// What is not as it was.
        why: Changed,
    },
    /// The bytes in the buffer are not those of the file.
    #[error(
        "{}: the bytes loaded from offset {offset} are not the file's: {what}; the buffer must not be used",
        outside(path)
    )]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What differs.
        what: String,
    },
    /// The caller stopped the load.
    #[error("the load was stopped; {valid}")]
    Stopped {
        /// What of the buffer can be used all the same.
        valid: Valid,
    },
    /// The load's own threads or rings failed.
    #[error("{step} failed: {source}; {}; {valid}", remedy(Call::Ring, source))]
    Engine {
        /// What failed.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
        /// What of the buffer can be used all the same.
        valid: Valid,
    },
    /// The memory of a device that was loaded into has gone away. It was lost while it was filled, or while it
    /// was read to be checked.
    #[error(
        "the memory of {device} was lost while it was loaded into: the device was unplugged, its memory was switched off, or its driver was unbound; no byte of the buffer is valid: bring the device back, and load into it anew", device = outside(device))]
    BufferLost {
        /// The PCI address of the device; its name, for a GPU that does not tell one.
        device: String,
    },
    /// Neither the CPU nor a GPU reaches the buffer.
    #[error("{holder}: no path leads into this buffer: {why}", holder = outside(holder))]
    Unreachable {
        /// Who has the memory.
        holder: String,
        /// Why neither does.
        why: String,
    },
    /// An access of the CPU to a driver's memory could not be begun or ended.
    #[error("the CPU's access to the buffer failed: {0}")]
    Access(#[from] exporters::DmaBufError),
    /// There is no memory for the buffer or the slots.
    #[error(
        "there is no memory for the load: {0}; fewer items need less (--item), and memory of another device needs none of this (--to)"
    )]
    Memory(#[from] iomap::MemoryError),
    /// The files are not all on one drive, of those that this process drives itself.
    #[error(
        "{}: lies on another drive than the first file; load from each drive by itself",
        outside(path)
    )]
    OtherDrive {
        /// The first such file.
        path: PathBuf,
    },
    /// A drive that this process drives itself did not do what was asked.
    #[error(transparent)]
    Nvme(#[from] NvmeError),
    /// Memory could not be mapped for a drive.
    #[error(transparent)]
    Dma(#[from] crate::dma::DmaError),
    /// There is no device, or no BAR of it, for the buffer.
    #[error(transparent)]
    Vfio(#[from] exporters::vfio::VfioError),
    /// There is no peer memory for the buffer.
    #[error(transparent)]
    P2pmem(#[from] exporters::P2pmemError),
    /// A source gave no buffer.
    #[error(transparent)]
    Export(#[from] exporters::ExportError),
    /// The GPU refused.
    #[error(transparent)]
    Vulkan(#[from] exporters::vulkan::VulkanError),
    /// The queue of a device did not copy: the error of every request of which it copied something just then.
    #[error(transparent)]
    Upload(#[from] Arc<exporters::upload::UploadError>),
}

impl TransferError {
    /// For a read that found no bytes at `at`, where `file` had some when it was opened: a file
    /// shrank; a drive does not, it is gone, and the kernel has set its length to zero.
    pub(super) fn ended(file: &SourceFile, at: u64, valid: Valid) -> Self {
        let path = file.path().into();
        if file.is_block_device() {
            let source = io::Error::from_raw_os_error(libc::ENODEV);
            return Self::Read { path, offset: at, source, valid };
        }
        let at = file.current_len().map_or(at, |now| now.min(at));
        Self::Shrank { path, at, file_len: file.len(), valid }
    }
}

/// What to do about an answer to a read.
fn read_remedy(error: &io::Error) -> Cow<'static, str> {
    match error.get_ref().is_some_and(|inner| inner.is::<NvmeError>()) {
        true => {
            "load it again, or give the drive back to the kernel (bufmap unbind) and load it from there"
                .into()
        }
        false => remedy(Call::Read, error),
    }
}
