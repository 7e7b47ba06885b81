//! A bounds-checked map of memory that others may be writing.
//!
//! [`BufMap`] is the one way to touch a buffer's bytes. It descends from the kernel's `iosys_map`
//! and adds what that lacks: a length, a caching attribute and an access right.
//!
//! # Safety
//!
//! The laws a [`BufMap`] obeys, which every `unsafe` block here and in `copy` cites:
//!
//! 1. **Valid**: `addr` is readable over `len` bytes, and writable if `access` says so, for `'a`.
//! 2. **Shared**: no Rust reference to those bytes is used during `'a`, except read-only ones to a
//!    read-only map. Either the bytes were borrowed exclusively from Rust, and the map, which is
//!    neither `Send` nor `Sync`, is reached by one thread only; or they lie outside every Rust
//!    allocation (made by `mmap`), where a race between volatile accesses mixes values and nothing
//!    worse.
//! 3. **Volatile**: every access is volatile or opaque assembly, so none is invented, repeated or
//!    dropped by the compiler.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Bound, RangeBounds};

use bytemuck::{AnyBitPattern, NoUninit};

use crate::{Caching, copy};

/// Where the bytes of a map live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// The machine's own memory.
    System,
    /// Behind an I/O bus: a PCI BAR, VRAM.
    Io,
}

/// What may be done through a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reading only.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// Why an access through a map was refused. Nothing was read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The access reaches past the end of the map.
    #[error("{len} bytes at offset {offset:#x} reach past the end of a map of {map_len} bytes")]
    OutOfBounds {
        /// Where the access begins, in bytes.
        offset: usize,
        /// How long it is, in bytes.
        len: usize,
        /// The map's length in bytes.
        map_len: usize,
    },
    /// A write through a read-only map.
    #[error("the map is read-only")]
    ReadOnly,
    /// Two maps or a map and a slice that must be of one length are not.
    #[error("a copy of {src} bytes into {dst} bytes: both sides must be of one length")]
    Length {
        /// The source's length in bytes.
        src: usize,
        /// The destination's length in bytes.
        dst: usize,
    },
    /// A typed access to I/O memory that is not aligned to its own width: it could only be made in
    /// pieces, which a device would see.
    #[error(
        "an access of {width} bytes to I/O memory at offset {offset:#x} is not aligned to its width"
    )]
    Misaligned {
        /// Where the access begins, in bytes.
        offset: usize,
        /// Its width in bytes.
        width: usize,
    },
}

/// A field of a `repr(C)` struct, as [`field!`](crate::field) names it: its offset and its type.
#[derive(Debug)]
pub struct Field<S, T> {
    offset: usize,
    _types: PhantomData<fn(&S) -> &T>,
}

impl<S, T> Clone for Field<S, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S, T> Copy for Field<S, T> {}

impl<S, T> Field<S, T> {
    /// Use [`field!`](crate::field), which cannot name a wrong offset or type.
    #[doc(hidden)]
    pub const fn new(offset: usize, _: fn(&S) -> &T) -> Self {
        Self { offset, _types: PhantomData }
    }

    /// The field's offset in its struct, in bytes.
    pub const fn offset(self) -> usize {
        self.offset
    }
}

/// Names a field of a struct for [`BufMap::read_field`] and [`BufMap::write_field`].
///
/// ```
/// #[repr(C)]
/// struct Doorbell { tail: u32, head: u32 }
/// assert_eq!(iomap::field!(Doorbell, head).offset(), 4);
/// ```
#[macro_export]
macro_rules! field {
    ($struct:ty, $field:ident) => {
        $crate::map::Field::new(::std::mem::offset_of!($struct, $field), |s: &$struct| &s.$field)
    };
}

/// A map of a buffer: address, length, location, caching and access.
///
/// It is a small value, copied freely, and borrows the memory it maps for `'a`. A life of one:
///
/// ```
/// use iomap::{BufMap, Memory, PageSize};
///
/// let memory = Memory::anonymous(8192, PageSize::Base)?;
/// let mut map = memory.map();
/// map.copy_from_slice(16, b"pixels")?;        // copy in, bounds checked
/// map.advance(16)?;                           // point further on
/// let mut back = [0; 6];
/// map.copy_to_slice(0, &mut back)?;           // copy out
/// assert_eq!(&back, b"pixels");
/// map.clear();
/// assert!(map.is_null());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct BufMap<'a> {
    addr: *mut u8,
    len: usize,
    location: Location,
    caching: Caching,
    access: Access,
    _borrow: PhantomData<&'a Cell<u8>>,
}

