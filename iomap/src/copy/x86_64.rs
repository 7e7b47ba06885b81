//! x86-64.
//!
//! Vectors of 16 bytes are always there; of 32 and 64 bytes with AVX and AVX-512, asked at run time.
//! Whole words hold: AMD (APM volume 2, 7.3.2) and Intel (SDM volume 3, 9.1.1) promise an aligned
//! quadword, and parts of a wider access at an address that is a multiple of 8 are made of those.
#![allow(unsafe_code)]

use std::arch::asm;
use std::is_x86_feature_detected as has;

/// From here on the string instructions beat a loop of vectors, on CPUs that say they are fast
/// (ERMS): source and destination no longer fit in the first-level cache together.
const STRING_FROM: usize = 16 << 10;

/// Copies one word of 1, 2, 4 or 8 bytes, by one load and one store.
///
/// # Safety
/// `src` is readable and `dst` writable over `width` bytes.
#[inline(always)]
pub(super) unsafe fn word(src: *const u8, dst: *mut u8, width: usize) {
    macro_rules! one {
        ($load:literal, $store:literal, $class:ident) => {
            asm!(
                $load, $store,
                word = out($class) _, src = in(reg) src, dst = in(reg) dst,
                options(nostack, preserves_flags),
            )
        };
    }
    // SAFETY: the caller's. x86 takes any alignment.
    unsafe {
        match width {
            8 => one!("mov {word}, [{src}]", "mov [{dst}], {word}", reg),
            4 => one!("mov {word:e}, [{src}]", "mov [{dst}], {word:e}", reg),
            2 => one!("movzx {word:e}, word ptr [{src}]", "mov [{dst}], {word:x}", reg),
            _ => one!("mov {word}, [{src}]", "mov [{dst}], {word}", reg_byte),
        }
    }
}

/// Copies whole words between cached memory that may overlap, if they are few: returns false, and
/// does nothing, if they are not. All loads come before all stores.
///
/// # Safety
/// `src` is readable and `dst` writable over `len` bytes, a multiple of 8, and `src` or `dst` is
/// aligned to 8; `wide` only if the CPU [is](is_wide).
#[inline(always)]
pub(super) unsafe fn copy_few(src: *const u8, dst: *mut u8, len: usize, wide: bool) -> bool {
    // SAFETY: the caller's; each function gets the lengths it can take, and vectors the CPU has.
    unsafe {
        if len > 64 {
            if len > 512 || !wide {
                return false;
            }
            if len <= 128 {
                few_64_to_128(src, dst, len);
            } else if len <= 256 {
                few_128_to_256(src, dst, len);
            } else {
                few_256_to_512(src, dst, len);
            }
        } else if len > 32 {
            if wide {
                few_32_to_64_wide(src, dst, len);
            } else {
                few_32_to_64(src, dst, len);
            }
        } else if len >= 16 {
            few_16_to_32(src, dst, len);
        } else if len == 8 {
            word(src, dst, 8);
        }
    }
    true
}

/// Whether the CPU has vectors of 64 bytes, and twice 16 of them: AVX-512, with VL, which all but
/// the first have.
#[inline]
pub(super) fn is_wide() -> bool {
    has!("avx512vl")
}

/// Copies whole words between cached memory that does not overlap.
///
/// # Safety
/// As [`copy_few`], and the ends are disjoint.
#[inline(always)]
pub(super) unsafe fn copy_words(src: *const u8, dst: *mut u8, len: usize, wide: bool) {
    // SAFETY: the caller's; the CPU has the vectors.
    unsafe {
        if wide && matches!(len, 513..=STRING_FROM) {
            copy_64(src, dst, len);
        } else {
            copy_any(src, dst, len);
        }
    }
}

/// [`copy_words`] by whatever the CPU has.
///
/// # Safety
/// As [`copy_words`].
#[inline(never)]
unsafe fn copy_any(src: *const u8, dst: *mut u8, len: usize) {
    let wide = is_wide();
    // SAFETY: the caller's; each function gets the lengths it can take, and vectors the CPU has.
    unsafe {
        if copy_few(src, dst, len, wide) {
            return;
        }
        if len > STRING_FROM && has!("ermsb") {
            copy_string(src, dst, len);
        } else if wide {
            copy_64(src, dst, len);
        } else if len > 128 && has!("avx") {
            copy_32(src, dst, len);
        } else {
            copy_16(src, dst, len);
        }
    }
}

