//! Copies by the device, on its transfer queue.
//!
//! Each [`Transfer::copy`] is one submission; those that are done are counted (`progress`), and
//! a [`Ticket`] is the count to wait for. Copies of one transfer take effect in the order they were
//! submitted.
//!
//! Who sees what: a submission makes everything that the CPU wrote before it visible to the device
//! (Vulkan, "Host Write Ordering Guarantees"), and what a drive wrote into imported pages by DMA is
//! in memory before its completion is reported. Memory that others use through the kernel (dma-bufs)
//! is acquired from them before a copy and released to them after it. What a copy wrote to memory
//! the CPU can reach is visible to the CPU once the ticket has been waited for.
//!
//! When: a copy waits for earlier copies of its transfer, and for others only if it is told to. Fences of
//! others come as sync files ([`Transfer::copy_after`]) and its own leave as such
//! ([`Transfer::sync_file`]), which is explicit synchronisation; with [`Transfer::copy_synced`] they are
//! taken from the dma-bufs and put on them, which is implicit synchronisation
//! (`Documentation/driver-api/dma-buf.rst`).
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. A submission's buffers, images, semaphores and commands are kept in `in_flight` until it is counted as done. If that cannot be learned (the device is lost), they are leaked rather than freed: the
//!    device may still write them.
//! 2. The command pool is used through `&mut self` only (it is externally synchronised).
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ash::vk;
use ash::vk::PipelineStageFlags;

use super::buffer::Buffer;
use super::copy::{Copy, Side, check_bounds, record_end, record_first_layout};
use super::device::Device;
use super::error::{VulkanError, failed};
use super::fence::{Semaphore, settled, signalled, sync_file};
use super::image::Image;
use super::progress::{Mark, Progress};
use super::region::ImageRegion;
use super::timeline::{Point, Timeline};
use crate::frame::{Frame, FrameError};
use crate::upload::CopyRegion;
use crate::{DmaBuf, DmaBufError, Intent, SyncFile};

/// The size of the buffer through which [`Transfer::read_back`] goes, in bytes.
const STAGING: usize = 4 << 20;

/// A copy that was submitted, to be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "the copy is done only when its ticket has been waited for"]
pub struct Ticket {
    /// The transfer's, which no other has.
    pool: vk::CommandPool,
    count: u64,
}

/// When a copy begins, beside that it is after all earlier copies of its transfer.
#[derive(Clone, Copy, Debug)]
pub enum When<'a> {
    /// As soon as it can.
    AtOnce,
    /// When each of these sync files is signalled: as [`Transfer::copy_after`].
    After(&'a [BorrowedFd<'a>]),
    /// When a timeline of the program's own has reached a value: when a renderer is done with what is replaced, say.
    Reached(&'a Arc<Timeline>, u64),
    /// When it is its turn with the dma-bufs behind both sides, on which it puts its own fence: as
    /// [`Transfer::copy_synced`].
    InTurn,
}

/// The device's transfer queue, with what this user has in flight on it.
///
/// Several transfers of one device share the queue and know nothing of each other's order. Dropping
/// one waits until its copies are done.
///
/// ```no_run
/// use std::sync::Arc;
/// use exporters::vulkan::{CopyRegion, Device};
/// use iomap::{Memory, PageSize};
///
/// let device = Device::open(None)?;
/// let memory = Arc::new(Memory::memfd("staging", 1 << 20, PageSize::Base)?);
/// let staging = Arc::new(device.import_memory(memory)?);
/// let vram = Arc::new(device.allocate(1 << 20, false)?);
///
/// let mut transfer = device.transfer()?;
/// let all = CopyRegion { src_offset: 0, dst_offset: 0, len: 1 << 20 };
/// let ticket = transfer.copy(&staging, &vram, &[all])?;
/// transfer.wait(ticket)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Transfer {
    device: Device,
    pool: vk::CommandPool,
    progress: ManuallyDrop<Progress>,
    submitted: u64,
    in_flight: VecDeque<InFlight>,
    idle: Vec<vk::CommandBuffer>,
    idle_semaphores: Vec<Semaphore>,
    /// Memory in which bytes are aligned for an image, of use again.
    idle_scratch: Vec<Arc<Buffer>>,
    staging: Option<Arc<Buffer>>,
}

#[derive(Debug)]
struct InFlight {
    count: u64,
    work: Work,
}

