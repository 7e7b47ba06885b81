//! Frames between processes: one draws, another shows, and no pixel is copied.
//!
//! The two are connected by a Unix socket of the kind `SOCK_SEQPACKET`, over which dma-bufs and sync
//! files go as file descriptors (`SCM_RIGHTS`, `unix(7)`). The exporter's end is a [`Source`]: it gives
//! a pool of [`Frame`](crate::Frame)s once, then says of one after the other that it is ready. The
//! importer's end is a [`Sink`]: it takes the pool, is told which frame to read, and gives each back.
//! A frame is one side's at a time.
//!
//! ```no_run
//! use std::time::Duration;
//! use exporters::socket::{Link, Listener, Sink, Source};
//! use exporters::{DmaHeap, frame::Picture};
//!
//! const LIMIT: Duration = Duration::from_secs(2);
//! # fn draw(_: &exporters::Frame) {}
//! # fn show(_: &exporters::Frame) {}
//!
//! /// One process...
//! fn give() -> Result<(), Box<dyn std::error::Error>> {
//!     let layout = "640x480 XR24 LINEAR".parse::<Picture>()?.lay_out(256)?;
//!     let heap = DmaHeap::open("system")?;
//!     let frame = || Ok::<_, Box<dyn std::error::Error>>(layout.over(&heap.allocate(layout.len())?)?);
//!     let frames = [frame()?, frame()?, frame()?];
//!     let link = Listener::bind("/tmp/frames")?.accept(LIMIT)?;
//!     let mut source = Source::offer(link, &frames, LIMIT)?;
//!     for _ in 0..60 {
//!         let free = source.free(LIMIT)?;
//!         draw(&frames[free.slot]);
//!         source.ready(free, None, LIMIT)?;
//!     }
//!     Ok(source.finish(LIMIT)?)
//! }
//!
//! /// ... and another.
//! fn take() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut sink = Sink::accept(Link::connect("/tmp/frames", LIMIT)?, LIMIT)?;
//!     while let Some(ready) = sink.next(LIMIT)? {
//!         if let Some(fence) = &ready.fence {
//!             fence.wait(LIMIT)?;
//!         }
//!         show(&sink.frames()[ready.slot]);
//!         sink.release(ready.slot, None, LIMIT)?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Whom it trusts
//!
//! Nobody. A peer may be of another age, at fault, or hostile, so this end believes nothing that it
//! says:
//!
//! | what comes | what becomes of it |
//! |---|---|
//! | bytes that are no message of version 1, or not as many as it says | [`WireError`] |
//! | more or fewer file descriptors than it says, or than any message has | [`SocketError::FdCount`], [`SocketError::TooManyFds`] |
//! | a file descriptor that is no dma-buf, or no sync file | [`SocketError::Buffer`], [`SocketError::Fence`] |
//! | a frame that reaches past its buffer, by the size that the kernel tells | [`SocketError::Frame`] |
//! | a message out of its turn, a frame that the other side has already | [`SocketError::OutOfTurn`], [`SocketError::Held`] |
//! | nothing | [`SocketError::TimedOut`]: every wait has a limit |
//! | the end of the peer | [`SocketError::Gone`] |
//!
//! After a refusal the connection is of no more use: drop it. What no check can prevent: the other
//! process has the buffers too, and can write them at any time.
//!
//! One connects to a process of this user unless another is named ([`Peer`]), and a [`Listener`] is
//! reached by this user and by root.
//!
//! # What is refused is closed
//!
//! A file that came and is refused can be of a file system that is a program of the peer's own (FUSE). Such
//! a file is asked nothing that the program would have to answer, and is closed by a thread of its own: the
//! refusal is returned at once, or a tenth of a second later if the thread hangs. If no thread can be
//! started, or 64 hang already, the file stays open.
//!
//! The kernel does not let a process end before such a thread does: no signal interrupts a `close` that waits
//! for such a program. So a peer that means harm can keep this process, which has dropped it, from going away
//! until the program answers, ends, or is cut off (`echo 1 > /sys/fs/fuse/connections/N/abort`). Who cannot
//! bear that, connects to no user that he does not trust.
//!
//! The messages themselves are in `wire`, which touches no file descriptor ([`Text`]).

mod error;
mod link;
mod peer;
mod sink;
mod source;
mod wire;

pub use error::SocketError;
pub use link::{Link, Listener};
pub use peer::Peer;
pub use sink::{Ready, Sink};
pub use source::{Free, Source};
pub use wire::{Farewell, MAX_FDS, MAX_FRAMES, MAX_LEN, Text, VERSION, WireError};
