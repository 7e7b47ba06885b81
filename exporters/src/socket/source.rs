//! The exporter's end of a connection.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::error::SocketError;
use super::link::{Link, Received};
use super::wire::{Farewell, MAX_FRAMES, Text};
use crate::dmabuf::{DmaBuf, is_same};
use crate::frame::{Frame, Picture};
use crate::sync_file::SyncFile;

/// A pool of frames, and who has which.
///
/// Each frame belongs to one side at a time: to this one until it is [`ready`](Self::ready), then to
/// the other until it comes back by [`free`](Self::free).
#[derive(Debug)]
pub struct Source {
    link: Link,
    /// The frames of this side, the one that came back longest ago first, and what is to be waited for
    /// before it is written.
    own: Vec<Free>,
    /// Of each slot, whether the other side has it.
    given: Vec<bool>,
    next: u64,
    finished: bool,
}

/// A frame that may be written.
#[derive(Debug)]
#[must_use = "a slot that is not made ready is lost to the pool"]
pub struct Free {
    /// Its place in the pool.
    pub slot: usize,
    /// What is to be waited for first: the other side still reads.
    pub fence: Option<SyncFile>,
}

impl Source {
    /// Gives the other process all frames that there will be, in dma-bufs that it maps or imports. They
    /// are of one picture; several may lie in one buffer.
    ///
    /// # Errors
    /// [`SocketError::NoPool`] for no frames, more than [`MAX_FRAMES`], or of different pictures;
    /// [`SocketError::Frame`] for one that the other side would refuse ([`Frame::check`]);
    /// [`SocketError::Gone`] and [`SocketError::TimedOut`] if it is not there.
    pub fn offer(link: Link, frames: &[Frame], limit: Duration) -> Result<Self, SocketError> {
        let picture = picture(frames)?;
        let mut buffers: Vec<&DmaBuf> = Vec::new();
        let mut places = Vec::new();
        for (slot, frame) in frames.iter().enumerate() {
            frame.check().map_err(|source| SocketError::Frame { slot, source })?;
            let mut planes = Vec::new();
            for plane in &frame.planes {
                let known = buffers.iter().position(|known| is_same(*known, &plane.buffer));
                if known.is_none() {
                    buffers.push(&plane.buffer);
                }
                planes.push(plane.in_buffer(known.unwrap_or(buffers.len() - 1) as u32));
            }
            places.push(planes);
        }
        let text = Text::Pool { picture, frames: places, fds: buffers.len() };
        let fds: Vec<_> = buffers.iter().map(|buffer| buffer.as_fd()).collect();
        link.send(&text, &fds, limit)?;
        let own = (0..frames.len()).map(|slot| Free { slot, fence: None }).collect();
        Ok(Self { link, own, given: vec![false; frames.len()], next: 0, finished: false })
    }

    /// A frame to write into: the one that was not shown for the longest time. Waits until the other
    /// side has done with one.
    ///
    /// # Errors
    /// [`SocketError::TimedOut`] if it keeps them all for longer than `limit`; [`SocketError::Left`]
    /// and [`SocketError::Gone`] if it went; what it says is refused as [the module](super) lists.
    pub fn free(&mut self, limit: Duration) -> Result<Free, SocketError> {
        self.take_back()?;
        if self.own.is_empty() {
            let received = self.link.receive("waiting for a frame to come back", limit)?;
            self.come_back(received)?;
        }
        Ok(self.own.remove(0))
    }

    /// Gives a frame to the other side, which may read it once `fence` is signalled, if there is one
    /// (a sync file). Returns its number: how many frames were before it.
    ///
    /// # Errors
    /// [`SocketError::TimedOut`] if the other side does not read its messages, [`SocketError::Gone`]
    /// if it went. The frame is this side's again then.
    pub fn ready(
        &mut self,
        frame: Free,
        fence: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<u64, SocketError> {
        let Free { slot, .. } = frame;
        let number = self.next;
        let text = Text::Ready { slot: slot as u32, number, fence: fence.is_some() };
        if let Err(error) = self.link.send(&text, fence.as_slice(), limit) {
            self.own.insert(0, Free { slot, fence: None });
            return Err(error);
        }
        self.given[slot] = true;
        self.next += 1;
        Ok(number)
    }

    /// Says that there will be no more frames, and waits until all have come back or the other side has
    /// left content. It may be called again after [`SocketError::TimedOut`].
    ///
    /// # Errors
    /// As [`free`](Self::free).
    pub fn finish(&mut self, limit: Duration) -> Result<(), SocketError> {
        if !self.finished {
            self.link.send(&Text::Goodbye(Farewell::Done), &[], limit)?;
            self.finished = true;
        }
        while self.given.contains(&true) {
            let received = self.link.receive("waiting for the last frames to come back", limit)?;
            match self.come_back(received) {
                Err(SocketError::Left { farewell: Farewell::Done }) => break,
                answer => answer?,
            }
        }
        Ok(())
    }

    /// The connection, to wait for together with others by `poll`.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Takes what has come back by now.
    fn take_back(&mut self) -> Result<(), SocketError> {
        loop {
            match self.link.receive("looking for frames that came back", Duration::ZERO) {
                Ok(received) => self.come_back(received)?,
                Err(SocketError::TimedOut { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn come_back(&mut self, (text, mut fds): Received) -> Result<(), SocketError> {
        let slot = match text {
            Text::Released { slot, .. } => slot as usize,
            Text::Goodbye(farewell) => return Err(SocketError::Left { farewell }),
            Text::Pool { .. } => return Err(out_of_turn("a pool")),
            Text::Ready { .. } => return Err(out_of_turn("a frame")),
        };
        let slots = self.given.len();
        match self.given.get_mut(slot) {
            None => return Err(SocketError::Slot { slot, slots }),
            Some(given) if *given => *given = false,
            Some(_) => {
                return Err(SocketError::Held { what: "a release", slot, holder: "the exporter" });
            }
        }
        let fence = fds.pop().map(SyncFile::new).transpose()?;
        self.own.push(Free { slot, fence });
        Ok(())
    }
}

fn out_of_turn(what: &'static str) -> SocketError {
    SocketError::OutOfTurn { what, wanted: "a frame's release or a goodbye" }
}

/// What all frames show.
fn picture(frames: &[Frame]) -> Result<Picture, SocketError> {
    let mut pictures: Vec<Picture> = Vec::new();
    for frame in frames {
        if !pictures.contains(&frame.picture) {
            pictures.push(frame.picture);
        }
    }
    match pictures[..] {
        [picture] if frames.len() <= MAX_FRAMES => Ok(picture),
        _ => Err(SocketError::NoPool { frames: frames.len(), pictures: pictures.len() }),
    }
}
