//! What a process holds, counted, so that a test sees what it left behind.

use std::fs;
use std::io;

use libtest_mimic::Failed;

use crate::said;

/// What this process holds of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Open file descriptors.
    pub fds: usize,
    /// Mappings.
    pub maps: usize,
    /// Locked memory, KiB: what type1 has pinned is counted here.
    pub locked_kib: u64,
    /// Pinned memory, KiB: what io_uring has registered is counted here.
    pub pinned_kib: u64,
}

impl Holdings {
    /// What it holds now.
    ///
    /// # Errors
    /// Fails the test if `/proc` does not tell.
    pub fn now() -> Result<Self, Failed> {
        let status = fs::read_to_string("/proc/self/status")?;
        let kib = |name: &str| -> Result<u64, Failed> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next());
            Ok(number.ok_or("a short /proc/self/status")?.parse()?)
        };
        Ok(Self {
            fds: fs::read_dir("/proc/self/fd")?.count(),
            maps: fs::read_to_string("/proc/self/maps")?.lines().count(),
            locked_kib: kib("VmLck:")?,
            pinned_kib: kib("VmPin:")?,
        })
    }
}

/// How many dma-bufs the kernel has, of all processes together.
///
/// # Errors
/// Fails the test if debugfs does not tell.
pub fn dma_bufs() -> Result<usize, Failed> {
    const INFO: &str = "/sys/kernel/debug/dma_buf/bufinfo";
    if !fs::exists(INFO)? {
        said("mount", &["-t", "debugfs", "none", "/sys/kernel/debug"])?;
    }
    let info = fs::read_to_string(INFO)?;
    let total = info.lines().find_map(|line| line.strip_prefix("Total ")?.split(' ').next());
    Ok(total.ok_or("no total of dma-bufs")?.parse().map_err(io::Error::other)?)
}
