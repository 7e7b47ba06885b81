//! vgem's fences: a writer that takes its time, made by the program itself.
//!
//! Every other driver signals its fences when its device is done. vgem has no device, and lets whoever
//! opened it begin and end the work (`drm/vgem_drm.h`): the way to try whether an importer waits.
//!
//! # Safety
//!
//! The law of this module: each ioctl's number is built from the type that it passes, which has the
//! layout of `drm/vgem_drm.h`.
#![allow(unsafe_code)]

use rustix::ioctl::{Setter, Updater, ioctl, opcode};

use super::{Card, DrmError, Gem};
use crate::Absent;

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

const _: () = assert!(size_of::<Attach>() == 16 && size_of::<Signal>() == 8);

/// `VGEM_FENCE_WRITE`.
const WRITE: u32 = 1;

/// Somebody who writes into a buffer, until this is dropped. Whoever waits for the buffer's writers
/// waits for it; after ten seconds the kernel waits no longer.
#[derive(Debug)]
pub struct Writing {
    card: Card,
    /// None once it was signalled.
    fence: Option<u32>,
}

impl Gem {
    /// Begins to write into a buffer of vgem's: puts a writer's fence on it
    /// (`DRM_IOCTL_VGEM_FENCE_ATTACH`, since Linux 4.8).
    ///
    /// Brackets of the CPU wait for writers too: to write into the buffer meanwhile, begin one before.
    ///
    /// # Errors
    /// [`DrmError::Unavailable`] for any other driver; [`DrmError::Kernel`] with `EBUSY` if somebody
    /// uses the buffer.
    pub fn begin_write(&self) -> Result<Writing, DrmError> {
        const ATTACH: u32 = opcode::read_write::<Attach>(b'd', 0x41);
        let card = self.card();
        if card.driver() != "vgem" {
            return Err(DrmError::Unavailable(Absent::new(
                format!("the driver {} signals its fences itself", card.driver()),
                "take vgem (modprobe vgem) to make one by hand",
            )));
        }
        let mut attach = Attach { handle: self.handle().get(), flags: WRITE, out_fence: 0, pad: 0 };
        // SAFETY: the module's law.
        unsafe { ioctl(card, Updater::<ATTACH, _>::new(&mut attach)) }
            .map_err(|e| card.failed("DRM_IOCTL_VGEM_FENCE_ATTACH")(e.into()))?;
        Ok(Writing { card: card.clone(), fence: Some(attach.out_fence) })
    }
}

impl Writing {
    /// Says that it is written (`DRM_IOCTL_VGEM_FENCE_SIGNAL`).
    ///
    /// # Errors
    /// [`DrmError::Kernel`] with `ETIMEDOUT` if the kernel has not waited so long.
    pub fn end(mut self) -> Result<(), DrmError> {
        self.signal()
    }

    fn signal(&mut self) -> Result<(), DrmError> {
        const SIGNAL: u32 = opcode::write::<Signal>(b'd', 0x42);
        let Some(fence) = self.fence.take() else { return Ok(()) };
        let signal = Signal { fence, flags: 0 };
        // SAFETY: the module's law.
        unsafe { ioctl(&self.card, Setter::<SIGNAL, _>::new(signal)) }
            .map_err(|e| self.card.failed("DRM_IOCTL_VGEM_FENCE_SIGNAL")(e.into()))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // Nobody is left to tell: whoever wants to know calls `end`.
        let _ = self.signal();
    }
}