impl<'a> BufMap<'a> {
    /// A map of nothing, in system memory: zero bytes long.
    pub const fn null() -> Self {
        Self {
            addr: std::ptr::null_mut(),
            len: 0,
            location: Location::System,
            caching: Caching::WriteBack,
            access: Access::ReadOnly,
            _borrow: PhantomData,
        }
    }

    /// A read-only map of a slice.
    pub const fn from_slice(bytes: &'a [u8]) -> Self {
        Self {
            addr: bytes.as_ptr().cast_mut(),
            len: bytes.len(),
            access: Access::ReadOnly,
            ..Self::null()
        }
    }

    /// A read-write map of a slice.
    pub const fn from_mut_slice(bytes: &'a mut [u8]) -> Self {
        Self {
            addr: bytes.as_mut_ptr(),
            len: bytes.len(),
            access: Access::ReadWrite,
            ..Self::null()
        }
    }

    /// A map of `len` bytes at `addr`.
    ///
    /// # Safety
    /// For all of `'a`, `addr` is readable over `len` bytes, and writable if `access` is
    /// [`Access::ReadWrite`]; the bytes lie outside every Rust allocation, and no Rust reference to
    /// them is used (the laws of this module).
    pub const unsafe fn from_raw(
        addr: *mut u8,
        len: usize,
        location: Location,
        caching: Caching,
        access: Access,
    ) -> Self {
        Self { addr, len, location, caching, access, _borrow: PhantomData }
    }

    /// The length in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the map is zero bytes long.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the map points nowhere.
    pub const fn is_null(&self) -> bool {
        self.addr.is_null()
    }

    /// Where the bytes live.
    pub const fn location(&self) -> Location {
        self.location
    }

    /// How the CPU caches them.
    pub const fn caching(&self) -> Caching {
        self.caching
    }

    /// What may be done with them.
    pub const fn access(&self) -> Access {
        self.access
    }

    /// The address of the first byte, for handing to the kernel or a device. To read or write
    /// through it is the caller's own `unsafe`.
    pub const fn as_ptr(&self) -> *mut u8 {
        self.addr
    }

    /// Makes the map point nowhere, in system memory.
    pub const fn clear(&mut self) {
        *self = Self::null();
    }

    /// The same map without the right to write.
    pub const fn read_only(self) -> Self {
        Self { access: Access::ReadOnly, ..self }
    }

    /// A part of the map.
    ///
    /// # Errors
    /// [`MapError::OutOfBounds`] if the range is reversed or reaches past the end.
    pub fn subrange(self, range: impl RangeBounds<usize>) -> Result<Self, MapError> {
        let (offset, end) = resolve(&range, self.len);
        let len = end.wrapping_sub(offset);
        self.check(offset, len)?;
        Ok(Self { addr: self.addr.wrapping_add(offset), len, ..self })
    }

    /// The map's first `mid` bytes and the rest.
    ///
    /// # Errors
    /// [`MapError::OutOfBounds`] if `mid` is past the end.
    pub fn split_at(self, mid: usize) -> Result<(Self, Self), MapError> {
        Ok((self.subrange(..mid)?, self.subrange(mid..)?))
    }

    /// Moves the start `bytes` further on.
    ///
    /// # Errors
    /// [`MapError::OutOfBounds`] if that is past the end; the map is unchanged.
    pub fn advance(&mut self, bytes: usize) -> Result<(), MapError> {
        *self = self.subrange(bytes..)?;
        Ok(())
    }