/// Defines a copy without a loop: half the vectors from the beginning, half from the end, meeting or
/// overlapping in the middle.
macro_rules! few {
    ($name:ident, $mov:literal, $(($a:tt, $front:literal, $b:tt, $back:literal)),+) => {
        /// # Safety
        /// As [`copy_few`], for the lengths in the name.
        #[inline(always)]
        unsafe fn $name(src: *const u8, dst: *mut u8, len: usize) {
            // SAFETY: the caller's: the offsets below lie within `len`.
            unsafe {
                asm!(
                    $(concat!($mov, " ", $a, ", [{src} + ", $front, "]"),)+
                    $(concat!($mov, " ", $b, ", [{src} + {len} - ", $back, "]"),)+
                    $(concat!($mov, " [{dst} + ", $front, "], ", $a),)+
                    $(concat!($mov, " [{dst} + {len} - ", $back, "], ", $b),)+
                    src = in(reg) src, dst = in(reg) dst, len = in(reg) len,
                    $(out($a) _, out($b) _,)+
                    options(nostack, preserves_flags),
                );
            }
        }
    };
}

few!(few_16_to_32, "movups", ("xmm0", 0, "xmm1", 16));
few!(few_32_to_64, "movups", ("xmm0", 0, "xmm1", 32), ("xmm2", 16, "xmm3", 16));
// Registers from 16 on leave the upper halves of the lower ones clean: no vzeroupper.
few!(few_32_to_64_wide, "vmovups", ("ymm16", 0, "ymm17", 32));
few!(few_64_to_128, "vmovups", ("zmm16", 0, "zmm17", 64));
few!(few_128_to_256, "vmovups", ("zmm16", 0, "zmm17", 128), ("zmm18", 64, "zmm19", 64));
few!(
    few_256_to_512,
    "vmovups",
    ("zmm16", 0, "zmm17", 256),
    ("zmm18", 64, "zmm19", 192),
    ("zmm20", 128, "zmm21", 128),
    ("zmm22", 192, "zmm23", 64)
);

/// Defines a loop of four vectors a turn. The last turn ends where the copy ends and may overlap the
/// one before.
macro_rules! vector_copy {
    (
        $name:ident, $mov:literal, $width:literal, $block:literal, $after:literal,
        $r0:tt, $r1:tt, $r2:tt, $r3:tt
    ) => {
        #[doc = concat!("Copies more than ", $block, " bytes in vectors of ", $width, ".")]
        ///
        /// # Safety
        /// As [`copy_words`], for those lengths; the CPU has the vectors.
        unsafe fn $name(src: *const u8, dst: *mut u8, len: usize) {
            // SAFETY: the caller's: `at` stays below `last`, and `last` is a block before the end.
            unsafe {
                asm!(
                    ".p2align 5",
                    "2:",
                    concat!($mov, " ", $r0, ", [{src} + {at}]"),
                    concat!($mov, " ", $r1, ", [{src} + {at} + ", $width, "]"),
                    concat!($mov, " ", $r2, ", [{src} + {at} + 2*", $width, "]"),
                    concat!($mov, " ", $r3, ", [{src} + {at} + 3*", $width, "]"),
                    concat!($mov, " [{dst} + {at}], ", $r0),
                    concat!($mov, " [{dst} + {at} + ", $width, "], ", $r1),
                    concat!($mov, " [{dst} + {at} + 2*", $width, "], ", $r2),
                    concat!($mov, " [{dst} + {at} + 3*", $width, "], ", $r3),
                    concat!("add {at}, ", $block),
                    "cmp {at}, {last}",
                    "jb 2b",
                    concat!($mov, " ", $r0, ", [{src} + {last}]"),
                    concat!($mov, " ", $r1, ", [{src} + {last} + ", $width, "]"),
                    concat!($mov, " ", $r2, ", [{src} + {last} + 2*", $width, "]"),
                    concat!($mov, " ", $r3, ", [{src} + {last} + 3*", $width, "]"),
                    concat!($mov, " [{dst} + {last}], ", $r0),
                    concat!($mov, " [{dst} + {last} + ", $width, "], ", $r1),
                    concat!($mov, " [{dst} + {last} + 2*", $width, "], ", $r2),
                    concat!($mov, " [{dst} + {last} + 3*", $width, "], ", $r3),
                    $after,
                    src = in(reg) src, dst = in(reg) dst,
                    at = inout(reg) 0usize => _, last = in(reg) len - $block,
                    out($r0) _, out($r1) _, out($r2) _, out($r3) _,
                    options(nostack),
                );
            }
        }
    };
}

