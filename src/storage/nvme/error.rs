//! What can go wrong between a driver and its drive.

use std::time::Duration;

use exporters::vfio::VfioError;
use iomap::{MapError, MemoryError};

use super::command::Operation;
use super::completion::Status;
use super::data::ListError;
use super::identify::IdentifyError;

/// Why a drive did not do what was asked. `device` is its PCI address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NvmeError {
    /// VFIO did not give the device, or did not map memory for it.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// There is no memory for queues.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The region with the registers ends too soon.
    #[error("{device}: its BAR 0 has no room for NVMe registers ({source}); is it an NVMe drive?")]
    Registers {
        /// The drive.
        device: String,
        /// Which access failed.
        source: MapError,
    },
    /// Nobody answers at its registers.
    #[error(
        "{device}: all its registers read as ones: it was unplugged, or lost its power or its link; \
         plug it in, then rescan: echo 1 > /sys/bus/pci/rescan"
    )]
    Gone {
        /// The drive.
        device: String,
    },
    /// The kernel wants the device back.
    #[error(
        "{device}: the kernel asks for it back, because somebody unbinds or unplugs it; close it, and bind it again to go on"
    )]
    Recalled {
        /// The drive.
        device: String,
    },
    /// The controller says that it failed (CSTS.CFS). It has been stopped.
    #[error(
        "{device}: the controller reports a fatal error (CSTS.CFS) and was stopped; look for faults of the IOMMU in dmesg, and whether bus mastering is on (lspci -vv), then open it again"
    )]
    Fatal {
        /// The drive.
        device: String,
    },
    /// The controller is no longer at work (CSTS.RDY), though it was not told to stop. What it was
    /// asked for before does not come any more.
    #[error(
        "{device}: the controller stopped by itself (CSTS.RDY is clear): it was reset, unplugged, or lost its power; look into dmesg, then open it again"
    )]
    Reset {
        /// The drive.
        device: String,
    },
    /// Somebody wanted to stop ([`ControllerOptions::stop`](super::ControllerOptions::stop)).
    #[error("{device}: stopped as asked, before the controller was at work")]
    Interrupted {
        /// The drive.
        device: String,
    },
    /// The controller does not become what it was told to become.
    #[error(
        "{device}: the controller did not {wanted} within {limit:?}; reset it: echo 1 > /sys/bus/pci/devices/{device}/reset"
    )]
    Stuck {
        /// The drive.
        device: String,
        /// What it was told.
        wanted: &'static str,
        /// How long it was given.
        limit: Duration,
    },
    /// The controller cannot do it.
    #[error("{device}: {what} is not supported by this drive: {why}")]
    Unsupported {
        /// The drive.
        device: String,
        /// What was wanted.
        what: &'static str,
        /// What would be needed, and what can be done instead.
        why: String,
    },
    /// An answer to Identify that cannot be used.
    #[error("{device}: {operation}: {source}")]
    Identify {
        /// The drive.
        device: String,
        /// What was asked.
        operation: Operation,
        /// What is wrong with the answer.
        source: IdentifyError,
    },
    /// As many reads are in flight as can be.
    #[error(
        "{device}: {depth} reads are in flight in this queue and no more can be; take one out first"
    )]
    Full {
        /// The drive.
        device: String,
        /// How many can be.
        depth: usize,
    },
    /// A read of nothing, of more than the target has, or past the end of the namespace.
    #[error(
        "{device}: {len} bytes at offset {offset} are not inside a namespace of {namespace_len} bytes and the target; read inside both, one byte at least"
    )]
    Outside {
        /// The drive.
        device: String,
        /// The first byte.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// How many the namespace has.
        namespace_len: u64,
    },
    /// More than one command can read.
    #[error(
        "{device}: {len} bytes, in whole blocks, are more than the {most} that a read of this queue may have; read them in parts"
    )]
    TooLong {
        /// The drive.
        device: String,
        /// How many bytes, in whole blocks.
        len: u64,
        /// How many there may be.
        most: u64,
    },
    /// The target is mapped for other devices.
    #[error(
        "{device}: the memory is mapped in another container than the drive's; map it in the one the drive was opened in"
    )]
    Container {
        /// The drive.
        device: String,
    },
    /// Memory that cannot be described to the drive.
    #[error("{device}: {source}; read into memory of whole pages, and copy")]
    List {
        /// The drive.
        device: String,
        /// Why not.
        source: ListError,
    },
    /// A command ended with an error.
    #[error("{device}: {operation}: {status}; {}", .status.remedy())]
    Command {
        /// The drive.
        device: String,
        /// The command.
        operation: Operation,
        /// How it ended.
        status: Status,
    },
    /// A command did not end in time.
    #[error("{device}: {operation} did not end within {limit:?} and {}; check dmesg and the drive's health, or allow more time", how(.stopped))]
    TimedOut {
        /// The drive.
        device: String,
        /// The command.
        operation: Operation,
        /// How long it was given.
        limit: Duration,
        /// Whether it took stopping the controller to end it. Otherwise it was aborted, and the
        /// queue can be used as before.
        stopped: bool,
    },
    /// The controller was stopped before, and all that was in flight with it.
    #[error("{device}: the controller was stopped: {why}; open it again")]
    Stopped {
        /// The drive.
        device: String,
        /// By whom or what.
        why: String,
    },
    /// A completion of a command that is not in flight. The controller has been stopped.
    #[error(
        "{device}: it completed command {command} of queue {queue}, which is not in flight, and was stopped; open it again, or update its firmware"
    )]
    Unasked {
        /// The drive.
        device: String,
        /// The queue.
        queue: u16,
        /// The identifier it gave.
        command: u16,
    },
}

fn how(stopped: &bool) -> &'static str {
    match stopped {
        true => "was ended by stopping the controller",
        false => "was aborted",
    }
}
