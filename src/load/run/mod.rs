//! Carrying a plan out.
//!
//! The planner's pieces become [`Job`]s in a [`Queue`]. An engine of `storage` (one io_uring, threads
//! that each read one piece at a time, or a queue of a drive's own) runs a piece of work that takes jobs from the
//! queue: [`direct`] fills memory that the CPU can reach, [`staged`] fills device memory through a ring of
//! slots.
//! Whoever completes a piece sends an [`Event`] to the load's own thread, which keeps the accounts.

pub(crate) mod direct;
mod events;
mod intake;
mod queue;
mod reads;
pub(crate) mod staged;

pub(crate) use events::{Event, Landed, Report};
pub(crate) use queue::Queue;
