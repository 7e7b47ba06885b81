//! The order in which a device sees what the CPU writes, and the CPU what the device writes.
//!
//! Queue entries lie in ordinary memory, doorbells in an uncached BAR, and all accesses to both are
//! volatile. The compiler keeps volatile accesses in their order among each other; a processor need
//! not:
//!
//! * x86-64 makes stores visible in program order, those to uncached memory included, and does not
//!   reorder loads. Rust's release and acquire fences are no instruction there and hold the compiler.
//! * aarch64 reorders both. The device is outside the processors' own domain, so the barriers are
//!   those of the outer shareable one, as in the kernel's `dma_wmb` and `dma_rmb`.
//! * RISC-V tells memory from I/O in its fences, and Rust's fences order memory only.
//! * Any other machine gets Rust's fence.
//!
//! # Safety
//!
//! The one law of this module: the assembly is a barrier and does nothing else.
#![allow(unsafe_code)]

/// Between writing queue entries and ringing the doorbell that announces them.
#[inline(always)]
pub(super) fn before_doorbell() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the module's law. The compiler takes it for a write to memory, so it moves none across.
    unsafe {
        std::arch::asm!("dmb oshst", options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "riscv64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("fence w, o", options(nostack, preserves_flags));
    }
    std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
}

/// Between reading the phase of a completion and reading the rest of it and the data it tells of;
/// and between reading completions and ringing the doorbell that gives their places back.
#[inline(always)]
pub(super) fn after_loads() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the module's law. The compiler takes it for an access to memory, so it moves none across.
    unsafe {
        std::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
}
