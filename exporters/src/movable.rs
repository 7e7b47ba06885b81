//! A buffer that may move, from system memory to a GPU's or back, while programs hold it.
//!
//! A [`Movable`] is a length and the place where its bytes are now, an [`Export`] of whichever source.
//! [`Movable::move_to`] copies them to another place. Nobody keeps a pointer, an address or a map from
//! before a move to after it: whoever needs the buffer where it is takes a [`Stay`], for as long as a
//! bracket of the CPU or the work of a device lasts, and takes another the next time. A move waits
//! until there is none, and who wants one meanwhile waits for the move. Where the bytes are and how
//! they are cached is data of each map ([`BufMap`](iomap::BufMap)), so that the code between the
//! brackets is the same for all places.
//!
//! This is for programs that decide by themselves where a buffer is: a model's layers that take turns
//! in VRAM, textures that are put aside. What a GPU's driver moves behind a dma-buf on its own is the
//! kernel's business: it takes the mappings away first, and gives them back in the new place.

use std::num::NonZeroUsize;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use iomap::MapError;

use crate::Absent;
use crate::dmabuf::{DmaBufError, Intent};
use crate::export::{Export, ExportError, Exporter};
use crate::vulkan::{CopyRegion, Transfer, VulkanError};

/// Why a buffer stayed where it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// Somebody needs it where it is.
    #[error(
        "the buffer was held in its place by {stays} users for {limit:?}; end their brackets and \
         transfers, or wait longer"
    )]
    Held {
        /// How many [`Stay`]s there are.
        stays: usize,
        /// How long was waited.
        limit: Duration,
    },
    /// The new place could not be made.
    #[error("the new place: {0}")]
    Export(#[from] ExportError),
    /// The CPU does not reach one of the places, or one is no dma-buf that a device could copy.
    #[error("the buffer cannot be copied: {0}")]
    Unavailable(#[from] Absent),
    /// A bracket failed.
    #[error(transparent)]
    DmaBuf(#[from] DmaBufError),
    /// The device failed to copy.
    #[error(transparent)]
    Vulkan(#[from] VulkanError),
    /// A place is shorter than it said.
    #[error("a place is too short: {0}")]
    Map(#[from] MapError),
}

/// Who copies the bytes when a buffer moves.
#[derive(Debug)]
pub enum By<'a> {
    /// The CPU, which must reach both places.
    Cpu,
    /// A Vulkan device, which must be able to import the dma-bufs of both.
    Device(&'a mut Transfer),
}

/// A buffer and where it is now.
///
/// ```
/// use std::time::Duration;
/// use exporters::movable::{By, Movable};
/// use exporters::{Exporter, Intent, SystemMemory};
///
/// let memory = SystemMemory::default();
/// let buffer = Movable::new(memory.export(4096)?);
/// let stay = buffer.stay();
/// let access = stay.cpu()?.begin(Intent::Write)?;
/// access.map().copy_from_slice(0, b"layer 7")?;
/// access.finish()?;
/// drop(stay);
///
/// buffer.move_to(&memory, By::Cpu, Duration::from_secs(1))?; // on most machines, to another source
/// let mut bytes = [0; 7];
/// buffer.stay().cpu()?.begin(Intent::Read)?.map().copy_to_slice(0, &mut bytes)?;
/// assert_eq!(&bytes, b"layer 7");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Movable {
    len: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    place: Arc<Export>,
    stays: usize,
    /// Movers, of whom one has the buffer and the others wait. While there is any, no new [`Stay`]
    /// begins, or a buffer in constant use would never move.
    movers: usize,
}

/// A buffer that stays where it is until this is dropped: the [`Export`] of its place.
///
/// Maps and physical ranges borrow from it and end with it, so that none from before a move is left:
///
/// ```compile_fail,E0505
/// # fn f(buffer: exporters::movable::Movable) -> Result<(), Box<dyn std::error::Error>> {
/// let stay = buffer.stay();
/// let access = stay.cpu()?.begin(exporters::Intent::Read)?;
/// drop(stay); // from here on it may move
/// access.map().read::<u8>(0)?; // a stale map: this does not compile
/// # Ok(())
/// # }
/// ```
///
/// A dma-buf can be cloned and sent away, and it goes on naming the place that it was made of. So keep
/// this for as long as somebody else uses the dma-buf.
#[derive(Debug)]
#[must_use = "the buffer may move as soon as this is dropped"]
pub struct Stay<'a> {
    buffer: &'a Movable,
    place: Arc<Export>,
}

impl Movable {
    /// Takes a buffer, all of which will move.
    pub fn new(place: Export) -> Self {
        let len = place.len();
        let state = State { place: Arc::new(place), stays: 0, movers: 0 };
        Self { len, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The length in bytes, the same in every place. A place may be longer.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is zero, which no exporter makes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps the buffer where it is, for a bracket of the CPU or a device's transfer. It waits for a
    /// move that is under way, or that waits for others to end theirs: who has one and asks for a
    /// second may so wait for himself.
    pub fn stay(&self) -> Stay<'_> {
        let mut state = self.lock();
        while state.movers > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.stays += 1;
        Stay { buffer: self, place: state.place.clone() }
    }

    /// Moves the buffer to a place that `to` makes, as soon as nobody keeps it where it is. The old
    /// place is let go. After an error the buffer is where it was.
    ///
    /// # Errors
    /// [`MoveError::Held`] if it is kept for longer than `limit`; and what the new place, or the copy,
    /// fails with.
    pub fn move_to(&self, to: &dyn Exporter, by: By<'_>, limit: Duration) -> Result<(), MoveError> {
        let place = to.export(self.len)?;
        let mover = self.begin(limit)?;
        copy(&mover.place, &place, self.len, by)?;
        self.lock().place = Arc::new(place);
        Ok(())
    }

    /// Waits until the buffer is nobody's, and makes it this mover's.
    fn begin(&self, limit: Duration) -> Result<Mover<'_>, MoveError> {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        state.movers += 1;
        while let Some(stays) = NonZeroUsize::new(state.stays) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.movers -= 1;
                self.changed.notify_all();
                return Err(MoveError::Held { stays: stays.get(), limit });
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        // A mover is a user of the old place as well, and so keeps the next mover waiting.
        state.stays += 1;
        Ok(Mover { buffer: self, place: state.place.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Stay<'_> {
    type Target = Export;

    fn deref(&self) -> &Export {
        &self.place
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        self.buffer.lock().stays -= 1;
        self.buffer.changed.notify_all();
    }
}

/// The one who moves a buffer, until this is dropped.
struct Mover<'a> {
    buffer: &'a Movable,
    place: Arc<Export>,
}

impl Drop for Mover<'_> {
    fn drop(&mut self) {
        let mut state = self.buffer.lock();
        state.stays -= 1;
        state.movers -= 1;
        self.buffer.changed.notify_all();
    }
}

fn copy(src: &Export, dst: &Export, len: usize, by: By<'_>) -> Result<(), MoveError> {
    match by {
        By::Cpu => {
            let read = src.cpu()?.begin(Intent::Read)?;
            let write = dst.cpu()?.begin(Intent::Write)?;
            write.map().subrange(..len)?.copy_from(&read.map().subrange(..len)?)?;
            write.finish()?;
            Ok(read.finish()?)
        }
        By::Device(transfer) => {
            let (src, dst) = (src.dma_buf()?, dst.dma_buf()?);
            let device = transfer.device().clone();
            let src = Arc::new(device.import_dma_buf(src)?);
            let dst = Arc::new(device.import_dma_buf(dst)?);
            let all = CopyRegion { src_offset: 0, dst_offset: 0, len };
            let ticket = transfer.copy(&src, &dst, &[all])?;
            Ok(transfer.wait(ticket)?)
        }
    }
}
