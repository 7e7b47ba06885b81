//! Bytes of a program's own that several threads may map.
//!
//! A [`BufMap`] of a slice stays on one thread. What fills a buffer may be many threads, so a slice is
//! borrowed for them by [`Borrowed`].
//!
//! # Safety
//!
//! The law of this module: the bytes are borrowed exclusively for `'a`, so that until then no Rust
//! reference to them is used. They are reached through maps alone, whose accesses are volatile or opaque
//! assembly. As with memory made by `mmap` (law 2 of [`map`](crate::map)), a race between two maps mixes
//! values and nothing worse.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use crate::{Access, BufMap, Caching, Location};

/// A slice, borrowed exclusively to be filled through maps by any number of threads.
///
/// ```
/// use iomap::Borrowed;
///
/// let mut bytes = [0; 8];
/// let borrowed = Borrowed::from(&mut bytes[..]);
/// std::thread::scope(|scope| {
///     scope.spawn(|| borrowed.map().subrange(..4)?.fill(1));
///     scope.spawn(|| borrowed.map().subrange(4..)?.fill(2));
/// });
/// assert_eq!(bytes, [1, 1, 1, 1, 2, 2, 2, 2]);
/// ```
///
/// While it is borrowed, the slice is nobody else's:
///
/// ```compile_fail,E0503
/// let mut bytes = [0; 8];
/// let borrowed = iomap::Borrowed::from(&mut bytes[..]);
/// assert_eq!(bytes[0], 0);
/// borrowed.map().fill(1);
/// ```
#[derive(Debug)]
pub struct Borrowed<'a> {
    start: *mut u8,
    len: usize,
    _borrow: PhantomData<&'a mut [u8]>,
}

// SAFETY: the module's law: it is a borrow, and gives out nothing but maps.
unsafe impl Send for Borrowed<'_> {}
// SAFETY: the same.
unsafe impl Sync for Borrowed<'_> {}

impl<'a> From<&'a mut [u8]> for Borrowed<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Self { start: bytes.as_mut_ptr(), len: bytes.len(), _borrow: PhantomData }
    }
}

impl Borrowed<'_> {
    /// The length in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A map of all of it.
    pub fn map(&self) -> BufMap<'_> {
        let (location, caching) = (Location::System, Caching::WriteBack);
        // SAFETY: the module's law: the bytes are there and nobody else's for as long as `self` lives, which
        // the lifetime of the map does not exceed.
        unsafe { BufMap::from_raw(self.start, self.len, location, caching, Access::ReadWrite) }
    }
}
