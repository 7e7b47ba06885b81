//! Buffers and textures of a program's own device of wgpu, as something that is copied into.
//!
//! Everything here is wgpu's public interface: it takes any device of any backend, needs none of the extensions that
//! sharing needs, and is safe.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use super::error::{WgpuError, lacks};
use crate::blocks::{Blocks, Part};
use crate::upload::UploadTarget;

/// A program's own device of wgpu and its queue, for what is to be copied into.
///
/// A clone is another handle on the same.
///
/// ```no_run
/// use exporters::upload::{CopyRegion, UploadQueue};
/// use exporters::wgpu::{OwnDevice, wgpu};
///
/// /// Fills the first 64 KiB of a vertex buffer.
/// fn fill(
///     device: &wgpu::Device,
///     queue: &wgpu::Queue,
///     vertices: &wgpu::Buffer,
///     bytes: &[u8; 65536],
/// ) -> Result<(), Box<dyn std::error::Error>> {
///     let own = OwnDevice::new(device, queue);
///     let range = own.buffer(vertices, 0..65536)?;
///     let mut uploads = own.uploads(2, 65536)?;
///     let slot = uploads.wait_for_slot()?;
///     slot.map().copy_from_slice(0, bytes)?;
///     let all = CopyRegion { src_offset: 0, dst_offset: 0, len: 65536 };
///     let done = uploads.copy(slot, &range, &[all])?;
///     Ok(uploads.wait(done)?)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct OwnDevice(Arc<Owned>);

#[derive(Debug)]
struct Owned {
    device: wgpu::Device,
    queue: wgpu::Queue,
}

impl OwnDevice {
    /// Any device of any backend, and its queue.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        Self(Arc::new(Owned { device: device.clone(), queue: queue.clone() }))
    }

    /// A range of a buffer that was created with `COPY_DST`, in bytes: both its ends are multiples of four
    /// (`wgpu::COPY_BUFFER_ALIGNMENT`).
    ///
    /// # Errors
    /// [`WgpuError::Unavailable`], with the reason, for another buffer or range.
    pub fn buffer(
        &self,
        buffer: &wgpu::Buffer,
        range: Range<u64>,
    ) -> Result<BufferRange, WgpuError> {
        BufferRange::new(self, buffer, range)
    }

    /// A mip level of a texture that was created with `COPY_DST` and one sample a texel.
    ///
    /// # Errors
    /// [`WgpuError::Unavailable`], with the reason, for another texture or level, and for a format that is not copied
    /// as one aspect of one plane.
    pub fn level(&self, texture: &wgpu::Texture, level: u32) -> Result<TextureLevel, WgpuError> {
        TextureLevel::new(self, texture, level)
    }

    pub(super) fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    pub(super) fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// What it is called.
    pub(super) fn name(&self) -> String {
        self.device().adapter_info().name
    }

    /// Whether it is the same. wgpu's own handles do not tell devices of two instances apart.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A range of a buffer of wgpu, to be filled: made by [`OwnDevice::buffer`].
#[derive(Clone, Debug)]
pub struct BufferRange {
    pub(super) owner: OwnDevice,
    pub(super) buffer: wgpu::Buffer,
    pub(super) start: u64,
    len: usize,
}

impl BufferRange {
    fn new(owner: &OwnDevice, buffer: &wgpu::Buffer, range: Range<u64>) -> Result<Self, WgpuError> {
        if !buffer.usage().contains(wgpu::BufferUsages::COPY_DST) {
            return Err(lacks(
                "the buffer was created without COPY_DST",
                "create it with that usage as well",
            ));
        }
        let aligned = |at: u64| at.is_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT);
        let len = range.end.checked_sub(range.start).and_then(|len| usize::try_from(len).ok());
        let inside = range.end <= buffer.size() && aligned(range.start) && aligned(range.end);
        let Some(len) = len.filter(|&len| len > 0 && inside) else {
            return Err(lacks(
                format!("bytes {range:?} of a buffer of {} bytes are not filled", buffer.size()),
                "take a range inside it whose ends are multiples of 4",
            ));
        };
        let owner = owner.clone();
        Ok(Self { owner, buffer: buffer.clone(), start: range.start, len })
    }

    /// How many bytes it has.
    pub(super) const fn bytes(&self) -> usize {
        self.len
    }
}