/// What is submitted, and kept until it is done.
#[derive(Debug, Default)]
struct Work {
    commands: Option<vk::CommandBuffer>,
    /// Of use again when it is done.
    waits: Vec<Semaphore>,
    signals: Vec<Semaphore>,
    copy: Option<Copy>,
    /// What a program's timeline is to have reached before.
    after: Option<Point>,
    /// What a program's timeline reaches when it is done.
    end: Option<Point>,
    /// What is given back at its end.
    _given: Option<Side>,
}

impl Device {
    /// A user of the transfer queue: of a family for transfers only if the device has one.
    ///
    /// # Errors
    /// [`VulkanError::Call`] if the device is lost or out of memory.
    pub fn transfer(&self) -> Result<Transfer, VulkanError> {
        let progress = Progress::new(self)?;
        let pool =
            vk::CommandPoolCreateInfo::default().queue_family_index(self.queue_family()).flags(
                vk::CommandPoolCreateFlags::TRANSIENT
                    | vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER,
            );
        // SAFETY: the device is alive; dropping the transfer frees the pool.
        let pool = unsafe { self.ash().create_command_pool(&pool, None) }
            .map_err(failed("vkCreateCommandPool"))?;
        Ok(Transfer {
            device: self.clone(),
            pool,
            progress: ManuallyDrop::new(progress),
            submitted: 0,
            in_flight: VecDeque::new(),
            idle: Vec::new(),
            idle_semaphores: Vec::new(),
            idle_scratch: Vec::new(),
            staging: None,
        })
    }
}

impl Transfer {
    /// Its device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Submits a copy of `regions` from `src` to `dst`, after all earlier copies of this transfer.
    /// Both buffers are kept until it is done. The regions of one copy must not overlap in `dst`, or
    /// either may win.
    ///
    /// # Errors
    /// Nothing is copied with [`VulkanError::OutOfBounds`], [`VulkanError::Overlap`] (a copy within
    /// one buffer) or [`VulkanError::OtherDevice`]. [`VulkanError::Call`] if the device fails.
    pub fn copy(
        &mut self,
        src: &Arc<Buffer>,
        dst: &Arc<Buffer>,
        regions: &[CopyRegion],
    ) -> Result<Ticket, VulkanError> {
        self.copy_after(src, dst, regions, &[])
    }

