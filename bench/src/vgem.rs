//! Fences that a test itself signals, which only the driver vgem has.
//!
//! One is put on a buffer as if a device began to write into it, and is signalled when the test says so.
//! The kernel signals what is forgotten after ten seconds.
//!
//! # Safety
//!
//! The law of this module: each ioctl's number is built from the type that it passes, which has the
//! layout of `drm/vgem_drm.h`.
#![allow(unsafe_code)]

use std::num::NonZeroU32;

use bufmap::exporters::drm::Card;
use libtest_mimic::Failed;
use rustix::ioctl::{Setter, Updater, ioctl, opcode};

/// `struct drm_vgem_fence_attach`.
#[repr(C)]
struct Attach {
    handle: u32,
    flags: u32,
    out_fence: u32,
    pad: u32,
}

/// `struct drm_vgem_fence_signal`.
#[repr(C)]
struct Signal {
    fence: u32,
    flags: u32,
}

/// Somebody begins to write into a buffer, by its handle on a card of vgem's.
///
/// # Errors
/// Fails the test if the kernel refuses: while there is another user's fence on the buffer, say.
pub fn begin(card: &Card, handle: NonZeroU32) -> Result<u32, Failed> {
    const ATTACH: u32 = opcode::read_write::<Attach>(b'd', 0x41);
    let mut attach = Attach { handle: handle.get(), flags: 1, out_fence: 0, pad: 0 };
    // SAFETY: the module's law.
    unsafe { ioctl(card, Updater::<ATTACH, _>::new(&mut attach)) }?;
    Ok(attach.out_fence)
}

/// And is done.
///
/// # Errors
/// Fails the test if it was done before, which the kernel sees to after ten seconds.
pub fn end(card: &Card, fence: u32) -> Result<(), Failed> {
    const SIGNAL: u32 = opcode::write::<Signal>(b'd', 0x42);
    // SAFETY: the module's law.
    unsafe { ioctl(card, Setter::<SIGNAL, _>::new(Signal { fence, flags: 0 })) }?;
    Ok(())
}
