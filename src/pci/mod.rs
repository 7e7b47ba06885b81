//! The PCI tree, and whether two devices in it may talk past the processor.
//!
//! [`Tree`] is what sysfs shows: every [`Function`], the bridges, switches and root ports above it,
//! its [BARs](Bar), its IOMMU group, its disks, its memory for peers, and what its configuration space
//! says of [redirection](Acs). [`can_peer`] answers by the kernel's own rules, with the reason in
//! words. [`classify`] says what really lies at physical addresses before a device is given them.
//! [`driver`] gives a function to another driver, which it does only while nobody else uses it ([`hold`]).
//!
//! A tree is read once and then only asked. Whether data arrives is another question than whether
//! the kernel would try: see [`can_peer`].
//!
//! What changes of it, the kernel tells by [`Uevents`].
//!
//! Most of it is everybody's to read. Only root is shown the capabilities in configuration space
//! and the addresses in `/proc/iomem`; what is hidden is absent with a reason
//! ([`Function::config`], [`SystemRam::read`]), and an answer that would depend on it is
//! [`PciError::Undecided`].

mod address;
mod bar;
pub(crate) mod block;
mod classify;
mod config;
mod cpu;
pub mod driver;
mod error;
mod function;
mod host;
mod parse;
mod peer;
mod ram;
mod sysfs;
mod tree;
mod uevent;
mod users;
mod verdict;
mod windows;

pub use address::{Address, RootBus};
pub use bar::{Bar, BarKind, InBar};
pub(crate) use classify::lies_in;
pub use classify::{Place, Placed, classify};
pub use config::{Acs, AcsBits, Config, PortType};
pub use cpu::Cpu;
pub use error::PciError;
pub use function::{BlockDevice, Class, Function, IommuGroup, PeerMemory};
pub use host::HostBridge;
pub use peer::{can_peer, route};
pub use ram::{RamError, SystemRam};
pub use tree::Tree;
pub use uevent::{Uevent, Uevents};
pub use users::{Held, NotFree, Process, User, hold};
pub use verdict::{Detour, Distrust, Outcome, Reason, Redirect, Trust, Verdict};