    /// As [`copy`](Self::copy), of which nothing happens before each of `waits` is signalled: sync
    /// files, of which the caller keeps his descriptor. One comes from a dma-buf
    /// ([`DmaBuf::export_sync_file`](crate::DmaBuf::export_sync_file)), a sync object
    /// ([`Syncobj::export_sync_file`](crate::drm::Syncobj::export_sync_file)), a point of a timeline
    /// ([`Timeline::export_sync_file`](crate::drm::Timeline::export_sync_file)) or another transfer
    /// ([`sync_file`](Self::sync_file)).
    ///
    /// The device waits, and the call returns at once; without [`Device::sync_files`] the CPU waits
    /// here, before the copy is submitted.
    ///
    /// # Errors
    /// As [`copy`](Self::copy); [`VulkanError::SyncFile`].
    pub fn copy_after(
        &mut self,
        src: &Arc<Buffer>,
        dst: &Arc<Buffer>,
        regions: &[CopyRegion],
        waits: &[BorrowedFd<'_>],
    ) -> Result<Ticket, VulkanError> {
        self.run(Copy::bytes(src, dst, regions)?, When::After(waits))
    }

    /// As [`copy`](Self::copy), in turn with all others who use the dma-bufs behind the buffers
    /// (implicit synchronisation): it waits for those who write into `src` and for all who use `dst`,
    /// and puts a fence of its own on both, as a reader of the one and a writer of the other. They are
    /// there when the call returns: who is told of the frame after that waits for the copy. Buffers
    /// that are no dma-bufs, or were not exported yet, have no other users.
    ///
    /// Without [`Device::sync_files`], or before Linux 6.0, the CPU waits instead: before the copy for
    /// the others, and then for the copy, so that no fence is needed.
    ///
    /// # Errors
    /// As [`copy`](Self::copy); [`VulkanError::DmaBuf`].
    pub fn copy_synced(
        &mut self,
        src: &Arc<Buffer>,
        dst: &Arc<Buffer>,
        regions: &[CopyRegion],
    ) -> Result<Ticket, VulkanError> {
        self.run(Copy::bytes(src, dst, regions)?, When::InTurn)
    }

    /// Submits a copy of a whole picture from a buffer, in which it lies as `layout` says
    /// ([`Picture::lay_out`](crate::frame::Picture::lay_out)), to an image. Both are kept until it is
    /// done.
    ///
    /// ```no_run
    /// # use std::sync::Arc;
    /// # use exporters::{frame::Frame, vulkan::{Buffer, Image, Transfer, VulkanError, When}};
    /// /// Shows what lies in a buffer, once nobody looks at the frame before it any more.
    /// fn show(
    ///     transfer: &mut Transfer,
    ///     pixels: &Arc<Buffer>,
    ///     layout: &Frame<()>,
    ///     screen: &Arc<Image>,
    /// ) -> Result<(), VulkanError> {
    ///     let ticket = transfer.copy_to_image(pixels, layout, screen, When::InTurn)?;
    ///     transfer.wait(ticket)
    /// }
    /// ```
    ///
    /// # Errors
    /// Nothing is copied with [`VulkanError::OtherDevice`]; [`VulkanError::NoImage`] for another
    /// picture, an image that was not made for it, or rows and planes that do not begin at multiples of
    /// their pixels and of four bytes; [`VulkanError::Frame`] for a layout that is not inside the
    /// buffer. As [`copy_after`](Self::copy_after) and [`copy_synced`](Self::copy_synced) for `when`.
    pub fn copy_to_image(
        &mut self,
        src: &Arc<Buffer>,
        layout: &Frame<()>,
        dst: &Arc<Image>,
        when: When<'_>,
    ) -> Result<Ticket, VulkanError> {
        self.run(Copy::to_image(src, layout, dst)?, when)
    }

    /// As [`copy_to_image`](Self::copy_to_image), the other way round. The bytes between the rows stay
    /// as they are.
    ///
    /// # Errors
    /// As [`copy_to_image`](Self::copy_to_image).
    pub fn copy_from_image(
        &mut self,
        src: &Arc<Image>,
        dst: &Arc<Buffer>,
        layout: &Frame<()>,
        when: When<'_>,
    ) -> Result<Ticket, VulkanError> {
        self.run(Copy::from_image(src, dst, layout)?, when)
    }

    /// Submits a copy of `regions` from a buffer to a region of a program's image, after all earlier copies of this
    /// transfer: `dst_offset` counts in the run of bytes that fills the region, of which each part begins and ends at
    /// multiples of [`ImageRegion::granule`]. Both are kept until it is done.
    ///
    /// Bytes that lie at no multiple of a block and of four bytes in the source are copied by the device to where they
    /// do first, which takes device memory as long as they are.
    ///
    /// # Errors
    /// Nothing is copied with [`VulkanError::OutOfBounds`], [`VulkanError::Cut`], [`VulkanError::OtherDevice`],
    /// [`VulkanError::GivenBack`], [`VulkanError::OutOfMemory`]. As [`copy_after`](Self::copy_after) and
    /// [`copy_synced`](Self::copy_synced) for `when`.
    pub fn copy_to_region(
        &mut self,
        src: &Arc<Buffer>,
        dst: &Arc<ImageRegion>,
        regions: &[CopyRegion],
        when: When<'_>,
    ) -> Result<Ticket, VulkanError> {
        self.retire()?;
        let copy = Copy::to_region(src, dst, regions, |len| self.take_scratch(len))?;
        self.run(copy, when)
    }

    /// Ends the copies into a buffer that may be a program's own: after them it is given back, and the program's
    /// timeline reaches its value, as its [`Handover`](super::Handover) says. The ticket is that of the end. A buffer of
    /// this crate's stays as it is.
    ///
    /// # Errors
    /// [`VulkanError::OtherDevice`], [`VulkanError::GivenBack`], [`VulkanError::Value`]; [`VulkanError::Call`] if the
    /// device fails.
    pub fn finish(&mut self, dst: &Arc<Buffer>) -> Result<Ticket, VulkanError> {
        self.end(Side::Buffer(dst.clone()))
    }

    /// As [`finish`](Self::finish), for a region of a program's image: it gets its last layout.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn finish_region(&mut self, dst: &Arc<ImageRegion>) -> Result<Ticket, VulkanError> {
        self.end(Side::Region(dst.clone()))
    }

