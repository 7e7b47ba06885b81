//! Somebody who uses a function, and how to end that.

use std::fmt;
use std::path::PathBuf;

use super::process::Process;
use exporters::outside::outside;

use crate::pci::Address;

/// Somebody who uses a function.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum User {
    /// A file system is mounted from a disk, a partition or what is made of them.
    Mount {
        /// The block device's name.
        device: String,
        /// Where it is mounted.
        on: PathBuf,
        /// A process of the mount namespace in which it is, or `None` for that of this process.
        by: Option<Process>,
    },
    /// The system swaps to it.
    Swap {
        /// The block device's name.
        device: String,
    },
    /// Another block device is made of it: a volume, a RAID, an encrypted disk, a loop device.
    Holder {
        /// The block device's name.
        device: String,
        /// What is made of it.
        holder: String,
    },
    /// Somebody who is not seen has it exclusively.
    Exclusive {
        /// Its file in `/dev`.
        node: PathBuf,
    },
    /// A program has it open.
    Program {
        /// Which.
        program: Process,
        /// What it has open, in `/dev`.
        node: PathBuf,
    },
    /// A network interface is up.
    Interface {
        /// Its name.
        name: String,
    },
    /// The screen that the firmware and the console use.
    BootScreen,
    /// Everything below a bridge.
    Bus,
    /// Another function is reached through it or is a virtual one of it, and would go with it.
    Function {
        /// Which.
        address: Address,
    },
    /// A mediated device is a part of it (VFIO's mdev).
    Mediated {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount { device, on, by: None } => {
                let (device, on) = (outside(device), outside(on));
                write!(f, "{device} is mounted on {on}; umount {on}")
            }
            Self::Mount { device, on, by: Some(process) } => write!(
                f,
                "{} is mounted on {} in the mount namespace of {process}; nsenter -t {} -m umount {}",
                outside(device),
                outside(on),
                process.pid,
                outside(on)
            ),
            Self::Swap { device } => {
                let device = outside(device);
                write!(f, "the system swaps to {device}; swapoff /dev/{device}")
            }
            Self::Holder { device, holder } => {
                let (device, holder) = (outside(device), outside(holder));
                write!(f, "{holder} is made of {device}; take {holder} apart first")
            }
            Self::Exclusive { node } => write!(
                f,
                "somebody has {} exclusively: a program, a file system of several disks or a mount that is \
                 not seen from here; end it (fuser -v {}, lsblk)",
                outside(node),
                outside(node)
            ),
            Self::Program { program, node } => {
                write!(f, "{program} has {} open; end it", outside(node))
            }
            Self::Interface { name } => {
                let name = outside(name);
                write!(f, "the network interface {name} is up; ip link set {name} down")
            }
            Self::BootScreen => f.write_str("it is the screen that the console uses"),
            Self::Bus => f.write_str("it is a bridge, and everything below it would go"),
            Self::Function { address } => {
                write!(f, "the function {address} depends on it and would go")
            }
            Self::Mediated { name } => {
                write!(
                    f,
                    "the mediated device {} is a part of it; remove that first",
                    outside(name)
                )
            }
        }
    }
}
