//! The importer's end of a connection.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::error::SocketError;
use super::link::Link;
use super::wire::{Farewell, Text};
use crate::apart::Apart;
use crate::dmabuf::{self, DmaBuf};
use crate::frame::{Frame, FramePlane, Picture};
use crate::sync_file::SyncFile;

/// The frames of another process's pool, as they are made ready.
#[derive(Debug)]
pub struct Sink {
    link: Link,
    picture: Picture,
    frames: Vec<Frame>,
    /// Of each slot, whether this side has it.
    held: Vec<bool>,
    last: Option<u64>,
}

/// A frame that may be read.
#[derive(Debug)]
pub struct Ready {
    /// Its place among [`Sink::frames`].
    pub slot: usize,
    /// How many frames the other side made before it.
    pub number: u64,
    /// What is to be waited for first: the other side still writes. Beside it there may be fences on
    /// the frame's dma-bufs ([`DmaBuf::export_sync_file`]). If that process dies, the kernel signals
    /// its fences, of some drivers (`vgem`) without an error: a frame is known to be whole only while
    /// nothing says [`SocketError::Gone`].
    pub fence: Option<SyncFile>,
}

impl Sink {
    /// Waits for the pool of the other process. Each buffer is a dma-buf and each frame lies in its
    /// buffers by the sizes that the kernel tells ([`Frame::check`]), or all of it is refused.
    ///
    /// # Errors
    /// [`SocketError::TimedOut`] if nothing comes within `limit`, [`SocketError::Gone`] and
    /// [`SocketError::Left`] if nothing will; what comes is refused as [the module](super) lists.
    pub fn accept(link: Link, limit: Duration) -> Result<Self, SocketError> {
        let (text, fds) = link.receive("waiting for a pool of frames", limit)?;
        let (picture, places) = match text {
            Text::Pool { picture, frames, .. } => (picture, frames),
            Text::Goodbye(farewell) => return Err(SocketError::Left { farewell }),
            Text::Ready { .. } => return Err(out_of_turn("a frame", POOL)),
            Text::Released { .. } => return Err(out_of_turn("a release", POOL)),
        };
        let buffers = buffers(fds)?;
        let mut frames = Vec::new();
        for (slot, planes) in places.iter().enumerate() {
            let place =
                |plane: &FramePlane<u32>| plane.in_buffer(buffers[plane.buffer as usize].clone());
            let frame = Frame { picture, planes: planes.iter().map(place).collect() };
            frame.check().map_err(|source| SocketError::Frame { slot, source })?;
            frames.push(frame);
        }
        Ok(Self { link, picture, held: vec![false; frames.len()], frames, last: None })
    }

    /// What each frame shows.
    pub fn picture(&self) -> Picture {
        self.picture
    }

    /// All frames of the pool, by their slots. One is to be read only while it is
    /// [`Ready`](Self::next), and the other process can write it all the same: what is read twice may
    /// be two things.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Waits for the next frame; none if the other side said that there will be no more.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub fn next(&mut self, limit: Duration) -> Result<Option<Ready>, SocketError> {
        let (text, mut fds) = self.link.receive("waiting for a frame", limit)?;
        let (slot, number) = match text {
            Text::Ready { slot, number, .. } => (slot as usize, number),
            Text::Goodbye(Farewell::Done) => return Ok(None),
            Text::Goodbye(farewell) => return Err(SocketError::Left { farewell }),
            Text::Pool { .. } => return Err(out_of_turn("a second pool", FRAME)),
            Text::Released { .. } => return Err(out_of_turn("a release", FRAME)),
        };
        let slots = self.held.len();
        match self.held.get(slot) {
            None => return Err(SocketError::Slot { slot, slots }),
            Some(true) => {
                return Err(SocketError::Held { what: "a frame", slot, holder: "the importer" });
            }
            Some(false) => {}
        }
        if let Some(last) = self.last.filter(|last| number <= *last) {
            return Err(SocketError::Number { number, last });
        }
        let fence = fds.pop().map(SyncFile::new).transpose()?;
        self.held[slot] = true;
        self.last = Some(number);
        Ok(Some(Ready { slot, number, fence }))
    }

    /// Gives a frame back, to be written again once `fence` is signalled, if there is one (a sync
    /// file).
    ///
    /// # Errors
    /// [`SocketError::Held`] and [`SocketError::Slot`] for one that this side does not have;
    /// [`SocketError::TimedOut`] if the other side does not read its messages, [`SocketError::Gone`]
    /// if it went.
    pub fn release(
        &mut self,
        slot: usize,
        fence: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<(), SocketError> {
        let slots = self.held.len();
        match self.held.get(slot) {
            None => return Err(SocketError::Slot { slot, slots }),
            Some(false) => {
                return Err(SocketError::Held { what: "a release", slot, holder: "the exporter" });
            }
            Some(true) => {}
        }
        let text = Text::Released { slot: slot as u32, fence: fence.is_some() };
        self.link.send(&text, fence.as_slice(), limit)?;
        self.held[slot] = false;
        Ok(())
    }

    /// The connection, to wait for together with others by `poll`.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Tells the other side that it is enough, or that these frames are of no use here.
    ///
    /// # Errors
    /// As [`release`](Self::release).
    pub fn leave(self, farewell: Farewell, limit: Duration) -> Result<(), SocketError> {
        self.link.send(&Text::Goodbye(farewell), &[], limit)
    }
}

const POOL: &str = "a pool of frames";
const FRAME: &str = "a frame or a goodbye";

fn out_of_turn(what: &'static str, wanted: &'static str) -> SocketError {
    SocketError::OutOfTurn { what, wanted }
}

/// What came, each of which has to be a dma-buf. All are closed if one is not.
fn buffers(fds: Apart<Vec<OwnedFd>>) -> Result<Vec<DmaBuf>, SocketError> {
    let at = |index| move |source| SocketError::Buffer { index, source };
    for (index, fd) in fds.iter().enumerate() {
        dmabuf::check(fd.as_fd()).map_err(at(index))?;
    }
    let buffer = |(index, fd)| DmaBuf::answering(fd).map_err(at(index));
    fds.known().into_iter().enumerate().map(buffer).collect()
}
