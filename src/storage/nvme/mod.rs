//! NVMe drives, driven from user space.
//!
//! A drive that is bound to vfio-pci is in this process's hands: no file system, no page cache and
//! no block layer stand between a read and its memory, and the memory may be the BAR of another
//! device that is mapped in the same container. The path is for drives that the kernel does not use;
//! it reads and never writes.
//!
//! | module | what it is |
//! |---|---|
//! | `registers` | the controller's properties and doorbells |
//! | `command`, `completion` | the entries of queues, and statuses in words |
//! | [`identify`] | what a drive says of itself |
//! | `ring`, `pair` | the rings, and a queue pair in memory |
//! | [`prp`], [`sgl`] | memory described to a drive, from the ranges that it sees ([`DmaList`](crate::dma::DmaList)) |
//! | `data` | which of the two a read takes |
//! | `link` | the controller started, stopped and watched |
//! | `patience` | how long it is waited for |
//! | `admin`, `controller` | what is asked once: [`Controller`], [`Namespace`] |
//! | `extents`, `file` | a whole file: where it lies ([`DriveFile`]) |
//! | `target`, `queue` | what is asked all the time: a [`Target`] filled through a [`Queue`] |
//! | `engine` | the reads of a [load](crate::load), by a queue |
//!
//! # What holds
//!
//! * **The memory of a read in flight is not let go of.** A read keeps its [`Target`], and the target
//!   its mappings. They come out of the queue when the drive has said that the read has ended, or
//!   when the controller has been stopped. Forgetting a queue forgets its memory with it.
//! * **Every wait ends.** What a drive says that it takes has a limit, and a wait looks at the flag that
//!   stops it ([`ControllerOptions`]). A read that takes too long is aborted; what cannot be aborted is ended by
//!   stopping the controller; a controller that does not stop is cut off from the bus.
//! * **Nothing of the device's is believed.** Completions are looked up by identifiers that are not soon
//!   used again, counts, shifts and lists are checked; a device that answers with nothing but ones is gone, and one that is not ready any more
//!   was reset by somebody else.
//! * **The kernel can have the drive back.** A [`Controller`] that is dropped has told its drive to shut
//!   down, and waited for it.
//!
//! Section numbers are those of the NVM Express Base Specification 2.0c, the NVM Command Set
//! Specification 1.0c and the PCIe Transport Specification 1.0c.

mod admin;
mod barrier;
mod command;
mod completion;
mod controller;
mod data;
pub(crate) mod engine;
mod error;
mod extents;
mod file;
pub mod identify;
mod link;
mod list;
mod pair;
mod patience;
pub mod prp;
mod queue;
mod registers;
mod ring;
pub mod sgl;
mod target;

pub use command::Operation;
pub use completion::Status;
pub use controller::{Controller, Namespace};
pub use data::{ListError, Lists};
pub use error::NvmeError;
pub use extents::{Extent, ExtentError, extents};
pub use file::{BadExtent, DriveFile};
pub use identify::{IdentifyController, IdentifyNamespace};
pub use list::ListMemory;
pub use patience::ControllerOptions;
pub use queue::{Finished, Queue, QueueOptions, Wake};
pub use registers::{Capabilities, Version};
pub use target::{Target, TargetError};

/// The controller's page in bytes (CC.MPS), which is also that of queues and of PRPs.
const PAGE: u64 = 4096;
