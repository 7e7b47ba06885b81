//! Copy engines.
#![allow(unsafe_code)]

/// # Safety
/// `src` and `dst` are valid over `len` bytes.
pub(crate) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
    let backwards = (dst as usize).wrapping_sub(src as usize) < len;
    for i in 0..len {
        let i = if backwards { len - 1 - i } else { i };
        // SAFETY: `i < len`, over which both are valid.
        unsafe { dst.add(i).write_volatile(src.add(i).read_volatile()) };
    }
}

/// # Safety
/// As [`copy`].
pub(crate) unsafe fn read(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: the caller's.
    unsafe { copy(src, dst, len) }
}

/// # Safety
/// `dst` is valid over `len` bytes.
pub(crate) unsafe fn fill(dst: *mut u8, len: usize, byte: u8) {
    for i in 0..len {
        // SAFETY: `i < len`, over which `dst` is valid.
        unsafe { dst.add(i).write_volatile(byte) };
    }
}
