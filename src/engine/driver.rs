//! A loader whose ring is driven by a thread of the program's own.
//!
//! Between a ring's thread and the one that waits for an outcome lie two changes of threads for each request, which cost more
//! than a read of 4 KiB does. A program with a thread that does little but to submit and to wait has that thread drive the ring.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::completions::{Completed, Completions};
use super::held::Held;
use super::outcome::Outcome;
use super::reader::Reader;
use super::shared::Shared;
use super::ticket::Ticket;
use crate::storage::file::ring::Steps;

/// As many reads are begun together, at least, while answers are taken: each time costs a system call.
const TOGETHER: usize = 4;

/// Drives the ring of a loader made by [`Loader::driven`](super::Loader::driven), on the thread that made it. Reads past the page
/// cache go on only inside its calls.
///
/// Whoever has it waits by it: a [`Ticket::wait`], [`Completions::wait`] or [`Loader::load`](super::Loader::load) on this thread would
/// wait for ever for what only this thread does. Other threads submit and wait as with any loader.
///
/// When it is dropped, what is with the drive is waited for, and the loader's workers read what is left, one read at a time
/// each. A loader that is dropped first leaves what is with the drive to its driver.
///
/// ```no_run
/// # let memory = std::sync::Arc::new(iomap::Memory::anonymous(1 << 20, iomap::PageSize::Base)?);
/// use bufmap::engine::{Buffer, Completions, Loader, LoaderOptions, Request};
///
/// let (loader, mut driver) = Loader::driven(LoaderOptions::default())?;
/// let (file, buffer) = (loader.open("tiles.bin")?, Buffer::new(memory)?);
/// let completions = Completions::new();
/// let tile = |tile: u64| Request::new(&file, tile << 12..(tile + 1) << 12, &buffer, tile << 12).tag(tile);
/// loader.submit_all((0..32).map(tile), &completions)?;
/// for _ in 0..32 {
///     let done = driver.next(&completions);
///     println!("tile {}: {} bytes", done.tag, done.outcome?.bytes);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "reads go on only inside its calls"]
pub struct Driver {
    shared: Arc<Shared>,
    /// Nothing, where there is no ring, or no more: workers read.
    ring: Option<Driven>,
    /// The ring is this thread's alone.
    _not_send: PhantomData<*const ()>,
}

/// The ring is dropped first: it waits for what the reader has in flight.
struct Driven {
    steps: Steps<Held>,
    reader: Reader,
}

impl Driver {
    /// Where there can be no ring, workers read.
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        let steps = Steps::new(shared.options.depth, Arc::clone(&shared.wake));
        let ring = steps.ok().map(|steps| Driven { steps, reader: Reader::of(shared) });
        if ring.is_none() {
            shared.lose_ring();
        }
        Self { shared: Arc::clone(shared), ring, _not_send: PhantomData }
    }

    /// The next outcome. Waits for it, and does reads meanwhile: for ever, if no request is under way.
    pub fn next(&mut self, completions: &Completions) -> Completed {
        self.until(|| completions.poll()).unwrap_or_else(|| completions.wait())
    }

    /// The outcome of a request. Waits for it, and does reads meanwhile.
    pub fn wait(&mut self, ticket: Ticket) -> Outcome {
        self.until(|| ticket.outcome()).unwrap_or_else(|| ticket.wait())
    }

    /// Begins what waits and takes in what is completed, without waiting: for a program with a loop of its own.
    pub fn poll(&mut self) {
        if let Some(Driven { steps, reader }) = &mut self.ring
            && let Err(error) = steps.step_at_once(reader)
        {
            self.lose(&error);
        }
        self.shared.leave_ring();
    }

    /// Drives until there is an answer. Nothing, if nothing is left to drive.
    fn until<T>(&mut self, answer: impl Fn() -> Option<T>) -> Option<T> {
        loop {
            if let Some(answer) = answer() {
                self.leave();
                return Some(answer);
            }
            let Driven { steps, reader } = self.ring.as_mut()?;
            match steps.step(reader) {
                Ok(false) => {}
                // The loader has closed, and all is answered.
                Ok(true) => return answer(),
                Err(error) => self.lose(&error),
            }
        }
    }

    /// This thread does something else now. What waits is begun if it is more than a little: while the program takes one
    /// answer after the other, and submits a request for each, the drive would have less and less to do.
    fn leave(&mut self) {
        if self.shared.leave_ring() < TOGETHER {
            return;
        }
        if let Some(Driven { steps, reader }) = &mut self.ring
            && let Err(error) = steps.begin(reader)
        {
            self.lose(&error);
        }
    }

    /// The ring has failed: what it has in hand fails with it, and workers read the rest.
    fn lose(&mut self, error: &std::io::Error) {
        self.shared.lose_ring();
        if let Some(Driven { steps, reader }) = self.ring.take() {
            drop(steps);
            reader.fail(error);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if !self.shared.is_closing() {
            self.shared.lose_ring();
        }
        while let Some(Driven { steps, reader }) = &mut self.ring {
            match steps.step(reader) {
                Ok(false) => {}
                Ok(true) => break,
                Err(error) => self.lose(&error),
            }
        }
        self.shared.brings_no_more();
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("has_ring", &self.ring.is_some()).finish_non_exhaustive()
    }
}
