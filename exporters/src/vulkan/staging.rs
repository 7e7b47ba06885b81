//! Memory from which a device copies what a drive or the CPU puts into it.

use std::sync::Arc;

use ash::vk::MemoryPropertyFlags as Flags;
use iomap::{MemoryError, PageSize};

use super::buffer::{Bare, Buffer, not_exportable};
use super::device::Device;
use super::error::VulkanError;
use super::memory_types::STAGING;
use crate::Absent;
use crate::pages::can_be_pinned;

/// A buffer that the CPU and, where that can be, a drive fills, for the device to copy from.
///
/// It is pages of this process that the device imported, into which the kernel reads past the page cache. Without the
/// extensions for that it is the device's own host-visible memory: the mappings that most drivers make of theirs have
/// no pages that the kernel could give to a drive, so that each byte is read into the page cache first and copied
/// from it by the CPU ([`pages`](Self::pages) says which it is).
///
/// ```no_run
/// use exporters::vulkan::Device;
///
/// let device = Device::open(None)?;
/// let staging = device.staging(1 << 20)?;
/// if let Some(absent) = staging.not_imported() {
///     println!("the device's own memory stands between: {absent}");
/// }
/// staging.buffer().cpu().expect("it is for the CPU").fill(7)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Staging {
    buffer: Arc<Buffer>,
    not_imported: Option<Absent>,
    pages: Result<(), Absent>,
}

impl Staging {
    /// The buffer, which the CPU reaches at any time ([`Buffer::cpu`]).
    pub fn buffer(&self) -> &Arc<Buffer> {
        &self.buffer
    }

    /// Whether the kernel's drivers may be given the memory: pages that the kernel pins for a read past the page
    /// cache (`O_DIRECT`).
    ///
    /// # Errors
    /// Absent, with the reason.
    pub fn pages(&self) -> Result<(), Absent> {
        self.pages.clone()
    }

    /// Why it is not pages of this process, if it is not.
    pub fn not_imported(&self) -> Option<&Absent> {
        self.not_imported.as_ref()
    }
}

impl Device {
    /// Makes memory of at least `len` bytes, rounded up to whole pages, for the device to copy from.
    ///
    /// # Errors
    /// [`VulkanError::Length`], [`VulkanError::OutOfMemory`], [`VulkanError::SystemMemory`].
    pub fn staging(&self, len: usize) -> Result<Staging, VulkanError> {
        let max = self.info().max_buffer;
        let len = len
            .max(1)
            .checked_next_multiple_of(PageSize::Base.bytes())
            .filter(|&len| len <= max)
            .ok_or(VulkanError::Length { len, max })?;
        let refused = match self.memory_to_import(len) {
            Ok(memory) => match self.import_memory(Arc::new(memory)) {
                Ok(buffer) => {
                    let buffer = Arc::new(buffer);
                    return Ok(Staging { buffer, not_imported: None, pages: Ok(()) });
                }
                Err(VulkanError::Unavailable(absent)) => absent,
                Err(error) => Absent::new(
                    format!("the device imports no pages: {error}"),
                    "update the driver or take another device",
                ),
            },
            Err(MemoryError::TooLittle(shortage)) => return Err(shortage.into()),
            Err(error) => Absent::new(error.to_string(), "free some memory"),
        };
        let buffer = Arc::new(self.host_visible(len, STAGING)?);
        let pages = match buffer.cpu() {
            Some(map) => can_be_pinned(map).map_err(|absent| {
                Absent::new(format!("{}; {}", absent.why, refused.why), refused.fix.clone())
            }),
            None => Err(buffer.unreached()),
        };
        Ok(Staging { buffer, not_imported: Some(refused), pages })
    }

    /// A mapped buffer of this length in the first fitting type among `wishes`.
    fn host_visible(&self, len: usize, wishes: &[Flags]) -> Result<Buffer, VulkanError> {
        let mut raw = Bare::new(self, len, None)?.allocate(wishes, None)?;
        raw.memory.map()?;
        Ok(Buffer::allocated(raw, len, Err(not_exportable())))
    }
}