vector_copy!(copy_16, "movups", 16, 64, "", "xmm0", "xmm1", "xmm2", "xmm3");
vector_copy!(copy_32, "vmovups", 32, 128, "vzeroupper", "ymm0", "ymm1", "ymm2", "ymm3");
vector_copy!(copy_64, "vmovups", 64, 256, "", "zmm16", "zmm17", "zmm18", "zmm19");

/// Copies by `rep movsq`, the destination brought to a line first if its words allow it.
///
/// # Safety
/// As [`copy_words`], and `len` is at least 64.
unsafe fn copy_string(src: *const u8, dst: *mut u8, len: usize) {
    let aligned = (dst as usize).is_multiple_of(8);
    let skip = if aligned { (dst as usize).wrapping_neg() & 63 } else { 0 };
    // SAFETY: the caller's: `skip` is below 64. The direction flag is clear, as the ABI has it.
    unsafe {
        if skip > 0 {
            few_32_to_64(src, dst, 64);
        }
        asm!(
            "rep movsq",
            inout("rsi") src.add(skip) => _,
            inout("rdi") dst.add(skip) => _,
            inout("rcx") (len - skip) / 8 => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Copies by non-temporal stores. [`drain_stores`] must follow.
///
/// # Safety
/// As [`copy_words`]; `dst` is aligned to 16 and `len` a multiple of 16.
pub(super) unsafe fn store_streaming(src: *const u8, dst: *mut u8, len: usize) {
    let head = len.min((dst as usize).wrapping_neg() & 63);
    let lines = (len - head) & !63;
    // SAFETY: the three parts are those `len` bytes, in blocks of 16 and lines of 64.
    unsafe {
        store_blocks(src, dst, head);
        if lines > 0 {
            asm!(
                ".p2align 5",
                "2:",
                "movups xmm0, [{src} + {at}]",
                "movups xmm1, [{src} + {at} + 16]",
                "movups xmm2, [{src} + {at} + 32]",
                "movups xmm3, [{src} + {at} + 48]",
                "movntdq [{dst} + {at}], xmm0",
                "movntdq [{dst} + {at} + 16], xmm1",
                "movntdq [{dst} + {at} + 32], xmm2",
                "movntdq [{dst} + {at} + 48], xmm3",
                "add {at}, 64",
                "jnz 2b",
                src = in(reg) src.add(head + lines), dst = in(reg) dst.add(head + lines),
                at = inout(reg) lines.wrapping_neg() => _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                options(nostack),
            );
        }
        store_blocks(src.add(head + lines), dst.add(head + lines), len - head - lines);
    }
}

/// # Safety
/// As [`store_streaming`].
unsafe fn store_blocks(src: *const u8, dst: *mut u8, len: usize) {
    for at in (0..len).step_by(16) {
        // SAFETY: the block lies within `len`, and `dst` is aligned.
        unsafe {
            asm!(
                "movups {block}, [{src}]",
                "movntdq [{dst}], {block}",
                src = in(reg) src.add(at), dst = in(reg) dst.add(at), block = out(xmm_reg) _,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Whether the CPU has streaming loads (SSE4.1).
pub(super) fn can_load_streaming() -> bool {
    has!("sse4.1")
}

/// Copies by streaming loads, which fetch a line of write-combining memory once and take its four
/// blocks from a buffer in the CPU. They are ordered with nothing, hence the fences: the first lets
/// no block come from before the caller's own earlier accesses, the last lets none come late.
///
/// # Safety
/// As [`copy_words`]; `src` is aligned to 16, `len` a multiple of 16, and [`can_load_streaming`].
pub(super) unsafe fn load_streaming(src: *const u8, dst: *mut u8, len: usize) {
    let head = len.min((src as usize).wrapping_neg() & 63);
    let lines = (len - head) & !63;
    // SAFETY: the three parts are those `len` bytes, in blocks of 16 and lines of 64.
    unsafe {
        asm!("mfence", options(nostack, preserves_flags));
        load_blocks(src, dst, head);
        if lines > 0 {
            asm!(
                ".p2align 5",
                "2:",
                "movntdqa xmm0, [{src} + {at}]",
                "movntdqa xmm1, [{src} + {at} + 16]",
                "movntdqa xmm2, [{src} + {at} + 32]",
                "movntdqa xmm3, [{src} + {at} + 48]",
                "movups [{dst} + {at}], xmm0",
                "movups [{dst} + {at} + 16], xmm1",
                "movups [{dst} + {at} + 32], xmm2",
                "movups [{dst} + {at} + 48], xmm3",
                "add {at}, 64",
                "jnz 2b",
                src = in(reg) src.add(head + lines), dst = in(reg) dst.add(head + lines),
                at = inout(reg) lines.wrapping_neg() => _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                options(nostack),
            );
        }
        load_blocks(src.add(head + lines), dst.add(head + lines), len - head - lines);
        asm!("mfence", options(nostack, preserves_flags));
    }
}

/// # Safety
/// As [`load_streaming`].
unsafe fn load_blocks(src: *const u8, dst: *mut u8, len: usize) {
    for at in (0..len).step_by(16) {
        // SAFETY: the block lies within `len`, and `src` is aligned.
        unsafe {
            asm!(
                "movntdqa {block}, [{src}]",
                "movups [{dst}], {block}",
                src = in(reg) src.add(at), dst = in(reg) dst.add(at), block = out(xmm_reg) _,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Sets whole words of cached memory.
///
/// # Safety
/// `dst` is writable over `len` bytes; both are multiples of 8.
pub(super) unsafe fn fill_words(dst: *mut u8, len: usize, word: u64) {
    // SAFETY: the caller's; each way gets the lengths it can take. The direction flag is clear, as
    // the ABI has it.
    unsafe {
        if len > STRING_FROM && has!("ermsb") {
            asm!(
                "rep stosq",
                inout("rdi") dst => _, inout("rcx") len / 8 => _, in("rax") word,
                options(nostack, preserves_flags),
            );
        } else if len > 128 && has!("avx512vl") {
            fill_64(dst, len, word);
        } else if len > 64 && has!("avx") {
            fill_32(dst, len, word);
        } else if len > 32 {
            fill_16(dst, len, word);
        } else {
            for at in (0..len).step_by(8) {
                dst.add(at).cast::<u64>().write_volatile(word);
            }
        }
    }
}

/// Defines a loop of vector stores. The last two end where the fill ends and may overlap the ones
/// before.
macro_rules! vector_fill {
    ($name:ident, $reg:tt, $width:literal, $spread:literal, $mov:literal, $after:literal) => {
        #[doc = concat!("Sets more than two vectors of ", $width, " bytes.")]
        ///
        /// # Safety
        /// As [`fill_words`], for those lengths; the CPU has the vectors.
        unsafe fn $name(dst: *mut u8, len: usize, word: u64) {
            // SAFETY: the caller's: `at` stays below `last`, two vectors before the end.
            unsafe {
                asm!(
                    $spread,
                    ".p2align 5",
                    "2:",
                    concat!($mov, " [{dst} + {at}], ", $reg),
                    concat!($mov, " [{dst} + {at} + ", $width, "], ", $reg),
                    concat!("add {at}, 2*", $width),
                    "cmp {at}, {last}",
                    "jb 2b",
                    concat!($mov, " [{dst} + {last}], ", $reg),
                    concat!($mov, " [{dst} + {last} + ", $width, "], ", $reg),
                    $after,
                    word = in(reg) word, dst = in(reg) dst,
                    at = inout(reg) 0usize => _, last = in(reg) len - 2 * $width,
                    out($reg) _,
                    options(nostack),
                );
            }
        }
    };
}

vector_fill!(fill_16, "xmm0", 16, "movq xmm0, {word}\npunpcklqdq xmm0, xmm0", "movups", "");
vector_fill!(
    fill_32,
    "ymm0",
    32,
    "vmovq xmm0, {word}\nvmovddup xmm0, xmm0\nvinsertf128 ymm0, ymm0, xmm0, 1",
    "vmovups",
    "vzeroupper"
);
vector_fill!(fill_64, "zmm16", 64, "vpbroadcastq zmm16, {word}", "vmovups", "");

/// Sets memory by non-temporal stores. [`drain_stores`] must follow for others to see them in order.
///
/// # Safety
/// `dst` is writable over `len` bytes; both are multiples of 16.
pub(super) unsafe fn fill_streaming(dst: *mut u8, len: usize, word: u64) {
    if len == 0 {
        return;
    }
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "movq xmm0, {word}",
            "punpcklqdq xmm0, xmm0",
            "2:",
            "movntdq [{end} + {at}], xmm0",
            "add {at}, 16",
            "jnz 2b",
            word = in(reg) word, end = in(reg) dst.add(len),
            at = inout(reg) len.wrapping_neg() => _, out("xmm0") _,
            options(nostack),
        );
    }
}

/// Waits until non-temporal stores are on their way, in order before all later ones.
pub(super) fn drain_stores() {
    // SAFETY: a fence touches no memory.
    unsafe { asm!("sfence", options(nostack, preserves_flags)) };
}
