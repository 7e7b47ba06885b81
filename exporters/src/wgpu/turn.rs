//! wgpu's turn with memory that others share.
//!
//! Between two turns the memory is everybody's: Vulkan calls its owner the *foreign* queue family. A
//! turn waits until the others are done, acquires the memory from them, and makes a handle of wgpu for
//! it; its end gives the memory back, waits until the device is done, and destroys the handle. wgpu
//! refuses whatever a program still has of a destroyed handle (views, bind groups, command buffers),
//! so that nothing of wgpu's touches the memory outside a turn.
//!
//! Both ends are one submission each: the barriers, which wgpu does not see, and beside them a
//! transition that it does see, which brings the resource into the state that the barriers begin or
//! end with and has wgpu keep the resource until the submission is done.

use std::fmt;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::time::Duration;

use ash::vk;

use super::device::Device;
use super::error::WgpuError;
use crate::dmabuf::DmaBufError;
use crate::ready::settled;
use crate::{DmaBuf, Intent};

/// How long the others may take. The kernel's fences signal within seconds, even of a device that
/// hangs: its driver resets it.
const LIMIT: Duration = Duration::from_secs(15);

/// A Vulkan object that passes between wgpu and the others.
pub(super) trait Raw: Send + Sync {
    /// Takes it from the others, into the state in which wgpu gets it.
    fn acquire(&self, commands: vk::CommandBuffer);

    /// Gives it to the others, from the state in which wgpu left it; if that is not known, as
    /// `kept` says, without its contents.
    fn release(&self, commands: vk::CommandBuffer, kept: bool);
}

/// wgpu's handle on it.
pub trait Handle {
    /// Has an encoder bring it into the state in which it is passed.
    fn rest(&self, encoder: &mut wgpu::CommandEncoder);

    /// Ends its use.
    fn destroy(&self);
}

/// wgpu's turn with a shared buffer or texture, which it dereferences to.
///
/// Whatever uses it is submitted during the turn. [`release`](Self::release) ends the turn and says
/// whether that went well; a drop ends it too and cannot say. After it, wgpu reports each use of the
/// handle, of its clones, views and bind groups as an error of validation.
///
/// If the handle was destroyed by the program itself, the memory is given back with contents that
/// nobody can rely on, and the end of the turn is an error.
#[must_use = "the memory is wgpu's only while this lives"]
pub struct Turn<'a, T: Handle> {
    handle: T,
    shared: Shared<'a>,
    /// Whether the memory is wgpu's, which outlives a turn that is forgotten.
    taken: &'a mut bool,
    over: bool,
}

/// What is shared, and with whom.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) device: &'a Device,
    pub(super) raw: &'a dyn Raw,
    pub(super) dma_buf: &'a DmaBuf,
}

impl<'a, T: Handle> Turn<'a, T> {
    /// Begins a turn with the handle that `wrap` makes.
    pub(super) fn begin(
        shared: Shared<'a>,
        taken: &'a mut bool,
        intent: Intent,
        wrap: impl FnOnce() -> Result<T, WgpuError>,
    ) -> Result<Self, WgpuError> {
        let Shared { device, raw, dma_buf } = shared;
        if *taken {
            return Err(WgpuError::NeverGivenBack);
        }
        wait_for_others(dma_buf, intent)?;
        let doing = "taking shared memory";
        let handle = device.caught(doing, wrap)??;
        let begun = device
            .caught(doing, || -> Result<_, WgpuError> {
                let acquired = device.record(|commands| raw.acquire(commands))?;
                Ok(device.queue().submit([acquired, resting(device, &handle)]))
            })
            .and_then(|submitted| submitted);
        match begun {
            Ok(_) => {
                *taken = true;
                Ok(Self { handle, shared, taken, over: false })
            }
            Err(error) => {
                handle.destroy();
                Err(error)
            }
        }
    }

    /// Ends the turn: gives the memory back, and waits until the device is done with it.
    ///
    /// # Errors
    /// [`WgpuError::Wgpu`] if the program destroyed the handle or the device is lost: the contents are
    /// then nobody's to rely on.
    pub fn release(mut self) -> Result<(), WgpuError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), WgpuError> {
        self.over = true;
        let ended = self.give_back();
        // Before anything is waited for: what comes from now on is refused.
        self.handle.destroy();
        let Shared { device, raw, .. } = self.shared;
        let index = match ended {
            Ok(index) => index,
            Err(error) => {
                let given = device.caught("giving shared memory back", || {
                    let given = device.record(|commands| raw.release(commands, false))?;
                    Ok::<_, WgpuError>(device.queue().submit([given]))
                });
                device.wait(given??)?;
                *self.taken = false;
                return Err(error);
            }
        };
        device.wait(index)?;
        *self.taken = false;
        Ok(())
    }

    fn give_back(&self) -> Result<wgpu::SubmissionIndex, WgpuError> {
        let Shared { device, raw, .. } = self.shared;
        device.caught("giving shared memory back", || {
            let resting = resting(device, &self.handle);
            let given = device.record(|commands| raw.release(commands, true))?;
            Ok(device.queue().submit([resting, given]))
        })?
    }
}

impl<T: Handle> Deref for Turn<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.handle
    }
}

impl<T: Handle> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        if !self.over {
            // Nobody is left to tell: whoever wants to know calls `release`.
            let _ = self.end();
        }
    }
}

impl<T: Handle + fmt::Debug> fmt::Debug for Turn<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Turn").field(&self.handle).finish()
    }
}

fn resting(device: &Device, handle: &impl Handle) -> wgpu::CommandBuffer {
    let mut encoder = device.device().create_command_encoder(&Default::default());
    handle.rest(&mut encoder);
    encoder.finish()
}

/// Waits until the others are done with a dma-buf.
fn wait_for_others(dma_buf: &DmaBuf, intent: Intent) -> Result<(), WgpuError> {
    let settled = settled(dma_buf.as_fd(), intent, LIMIT).map_err(|errno| DmaBufError::Kernel {
        step: "poll",
        len: dma_buf.len(),
        exporter: dma_buf.exporter().to_owned(),
        source: errno.into(),
    })?;
    if settled { Ok(()) } else { Err(WgpuError::Busy { waited: LIMIT }) }
}
