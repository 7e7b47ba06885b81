//! One handle on a buffer wherever it lives, and files moved into it by DMA.
//!
//! The house has three floors, each of which knows only those below it:
//!
//! * [`iomap`]: memory you can point at;
//! * [`exporters`]: where buffers come from, and how they leave the process as a dma-buf;
//! * this crate: who uses them. [`pci`] is the tree of devices and says which may talk; [`dma`] turns
//!   memory into what a device is programmed with; [`storage`] reads drives; [`load`] plans a road from a file to a buffer, runs it, checks it and accounts
//!   for it.
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

pub mod dma;
pub mod load;
pub mod pci;
pub mod remedy;
pub mod storage;
