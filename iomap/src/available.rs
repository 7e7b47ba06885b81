//! Whether there is memory, before it is asked for.
//!
//! The kernel promises more memory than there is and kills a process when the promise falls due. So who
//! makes a large buffer asks first: for what the machine has, and for what the limits of the process's
//! control groups leave.

use std::fs;
use std::path::PathBuf;

use crate::cgroup::{self, Left};

/// Less memory than is needed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Shortage {
    /// The machine has less.
    #[error(
        "{needed} bytes are needed and the machine has {available} available: close other programs or ask for less"
    )]
    Machine {
        /// What is needed, in bytes.
        needed: usize,
        /// What the kernel could give out without swapping, in bytes: `MemAvailable` of `/proc/meminfo`
        /// (proc_meminfo(5), since Linux 3.14).
        available: usize,
    },
    /// A control group that the process is in leaves less. The kernel would kill the process.
    #[error(
        "{needed} bytes are needed and {available} are left of the {limit} that {file:?} allows this process: raise the limit where its container or service is set up, or ask for less"
    )]
    Cgroup {
        /// What is needed, in bytes, with the kernel's page tables for it.
        needed: usize,
        /// What is left of the limit, in bytes, the group's page cache taken for free.
        available: usize,
        /// The limit in bytes.
        limit: usize,
        /// The file that holds it.
        file: PathBuf,
    },
}

/// Whether the kernel could give out so many bytes without swapping, and may give them to this process.
/// Where `/proc` is not there, it is taken to have enough; a limit that is not seen in a mounted cgroup
/// file system is not known.
///
/// # Errors
/// [`Shortage`], if there are fewer.
pub fn is_available(len: usize) -> Result<(), Shortage> {
    in_the_machine(len)?;
    match cgroup::tightest() {
        Some(left) => within(len, left),
        None => Ok(()),
    }
}

fn in_the_machine(needed: usize) -> Result<(), Shortage> {
    // Asking for the free memory is a thousandth of the work, and mostly answers it.
    let info = rustix::system::sysinfo();
    if (info.freeram as usize).saturating_mul(info.mem_unit as usize) >= needed {
        return Ok(());
    }
    match available() {
        Some(available) if needed > available => Err(Shortage::Machine { needed, available }),
        _ => Ok(()),
    }
}

fn available() -> Option<usize> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Page tables count against a group's limit: eight bytes a page.
fn within(len: usize, left: Left) -> Result<(), Shortage> {
    let page_tables = len.div_ceil(rustix::param::page_size()).saturating_mul(8);
    let needed = len.saturating_add(page_tables);
    let Left { bytes: available, limit, file } = left;
    match needed > available {
        true => Err(Shortage::Cgroup { needed, available, limit, file }),
        false => Ok(()),
    }
}
