//! Peer memory: a drive's Controller Memory Buffer, as the kernel publishes it.
//!
//! # Safety
//!
//! The law of this module: the mapping of `p2pmem/allocate` is readable and writable over its length
//! until it is dropped, lies outside every Rust allocation, and is reached through maps only.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use iomap::{Access, BufMap, Caching, Location};
use libtest_mimic::Failed;
use memmap2::{MmapOptions, MmapRaw};

use crate::drive::Drive;

/// Peer memory that this process has mapped.
#[derive(Debug)]
pub struct PeerMemory {
    pages: MmapRaw,
}

impl PeerMemory {
    /// Allocates `len` bytes, a multiple of the page, of a drive's peer memory.
    ///
    /// # Errors
    /// Fails the test if the drive has none or not so much.
    pub fn of(drive: &Drive, len: usize) -> Result<Self, Failed> {
        let allocate = drive.function.join("p2pmem/allocate");
        let file = OpenOptions::new().read(true).write(true).open(allocate)?;
        Ok(Self { pages: MmapOptions::new().len(len).map_raw(&file)? })
    }

    /// A map of all of it.
    pub fn map(&self) -> BufMap<'_> {
        // SAFETY: the module's law; the lifetime is the mapping's.
        unsafe {
            BufMap::from_raw(
                self.pages.as_mut_ptr(),
                self.pages.len(),
                Location::Io,
                Caching::Uncached,
                Access::ReadWrite,
            )
        }
    }

    /// Its bytes.
    ///
    /// # Errors
    /// Fails the test if the map does.
    pub fn contents(&self) -> Result<Vec<u8>, Failed> {
        let mut bytes = vec![0; self.pages.len()];
        self.map().copy_to_slice(0, &mut bytes)?;
        Ok(bytes)
    }
}

/// The page frame numbers behind a map, zero where the kernel tells none
/// (`Documentation/admin-guide/mm/pagemap.rst`).
///
/// # Errors
/// The kernel's answer.
pub fn frames(map: &BufMap<'_>) -> io::Result<Vec<u64>> {
    const PAGE: usize = 4096;
    let pagemap = File::open("/proc/self/pagemap")?;
    let first = map.as_ptr() as u64 / PAGE as u64;
    (0..map.len().div_ceil(PAGE) as u64)
        .map(|page| {
            let mut entry = [0; 8];
            pagemap.read_exact_at(&mut entry, (first + page) * 8)?;
            Ok(u64::from_le_bytes(entry) & ((1 << 55) - 1))
        })
        .collect()
}

/// How much peer memory a drive publishes, in bytes.
///
/// # Errors
/// Fails the test if the kernel does not tell.
pub fn published(drive: &Drive) -> Result<u64, Failed> {
    Ok(fs::read_to_string(drive.function.join("p2pmem/size"))?.trim().parse()?)
}
