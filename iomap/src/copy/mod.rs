//! Copy engines, and the choice of one.
//!
//! What a copy may do to a byte depends on the memory it lies in, so both ends of a copy carry a
//! [`Kind`], and it decides:
//!
//! * **Cached to cached** goes at memory speed: wide vectors, the string instructions where the CPU
//!   is good at them, and non-temporal stores once the copy is so large that it would push
//!   everything else out of the last-level cache ([`streaming_from`]).
//! * **Combining** memory is read by streaming loads of whole 64-byte lines and written by
//!   non-temporal stores that leave the CPU as whole lines, with the fences both need.
//! * **Strict** memory is touched by naturally aligned accesses of 1, 2, 4 or 8 bytes, in ascending
//!   order, each byte exactly once.
//!
//! # Safety
//!
//! All functions here take pointers that are valid over the length given, for reading at the source
//! and for writing at the destination, and obey law 3 of [`map`](crate::map): every access is
//! volatile or assembly. They add one promise of their own, **whole words**: at the side that a
//! copy is [anchored](Anchor) to, no access splits a naturally aligned word of up to 8 bytes that
//! the copy covers entirely. Vector accesses keep it because they are at addresses that are
//! multiples of 8: a processor may perform a wide access in parts, but it divides it at multiples
//! of 8 bytes from its beginning or at cache lines, and those coincide with word boundaries only
//! then. Where both ends agree modulo 8, words are whole on both.
#![allow(unsafe_code)]

use std::mem::transmute_copy;
use std::sync::OnceLock;

use bytemuck::{AnyBitPattern, NoUninit};

use crate::{Caching, Location};

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod anchor;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
use portable as arch;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

pub(crate) use anchor::Anchor;

/// What the memory at one end of a copy demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Cached system memory, nobody counts accesses, on a CPU whose vectors are wide enough to copy
    /// a few words without a loop. A map finds that out once, because a short copy has no time to.
    Wide,
    /// Cached system memory.
    Cached,
    /// Write-combining memory of either location.
    Combining,
    /// I/O memory that is not write-combining, and uncached system memory: every access counts.
    Strict,
}

impl Kind {
    /// Rust's own memory at the other end of a copy, which leaves the choice to the map's kind.
    pub(crate) const SLICE: Self = Self::Wide;

    #[inline(always)]
    pub(crate) fn of(location: Location, caching: Caching) -> Self {
        let cached = matches!(caching, Caching::WriteBack | Caching::WriteThrough);
        if matches!(location, Location::System) && cached {
            if arch::is_wide() { Self::Wide } else { Self::Cached }
        } else if matches!(caching, Caching::WriteCombining) {
            Self::Combining
        } else {
            Self::Strict
        }
    }

    #[inline(always)]
    const fn is_cached(self) -> bool {
        matches!(self, Self::Wide | Self::Cached)
    }
}

/// Loads a `T` at `base + offset` by one access, or does nothing where it is not 1, 2, 4 or 8 bytes
/// wide or base and offset are not both aligned to that.
///
/// (Asking it of both lets the compiler drop the question for an offset that it knows, and ask it
/// once for all accesses of a loop.)
///
/// # Safety
/// `base + offset` is readable over the size of `T`, for which any bytes are valid.
#[inline(always)]
pub(crate) unsafe fn load_word<T: AnyBitPattern>(base: *const u8, offset: usize) -> Option<T> {
    let width = size_of::<T>();
    if width != 0 && !(base as usize | offset).is_multiple_of(width) {
        return None;
    }
    // SAFETY: the caller's; the source is aligned, and a word of `T`'s size is read as its bytes.
    unsafe {
        let src = base.add(offset);
        Some(match width {
            1 => transmute_copy(&src.read_volatile()),
            2 => transmute_copy(&src.cast::<u16>().read_volatile()),
            4 => transmute_copy(&src.cast::<u32>().read_volatile()),
            8 => transmute_copy(&src.cast::<u64>().read_volatile()),
            _ => return None,
        })
    }
}

/// Stores a `T` at `base + offset` as [`load_word`] loads one. Returns whether it did.
///
/// # Safety
/// `base + offset` is writable over the size of `T`.
#[inline(always)]
pub(crate) unsafe fn store_word<T: NoUninit>(value: T, base: *mut u8, offset: usize) -> bool {
    let width = size_of::<T>();
    if width != 0 && !(base as usize | offset).is_multiple_of(width) {
        return false;
    }
    // SAFETY: the caller's; the destination is aligned, and `T`'s bytes, which are all initialised,
    // are written as a word of its size.
    unsafe {
        let dst = base.add(offset);
        match width {
            1 => dst.write_volatile(transmute_copy(&value)),
            2 => dst.cast::<u16>().write_volatile(transmute_copy(&value)),
            4 => dst.cast::<u32>().write_volatile(transmute_copy(&value)),
            8 => dst.cast::<u64>().write_volatile(transmute_copy(&value)),
            _ => return false,
        }
    }
    true
}

