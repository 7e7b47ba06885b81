//! AArch64.
//!
//! Pairs of 64-bit registers: each half is single-copy atomic where it is aligned (Arm ARM, B2.2.1),
//! which is what whole words need. Write-combining memory is mapped Normal Non-cacheable there, so
//! the non-temporal pairs (`ldnp`, `stnp`) may be used on it.
#![allow(unsafe_code)]

use std::arch::asm;

/// Copies one word of 1, 2, 4 or 8 bytes, by one load and one store.
///
/// # Safety
/// `src` is readable and `dst` writable over `width` bytes, and each is aligned to it or ordinary
/// memory.
#[inline(always)]
pub(super) unsafe fn word(src: *const u8, dst: *mut u8, width: usize) {
    macro_rules! one {
        ($load:literal, $store:literal) => {
            asm!(
                $load, $store,
                word = out(reg) _, src = in(reg) src, dst = in(reg) dst,
                options(nostack, preserves_flags),
            )
        };
    }
    // SAFETY: the caller's.
    unsafe {
        match width {
            8 => one!("ldr {word}, [{src}]", "str {word}, [{dst}]"),
            4 => one!("ldr {word:w}, [{src}]", "str {word:w}, [{dst}]"),
            2 => one!("ldrh {word:w}, [{src}]", "strh {word:w}, [{dst}]"),
            _ => one!("ldrb {word:w}, [{src}]", "strb {word:w}, [{dst}]"),
        }
    }
}

/// No: pairs of registers are the widest that is used.
pub(super) const fn is_wide() -> bool {
    false
}

/// Copies one word or none, and returns false if there are more.
///
/// # Safety
/// As [`word`].
#[inline(always)]
pub(super) unsafe fn copy_few(src: *const u8, dst: *mut u8, len: usize, _wide: bool) -> bool {
    match len {
        0 => {}
        // SAFETY: the caller's.
        8 => unsafe { word(src, dst, 8) },
        _ => return false,
    }
    true
}

/// Defines a copy by pairs: blocks of 64 bytes, then words.
macro_rules! pair_copy {
    ($name:ident, $load:literal, $store:literal) => {
        /// # Safety
        /// `src` is readable and `dst` writable over `len` bytes, a multiple of 8; they do not
        /// overlap, and one of them is aligned to 8.
        pub(super) unsafe fn $name(src: *const u8, dst: *mut u8, len: usize) {
            let blocks = len & !63;
            // SAFETY: the caller's: blocks and then words, within `len`.
            unsafe {
                if blocks > 0 {
                    asm!(
                        "2:",
                        concat!($load, " {a}, {b}, [{src}]"),
                        concat!($load, " {c}, {d}, [{src}, #16]"),
                        concat!($load, " {e}, {f}, [{src}, #32]"),
                        concat!($load, " {g}, {h}, [{src}, #48]"),
                        concat!($store, " {a}, {b}, [{dst}]"),
                        concat!($store, " {c}, {d}, [{dst}, #16]"),
                        concat!($store, " {e}, {f}, [{dst}, #32]"),
                        concat!($store, " {g}, {h}, [{dst}, #48]"),
                        "add {src}, {src}, #64",
                        "add {dst}, {dst}, #64",
                        "subs {left}, {left}, #64",
                        "b.ne 2b",
                        src = inout(reg) src => _, dst = inout(reg) dst => _,
                        left = inout(reg) blocks => _,
                        a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
                        e = out(reg) _, f = out(reg) _, g = out(reg) _, h = out(reg) _,
                        options(nostack),
                    );
                }
                for at in (blocks..len).step_by(8) {
                    word(src.add(at), dst.add(at), 8);
                }
            }
        }
    };
}

/// # Safety
/// As [`copy_pairs`].
pub(super) unsafe fn copy_words(src: *const u8, dst: *mut u8, len: usize, _wide: bool) {
    // SAFETY: the caller's.
    unsafe { copy_pairs(src, dst, len) }
}

pair_copy!(copy_pairs, "ldp", "stp");
pair_copy!(store_streaming, "ldp", "stnp");
pair_copy!(load_pairs, "ldnp", "stp");

/// Whether the CPU has streaming loads: all have the hint.
pub(super) fn can_load_streaming() -> bool {
    true
}

/// Copies by non-temporal loads, between barriers: they are ordered with nothing.
///
/// # Safety
/// As [`copy_words`].
pub(super) unsafe fn load_streaming(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: the caller's; a barrier touches no memory.
    unsafe {
        asm!("dmb sy", options(nostack, preserves_flags));
        load_pairs(src, dst, len);
        asm!("dmb sy", options(nostack, preserves_flags));
    }
}

/// Defines a fill by pairs: blocks of 16 bytes, then a word.
macro_rules! pair_fill {
    ($name:ident, $store:literal) => {
        /// # Safety
        /// `dst` is writable over `len` bytes; both are multiples of 8.
        pub(super) unsafe fn $name(dst: *mut u8, len: usize, word: u64) {
            let blocks = len & !15;
            // SAFETY: the caller's: blocks and then a word, within `len`.
            unsafe {
                if blocks > 0 {
                    asm!(
                        "2:",
                        concat!($store, " {word}, {word}, [{dst}]"),
                        "add {dst}, {dst}, #16",
                        "subs {left}, {left}, #16",
                        "b.ne 2b",
                        word = in(reg) word, dst = inout(reg) dst => _,
                        left = inout(reg) blocks => _,
                        options(nostack),
                    );
                }
                if len > blocks {
                    dst.add(blocks).cast::<u64>().write_volatile(word);
                }
            }
        }
    };
}

pair_fill!(fill_words, "stp");
pair_fill!(fill_streaming, "stnp");

/// Orders non-temporal stores before all later stores, towards devices too.
pub(super) fn drain_stores() {
    // SAFETY: a barrier touches no memory.
    unsafe { asm!("dmb st", options(nostack, preserves_flags)) };
}
