//! Saving in one call: a buffer, wherever it lies, into a file.
//!
//! A [`Save`] is the mirror of a [`Load`](crate::load::Load): it moves [`Request`](crate::transfer::Request)s (so many bytes
//! of the buffer, to there in the file) out of a [`Destination`](exporters::Destination) and ends in a
//! [`Receipt`](crate::transfer::Receipt). Which path each byte takes is decided in [`plan`](crate::plan); `writes` is the
//! work that rings and threads carry out, `engine` which of them do, `prints` the fingerprints that are taken meanwhile.
//!
//! # What is left when it fails
//!
//! [`To::NewFile`] writes a new file beside the old one and has it take the old one's place when all of it is in the
//! drive. Before that, nobody sees it: a full disk, a lost drive, a stop, a killed process leave the old file whole, and
//! nothing beside it (see [`NewFile`](crate::storage::file::NewFile) for what file systems there are that need a name
//! meanwhile). The new file takes over the old one's owner and rights, and not its access lists and other
//! extended attributes; links to the old file keep the old file.
//!
//! [`To::InPlace`] writes into the file itself, the bytes that are asked for and no others. What fails then leaves some of
//! them old and some new: the error says which are new ([`Left`](crate::transfer::Left)).
//!
//! # Peers
//!
//! A drive reads a peer's memory ([`DataPath::Peer`](crate::transfer::DataPath)) only where this pair of devices has been
//! proved in this direction, once a boot. For the proof some parts of the buffer, 256 KiB at most, hold random bytes for a
//! moment, and then their own again: nothing else may use the buffer while it is saved.
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//! use bufmap::save::{Save, To};
//! use bufmap::transfer::{Options, Request};
//! use iomap::{Memory, PageSize};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("checkpoint.bin");
//! let memory = Memory::anonymous(1 << 20, PageSize::Base)?;
//! memory.map().fill(7)?;
//! let receipt = Save {
//!     source: &memory,
//!     to: To::NewFile(&path),
//!     requests: &[Request::new(0, 0, 1 << 20, 0)],
//!     options: Options::default(),
//!     stop: &AtomicBool::new(false),
//! }
//! .run(&mut |progress| println!("{} of {}", progress.done, progress.total))?;
//! assert_eq!(receipt.bytes, 1 << 20);
//! assert_eq!(std::fs::read(&path)?, vec![7; 1 << 20]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod accounts;
mod call;
mod engine;
mod prints;
mod queue;
mod read_back;
mod writes;

pub use call::{Save, To};
