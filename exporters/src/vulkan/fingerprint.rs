//! Fingerprints that a device takes of its own memory.
//!
//! The CPU cannot look at a GPU's memory, or only slowly; the GPU reads it as fast as it can be. A [`Fingerprinter`] has a compute
//! shader (`shaders/crc32.wgsl`) take the CRC-32 of blocks side by side, which are combined here to that of ranges of any
//! offset and length: what zip records, and `crc32fast` takes of the same bytes.
//!
//! Memory that others use through the kernel (dma-bufs) is acquired from them before and released to them after it, as for a copy
//! ([`Transfer`](super::Transfer)).
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. Everything here is used by one submission at a time, through `&mut self`, and by nobody while a submission is in flight.
//!    If it cannot be learned that one has ended (the device is lost), what it uses is leaked rather than freed.
//! 2. The shader reads its blocks, each of which lies inside the bound part of its buffer, and writes one word for each of them.
//!    It was translated from its source beside it, which a test compares.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use ash::vk;
use ash::vk::{AccessFlags, PipelineStageFlags as Stage};
use crc32fast::Hasher;

use super::buffer::{Buffer, Way};
use super::commands::{Passed, barrier, begin, end};
use super::copy::check_bounds;
use super::crc_tables;
use super::device::Device;
use super::error::{VulkanError, failed};
use crate::{Absent, Intent};

/// `shaders/crc32.wgsl`, translated.
const SHADER: &[u8] = include_bytes!("crc32.spv");

/// The threads that share a block.
const THREADS: u32 = 256;

/// The longest block, in bytes. The fingerprints of shorter ones would take the CPU longer to combine.
const BLOCK: usize = 1 << 20;

/// The most blocks of one submission.
const BLOCKS: usize = 1024;

/// Where in the working memory what lies, in bytes. Each begins at a multiple of what any device asks for (256:
/// `minStorageBufferOffsetAlignment`).
const TABLES: Range<usize> = 0..(4 * crc_tables::LEN).next_multiple_of(ALIGNED);
const LIST: Range<usize> = TABLES.end..TABLES.end + 8 * BLOCKS;
const CRCS: Range<usize> = LIST.end..LIST.end + 4 * BLOCKS;
const ALIGNED: usize = 256;

/// What the shader is given: the buffer, the tables, the list of blocks, and where their fingerprints go.
const BINDINGS: usize = 4;

/// Takes fingerprints of a device's buffers, by the device.
///
/// ```no_run
/// use std::sync::Arc;
/// use exporters::vulkan::Device;
///
/// let device = Device::open(None)?;
/// let vram = Arc::new(device.allocate(1 << 20, false)?);
/// // Whatever fills it is waited for first.
/// let crcs = device.fingerprinter()?.crc32(&vram, &[0..4096, 77..(1 << 20) - 3])?;
/// println!("{crcs:08x?}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Fingerprinter {
    device: Device,
    family: u32,
    work: Arc<Buffer>,
    /// How much of a buffer is bound at once, in bytes.
    window: usize,
    shader: vk::ShaderModule,
    layout: vk::DescriptorSetLayout,
    pipeline_layout: vk::PipelineLayout,
    pipeline: vk::Pipeline,
    descriptors: vk::DescriptorPool,
    set: vk::DescriptorSet,
    pool: vk::CommandPool,
    commands: vk::CommandBuffer,
    fence: vk::Fence,
    /// The buffer of a submission that is not known to have ended.
    in_flight: Option<Arc<Buffer>>,
}

impl Device {
    /// What takes fingerprints of this device's buffers.
    ///
    /// # Errors
    /// [`VulkanError::Unavailable`] if no queue of the device runs shaders, or it runs too small ones;
    /// [`VulkanError::OutOfMemory`], [`VulkanError::Call`].
    pub fn fingerprinter(&self) -> Result<Fingerprinter, VulkanError> {
        let family = self.compute_family().map_err(VulkanError::Unavailable)?;
        // SAFETY: instance and device are alive.
        let limits =
            unsafe { self.instance().get_physical_device_properties(self.physical()) }.limits;
        let threads = limits.max_compute_work_group_invocations;
        if threads.min(limits.max_compute_work_group_size[0]) < THREADS {
            return Err(VulkanError::Unavailable(Absent::new(
                format!("{} runs {threads} threads of a shader together", self.info().name),
                format!("take a device that runs {THREADS}"),
            )));
        }
        let work = Arc::new(Buffer::read_back(self, CRCS.end)?);
        let mut bytes = Vec::with_capacity(TABLES.end);
        crc_tables::tables().iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        write(&work, 0, &bytes)?;
        let window = limits.max_storage_buffer_range as usize & !3;
        Fingerprinter::new(self, family, work, window)
    }
}

