//! One handle on a buffer wherever it lives, and files moved into it by DMA.
//!
//! Three crates are three layers, each of which uses only those below it:
//!
//! * [`iomap`]: memory you can point at;
//! * [`exporters`]: where buffers come from, and how they leave the process as a dma-buf;
//! * this crate: who uses them.
//!
//! Its own modules are layers too, from the bottom to the top:
//!
//! | module | what it is |
//! |---|---|
//! | [`pci`] | the tree of devices, and which of them may talk |
//! | [`dma`] | memory as what a device is programmed with |
//! | [`storage`] | drives, through the kernel and by a driver in user space |
//! | [`transfer`] | the words that all above share: requests, paths, receipts, errors |
//! | [`mod@format`] | what files hold, and where it goes in a buffer |
//! | [`plan`] | which path each byte takes, and why not a better one |
//! | [`engine`] | the loader that stays: many requests, from many threads, with priorities |
//! | [`load`] | the call that plans, reads, checks and accounts |
//! | [`save`] | the same the other way: a buffer into a file |
#![deny(unsafe_code)]
// What a system, a file or a peer can refuse is an error and no panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::print_stdout,
        clippy::print_stderr,
        clippy::disallowed_methods
    )
)]

pub use {exporters, iomap};

mod check;
pub mod dma;
pub mod engine;
pub mod format;
pub mod load;
mod nofault;
pub mod pci;
pub mod plan;
pub mod remedy;
pub mod save;
pub mod storage;
mod traced;
pub mod transfer;