/// Copies `len` bytes; the ends may overlap.
///
/// # Safety
/// `src` is readable and `dst` writable over `len` bytes.
#[inline(always)]
pub(crate) unsafe fn copy(
    (src, src_kind): (*const u8, Kind),
    (dst, dst_kind): (*mut u8, Kind),
    len: usize,
    anchor: Anchor,
) {
    // SAFETY: the caller's.
    unsafe {
        if src_kind.is_cached() && dst_kind.is_cached() {
            let wide = src_kind == Kind::Wide && dst_kind == Kind::Wide;
            cached(src, dst, len, anchor, wide);
        } else {
            device((src, src_kind), (dst, dst_kind), len, anchor);
        }
    }
}

/// Sets `len` bytes to `byte`.
///
/// # Safety
/// `dst` is writable over `len` bytes.
#[inline]
pub(crate) unsafe fn fill((dst, kind): (*mut u8, Kind), len: usize, byte: u8) {
    let word = u64::from(byte) * 0x0101_0101_0101_0101;
    // SAFETY: the caller's; aligned words are what `fill_words` takes.
    unsafe {
        if kind.is_cached() && !streams(len) && (dst as usize | len).is_multiple_of(8) {
            arch::fill_words(dst, len, word);
        } else {
            fill_parts((dst, kind), len, word);
        }
    }
}

/// Sets `len` bytes that are not just a few aligned words of cached memory.
///
/// # Safety
/// As [`fill`].
#[inline(never)]
unsafe fn fill_parts((dst, kind): (*mut u8, Kind), len: usize, word: u64) {
    let stream = kind == Kind::Combining || kind.is_cached() && streams(len);
    let unit = if stream { 16 } else { 8 };
    let (head, body, tail) = split(dst as usize, len, unit, unit);
    // SAFETY: the three parts are those `len` bytes; the body is aligned as its engine asks.
    unsafe {
        portable::fill(dst, head, word);
        let (middle, end) = (dst.add(head), dst.add(head + body));
        if stream {
            arch::fill_streaming(middle, body, word);
        } else if kind.is_cached() {
            arch::fill_words(middle, body, word);
        } else {
            portable::fill(middle, body, word);
        }
        portable::fill(end, tail, word);
    }
    if stream {
        arch::drain_stores();
    }
}

/// Cached memory at both ends.
///
/// # Safety
/// As [`copy`]; `wide` only if the CPU [is](Kind::Wide).
#[inline(always)]
unsafe fn cached(src: *const u8, dst: *mut u8, len: usize, anchor: Anchor, wide: bool) {
    // SAFETY: the caller's; whole words at an aligned address are what `words` takes.
    unsafe {
        if (anchor.address(src, dst) | len).is_multiple_of(8) {
            words(src, dst, len, anchor, wide);
        } else {
            ragged(src, dst, len, anchor);
        }
    }
}

/// Cached memory at both ends: whole words, aligned at the anchor.
///
/// # Safety
/// As [`cached`]; `len` and the anchor's address are multiples of 8.
#[inline(always)]
unsafe fn words(src: *const u8, dst: *mut u8, len: usize, anchor: Anchor, wide: bool) {
    // SAFETY: the caller's.
    unsafe {
        if !arch::copy_few(src, dst, len, wide) {
            many_words(src, dst, len, anchor, wide);
        }
    }
}

/// [`words`], more of them.
///
/// # Safety
/// As [`words`].
#[inline(never)]
unsafe fn many_words(src: *const u8, dst: *mut u8, len: usize, anchor: Anchor, wide: bool) {
    let distance = (src as usize).abs_diff(dst as usize);
    // SAFETY: the caller's; the ends are disjoint where that is asked for. Streaming stores are
    // aligned to a line at `dst`, which splits words where only `src` is aligned to them.
    unsafe {
        if distance < len {
            overlapping(src, dst, len, distance, anchor);
        } else if streams(len) && (dst as usize).is_multiple_of(8) {
            stream_words(src, dst, len);
        } else {
            arch::copy_words(src, dst, len, wide);
        }
    }
}