impl Fingerprinter {
    fn new(
        device: &Device,
        family: u32,
        work: Arc<Buffer>,
        window: usize,
    ) -> Result<Self, VulkanError> {
        // What is made is freed when it is dropped, also if the rest cannot be made.
        let mut own = Self {
            device: device.clone(),
            family,
            work,
            window,
            shader: vk::ShaderModule::null(),
            layout: vk::DescriptorSetLayout::null(),
            pipeline_layout: vk::PipelineLayout::null(),
            pipeline: vk::Pipeline::null(),
            descriptors: vk::DescriptorPool::null(),
            set: vk::DescriptorSet::null(),
            pool: vk::CommandPool::null(),
            commands: vk::CommandBuffer::null(),
            fence: vk::Fence::null(),
            in_flight: None,
        };
        own.make_pipeline()?;
        own.make_set()?;
        own.make_commands()?;
        Ok(own)
    }

    fn make_pipeline(&mut self) -> Result<(), VulkanError> {
        let ash = self.device.ash();
        let code: Vec<_> =
            SHADER.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect();
        let shader = vk::ShaderModuleCreateInfo::default().code(&code);
        let bindings: [_; BINDINGS] = std::array::from_fn(|binding| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(binding as u32)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        });
        let layout = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        // SAFETY: the device is alive; all that is pointed at lives through the calls; the shader is what it must be (law 2),
        // and its bindings are those of the layout.
        unsafe {
            self.shader =
                ash.create_shader_module(&shader, None).map_err(failed("vkCreateShaderModule"))?;
            self.layout = ash
                .create_descriptor_set_layout(&layout, None)
                .map_err(failed("vkCreateDescriptorSetLayout"))?;
            let layouts = [self.layout];
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&layouts);
            self.pipeline_layout = ash
                .create_pipeline_layout(&layout, None)
                .map_err(failed("vkCreatePipelineLayout"))?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(self.shader)
                .name(c"main");
            let pipeline =
                vk::ComputePipelineCreateInfo::default().stage(stage).layout(self.pipeline_layout);
            let made = ash.create_compute_pipelines(vk::PipelineCache::null(), &[pipeline], None);
            let made = made.map_err(|(_, result)| failed("vkCreateComputePipelines")(result))?;
            self.pipeline = made.first().copied().unwrap_or_default();
        }
        Ok(())
    }

    fn make_set(&mut self) -> Result<(), VulkanError> {
        let ash = self.device.ash();
        let sizes = [vk::DescriptorPoolSize::default()
            .ty(vk::DescriptorType::STORAGE_BUFFER)
            .descriptor_count(BINDINGS as u32)];
        let pool = vk::DescriptorPoolCreateInfo::default().max_sets(1).pool_sizes(&sizes);
        let layouts = [self.layout];
        // SAFETY: the device is alive; all that is pointed at lives through the calls.
        unsafe {
            self.descriptors = ash
                .create_descriptor_pool(&pool, None)
                .map_err(failed("vkCreateDescriptorPool"))?;
            let set = vk::DescriptorSetAllocateInfo::default()
                .descriptor_pool(self.descriptors)
                .set_layouts(&layouts);
            let sets =
                ash.allocate_descriptor_sets(&set).map_err(failed("vkAllocateDescriptorSets"))?;
            self.set = sets.first().copied().unwrap_or_default();
        }
        Ok(())
    }

    fn make_commands(&mut self) -> Result<(), VulkanError> {
        let ash = self.device.ash();
        let pool = vk::CommandPoolCreateInfo::default()
            .queue_family_index(self.family)
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER);
        // SAFETY: the device is alive; all that is pointed at lives through the calls.
        unsafe {
            self.pool =
                ash.create_command_pool(&pool, None).map_err(failed("vkCreateCommandPool"))?;
            let commands = vk::CommandBufferAllocateInfo::default()
                .command_pool(self.pool)
                .level(vk::CommandBufferLevel::PRIMARY)
                .command_buffer_count(1);
            let made = ash
                .allocate_command_buffers(&commands)
                .map_err(failed("vkAllocateCommandBuffers"))?;
            self.commands = made.first().copied().unwrap_or_default();
            let fence = vk::FenceCreateInfo::default();
            self.fence = ash.create_fence(&fence, None).map_err(failed("vkCreateFence"))?;
        }
        Ok(())
    }

    /// The CRC-32 (IEEE) of each of some ranges of a buffer, in bytes of any offset and length, as the device sees them. What
    /// is in flight into the buffer must have been waited for. Returns when the device is done.
    ///
    /// # Errors
    /// [`VulkanError::OutOfBounds`] for a range outside the buffer, [`VulkanError::OtherDevice`];
    /// [`VulkanError::Unavailable`] for a program's own buffer ([`Device::adopt_buffer`]);
    /// [`VulkanError::Call`] if the device fails.
    pub fn crc32(
        &mut self,
        buffer: &Arc<Buffer>,
        ranges: &[Range<usize>],
    ) -> Result<Vec<u32>, VulkanError> {
        if *buffer.device() != self.device {
            return Err(VulkanError::OtherDevice);
        }
        if *buffer.way() == Way::Lent {
            return Err(VulkanError::Unavailable(Absent::new(
                "the buffer is the program's own, which may have it on another queue",
                "have the program's own shader take them",
            )));
        }
        for range in ranges {
            check_bounds("buffer", buffer, range.start, range.len())?;
        }
        // A shader reads whole words.
        let words = buffer.len() & !3;
        let mut crcs = vec![Hasher::new(); ranges.len()];
        let mut batch = Batch::default();
        for (index, range) in ranges.iter().enumerate() {
            for block in blocks(range.start..range.end.min(words)) {
                if !batch.has_room_for(&block, self.window) {
                    self.run(buffer, std::mem::take(&mut batch), &mut crcs)?;
                }
                batch.push(index, block);
            }
        }
        self.run(buffer, batch, &mut crcs)?;
        self.add_last_bytes(buffer, ranges, words, &mut crcs)?;
        Ok(crcs.into_iter().map(Hasher::finalize).collect())
    }

    /// Adds those of a buffer's last bytes that are no whole word. The device copies them out.
    fn add_last_bytes(
        &self,
        buffer: &Arc<Buffer>,
        ranges: &[Range<usize>],
        words: usize,
        crcs: &mut [Hasher],
    ) -> Result<(), VulkanError> {
        if ranges.iter().all(|range| range.end <= words || range.is_empty()) {
            return Ok(());
        }
        let mut last = vec![0; buffer.len() - words];
        self.device.transfer()?.read_back(buffer, words, &mut last)?;
        for (range, crc) in ranges.iter().zip(crcs).filter(|(range, _)| range.end > words) {
            let own = range.start.max(words)..range.end;
            if !own.is_empty() {
                crc.update(&last[own.start - words..own.end - words]);
            }
        }
        Ok(())
    }

    /// Has the device take the fingerprints of a batch, and adds them to those of their ranges.
    fn run(
        &mut self,
        buffer: &Arc<Buffer>,
        batch: Batch,
        crcs: &mut [Hasher],
    ) -> Result<(), VulkanError> {
        let Some((_, first)) = batch.blocks.first() else { return Ok(()) };
        let base = start_of_window(first);
        let mut list = Vec::with_capacity(8 * batch.blocks.len());
        for (_, block) in &batch.blocks {
            list.extend(((block.start - base) as u32).to_ne_bytes());
            list.extend((block.len() as u32).to_ne_bytes());
        }
        write(&self.work, LIST.start, &list)?;
        let bound = base..(buffer.len() & !3).min(base + self.window);
        self.bind(buffer, bound);
        self.submit(buffer, batch.blocks.len() as u32)?;

        let mut found = vec![0; 4 * batch.blocks.len()];
        let access = self.work.begin_cpu_access(Intent::Read)?;
        access.map().copy_to_slice(CRCS.start, &mut found).map_err(|_| outside(found.len()))?;
        access.finish()?;
        for ((index, block), crc) in batch.blocks.into_iter().zip(found.chunks_exact(4)) {
            let crc = u32::from_ne_bytes([crc[0], crc[1], crc[2], crc[3]]);
            crcs[index].combine(&Hasher::new_with_initial_len(crc, block.len() as u64));
        }
        Ok(())
    }

    /// Gives the shader a part of a buffer, and the working memory.
    fn bind(&self, buffer: &Buffer, part: Range<usize>) {
        let bound = |buffer: &Buffer, part: Range<usize>| {
            [vk::DescriptorBufferInfo::default()
                .buffer(buffer.ash())
                .offset(part.start as u64)
                .range(part.len() as u64)]
        };
        let work = &self.work;
        let infos =
            [bound(buffer, part), bound(work, TABLES), bound(work, LIST), bound(work, CRCS)];
        let writes: [_; BINDINGS] = std::array::from_fn(|binding| {
            vk::WriteDescriptorSet::default()
                .dst_set(self.set)
                .dst_binding(binding as u32)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .buffer_info(&infos[binding])
        });
        // SAFETY: the set is used by nobody (law 1); the parts lie inside their buffers.
        unsafe { self.device.ash().update_descriptor_sets(&writes, &[]) };
    }

    /// Has the shader go through the list, and waits for it.
    fn submit(&mut self, buffer: &Arc<Buffer>, blocks: u32) -> Result<(), VulkanError> {
        // SAFETY: the commands are used by nobody (law 1).
        unsafe { self.record(buffer, blocks) }?;
        let ash = self.device.ash();
        let commands = [self.commands];
        let submit = vk::SubmitInfo::default().command_buffers(&commands);
        self.in_flight = Some(buffer.clone());
        // SAFETY: the commands were recorded for this family, and the fence is not signalled; what the work uses is kept until
        // it is done (law 1).
        unsafe {
            let queue = self.device.compute().map_err(VulkanError::Unavailable)?;
            if let Err(error) = queue.submit(ash, submit, self.fence) {
                if !matches!(error, VulkanError::Call { result: vk::Result::ERROR_DEVICE_LOST, .. })
                {
                    self.in_flight = None;
                }
                return Err(error);
            }
            ash.wait_for_fences(&[self.fence], true, u64::MAX)
                .map_err(failed("vkWaitForFences"))?;
            self.in_flight = None;
            ash.reset_fences(&[self.fence]).map_err(failed("vkResetFences"))
        }
    }

    /// # Safety
    /// The commands are used by nobody.
    unsafe fn record(&self, buffer: &Buffer, blocks: u32) -> Result<(), VulkanError> {
        let (device, commands) = (&self.device, self.commands);
        let ash = device.ash();
        let before = [vk::MemoryBarrier::default()
            .src_access_mask(AccessFlags::TRANSFER_WRITE)
            .dst_access_mask(AccessFlags::SHADER_READ)];
        let after = [vk::MemoryBarrier::default()
            .src_access_mask(AccessFlags::SHADER_WRITE)
            .dst_access_mask(AccessFlags::HOST_READ)];
        let (ours, theirs) = (self.family, device.foreign_family());
        let (none, read) = (AccessFlags::empty(), AccessFlags::SHADER_READ);
        let [mut acquired, mut released] = [Passed::default(), Passed::default()];
        acquired.add_shared(buffer, (theirs, ours), (none, read));
        released.add_shared(buffer, (ours, theirs), (read, none));
        let bound = vk::PipelineBindPoint::COMPUTE;
        // SAFETY: the caller's promise; everything is of this device. The shader's law (2) is `run`'s.
        unsafe {
            begin(device, commands)?;
            let at = (Stage::TRANSFER, Stage::COMPUTE_SHADER);
            barrier(device, commands, at, &before, &acquired);
            ash.cmd_bind_pipeline(commands, bound, self.pipeline);
            let sets = [self.set];
            ash.cmd_bind_descriptor_sets(commands, bound, self.pipeline_layout, 0, &sets, &[]);
            ash.cmd_dispatch(commands, blocks, 1, 1);
            let at = (Stage::COMPUTE_SHADER, Stage::HOST);
            barrier(device, commands, at, &after, &Passed::default());
            // On its own: ownership does not pass at the host's stage
            // (VUID-vkCmdPipelineBarrier-srcStageMask-09634).
            if !released.is_empty() {
                let at = (Stage::COMPUTE_SHADER, Stage::BOTTOM_OF_PIPE);
                barrier(device, commands, at, &[], &released);
            }
            end(device, commands)
        }
    }
}