    /// Has a program's timeline reach a value when all copies so far are done: a renderer waits for it on the GPU.
    ///
    /// # Errors
    /// [`VulkanError::OtherDevice`]; [`VulkanError::Value`] for a value that is not higher than all before it, or higher
    /// than the device takes; [`VulkanError::Call`] if the device fails.
    pub fn signal(&mut self, timeline: &Arc<Timeline>, value: u64) -> Result<Ticket, VulkanError> {
        let end = Point { timeline: timeline.clone(), value };
        if !end.is_of(&self.device) {
            return Err(VulkanError::OtherDevice);
        }
        self.retire()?;
        self.submit(Work { end: Some(end), ..<_>::default() })
    }

    /// A sync file that is signalled when all copies so far are done: to be put on a dma-buf
    /// ([`DmaBuf::import_sync_file`](crate::DmaBuf::import_sync_file)), into a sync object or a
    /// timeline ([`drm`](crate::drm)), given to another transfer ([`copy_after`](Self::copy_after)), or
    /// waited for with `poll`. None if they are done already and the driver has no fence for that.
    ///
    /// A driver of a GPU gives it at once. Mesa's software driver keeps its caller until the copies are
    /// done, and until then what they wait for must not be up to the caller.
    ///
    /// # Errors
    /// [`VulkanError::Unavailable`] without [`Device::sync_files`]: then [`wait`](Self::wait).
    pub fn sync_file(&mut self) -> Result<Option<OwnedFd>, VulkanError> {
        self.device.sync_files().map_err(VulkanError::Unavailable)?;
        self.retire()?;
        // A new one each time: of one that is used again, validation layers from before 2026 say that it is still signalled
        // (KhronosGroup/Vulkan-ValidationLayers issue 11493).
        let signal = Semaphore::new(&self.device)?;
        let _ = self.submit(Work { signals: vec![signal], ..<_>::default() })?;
        let signal = self.in_flight.back().and_then(|last| last.work.signals.first());
        signal.map_or(Ok(None), Semaphore::export)
    }

    /// Waits until a copy is done.
    ///
    /// # Errors
    /// [`VulkanError::OtherTransfer`] for another transfer's ticket; [`VulkanError::Call`] if the
    /// device is lost.
    pub fn wait(&mut self, ticket: Ticket) -> Result<(), VulkanError> {
        self.check_ticket(ticket)?;
        self.progress.wait(ticket.count)?;
        self.retire()
    }

