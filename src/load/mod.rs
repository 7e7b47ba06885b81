//! Loading in one call: plan the paths, run them, check the bytes, account for them.
//!
//! A [`Load`] moves [`Request`](crate::transfer::Request)s (so many bytes of a file, to there in the buffer) into a
//! [`Destination`](exporters::Destination) and ends in a [`Receipt`](crate::transfer::Receipt). Its parts, in the order in which data flows:
//!
//! * [`mod@format`](crate::format): what a file holds, as items, and where they go in the buffer; [`Target`] makes
//!   the buffer;
//! * [`plan`](crate::plan): which [`DataPath`](crate::transfer::DataPath) each byte takes, and why not a better one;
//! * `by_kernel` and `by_driver`: the load by the kernel's drivers, and by the driver in user space; `fill`: with
//!   which threads, rings and slots; `run`: the work that they carry out; `accounts`: what landed; `checks`: what is
//!   proved about it;
//! * [`transfer`](crate::transfer): the words, with the receipt.
//!
//! # Files that something writes to
//!
//! What is in the buffer after a load is the file as it was when it was opened, or the load ends in an
//! error. A file is opened once: one that is replaced by another (a rename to its name, as programs do
//! that write with care) is loaded whole as it was. For one that is written to in place, its length and
//! its times are compared when its last byte has been read, the second time too with [`Verify::Full`](crate::transfer::Verify);
//! if any is not as it was when the file was opened, the load ends with [`TransferError::Changed`](crate::transfer::TransferError). So it
//! does if only the file's rights or its name were changed, which cannot be told from a write.
//!
//! This is not promised of
//!
//! * a program that has mapped the file for writing: the kernel stamps a file at the first store into a
//!   page, and again only when it has written the page back;
//! * one write call that began before the file was opened and goes on while it is loaded;
//! * a block device, which has no such times;
//! * a file system on the network whose server does not tell times as they are, and files that are
//!   written to by one machine and loaded by another whose kernel does not yet know.
//!
//! # Many files
//!
//! A file takes one descriptor while it is open, and a second while its bytes are read past the page cache,
//! as many as there are reads in flight at most. A model in a thousand shards needs more than the soft limit
//! that a process begins with:
//! [`open_files::raise_limit`](crate::storage::file::open_files::raise_limit).
//!
//! # Memory that goes away
//!
//! The memory of a device goes away with its device or its driver, and then the CPU's accesses to it end
//! in `SIGBUS`. Those of a load do not end the process: the first load that touches such memory by the CPU
//! (to check it, to prove a peer path, to bounce) installs a handler of that signal, which passes on what is
//! not the load's own, to the handler that was there before or to the default action. A program that installs
//! a handler afterwards passes on in its turn what is not its own. This is written for x86-64 and Arm 64.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use bufmap::load::Load;
//! use bufmap::transfer::{Options, Request};
//! use bufmap::storage::file::SourceFile;
//!
//! let files = [SourceFile::open("model.bin")?];
//! let memory = iomap::Memory::anonymous(files[0].len() as usize, iomap::PageSize::Base)?;
//! let receipt = Load {
//!     files: &files,
//!     requests: &[Request::new(0, 0, files[0].len(), 0)],
//!     around: Default::default(),
//!     destination: &memory,
//!     options: Options::default(),
//!     stop: &AtomicBool::new(false),
//! }
//! .run(&mut |progress| println!("{} of {}", progress.done, progress.total))?;
//! println!("{:.2} GiB/s", receipt.gib_per_second());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod accounts;
mod ahead;
mod by_driver;
mod by_kernel;
mod call;
mod checks;
mod fill;
mod run;
mod settle;
mod target;

pub use call::Load;
pub use target::Target;
