//! Buffers of the loader's own making.

use std::fmt;
use std::sync::Arc;

use exporters::vulkan::{self, Device};
use iomap::{Memory, PageSize};

use super::{Destination, LoadError, Road, StepDown};

/// A buffer made to be loaded into.
#[derive(Debug)]
pub enum Target {
    /// System memory behind a memfd, which `/dev/udmabuf` turns into a dma-buf.
    Memory(Arc<Memory>),
    /// The same, imported by a Vulkan device that shares the system's memory.
    Imported {
        /// The pages.
        memory: Arc<Memory>,
        /// The buffer that Vulkan made of them.
        buffer: Arc<vulkan::Buffer>,
    },
    /// Memory of a Vulkan device's own.
    Device(Arc<vulkan::Buffer>),
}

impl Target {
    /// System memory of at least `len` bytes.
    ///
    /// # Errors
    /// [`LoadError::Memory`].
    pub fn memory(len: u64) -> Result<Self, LoadError> {
        Ok(Self::Memory(memory(len)?))
    }

    /// A Vulkan buffer of at least `len` bytes, for the road demanded or for the best one.
    ///
    /// On a device that shares the system's memory the buffer is made of system pages, which a
    /// drive fills and nothing is copied; on one with memory of its own it lies there. When a
    /// device that could share refuses the pages, the second is taken, and the reason comes along.
    ///
    /// # Errors
    /// [`LoadError::Memory`], [`LoadError::Vulkan`].
    pub fn vulkan(
        device: &Device,
        len: u64,
        road: Option<Road>,
    ) -> Result<(Self, Option<StepDown>), LoadError> {
        let own_memory = || {
            let len =
                usize::try_from(len).map_err(|_| iomap::MemoryError::Length { len: usize::MAX })?;
            Ok::<_, LoadError>(Self::Device(Arc::new(device.allocate(len, false)?)))
        };
        let share = match road {
            Some(road) => road != Road::Staged,
            None => device.info().shares_system_memory,
        };
        if !share {
            return Ok((own_memory()?, None));
        }
        let memory = memory(len)?;
        match device.import_memory(Arc::clone(&memory)) {
            Ok(buffer) => Ok((Self::Imported { memory, buffer: Arc::new(buffer) }, None)),
            Err(refused) if road.is_none() => {
                let why = format!("the device does not import system pages ({refused})");
                Ok((own_memory()?, Some(StepDown { road: Road::Direct, why, bytes: len })))
            }
            Err(refused) => Err(refused.into()),
        }
    }

    /// Where to load.
    pub fn destination(&self) -> Destination<'_> {
        match self {
            Self::Memory(memory) => Destination::Memory(memory),
            Self::Imported { memory, buffer } => Destination::Imported { memory, buffer },
            Self::Device(buffer) => Destination::Device(buffer),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(_) => f.write_str("system memory"),
            Self::Imported { buffer, .. } => {
                let device = &buffer.device().info().name;
                write!(f, "pages shared with {device} by {}", buffer.way())
            }
            Self::Device(buffer) => {
                write!(f, "memory of {}", buffer.device().info().name)
            }
        }
    }
}

fn memory(len: u64) -> Result<Arc<Memory>, LoadError> {
    let len = usize::try_from(len).map_err(|_| iomap::MemoryError::Length { len: usize::MAX })?;
    Ok(Arc::new(Memory::memfd("bufmap-buffer", len.max(1), PageSize::Base)?))
}