    /// Whether a copy is done, without waiting.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn is_done(&mut self, ticket: Ticket) -> Result<bool, VulkanError> {
        self.check_ticket(ticket)?;
        self.retire()?;
        Ok(self.in_flight.front().is_none_or(|oldest| oldest.count > ticket.count))
    }

    /// Reads `out.len()` bytes of `src` at `offset` as the device sees them, after all earlier
    /// copies of this transfer: the device copies them, in pieces, into memory that the CPU reads.
    ///
    /// # Errors
    /// As [`copy`](Self::copy), and [`VulkanError::OutOfMemory`].
    pub fn read_back(
        &mut self,
        src: &Arc<Buffer>,
        offset: usize,
        out: &mut [u8],
    ) -> Result<(), VulkanError> {
        check_bounds("source", src, offset, out.len())?;
        let staging = match &self.staging {
            Some(staging) => staging.clone(),
            None => {
                let len = STAGING.min(self.device.info().max_buffer);
                let staging = Arc::new(Buffer::read_back(&self.device, len)?);
                self.staging.insert(staging).clone()
            }
        };
        let mut src_offset = offset;
        for piece in out.chunks_mut(staging.len()) {
            let region = CopyRegion { src_offset, dst_offset: 0, len: piece.len() };
            let ticket = self.copy(src, &staging, &[region])?;
            self.wait(ticket)?;
            let access = staging.begin_cpu_access(Intent::Read)?;
            let map = access.map();
            map.copy_to_slice(0, piece).map_err(|_| VulkanError::OutOfBounds {
                side: "staging buffer",
                offset: 0,
                len: piece.len(),
                buffer_len: map.len(),
            })?;
            access.finish()?;
            src_offset += piece.len();
        }
        Ok(())
    }

    /// Reads an image as the device sees it, after all earlier copies of this transfer, into memory in
    /// which it lies as `layout` says. The bytes between the rows stay as they are.
    ///
    /// # Errors
    /// As [`copy_from_image`](Self::copy_from_image), and [`VulkanError::OutOfMemory`];
    /// [`VulkanError::OutOfBounds`] if `out` is shorter than the layout.
    pub fn read_image(
        &mut self,
        src: &Arc<Image>,
        layout: &Frame<()>,
        out: &mut [u8],
    ) -> Result<(), VulkanError> {
        let (len, buffer_len) = (layout.len(), out.len());
        let side = "memory for the image";
        let short = || VulkanError::OutOfBounds { side, offset: 0, len, buffer_len };
        let staging = Arc::new(Buffer::read_back(&self.device, len)?);
        let ticket = self.copy_from_image(src, &staging, layout, When::AtOnce)?;
        self.wait(ticket)?;
        let access = staging.begin_cpu_access(Intent::Read)?;
        for (index, plane) in layout.planes.iter().enumerate() {
            let rows = layout.rows(index, access.map())?;
            for y in 0..rows.rows() {
                let row = rows.row(y).map_err(FrameError::from)?;
                let at = plane.offset as usize + y * plane.pitch as usize;
                let here = out.get_mut(at..at + row.len()).ok_or_else(short)?;
                row.copy_to_slice(0, here).map_err(|_| short())?;
            }
        }
        Ok(access.finish()?)
    }

    /// Gives a new image its first layout, and returns when it has it.
    pub(super) fn lay_out(&mut self, image: &Image) -> Result<(), VulkanError> {
        let commands = self.take_commands()?;
        // SAFETY: the commands are ours and idle (law 2), the image outlives this call.
        unsafe { record_first_layout(image, commands) }?;
        let ticket = self.submit(Work { commands: Some(commands), ..<_>::default() })?;
        self.wait(ticket)
    }

    /// Submits a copy in its turn.
    fn run(&mut self, copy: Copy, when: When<'_>) -> Result<Ticket, VulkanError> {
        if !copy.is_of(&self.device) {
            return Err(VulkanError::OtherDevice);
        }
        match when {
            When::AtOnce => self.start(copy, &[], None),
            When::After(waits) => self.start(copy, waits, None),
            When::Reached(timeline, value) => {
                let after = Point { timeline: timeline.clone(), value };
                if !after.is_of(&self.device) {
                    return Err(VulkanError::OtherDevice);
                }
                self.start(copy, &[], Some(after))
            }
            When::InTurn => self.run_in_turn(copy),
        }
    }

    fn run_in_turn(&mut self, copy: Copy) -> Result<Ticket, VulkanError> {
        let (from, to) = (copy.src.dma_bufs(), copy.dst.dma_bufs());
        let reads = from.into_iter().map(|dma_buf| (dma_buf.clone(), Intent::Read));
        let writes = to.into_iter().map(|dma_buf| (dma_buf.clone(), Intent::Write));
        let users: Vec<_> = reads.chain(writes).collect();
        let mut waits = Vec::new();
        for (dma_buf, intent) in &users {
            waits.extend(self.fences(dma_buf, *intent)?);
        }
        let waits: Vec<_> = waits.iter().map(AsFd::as_fd).collect();
        let ticket = self.start(copy, &waits, None)?;
        if self.publish(&users).is_err() {
            self.wait(ticket)?;
        }
        Ok(ticket)
    }

    fn start(
        &mut self,
        copy: Copy,
        waits: &[BorrowedFd<'_>],
        after: Option<Point>,
    ) -> Result<Ticket, VulkanError> {
        self.retire()?;
        if copy.is_empty() {
            return Ok(self.ticket());
        }
        let waits = self.semaphores(waits)?;
        // What the first copy takes of the program's is taken before the next is submitted, by whichever transfer.
        let device = self.device.clone();
        let _passing = copy.lent().next().is_some().then(|| device.passing());
        for (_, holding) in copy.lent() {
            holding.take()?;
        }
        let commands = self.take_commands()?;
        // SAFETY: the commands are ours and idle (law 2), of the queue's own family; the copy is kept
        // until it is done (law 1).
        if let Err(e) = unsafe { copy.record(&self.device, commands) } {
            self.idle.push(commands);
            return Err(e);
        }
        let (commands, copy) = (Some(commands), Some(copy));
        let ticket = self.submit(Work { commands, waits, copy, after, ..<_>::default() })?;
        let copied = self.in_flight.back().and_then(|last| last.work.copy.as_ref());
        copied.iter().flat_map(|copy| copy.lent()).for_each(|(_, holding)| holding.taken());
        Ok(ticket)
    }

    /// Gives back what is a program's own.
    fn end(&mut self, side: Side) -> Result<Ticket, VulkanError> {
        if *side.device() != self.device {
            return Err(VulkanError::OtherDevice);
        }
        self.retire()?;
        let device = self.device.clone();
        let _passing = device.passing();
        let Some(holding) = side.holding() else { return Ok(self.ticket()) };
        let (steps, end) = ((holding.take()?, holding.give()), holding.end.clone());
        let commands = match steps {
            (None, None) if end.is_none() => return Ok(self.ticket()),
            (None, None) => None,
            steps => {
                let commands = self.take_commands()?;
                // SAFETY: the commands are ours and idle (law 2), of the queue's own family; what is given is kept
                // until that is done (law 1).
                if let Err(e) = unsafe { record_end(&device, commands, &side, steps) } {
                    self.idle.push(commands);
                    return Err(e);
                }
                Some(commands)
            }
        };
        let ticket = self.submit(Work { commands, end, ..<_>::default() })?;
        holding.given();
        if let Some(last) = self.in_flight.back_mut() {
            last.work._given = Some(side);
        }
        Ok(ticket)
    }

    /// Device memory of at least `len` bytes that nothing uses.
    fn take_scratch(&mut self, len: usize) -> Result<Arc<Buffer>, VulkanError> {
        let fits = |scratch: &Arc<Buffer>| scratch.len() >= len;
        match self.idle_scratch.iter().position(fits) {
            Some(index) => Ok(self.idle_scratch.swap_remove(index)),
            None => {
                // Somewhat longer, so that it is of use for others.
                let roomy = len.checked_next_power_of_two().unwrap_or(len);
                let len = roomy.min(self.device.info().max_buffer).max(len);
                Ok(Arc::new(self.device.allocate(len, false)?))
            }
        }
    }

    fn ticket(&self) -> Ticket {
        Ticket { pool: self.pool, count: self.submitted }
    }

    fn check_ticket(&self, ticket: Ticket) -> Result<(), VulkanError> {
        if ticket.pool == self.pool && ticket.count <= self.submitted {
            return Ok(());
        }
        Err(VulkanError::OtherTransfer)
    }

    fn take_commands(&mut self) -> Result<vk::CommandBuffer, VulkanError> {
        if let Some(commands) = self.idle.pop() {
            return Ok(commands);
        }
        let allocate = vk::CommandBufferAllocateInfo::default()
            .command_pool(self.pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(1);
        // SAFETY: the pool is ours (law 2).
        let commands = unsafe { self.device.ash().allocate_command_buffers(&allocate) }
            .map_err(failed("vkAllocateCommandBuffers"))?;
        Ok(commands[0])
    }

    fn take_semaphore(&mut self) -> Result<Semaphore, VulkanError> {
        self.idle_semaphores.pop().map_or_else(|| Semaphore::new(&self.device), Ok)
    }

    /// Sync files as semaphores to wait for, or waited for by the CPU.
    fn semaphores(&mut self, waits: &[BorrowedFd<'_>]) -> Result<Vec<Semaphore>, VulkanError> {
        let files = waits.iter().map(|&file| sync_file(file)).collect::<Result<Vec<_>, _>>()?;
        if self.device.sync_files().is_err() {
            files.iter().try_for_each(signalled)?;
            return Ok(Vec::new());
        }
        let import = |file: SyncFile| {
            let semaphore = self.take_semaphore()?;
            semaphore.import(file)?;
            Ok(semaphore)
        };
        files.into_iter().map(import).collect()
    }

    /// Whom a user of a dma-buf has to wait for; none once the CPU has waited.
    fn fences(&self, dma_buf: &DmaBuf, intent: Intent) -> Result<Option<OwnedFd>, VulkanError> {
        if self.device.sync_files().is_ok() {
            match dma_buf.export_sync_file(intent) {
                Err(DmaBufError::Unsupported { .. }) => {}
                file => return Ok(Some(file?)),
            }
        }
        settled(dma_buf.as_fd(), intent)?;
        Ok(None)
    }

    /// Puts a fence for all copies so far on dma-bufs.
    fn publish(&mut self, users: &[(DmaBuf, Intent)]) -> Result<(), VulkanError> {
        if users.is_empty() {
            return Ok(());
        }
        let Some(done) = self.sync_file()? else { return Ok(()) };
        for (dma_buf, intent) in users {
            dma_buf.import_sync_file(done.as_fd(), *intent)?;
        }
        Ok(())
    }

    fn submit(&mut self, work: Work) -> Result<Ticket, VulkanError> {
        let count = self.submitted + 1;
        // What follows is submitted before anybody else signals a higher value.
        let end = work.end.clone();
        let mut signalled = end.as_ref().map(Point::claim).transpose()?;
        let mark = self.progress.mark()?;
        let raw = |semaphores: &[Semaphore]| semaphores.iter().map(Semaphore::raw).collect();
        let (mut waits, mut signals): (Vec<_>, Vec<_>) = (raw(&work.waits), raw(&work.signals));
        // Those of binary semaphores are not looked at.
        let (mut waited, mut counts) = (vec![0; waits.len()], vec![0; signals.len()]);
        for (point, semaphores, values) in
            [(&work.after, &mut waits, &mut waited), (&work.end, &mut signals, &mut counts)]
        {
            semaphores.extend(point.as_ref().map(Point::raw));
            values.extend(point.as_ref().map(|point| point.value));
        }
        let fence = match mark {
            Mark::Timeline(timeline) => {
                signals.push(timeline);
                counts.push(count);
                vk::Fence::null()
            }
            Mark::Fence(fence) => fence,
        };
        // A barrier that takes an image begins before the copy does.
        let stages = vec![PipelineStageFlags::ALL_COMMANDS; waits.len()];
        let mut values = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&waited)
            .signal_semaphore_values(&counts);
        let mut submit = vk::SubmitInfo::default()
            .command_buffers(work.commands.as_slice())
            .wait_semaphores(&waits)
            .wait_dst_stage_mask(&stages)
            .signal_semaphores(&signals);
        if self.device.timelines().is_ok() {
            submit = submit.push_next(&mut values);
        }
        // SAFETY: what the work needs is kept until it is done (law 1).
        let result = unsafe { self.device.queue().submit(self.device.ash(), submit, fence) };
        match result {
            Ok(()) => {
                if let (Some(last), Some(end)) = (&mut signalled, &end) {
                    **last = end.value;
                }
                self.submitted = count;
                self.progress.submitted(mark, count);
                self.in_flight.push_back(InFlight { count, work });
                Ok(self.ticket())
            }
            Err(error) => {
                match error {
                    VulkanError::Call { result: vk::Result::ERROR_DEVICE_LOST, .. } => {
                        // What of it was begun is not known.
                        std::mem::forget(work);
                    }
                    _ => {
                        self.progress.refused(mark);
                        self.idle.extend(work.commands);
                    }
                }
                Err(error)
            }
        }
    }

    /// Lets go of what is done.
    fn retire(&mut self) -> Result<(), VulkanError> {
        if self.in_flight.is_empty() {
            return Ok(());
        }
        let done = self.progress.done()?;
        while self.in_flight.front().is_some_and(|oldest| oldest.count <= done) {
            let Some(InFlight { work, .. }) = self.in_flight.pop_front() else { break };
            self.idle.extend(work.commands);
            self.idle_semaphores.extend(work.waits);
            self.idle_scratch.extend(work.copy.as_ref().and_then(Copy::scratch).cloned());
        }
        Ok(())
    }
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer")
            .field("device", &self.device)
            .field("submitted", &self.submitted)
            .field("in_flight", &self.in_flight.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if !self.in_flight.is_empty() && self.progress.wait(self.submitted).is_err() {
            // Law 1: the device may still be at it.
            std::mem::forget(std::mem::take(&mut self.in_flight));
            std::mem::forget(self.device.clone());
            return;
        }
        // SAFETY: the pool and the progress are ours, nothing of theirs is in flight any more, and nothing uses them
        // after this.
        unsafe {
            ManuallyDrop::drop(&mut self.progress);
            self.device.ash().destroy_command_pool(self.pool, None);
        }
    }
}
