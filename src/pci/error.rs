//! What can go wrong when the PCI tree is read or asked.

use std::io;
use std::path::PathBuf;

use exporters::Absent;
use exporters::outside::outside;

use super::Address;

/// Why the PCI tree could not be read, or a question about it not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PciError {
    /// Not the address of a function.
    #[error(
        "`{text}` is not the address of a PCI function: write it as lspci -D does, 0000:3b:00.0", text = outside(text))]
    Address {
        /// What was given.
        text: String,
    },
    /// The kernel shows no PCI bus at all.
    #[error("{}: {why}; {fix}", outside(path))]
    Unavailable {
        /// Where it would be.
        path: PathBuf,
        /// What stands in the way.
        why: &'static str,
        /// What a person can do about it.
        fix: &'static str,
    },
    /// A file or directory of sysfs or procfs cannot be read.
    #[error(
        "{}: cannot be read: {source}; check that sysfs and procfs are mounted and readable here",
        outside(path)
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file holds what no kernel writes there.
    #[error(
        "{}: holds `{found}` where {expected} is expected; if this is a recording, record it again",
        outside(path), found = outside(found))]
    Content {
        /// The file.
        path: PathBuf,
        /// What belongs there.
        expected: &'static str,
        /// What is there, cut short.
        found: String,
    },
    /// The parts do not make a tree: functions came or went while they were read.
    #[error(
        "{}: lies below {parent}, which is not among the functions there: devices came or went while the tree was read; read it again",
        outside(path)
    )]
    Changed {
        /// The function's directory.
        path: PathBuf,
        /// Who is missing.
        parent: Address,
    },
    /// The kernel's answer depends on configuration space that is not known.
    #[error(
        "whether {client} may reach memory of {provider} depends on the configuration space of {}: {why}",
        list(unknown)
    )]
    Undecided {
        /// Whose memory.
        provider: Address,
        /// Who would reach it.
        client: Address,
        /// The functions of which it is not known.
        unknown: Vec<Address>,
        /// Why not, and what to do.
        why: Absent,
    },
    /// The tree has no such function.
    #[error(
        "there is no PCI function {address}; lspci -D lists them, and a device that was plugged in since asks for the tree to be read again"
    )]
    NoFunction {
        /// The address asked for.
        address: Address,
    },
}

impl PciError {
    /// For `map_err`: `path` cannot be read.
    pub(super) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    /// `path` holds `found`, which is not `expected`.
    pub(super) fn content(path: impl Into<PathBuf>, expected: &'static str, found: &str) -> Self {
        let found = found.chars().take(80).collect();
        Self::Content { path: path.into(), expected, found }
    }
}

/// Addresses in a row.
pub(super) fn list(addresses: &[Address]) -> String {
    addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(", ")
}