/// Cached memory at both ends, so much of it that the caches are no use.
///
/// # Safety
/// As [`words`]; the ends are disjoint, and `dst` is aligned to 8.
#[inline(never)]
unsafe fn stream_words(src: *const u8, dst: *mut u8, len: usize) {
    let (head, body, tail) = split(dst as usize, len, STREAM_ALIGN, 16);
    // SAFETY: the caller's; the three parts are those `len` bytes.
    unsafe {
        arch::copy_words(src, dst, head, false);
        arch::store_streaming(src.add(head), dst.add(head), body);
        arch::drain_stores();
        arch::copy_words(src.add(head + body), dst.add(head + body), tail, false);
    }
}

/// Cached memory at both ends, with odd bytes at the beginning or the end.
///
/// # Safety
/// As [`copy`].
#[inline(never)]
unsafe fn ragged(src: *const u8, dst: *mut u8, len: usize, anchor: Anchor) {
    let distance = (src as usize).abs_diff(dst as usize);
    // SAFETY: the caller's; the three parts are those `len` bytes, the body whole words.
    unsafe {
        if distance < len {
            return overlapping(src, dst, len, distance, anchor);
        }
        if len < 8 {
            return portable::ascending(src, dst, len, anchor);
        }
        let (head, body, tail) = split(anchor.address(src, dst), len, 8, 8);
        portable::head(src, dst, head);
        words(src.add(head), dst.add(head), body, anchor, arch::is_wide());
        portable::tail(src.add(head + body), dst.add(head + body), tail);
    }
}

/// Cached memory at both ends, which overlap: pieces as long as the ends are apart do not, and are
/// copied in the order that reads each byte before it is overwritten.
///
/// # Safety
/// As [`copy`]; `distance` is what lies between `src` and `dst`.
#[cold]
unsafe fn overlapping(src: *const u8, dst: *mut u8, len: usize, distance: usize, anchor: Anchor) {
    const WORTHWHILE: usize = 256;
    let down = (dst as usize) > src as usize;
    // SAFETY: the caller's; each piece is no longer than `distance`.
    unsafe {
        match (distance, down) {
            (0, _) => {}
            (WORTHWHILE.., _) => {
                let pieces = Chunks::new(anchor.address(src, dst), len, distance & !63);
                pieces.each(down, |at, len| cached(src.add(at), dst.add(at), len, anchor, false));
            }
            (_, false) => portable::ascending(src, dst, len, anchor),
            (_, true) => portable::descending(src, dst, len, anchor),
        }
    }
}

/// Combining or strict memory at one end or both.
///
/// # Safety
/// As [`copy`].
#[cold]
unsafe fn device(
    (src, src_kind): (*const u8, Kind),
    (dst, dst_kind): (*mut u8, Kind),
    len: usize,
    anchor: Anchor,
) {
    let overlap = (src as usize).abs_diff(dst as usize) < len;
    let agree = (src as usize ^ dst as usize).is_multiple_of(8);
    // SAFETY: the caller's.
    unsafe {
        match (src_kind, dst_kind) {
            (from, _) if from.is_cached() && !overlap => store(src, (dst, dst_kind), len),
            (_, to) if to.is_cached() && !overlap && (agree || anchor == Anchor::Source) => {
                load((src, src_kind), dst, len);
            }
            _ => bounce((src, src_kind), (dst, dst_kind), len),
        }
    }
}

/// From combining or strict memory into cached memory.
///
/// # Safety
/// As [`copy`], and the ends do not overlap.
unsafe fn load((src, kind): (*const u8, Kind), dst: *mut u8, len: usize) {
    let anchor = Anchor::Source;
    // SAFETY: the caller's; the parts are those `len` bytes, and the body is aligned to 16.
    unsafe {
        if kind != Kind::Combining || !arch::can_load_streaming() {
            return portable::ascending(src, dst, len, anchor);
        }
        let (head, body, tail) = split(src as usize, len, 16, 16);
        portable::ascending(src, dst, head, anchor);
        arch::load_streaming(src.add(head), dst.add(head), body);
        portable::ascending(src.add(head + body), dst.add(head + body), tail, anchor);
    }
}

