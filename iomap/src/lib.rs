//! Memory you can point at.
//!
//! This is the lowest layer of `bufmap`: it knows addresses, lengths and caching, and nothing of
//! devices. A newcomer reads the modules in this order:
//!
//! * [`addr`]: the kinds of address, as types that do not mix;
//! * [`caching`]: how the CPU's caches treat a mapping, which decides what an access costs;
//! * [`map`]: [`BufMap`], the only way to touch a buffer's bytes;
//! * [`plane`]: [`Plane`], rows at a pitch and rectangles, and [`Planes`] of a picture;
//! * [`memory`]: [`Memory`], system memory this process owns and hands out maps of;
//! * [`borrowed`]: [`Borrowed`], a slice that several threads may map;
//! * `present`: whether pages are behind a map yet, and having them made ready;
//! * [`available`]: whether there is so much memory, in the machine and for this process;
//! * [`phyr`]: [`PhyrList`], the physical ranges behind a buffer;
//! * [`pin`]: [`Pinned`], pages that stay where they are;
//! * [`pagemap`]: from pinned pages to their physical ranges;
//! * [`mounts`]: what is mounted where, for who looks for the kernel's own file systems.
//!
//! How the bytes are moved is the business of `copy`, which is private: its engines are chosen by
//! what a [`BufMap`] says of itself.
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

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("iomap is for 64-bit Linux: its 8-byte accesses must be single ones");

pub mod addr;
pub mod available;
pub mod borrowed;
pub mod caching;
mod cgroup;
mod copy;
mod location;
pub mod map;
pub mod memory;
pub mod mounts;
pub mod pagemap;
pub mod phyr;
pub mod pin;
pub mod plane;
mod present;

pub use addr::{DmaAddr, PhysAddr};
pub use available::{Shortage, is_available};
pub use borrowed::Borrowed;
pub use caching::Caching;
pub use location::Location;
pub use map::{Access, BufMap, MapError};
pub use memory::{Memory, MemoryError, PageSize};
pub use pagemap::PagemapError;
pub use phyr::{CompactPhyr, Limits, Phyr, PhyrError, PhyrKind, PhyrList};
pub use pin::{PinError, Pinned};
pub use plane::{Plane, PlaneError, Planes, Rect};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
