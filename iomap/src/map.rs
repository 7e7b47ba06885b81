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
//!    allocation (made by `mmap`), or are borrowed for several threads ([`Borrowed`](crate::Borrowed)),
//!    where a race between volatile accesses mixes values and nothing worse.
//! 3. **Volatile**: every access is volatile or opaque assembly, so none is invented, repeated or
//!    dropped by the compiler.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

use bytemuck::{AnyBitPattern, NoUninit};

pub use crate::location::Location;

use crate::Caching;
use crate::copy::{self, Anchor, Kind};

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
#[non_exhaustive]
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
    /// A range that ends before it begins.
    #[error("the range from {start:#x} to {end:#x} ends before it begins")]
    Reversed {
        /// Its first byte.
        start: usize,
        /// One past its last byte.
        end: usize,
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
///
/// The compiler keeps the laws of this module. A map does not outlive its memory:
///
/// ```compile_fail,E0505
/// let memory = iomap::Memory::anonymous(4096, iomap::PageSize::Base).unwrap();
/// let map = memory.map();
/// drop(memory);
/// map.fill(0);
/// ```
///
/// A slice stays borrowed, exclusively if it may be written:
///
/// ```compile_fail,E0506
/// let mut bytes = [0; 8];
/// let map = iomap::BufMap::from_mut_slice(&mut bytes);
/// bytes[0] = 1;
/// map.fill(0);
/// ```
///
/// No other thread gets a map, nor a reference to one:
///
/// ```compile_fail,E0277
/// fn send<T: Send>(_: T) {}
/// send(iomap::BufMap::null());
/// ```
///
/// ```compile_fail,E0277
/// fn share<T: Sync>(_: T) {}
/// share(iomap::BufMap::null());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct BufMap<'a> {
    addr: *mut u8,
    len: usize,
    location: Location,
    caching: Caching,
    access: Access,
    /// What location and caching come to for a copy, so that short copies need not ask again.
    kind: Kind,
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
            kind: Kind::Cached,
            _borrow: PhantomData,
        }
    }

    /// A read-only map of a slice.
    pub fn from_slice(bytes: &'a [u8]) -> Self {
        Self {
            addr: bytes.as_ptr().cast_mut(),
            len: bytes.len(),
            access: Access::ReadOnly,
            kind: Kind::of(Location::System, Caching::WriteBack),
            ..Self::null()
        }
    }

    /// A read-write map of a slice.
    pub fn from_mut_slice(bytes: &'a mut [u8]) -> Self {
        Self {
            addr: bytes.as_mut_ptr(),
            len: bytes.len(),
            access: Access::ReadWrite,
            kind: Kind::of(Location::System, Caching::WriteBack),
            ..Self::null()
        }
    }

    /// A map of `len` bytes at `addr`.
    ///
    /// # Safety
    /// For all of `'a`, `addr` is readable over `len` bytes, and writable if `access` is
    /// [`Access::ReadWrite`]; the bytes lie outside every Rust allocation or are borrowed exclusively, and
    /// no Rust reference to them is used (the laws of this module).
    pub unsafe fn from_raw(
        addr: *mut u8,
        len: usize,
        location: Location,
        caching: Caching,
        access: Access,
    ) -> Self {
        let kind = Kind::of(location, caching);
        Self { addr, len, location, caching, access, kind, _borrow: PhantomData }
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

    /// Whether the map points somewhere.
    pub const fn is_set(&self) -> bool {
        !self.is_null()
    }

    /// Points the map at a slice, read-write: [`from_mut_slice`](Self::from_mut_slice) in place.
    pub fn set_system(&mut self, bytes: &'a mut [u8]) {
        *self = Self::from_mut_slice(bytes);
    }

    /// Points the map at `len` bytes of I/O memory, read-write.
    ///
    /// # Safety
    /// As [`from_raw`](Self::from_raw).
    pub unsafe fn set_io(&mut self, addr: *mut u8, len: usize, caching: Caching) {
        // SAFETY: the caller's.
        *self = unsafe { Self::from_raw(addr, len, Location::Io, caching, Access::ReadWrite) };
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
    /// [`MapError::OutOfBounds`] if the range reaches past the end, [`MapError::Reversed`].
    #[inline(always)]
    pub fn subrange(self, range: impl RangeBounds<usize>) -> Result<Self, MapError> {
        let (offset, end) = resolve(&range, self.len);
        let Some(len) = end.checked_sub(offset) else {
            return Err(MapError::Reversed { start: offset, end });
        };
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

    /// The map from `bytes` further on.
    ///
    /// # Errors
    /// [`MapError::OutOfBounds`] if that is past the end.
    pub fn offset(self, bytes: usize) -> Result<Self, MapError> {
        self.subrange(bytes..)
    }

    /// Moves the start `bytes` further on.
    ///
    /// # Errors
    /// [`MapError::OutOfBounds`] if that is past the end; the map is unchanged.
    pub fn advance(&mut self, bytes: usize) -> Result<(), MapError> {
        *self = self.offset(bytes)?;
        Ok(())
    }

    /// Reads a `T` at `offset`.
    ///
    /// A `T` of 1, 2, 4 or 8 bytes at an address aligned to its width is one volatile load and never
    /// tears. In system memory any other is copied in smaller words. In I/O memory a device would
    /// see those, so a `T` of these widths that is not aligned is refused; a `T` of another width
    /// is copied as by [`copy_to_slice`](Self::copy_to_slice).
    ///
    /// # Errors
    /// [`MapError::OutOfBounds`]; [`MapError::Misaligned`] in I/O memory.
    #[inline]
    pub fn read<T: AnyBitPattern>(&self, offset: usize) -> Result<T, MapError> {
        self.check(offset, size_of::<T>())?;
        // SAFETY: checked above: so many bytes at `offset` are readable (law 1), and any bytes make
        // a valid `T`.
        match unsafe { copy::load_word::<T>(self.addr, offset) } {
            Some(value) => Ok(value),
            None => self.read_parts(offset),
        }
    }

    /// Reads a `T` that is not one aligned word, inside the map.
    #[cold]
    fn read_parts<T: AnyBitPattern>(&self, offset: usize) -> Result<T, MapError> {
        let width = size_of::<T>();
        self.check(offset, width)?;
        self.check_aligned(offset, width)?;
        let mut value = T::zeroed();
        let src = (self.addr.wrapping_add(offset).cast_const(), self.kind);
        let dst = ((&raw mut value).cast::<u8>(), Kind::SLICE);
        // SAFETY: checked above: `width` bytes at `src` are readable (law 1); `value` is `width`
        // bytes of our own, and any bytes make a valid `T`.
        unsafe { copy::copy(src, dst, width, Anchor::Source) };
        Ok(value)
    }

    /// Writes a `T` at `offset`, with the widths of [`read`](Self::read).
    ///
    /// # Errors
    /// [`MapError::ReadOnly`], [`MapError::OutOfBounds`]; [`MapError::Misaligned`] in I/O memory.
    #[inline]
    pub fn write<T: NoUninit>(&self, offset: usize, value: T) -> Result<(), MapError> {
        self.check_writable()?;
        self.check(offset, size_of::<T>())?;
        // SAFETY: checked above: so many bytes at `offset` are writable (law 1), and `value` has no
        // uninitialised ones.
        if unsafe { copy::store_word(value, self.addr, offset) } {
            return Ok(());
        }
        self.write_parts(offset, value)
    }

    /// Writes a `T` that is not one aligned word, inside the map.
    #[cold]
    fn write_parts<T: NoUninit>(&self, offset: usize, value: T) -> Result<(), MapError> {
        self.check_aligned(offset, size_of::<T>())?;
        self.copy_from_slice(offset, bytemuck::bytes_of(&value))
    }

    /// Reads one field of a struct that lies at `offset`.
    ///
    /// ```
    /// use iomap::{BufMap, field};
    ///
    /// #[repr(C)]
    /// struct Queue { head: u32, tail: u32 }
    ///
    /// let mut ring = [0; 64];
    /// let map = BufMap::from_mut_slice(&mut ring);
    /// map.write_field(16, field!(Queue, tail), 7)?;
    /// assert_eq!(map.read_field(16, field!(Queue, tail))?, 7);
    /// assert_eq!(map.read::<u32>(20)?, 7);
    /// # Ok::<(), iomap::MapError>(())
    /// ```
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[inline]
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
    #[inline]
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
    /// In the map, aligned words of up to 8 bytes are stored whole. In I/O memory each byte is
    /// stored once, in ascending order, by the widest aligned words of up to 8 bytes (16 if it is
    /// write-combining).
    ///
    /// # Errors
    /// [`MapError::ReadOnly`], [`MapError::OutOfBounds`].
    #[inline]
    pub fn copy_from_slice(&self, offset: usize, bytes: &[u8]) -> Result<(), MapError> {
        self.check_writable()?;
        self.check(offset, bytes.len())?;
        let src = (bytes.as_ptr(), Kind::SLICE);
        let dst = (self.addr.wrapping_add(offset), self.kind);
        // SAFETY: checked above: `bytes.len()` bytes at `dst` are writable (law 1).
        unsafe { copy::copy(src, dst, bytes.len(), Anchor::Destination) };
        Ok(())
    }

    /// Copies the map's bytes at `offset` out into `bytes`, with the widths of
    /// [`copy_from_slice`](Self::copy_from_slice).
    ///
    /// Reading write-combining memory is slow whatever is done (hundreds of MB/s at best, over a
    /// bus); streaming loads are used where the CPU has them.
    ///
    /// # Errors
    /// [`MapError::OutOfBounds`].
    #[inline]
    pub fn copy_to_slice(&self, offset: usize, bytes: &mut [u8]) -> Result<(), MapError> {
        self.check(offset, bytes.len())?;
        let src = (self.addr.wrapping_add(offset).cast_const(), self.kind);
        let dst = (bytes.as_mut_ptr(), Kind::SLICE);
        // SAFETY: checked above: `bytes.len()` bytes at `src` are readable (law 1).
        unsafe { copy::copy(src, dst, bytes.len(), Anchor::Source) };
        Ok(())
    }

    /// Copies all of `src`, which must be as long as this map and may overlap it (not by way of two
    /// mappings of the same memory at different addresses, which cannot be told apart).
    ///
    /// Aligned words of up to 8 bytes are stored whole; they are also read whole if both maps begin
    /// at the same address modulo 8.
    ///
    /// # Errors
    /// [`MapError::ReadOnly`], [`MapError::Length`].
    #[inline(always)]
    pub fn copy_from(&self, src: &BufMap<'_>) -> Result<(), MapError> {
        self.check_writable()?;
        if src.len != self.len {
            return Err(MapError::Length { src: src.len, dst: self.len });
        }
        let from = (src.addr.cast_const(), src.kind);
        // SAFETY: both maps are valid over `len` bytes (law 1) and this one is writable.
        unsafe { copy::copy(from, (self.addr, self.kind), self.len, Anchor::Destination) };
        Ok(())
    }

    /// Copies all of this map to `dst`: [`copy_from`](Self::copy_from) seen from the source.
    ///
    /// # Errors
    /// As [`copy_from`](Self::copy_from).
    #[inline]
    pub fn copy_to(&self, dst: &BufMap<'_>) -> Result<(), MapError> {
        dst.copy_from(self)
    }

    /// Sets every byte of the map to `byte`, with the widths of
    /// [`copy_from_slice`](Self::copy_from_slice).
    ///
    /// # Errors
    /// [`MapError::ReadOnly`].
    #[inline]
    pub fn fill(&self, byte: u8) -> Result<(), MapError> {
        self.check_writable()?;
        // SAFETY: the map is valid over `len` bytes (law 1) and writable.
        unsafe { copy::fill((self.addr, self.kind), self.len, byte) };
        Ok(())
    }

    /// For an access that was not made in one because its parts are not both aligned.
    #[cold]
    fn check_aligned(&self, offset: usize, width: usize) -> Result<(), MapError> {
        let aligned = (self.addr as usize + offset).is_multiple_of(width.max(1));
        if self.location == Location::Io && matches!(width, 2 | 4 | 8) && !aligned {
            return Err(MapError::Misaligned { offset, width });
        }
        Ok(())
    }

    #[inline]
    fn check(&self, offset: usize, len: usize) -> Result<(), MapError> {
        // In this order the subtraction is the same for all accesses of a loop.
        match self.len.checked_sub(len) {
            Some(last) if offset <= last => Ok(()),
            _ => Err(MapError::OutOfBounds { offset, len, map_len: self.len }),
        }
    }

    #[inline]
    pub(crate) fn check_writable(&self) -> Result<(), MapError> {
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

#[inline(always)]
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