/// From cached memory into combining or strict memory.
///
/// # Safety
/// As [`copy`], and the ends do not overlap.
unsafe fn store(src: *const u8, (dst, kind): (*mut u8, Kind), len: usize) {
    let anchor = Anchor::Destination;
    // SAFETY: the caller's; the parts are those `len` bytes, and the body is aligned to 16.
    unsafe {
        if kind != Kind::Combining {
            return portable::ascending(src, dst, len, anchor);
        }
        let (head, body, tail) = split(dst as usize, len, 16, 16);
        portable::ascending(src, dst, head, anchor);
        arch::store_streaming(src.add(head), dst.add(head), body);
        portable::ascending(src.add(head + body), dst.add(head + body), tail, anchor);
        arch::drain_stores();
    }
}

/// Through a buffer on the stack: for ends that each have alignment of their own, or overlap.
///
/// # Safety
/// As [`copy`].
unsafe fn bounce((src, src_kind): (*const u8, Kind), (dst, dst_kind): (*mut u8, Kind), len: usize) {
    #[repr(align(64))]
    struct Buffer([u8; 4096]);
    // The buffer begins where the chunk does in its line, so that it agrees with the destination.
    let mut buffer = Buffer([0; 4096]);
    let room = buffer.0.len() - STREAM_ALIGN;
    let down = (dst as usize) > src as usize;
    Chunks::new(dst as usize, len, room).each(down, |at, len| {
        let skew = (dst as usize + at) % STREAM_ALIGN;
        let held = buffer.0[skew..skew + len].as_mut_ptr();
        // SAFETY: the caller's; the buffer holds `len` bytes and overlaps nothing.
        unsafe {
            match src_kind {
                Kind::Wide | Kind::Cached => cached(src.add(at), held, len, Anchor::Source, false),
                kind => load((src.add(at), kind), held, len),
            }
            match dst_kind {
                Kind::Wide | Kind::Cached => {
                    cached(held, dst.add(at), len, Anchor::Destination, false)
                }
                kind => store(held, (dst.add(at), kind), len),
            }
        }
    });
}

/// A cache line: what streaming stores fill whole.
const STREAM_ALIGN: usize = 64;

/// Divides `len` bytes at `address` into a head up to a multiple of `align`, a body that is a
/// multiple of `unit` long, and a tail.
#[inline]
fn split(address: usize, len: usize, align: usize, unit: usize) -> (usize, usize, usize) {
    let head = len.min(address.wrapping_neg() & (align - 1));
    let body = (len - head) & !(unit - 1);
    (head, body, len - head - body)
}

/// The bytes of a copy in chunks that end at line boundaries, first chunk and last excepted.
struct Chunks {
    first: usize,
    len: usize,
    chunk: usize,
}

impl Chunks {
    /// Chunks of at most `chunk` bytes, a multiple of a line, for `len` bytes at `address`.
    fn new(address: usize, len: usize, chunk: usize) -> Self {
        Self { first: len.min(chunk - address % STREAM_ALIGN), len, chunk }
    }

    /// Calls `copy` with the offset and length of each chunk, from the last to the first if `down`.
    fn each(&self, down: bool, mut copy: impl FnMut(usize, usize)) {
        let count = 1 + (self.len - self.first).div_ceil(self.chunk);
        for index in 0..count {
            let index = if down { count - 1 - index } else { index };
            match index {
                0 => copy(0, self.first),
                _ => {
                    let at = self.first + (index - 1) * self.chunk;
                    copy(at, self.chunk.min(self.len - at));
                }
            }
        }
    }
}

/// Whether a copy between cached memory is large enough for non-temporal stores.
#[inline]
fn streams(len: usize) -> bool {
    len >= STREAMING_MIN && len >= streaming_from()
}

/// Below this nothing streams, whatever the cache.
const STREAMING_MIN: usize = 4 << 20;

/// The length from which a copy streams: the size of the last-level cache.
///
/// A shorter copy leaves its destination in the cache for whoever reads it next, and is faster so:
/// on a Zen 5 with 32 MiB of L3, ordinary stores beat non-temporal ones by 1.5 at 8 MiB and by 1.2
/// at 16 MiB, and are level with them at 32 MiB, where a copy has flushed the cache either way.
#[cold]
fn streaming_from() -> usize {
    static FROM: OnceLock<usize> = OnceLock::new();
    *FROM.get_or_init(|| last_level_cache().unwrap_or(32 << 20))
}

/// The size in bytes of the highest cache that CPU 0 has, as the kernel tells it
/// (`Documentation/ABI/testing/sysfs-devices-system-cpu`).
fn last_level_cache() -> Option<usize> {
    let size = (2..=4).rev().find_map(|index| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size"))
            .ok()
    })?;
    size.trim().strip_suffix('K')?.parse::<usize>().ok()?.checked_mul(1024)
}
