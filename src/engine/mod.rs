//! An engine that stays: many requests, from many threads, with priorities.
//!
//! A [`Loader`] is made once and keeps what a transfer needs: an io_uring with its thread, workers, slots, open
//! files. A [`Request`] is ranges of a [`File`] for places in a [`Buffer`]; it is submitted, waits in a queue of its
//! [`Priority`](crate::transfer::Priority), and is answered once, by a [`Ticket`] or in [`Completions`]. In the order
//! in which data flows:
//!
//! * `planned`: which reads a request takes, decided on the thread that submits it; `order`: the request as the loader keeps
//!   it, and its end;
//! * `queues`: whose read is next; `shared`: the queues and who sleeps; `loader`: the loader itself;
//! * `reader`: the ring's thread; `driver`: a thread of the program's in its place; `worker`: the threads that copy and check; `copier`: the thread that has a device copy;
//!   `slots`: where reads land that cannot land in their buffer; `held`: what a read keeps until it is completed;
//!   `landing`: bytes on their way to where they belong;
//! * `changes`: what the kernel tells of devices and mounts;
//! * `threads`: those of a loader; `clock`, `crew`, `flight`: what one-shot loads and saves share beside it;
//! * `ticket`, `completions`, `outcome`: how a program learns what came of it; `counters`: what the loader did so far.
//!
//! # Priorities
//!
//! A [`Realtime`](crate::transfer::Priority::Realtime) request overtakes everything that is not with the drive yet. The others
//! share what it leaves: of 21 bytes, `High` gets 16, `Normal` 4 and `Low` 1, while all three have requests. Nothing starves:
//! whatever else is submitted meanwhile, a request that is the first of its priority begins before 2 GiB of others have
//! been read. What is with the drive is bounded by bytes ([`LoaderOptions::in_flight`]), and what
//! is there of `Low` requests more narrowly ([`LoaderOptions::background`]).
//!
//! # Memory of devices
//!
//! Into memory that a device's driver gives to peers, a drive writes by itself where it may: that is found out, and proved, when
//! the first request of a [`File`] for a [`Buffer`] is submitted, and known from then on as long as both are held and the kernel
//! tells of no change: no device or drive that comes or goes or gets another driver, nothing that is mounted or unmounted. Where the
//! kernel tells nothing (a sandbox without netlink, a container with a user namespace of its own), it is known as long as both are held;
//! a refusal is believed for ten seconds at most. What the drive may not write, or fails to, is copied there by the processor.
//!
//! Memory whose caches must be told of the CPU's accesses is filled by one read of a worker's at a time, inside such an access.
//!
//! # A program's own device
//!
//! A GPU's own memory, which its driver keeps to itself, is filled by the GPU: reads land in slots of one of its queues
//! ([`exporters::upload`]), which copies them to where they belong. So are filled a buffer of a [`vulkan::Device`](exporters::vulkan::Device), one
//! that is opened here or a program's own ([`Device::adopt`](exporters::vulkan::Device::adopt)), a range of a program's buffer and a region of its
//! image ([`adopt_buffer`](exporters::vulkan::Device::adopt_buffer), [`adopt_region`](exporters::vulkan::Device::adopt_region)), and with the feature
//! `wgpu` a range of a buffer and a mip level of a texture of wgpu. What the device was opened without costs time, and is a step
//! down of the outcome.
//!
//! A request is answered when the copies are done. What is handed over with a layout, a queue family or a value of a
//! timeline that is to be reached (`exporters::vulkan::Handover`) is the program's again when the outcome is known, whatever the
//! outcome: it is in its last layout, its family's, and the timeline has reached the value, so that a renderer never waits in
//! vain. So it is filled by one request, of as many ranges as it takes, and adopted again for another. Requests end in any
//! order, and the values of a timeline rise: what is signalled by several requests takes a timeline for each. A queue that the
//! loader copies on carries out submissions in their order: one that waits there for such a value is submitted when the request
//! is answered, or the copies stay behind it; on another queue it may be submitted at any time.
//!
//! Who hands the buffer on to others asks for a sync file instead of an answer that waits ([`Request::fenced`]).
//!
//! A [`Loader`] keeps a handle on each device whose memory it filled: it is dropped before the program destroys its device.
//!
//! # What is not here yet
//!
//! [`Load`](crate::load::Load) alone reads from drives that this process drives itself, and compares what it loaded.
//!
//! ```
//! use std::sync::Arc;
//! use bufmap::engine::{Buffer, Loader, Request};
//! use iomap::{Memory, PageSize};
//!
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("file");
//! # std::fs::write(&path, [7; 10_000])?;
//! let loader = Loader::new()?;
//! let mut memory = Arc::new(Memory::anonymous(1 << 20, PageSize::Base)?);
//! let file = loader.open(&path)?;
//! let request = Request::new(&file, 0..file.len(), &Buffer::new(memory.clone())?, 0);
//! let landed = loader.submit(request)?.wait()?;
//! assert_eq!(landed.bytes, 10_000);
//! // Nobody else has the memory any more.
//! let bytes = Arc::get_mut(&mut memory).expect("the only one").as_mut_slice()?;
//! assert_eq!(bytes[9_999], 7);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod buffer;
mod changes;
pub(crate) mod clock;
mod completions;
mod copier;
mod counters;
pub(crate) mod crew;
mod driver;
mod file;
pub(crate) mod flight;
mod held;
mod landing;
mod loader;
mod options;
mod order;
mod outcome;
mod planned;
mod queues;
mod reader;
mod request;
mod shared;
mod slots;
mod threads;
mod ticket;
mod worker;

pub use buffer::Buffer;
pub use completions::{Completed, Completions};
pub use counters::{Counts, Latencies};
pub use driver::Driver;
pub use file::File;
pub use loader::{Loader, Refused};
pub use options::LoaderOptions;
pub use outcome::{Fence, Landed, Outcome, Shares};
pub use request::Request;
pub use ticket::Ticket;
