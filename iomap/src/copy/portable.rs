//! The engine that counts accesses: naturally aligned words of 1, 2, 4 and 8 bytes, each byte once.
//!
//! It serves strict memory on every architecture, the odd bytes before and after what the faster
//! engines take, close overlaps, and all copies where there is no faster engine.
#![allow(unsafe_code)]

use super::anchor::Anchor;
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
use super::arch::word;

/// Copies upwards: right where `dst` lies below `src`.
///
/// # Safety
/// `src` is readable and `dst` writable over `len` bytes.
pub(super) unsafe fn ascending(src: *const u8, dst: *mut u8, len: usize, anchor: Anchor) {
    let address = anchor.address(src, dst);
    let mut at = 0;
    while at < len {
        let width = width(address + at, len - at);
        // SAFETY: the word lies within the `len` bytes.
        unsafe { word(src.add(at), dst.add(at), width) };
        at += width;
    }
}

/// Copies downwards: right where `dst` lies above `src`.
///
/// # Safety
/// As [`ascending`].
pub(super) unsafe fn descending(src: *const u8, dst: *mut u8, len: usize, anchor: Anchor) {
    let address = anchor.address(src, dst);
    let mut left = len;
    while left > 0 {
        let width = width(address + left, left);
        left -= width;
        // SAFETY: the word lies within the `len` bytes.
        unsafe { word(src.add(left), dst.add(left), width) };
    }
}

/// Copies the bytes before an address that is a multiple of 8, by aligned words.
///
/// # Safety
/// As [`ascending`]; `len` is below 8.
#[inline]
pub(super) unsafe fn head(src: *const u8, dst: *mut u8, len: usize) {
    let mut at = 0;
    for width in [1, 2, 4] {
        if len & width != 0 {
            // SAFETY: the word lies within the `len` bytes.
            unsafe { word(src.add(at), dst.add(at), width) };
            at += width;
        }
    }
}

/// Copies the bytes behind an address that is a multiple of 8, by aligned words.
///
/// # Safety
/// As [`head`].
#[inline]
pub(super) unsafe fn tail(src: *const u8, dst: *mut u8, len: usize) {
    let mut at = 0;
    for width in [4, 2, 1] {
        if len & width != 0 {
            // SAFETY: the word lies within the `len` bytes.
            unsafe { word(src.add(at), dst.add(at), width) };
            at += width;
        }
    }
}

/// Sets bytes to the bytes of `word`, which are all the same.
///
/// # Safety
/// `dst` is writable over `len` bytes.
pub(super) unsafe fn fill(dst: *mut u8, len: usize, word: u64) {
    let mut at = 0;
    while at < len {
        let width = width(dst as usize + at, len - at);
        // SAFETY: the word lies within the `len` bytes and is aligned to its width.
        unsafe {
            let dst = dst.add(at);
            match width {
                8 => dst.cast::<u64>().write_volatile(word),
                4 => dst.cast::<u32>().write_volatile(word as u32),
                2 => dst.cast::<u16>().write_volatile(word as u16),
                _ => dst.write_volatile(word as u8),
            }
        }
        at += width;
    }
}

/// The widest word that is aligned at `address` and fits in `left` bytes, 8 at most.
#[inline]
fn width(address: usize, left: usize) -> usize {
    1 << address.trailing_zeros().min(left.ilog2()).min(3)
}

/// What the other architectures' engines offer, for those that have none.
#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
pub(super) use plain::*;

#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
mod plain {
    use super::{Anchor, ascending, fill};
    use bytemuck::Pod;
    use std::sync::atomic::{Ordering, fence};

    /// Copies one word of 1, 2, 4 or 8 bytes: one load and one store where they are aligned.
    ///
    /// # Safety
    /// Both are valid over `width` bytes.
    pub(in crate::copy) unsafe fn word(src: *const u8, dst: *mut u8, width: usize) {
        // SAFETY: the caller's.
        unsafe {
            match width {
                8 => store(dst, load::<u64>(src)),
                4 => store(dst, load::<u32>(src)),
                2 => store(dst, load::<u16>(src)),
                _ => dst.write_volatile(src.read_volatile()),
            }
        }
    }

    /// One load if `src` is aligned, else byte by byte: the end that is not aligned is not the one
    /// that the copy is anchored to.
    unsafe fn load<W: Pod>(src: *const u8) -> W {
        let wide = src.cast::<W>();
        // SAFETY: the caller's: `src` is readable over the size of `W`.
        unsafe {
            if wide.is_aligned() {
                return wide.read_volatile();
            }
            let mut value = W::zeroed();
            for (i, byte) in bytemuck::bytes_of_mut(&mut value).iter_mut().enumerate() {
                *byte = src.add(i).read_volatile();
            }
            value
        }
    }

    /// One store if `dst` is aligned, else byte by byte, as [`load`].
    unsafe fn store<W: Pod>(dst: *mut u8, value: W) {
        let wide = dst.cast::<W>();
        // SAFETY: the caller's: `dst` is writable over the size of `W`.
        unsafe {
            if wide.is_aligned() {
                return wide.write_volatile(value);
            }
            for (i, &byte) in bytemuck::bytes_of(&value).iter().enumerate() {
                dst.add(i).write_volatile(byte);
            }
        }
    }

    pub(in crate::copy) const fn is_wide() -> bool {
        false
    }

    /// # Safety
    /// As [`ascending`].
    pub(in crate::copy) unsafe fn copy_few(
        src: *const u8,
        dst: *mut u8,
        len: usize,
        _wide: bool,
    ) -> bool {
        if len == 8 {
            // SAFETY: the caller's.
            unsafe { word(src, dst, 8) };
        }
        len == 8
    }

    /// # Safety
    /// As [`ascending`]; one end is aligned to 8.
    pub(in crate::copy) unsafe fn copy_words(
        src: *const u8,
        dst: *mut u8,
        len: usize,
        _wide: bool,
    ) {
        let anchor =
            if (dst as usize).is_multiple_of(8) { Anchor::Destination } else { Anchor::Source };
        // SAFETY: the caller's.
        unsafe { ascending(src, dst, len, anchor) }
    }

    /// # Safety
    /// As [`ascending`].
    pub(in crate::copy) unsafe fn store_streaming(src: *const u8, dst: *mut u8, len: usize) {
        // SAFETY: the caller's.
        unsafe { ascending(src, dst, len, Anchor::Destination) }
    }

    pub(in crate::copy) fn can_load_streaming() -> bool {
        false
    }

    /// # Safety
    /// As [`ascending`].
    pub(in crate::copy) unsafe fn load_streaming(src: *const u8, dst: *mut u8, len: usize) {
        // SAFETY: the caller's.
        unsafe { ascending(src, dst, len, Anchor::Source) }
    }

    /// # Safety
    /// As [`fill`].
    pub(in crate::copy) unsafe fn fill_words(dst: *mut u8, len: usize, word: u64) {
        // SAFETY: the caller's.
        unsafe { fill(dst, len, word) }
    }

    pub(in crate::copy) use fill_words as fill_streaming;

    pub(in crate::copy) fn drain_stores() {
        fence(Ordering::SeqCst);
    }
}