    /// Reads a `T` at `offset`.
    ///
    /// A naturally aligned access of 1, 2, 4 or 8 bytes is one volatile load and never tears.
    /// Others are copied byte by byte in system memory.
    ///
    /// # Errors
    /// [`MapError::OutOfBounds`]; [`MapError::Misaligned`] for I/O memory.
    #[inline]
    pub fn read<T: AnyBitPattern>(&self, offset: usize) -> Result<T, MapError> {
        let width = size_of::<T>();
        self.check(offset, width)?;
        let mut value = MaybeUninit::<T>::uninit();
        let src = self.addr.wrapping_add(offset);
        // SAFETY: checked above: `width` bytes at `src` are valid (law 1); `value` is `width` bytes
        // of our own, and any bytes make a valid `T`.
        unsafe {
            copy::read(src, value.as_mut_ptr().cast(), width);
            Ok(value.assume_init())
        }
    }

    /// Writes a `T` at `offset`, with the widths of [`read`](Self::read).
    ///
    /// # Errors
    /// [`MapError::ReadOnly`], [`MapError::OutOfBounds`], [`MapError::Misaligned`] for I/O memory.
    #[inline]
    pub fn write<T: NoUninit>(&self, offset: usize, value: T) -> Result<(), MapError> {
        self.copy_from_slice(offset, bytemuck::bytes_of(&value))
    }

    /// Reads one field of a struct that lies at `offset`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_field<S, T: AnyBitPattern>(
        &self,
        offset: usize,
        field: Field<S, T>,
    ) -> Result<T, MapError> {
        self.read(offset.saturating_add(field.offset))
    }

    /// Writes one field of a struct that lies at `offset`.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_field<S, T: NoUninit>(
        &self,
        offset: usize,
        field: Field<S, T>,
        value: T,
    ) -> Result<(), MapError> {
        self.write(offset.saturating_add(field.offset), value)
    }

    /// Copies `bytes` into the map at `offset`.
    ///
    /// # Errors
    /// [`MapError::ReadOnly`], [`MapError::OutOfBounds`].
    pub fn copy_from_slice(&self, offset: usize, bytes: &[u8]) -> Result<(), MapError> {
        self.subrange(offset..offset.saturating_add(bytes.len()))?
            .copy_from(&BufMap::from_slice(bytes))
    }

    /// Copies the map's bytes at `offset` out into `bytes`.
    ///
    /// # Errors
    /// [`MapError::OutOfBounds`].
    pub fn copy_to_slice(&self, offset: usize, bytes: &mut [u8]) -> Result<(), MapError> {
        let part = self.subrange(offset..offset.saturating_add(bytes.len()))?;
        BufMap::from_mut_slice(bytes).copy_from(&part)
    }

    /// Copies all of `src`, which must be as long as this map and may overlap it.
    ///
    /// # Errors
    /// [`MapError::ReadOnly`], [`MapError::Length`].
    pub fn copy_from(&self, src: &BufMap<'_>) -> Result<(), MapError> {
        self.check_writable()?;
        if src.len != self.len {
            return Err(MapError::Length { src: src.len, dst: self.len });
        }
        // SAFETY: both maps are valid over `len` bytes (law 1) and this one is writable.
        unsafe { copy::copy(src.addr, self.addr, self.len) };
        Ok(())
    }

    /// Sets every byte of the map to `byte`.
    ///
    /// # Errors
    /// [`MapError::ReadOnly`].
    pub fn fill(&self, byte: u8) -> Result<(), MapError> {
        self.check_writable()?;
        // SAFETY: the map is valid over `len` bytes (law 1) and writable.
        unsafe { copy::fill(self.addr, self.len, byte) };
        Ok(())
    }

    fn check(&self, offset: usize, len: usize) -> Result<(), MapError> {
        if offset <= self.len && len <= self.len - offset {
            return Ok(());
        }
        Err(MapError::OutOfBounds { offset, len, map_len: self.len })
    }

    fn check_writable(&self) -> Result<(), MapError> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(MapError::ReadOnly),
        }
    }
}

/// Two maps are equal if they have one location, one address and one length. Maps in different
/// locations are never equal, not even two that point nowhere.
impl PartialEq for BufMap<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.location == other.location && self.addr == other.addr && self.len == other.len
    }
}

impl Eq for BufMap<'_> {}

fn resolve(range: &impl RangeBounds<usize>, len: usize) -> (usize, usize) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => len.max(start),
    };
    (start, end)
}