/// A mip level of a texture of wgpu, to be filled: all its layers, or all its depth. Made by [`OwnDevice::level`].
///
/// Its bytes are its texels as a file packs them: rows without a gap, layer after layer. Of compressed formats a row is
/// one of blocks.
#[derive(Clone, Debug)]
pub struct TextureLevel {
    pub(super) owner: OwnDevice,
    pub(super) texture: wgpu::Texture,
    pub(super) level: u32,
    blocks: Blocks,
    len: usize,
}

impl TextureLevel {
    fn new(owner: &OwnDevice, texture: &wgpu::Texture, level: u32) -> Result<Self, WgpuError> {
        if !texture.usage().contains(wgpu::TextureUsages::COPY_DST) || texture.sample_count() > 1 {
            return Err(lacks(
                "the texture was created without COPY_DST, or with several samples",
                "create it with that usage, and one sample a texel",
            ));
        }
        if level >= texture.mip_level_count() {
            return Err(lacks(
                format!(
                    "the texture has {} mip levels, and not {level}",
                    texture.mip_level_count()
                ),
                "take one that it has",
            ));
        }
        let format = texture.format();
        let bytes = format.block_copy_size(None).ok_or_else(|| {
            lacks(
                format!("texels of {format:?} are not one run of rows"),
                "take a format of one plane and one aspect",
            )
        })?;
        let (across, down) = format.block_dimensions();
        let side = texture.size().mip_level_size(level, texture.dimension());
        let size =
            [side.width.div_ceil(across), side.height.div_ceil(down), side.depth_or_array_layers];
        let blocks = Blocks { bytes: bytes as usize, size };
        let len =
            blocks.len().ok_or_else(|| lacks("the level is too long", "take a smaller one"))?;
        let owner = owner.clone();
        Ok(Self { owner, texture: texture.clone(), level, blocks, len })
    }

    /// How many bytes fill it.
    pub(super) const fn bytes(&self) -> usize {
        self.len
    }

    /// The bytes that belong together.
    pub(super) const fn block(&self) -> usize {
        self.blocks.bytes
    }

    /// The boxes of `len` bytes of the level from `offset` on.
    pub(super) fn parts(&self, offset: usize, len: usize) -> Result<Vec<Part>, WgpuError> {
        let end = offset.checked_add(len);
        let parts = end.and_then(|end| self.blocks.split(offset..end));
        parts.ok_or(WgpuError::Cut { offset, len, granule: self.blocks.bytes, of: self.len })
    }

    /// Where a box lies in the texture, in texels, and its sides.
    pub(super) fn texels(&self, part: &Part) -> (wgpu::Origin3d, wgpu::Extent3d) {
        let (across, down) = self.texture.format().block_dimensions();
        let ([x, y, z], [columns, rows, slices]) = (part.origin, part.size);
        let extent = wgpu::Extent3d {
            width: columns * across,
            height: rows * down,
            depth_or_array_layers: slices,
        };
        (wgpu::Origin3d { x: x * across, y: y * down, z }, extent)
    }

    /// The length of a box in bytes, and of one of its rows.
    pub(super) fn lens(&self, part: &Part) -> (usize, u32) {
        (part.len(self.blocks.bytes), part.size[0] * self.blocks.bytes as u32)
    }
}

/// What of a device of wgpu is filled.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    Buffer(&'a BufferRange),
    Level(&'a TextureLevel),
}

impl<'a> Target<'a> {
    /// One of these of a device, if it is one.
    pub(super) fn of(target: &'a dyn UploadTarget, owner: &OwnDevice) -> Option<Self> {
        let target: &dyn Any = target;
        let level = || target.downcast_ref().map(Self::Level);
        let found = target.downcast_ref().map(Self::Buffer).or_else(level)?;
        let theirs = match found {
            Self::Buffer(range) => &range.owner,
            Self::Level(level) => &level.owner,
        };
        theirs.is(owner).then_some(found)
    }
}
