//! The bytes of a dma-buf, by the CPU in its turn, and which dma-buf it is.

use bufmap::exporters::{DmaBuf, Intent};
use libtest_mimic::Failed;

use crate::Outcome;

/// Its first bytes, by its own mapping.
///
/// # Errors
/// Fails the test if it cannot be read, or is shorter.
pub fn bytes(dma_buf: &DmaBuf, len: usize) -> Result<Vec<u8>, Failed> {
    let mapping = dma_buf.map()?;
    let access = mapping.begin_cpu_access(Intent::Read)?;
    let mut bytes = vec![0; len];
    access.map().copy_to_slice(0, &mut bytes)?;
    access.finish()?;
    Ok(bytes)
}

/// Writes its first bytes.
///
/// # Errors
/// Fails the test if it cannot be written, or is shorter.
pub fn fill(dma_buf: &DmaBuf, with: &[u8]) -> Outcome {
    let mapping = dma_buf.map()?;
    let access = mapping.begin_cpu_access(Intent::Write)?;
    access.map().copy_from_slice(0, with)?;
    Ok(access.finish()?)
}

/// Its number in the kernel: the same for every descriptor of one dma-buf.
///
/// # Errors
/// Fails the test if the kernel does not tell.
pub fn inode(dma_buf: &DmaBuf) -> Result<u64, Failed> {
    Ok(rustix::fs::fstat(dma_buf)?.st_ino)
}
