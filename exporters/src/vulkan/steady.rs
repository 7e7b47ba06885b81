//! A buffer that stays where it is: because the kernel pins its pages, or because the caller says so.
//!
//! VFIO type1 looks once where a mapping lies, and is never told when that changes. What it finds is
//! one of three:
//!
//! | the driver maps | type1 | so |
//! |---|---|---|
//! | ordinary pages: a software driver, pages that were imported | pins them (`FOLL_LONGTERM`) | they stay, [`Buffer::steady`] |
//! | a BAR without pages (`VM_PFNMAP`): a GPU with memory of its own | takes its address | only [`Buffer::assume_it_stays`] |
//! | system memory without pages: most drivers of integrated GPUs, and a buffer that was moved out of VRAM | refuses (`EFAULT`) | import pages of this process instead |
//!
//! Pages under a long-term pin are neither swapped nor migrated nor given to anybody else, whatever
//! the driver does: if it put others in their place, a device would write to the old ones, and its
//! bytes would be missing, but nobody's memory would be harmed. So such a buffer is known to stay. The
//! third row means that what type1 maps without pinning is no memory of the kernel's, at least when it
//! is mapped.
//!
//! The opt-in is an `unsafe fn` and no flag or wrapper that safe code could make: where the promise is
//! broken, a drive writes into memory that the GPU's driver has given to others, which safe code must
//! never be able to bring about. And no check stands behind it, because nobody but the driver knows
//! when it moves a buffer; so the promise is the caller's, under a name that says what is assumed.
//!
//! # Safety
//!
//! The law of this module: a [`SteadyBuffer`] is made only of a buffer whose pages the kernel pins, or
//! on the caller's promise. It shares the buffer, which is mapped until it is freed.
#![allow(unsafe_code)]

use std::sync::Arc;

use iomap::{BufMap, PinError, Pinned};

use super::buffer::Buffer;
use super::error::VulkanError;
use crate::Absent;
use crate::export::Phyrs;

/// A buffer that the CPU reaches and that stays where it is, so that it can be mapped for other
/// devices ([`Container::map_dma`](crate::vfio::Container::map_dma)). Made by [`Buffer::steady`] and
/// [`Buffer::assume_it_stays`].
#[derive(Clone, Debug)]
pub struct SteadyBuffer(Arc<Buffer>);

impl Buffer {
    /// The buffer as memory that is known to stay where it is: memory that the kernel lets this
    /// process pin, which is tried here. Of a software driver's allocations and of imported pages this
    /// is true, of the memory behind a GPU's BAR it is not.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use exporters::Intent;
    /// use exporters::vfio::Container;
    /// use exporters::vulkan::Device;
    ///
    /// let container = Arc::new(Container::new()?);
    /// let drive = container.open("0000:02:00.0")?;
    /// let buffer = Arc::new(Device::open(None)?.allocate_host_visible(1 << 20)?);
    /// let mapping = container.map_dma(buffer.steady()?, Intent::Write)?;
    /// println!("the drive may write it at {:?}", mapping.iova());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`VulkanError::MayMove`] if it is not known to stay; [`VulkanError::Unavailable`] if the CPU
    /// does not reach it, or if the kernel cannot be asked.
    pub fn steady(self: &Arc<Self>) -> Result<SteadyBuffer, VulkanError> {
        match Pinned::new(self.reached()?) {
            Ok(_) => Ok(SteadyBuffer(Arc::clone(self))),
            Err(PinError::Kind { .. }) => {
                Err(VulkanError::MayMove { device: self.device().info().name.clone() })
            }
            Err(error) => Err(VulkanError::Unavailable(Absent::new(
                format!("whether the buffer stays where it is cannot be found out: {error}"),
                "or opt in by Buffer::assume_it_stays",
            ))),
        }
    }

    /// The buffer as memory that the caller says stays where it is: the way for a GPU's memory behind
    /// its BAR ([`Device::allocate_host_visible`](super::Device::allocate_host_visible)).
    ///
    /// ```no_run
    /// # use std::sync::Arc;
    /// # use exporters::{Intent, vfio::Container, vulkan::Device};
    /// # let container = Arc::new(Container::new()?);
    /// let buffer = Arc::new(Device::open(None)?.allocate_host_visible(1 << 20)?);
    /// // SAFETY: the GPU is this program's alone, which takes half of its memory and waits for its
    /// // transfers before it ends; the machine is not suspended meanwhile.
    /// let vram = unsafe { buffer.assume_it_stays() }?;
    /// let mapping = container.map_dma(vram, Intent::Write)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// It takes `unsafe`:
    ///
    /// ```compile_fail,E0133
    /// # fn f(buffer: std::sync::Arc<exporters::vulkan::Buffer>) {
    /// let vram = buffer.assume_it_stays();
    /// # }
    /// ```
    ///
    /// # Safety
    /// For as long as the answer, a clone of it or a mapping of it lives, the driver keeps the
    /// buffer's memory where it is: it moves it neither to make room nor across a suspend nor a reset
    /// of the GPU, nor for any other reason. Vulkan promises nothing of this; it is knowledge of one
    /// driver and of what else uses the GPU.
    ///
    /// When the process ends, even by a signal, no device has transfers into the buffer in flight, or
    /// nobody else is given its memory before they are over: in which order the kernel then closes
    /// the GPU and the VFIO devices is not defined.
    ///
    /// # Errors
    /// [`VulkanError::Unavailable`] if the CPU does not reach it.
    pub unsafe fn assume_it_stays(self: &Arc<Self>) -> Result<SteadyBuffer, VulkanError> {
        self.reached()?;
        Ok(SteadyBuffer(Arc::clone(self)))
    }

    fn reached(&self) -> Result<BufMap<'_>, VulkanError> {
        self.cpu().ok_or_else(|| {
            VulkanError::Unavailable(Absent::new(
                format!(
                    "the CPU does not reach this buffer of {}, or it is not coherent",
                    self.device().info().name
                ),
                "allocate it by Device::allocate_host_visible",
            ))
        })
    }
}

impl SteadyBuffer {
    /// The buffer, for the GPU's transfers.
    pub const fn buffer(&self) -> &Arc<Buffer> {
        &self.0
    }

    /// A map of all of it.
    pub fn map(&self) -> BufMap<'_> {
        self.0.cpu().unwrap_or(BufMap::null())
    }

    /// Where it lies on the memory bus, pinned for as long as the answer is kept: if it is pages. They
    /// are system memory whatever the driver calls them, and the list says so. What lies behind a BAR
    /// has no pages that the kernel would show.
    ///
    /// # Errors
    /// Absent for memory without pages; without the privilege to know (`CAP_SYS_ADMIN`), or to pin
    /// so much.
    pub fn phyrs(&self) -> Result<Phyrs<'_>, Absent> {
        Phyrs::pinned(self.map())
    }
}