impl Drop for Fingerprinter {
    fn drop(&mut self) {
        if let Some(buffer) = self.in_flight.take() {
            // Law 1: the device may still be at it.
            std::mem::forget((buffer, self.work.clone(), self.device.clone()));
            return;
        }
        let ash = self.device.ash();
        // SAFETY: all are ours or null, and nothing of theirs is in flight.
        unsafe {
            ash.destroy_fence(self.fence, None);
            ash.destroy_command_pool(self.pool, None);
            ash.destroy_descriptor_pool(self.descriptors, None);
            ash.destroy_pipeline(self.pipeline, None);
            ash.destroy_pipeline_layout(self.pipeline_layout, None);
            ash.destroy_descriptor_set_layout(self.layout, None);
            ash.destroy_shader_module(self.shader, None);
        }
    }
}

/// Blocks that one submission takes the fingerprints of, each with the index of its range. They lie in one window of their
/// buffer, which begins with the first one.
#[derive(Debug, Default)]
struct Batch {
    blocks: Vec<(usize, Range<usize>)>,
}

impl Batch {
    fn has_room_for(&self, block: &Range<usize>, window: usize) -> bool {
        let Some((_, first)) = self.blocks.first() else { return true };
        let base = start_of_window(first);
        self.blocks.len() < BLOCKS && block.start >= base && block.end - base <= window
    }

