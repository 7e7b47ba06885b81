//! Why a dma-buf could not be used.

use std::io;
use std::os::fd::RawFd;

/// `DMA_BUF_NAME_LEN`: the longest name in bytes, with its terminating zero.
pub(super) const NAME_LEN: usize = 32;

/// Why a dma-buf could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DmaBufError {
    /// The file descriptor is something else.
    #[error("file descriptor {fd} is no dma-buf but {is}; pass one that an exporter made")]
    NotADmaBuf {
        /// The descriptor's number.
        fd: RawFd,
        /// What `/proc/self/fd` says it is.
        is: String,
    },
    /// There is no telling what the file descriptor is.
    #[error("/proc does not tell what file descriptor {fd} is: {source}; mount it")]
    Unknown {
        /// The descriptor's number.
        fd: RawFd,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel is too old.
    #[error("{what} need {since}, and this kernel refused them")]
    Unsupported {
        /// What was wanted.
        what: &'static str,
        /// The first version that has it.
        since: &'static str,
    },
    /// A name that does not fit.
    #[error("a dma-buf's name has up to {max} bytes and no zero byte, not these {len}", max = NAME_LEN - 1)]
    Name {
        /// The length of the name asked for, in bytes.
        len: usize,
    },
    /// Writing was asked of a mapping whose exporter allows only reading.
    #[error("the exporter {exporter:?} maps its dma-buf read-only; ask for reading only")]
    ReadOnly {
        /// The exporter's name.
        exporter: String,
    },
    /// A driver in user space did not bring the CPU's caches in order for its memory.
    #[error(
        "{step} of memory of {device}, which is not coherent: {source}; it may show stale bytes"
    )]
    Caches {
        /// What was being done.
        step: &'static str,
        /// The device's name.
        device: String,
        /// The driver's answer.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{step} of a dma-buf of {len} bytes by {exporter:?}: {source}")]
    Kernel {
        /// What was being done.
        step: &'static str,
        /// The dma-buf's size in bytes, zero while it is not yet known.
        len: usize,
        /// The exporter's name, empty while it is not yet known.
        exporter: String,
        /// The kernel's answer.
        source: io::Error,
    },
}