    fn push(&mut self, index: usize, block: Range<usize>) {
        self.blocks.push((index, block));
    }
}

/// Where the part of a buffer begins that is bound for a block.
const fn start_of_window(block: &Range<usize>) -> usize {
    block.start / ALIGNED * ALIGNED
}

/// A range in blocks, none of which is empty.
fn blocks(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(BLOCK).map(move |start| start..end.min(start + BLOCK))
}

/// Writes into the working memory.
fn write(work: &Buffer, at: usize, bytes: &[u8]) -> Result<(), VulkanError> {
    let access = work.begin_cpu_access(Intent::Write)?;
    access.map().copy_from_slice(at, bytes).map_err(|_| outside(bytes.len()))?;
    Ok(access.finish()?)
}

fn outside(len: usize) -> VulkanError {
    VulkanError::OutOfBounds { side: "working memory", offset: 0, len, buffer_len: CRCS.end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_their_range() {
        for range in [0..0, 5..5, 0..BLOCK, 3..BLOCK + 3, 77..5 * BLOCK + 9] {
            let mut next = range.start;
            for block in blocks(range.clone()) {
                assert!(block.start == next && !block.is_empty() && block.len() <= BLOCK);
                next = block.end;
            }
            assert_eq!(next, range.end);
        }
    }

    /// Of a device that is given little at once, what lies far from each other takes several submissions.
    #[test]
    fn a_buffer_longer_than_what_is_given_at_once() {
        let device = match Device::open_validated(None) {
            Ok(device) => device,
            Err(why) => {
                println!("SKIPPED: needs Vulkan and its validation layer: {why}");
                return;
            }
        };
        let log = device.validation().cloned().expect("it was asked for");
        let len = 5 * BLOCK + 1;
        let buffer = Arc::new(device.allocate(len, false).expect("5 MiB"));
        let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
        let source = Arc::new(Buffer::read_back(&device, len).expect("5 MiB"));
        write(&source, 0, &bytes).expect("they fit");
        let mut transfer = device.transfer().expect("a queue");
        let all = super::super::CopyRegion { src_offset: 0, dst_offset: 0, len };
        let ticket = transfer.copy(&source, &buffer, &[all]).expect("a copy");
        transfer.wait(ticket).expect("the copy");
        let whole = device.fingerprinter().expect("a queue for shaders");
        let mut little = Fingerprinter::new(&device, whole.family, whole.work.clone(), BLOCK + 512)
            .expect("another");
        let ranges = [1..3 * BLOCK, 4 * BLOCK..len, 0..100, 3 * BLOCK - 1..3 * BLOCK + 1];
        let found = little.crc32(&buffer, &ranges).expect("fingerprints");
        assert_eq!(found, ranges.map(|range| crc32fast::hash(&bytes[range])));
        drop((whole, little, transfer, source, buffer, device));
        assert_eq!(log.errors(), Vec::<String>::new());
    }
}
