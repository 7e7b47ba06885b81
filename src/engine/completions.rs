//! Outcomes in the order in which they come, for a program that has many requests under way.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::outcome::Outcome;

/// A request that has ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Completed {
    /// Its [tag](super::Request::tag).
    pub tag: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// Outcomes in the order in which they come, of requests that were submitted
/// [to it](super::Loader::submit_to). Any number of threads may take them.
///
/// ```no_run
/// # let loader = bufmap::engine::Loader::new()?;
/// # let memory = std::sync::Arc::new(iomap::Memory::anonymous(1 << 20, iomap::PageSize::Base)?);
/// use bufmap::engine::{Buffer, Completions, Request};
///
/// let (file, buffer) = (loader.open("tiles.bin")?, Buffer::new(memory)?);
/// let completions = Completions::new();
/// for tile in 0..16 {
///     let range = tile << 16..(tile + 1) << 16;
///     let request = Request::new(&file, range, &buffer, tile << 16).tag(tile);
///     loader.submit_to(request, &completions)?;
/// }
/// for _ in 0..16 {
///     let done = completions.wait();
///     println!("tile {}: {} bytes", done.tag, done.outcome?.bytes);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Completions(Arc<Inbox>);

/// What loaders put outcomes into.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    done: Mutex<Done>,
    arrived: Condvar,
    /// Readable while there are outcomes; made when somebody asks for it.
    readable: OnceLock<OwnedFd>,
}

#[derive(Debug, Default)]
struct Done {
    outcomes: VecDeque<Completed>,
    /// The threads that wait for one.
    waiting: usize,
}

impl Inbox {
    /// Puts outcomes in, in their order.
    pub(super) fn put(&self, outcomes: impl IntoIterator<Item = Completed>) {
        let mut done = self.lock();
        let was_empty = done.outcomes.is_empty();
        done.outcomes.extend(outcomes);
        if let Some(readable) = self.readable.get().filter(|_| was_empty) {
            // The count is 0 or 1, so that this never waits.
            let _ = rustix::io::write(readable, &1u64.to_ne_bytes());
        }
        if done.waiting > 0 {
            drop(done);
            self.arrived.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, done: &mut Done) -> Option<Completed> {
        let first = done.outcomes.pop_front()?;
        if let Some(readable) = self.readable.get().filter(|_| done.outcomes.is_empty()) {
            let _ = rustix::io::read(readable, &mut [0u8; 8]);
        }
        Some(first)
    }
}

impl Completions {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next outcome, if there is one already.
    pub fn poll(&self) -> Option<Completed> {
        self.0.take(&mut self.0.lock())
    }

    /// The next outcome. Waits for it: for ever, if no request is under way.
    pub fn wait(&self) -> Completed {
        loop {
            if let Some(completed) = self.wait_for(Duration::from_secs(3600)) {
                return completed;
            }
        }
    }

    /// The next outcome, if one comes in so much time.
    pub fn wait_for(&self, limit: Duration) -> Option<Completed> {
        let deadline = Instant::now() + limit;
        let mut done = self.0.lock();
        loop {
            if let Some(completed) = self.0.take(&mut done) {
                return Some(completed);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            done.waiting += 1;
            let woken = self.0.arrived.wait_timeout(done, left);
            done = woken.unwrap_or_else(PoisonError::into_inner).0;
            done.waiting -= 1;
        }
    }

    /// An eventfd that is readable while there are outcomes, for a program's own `poll(2)` or `epoll(7)`. It is for
    /// that alone: only [`poll`](Self::poll) takes outcomes.
    ///
    /// # Errors
    /// The kernel's answer: `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn eventfd(&self) -> io::Result<BorrowedFd<'_>> {
        if let Some(readable) = self.0.readable.get() {
            return Ok(readable.as_fd());
        }
        let done = self.0.lock();
        let made = eventfd(
            u32::from(!done.outcomes.is_empty()),
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?;
        Ok(self.0.readable.get_or_init(|| made).as_fd())
    }

    pub(super) fn inbox(&self) -> &Arc<Inbox> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;
    use crate::engine::Landed;

    fn completed(tag: u64) -> Completed {
        Completed { tag, outcome: Ok(Landed::default()) }
    }

    fn is_readable(completions: &Completions) -> bool {
        let fd = completions.eventfd().expect("an eventfd");
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        poll(&mut fds, Some(&rustix::time::Timespec::default())).expect("poll") == 1
    }

    #[test]
    fn the_eventfd_is_readable_while_there_are_outcomes() {
        let completions = Completions::new();
        completions.0.put([completed(1)]);
        assert!(is_readable(&completions), "made when there was one");
        completions.0.put([completed(2), completed(3)]);
        for tag in 1..=3 {
            assert!(is_readable(&completions));
            assert_eq!(completions.poll().map(|done| done.tag), Some(tag));
        }
        assert!(!is_readable(&completions) && completions.poll().is_none());
        completions.0.put([completed(4)]);
        assert!(is_readable(&completions));
    }

    #[test]
    fn threads_that_wait_are_woken() {
        let completions = Completions::new();
        assert!(completions.wait_for(Duration::from_millis(1)).is_none());
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| completions.wait().tag)).collect();
            thread::sleep(Duration::from_millis(20));
            completions.0.put((0..4).map(completed));
            let mut tags: Vec<_> = waiting.into_iter().map(|w| w.join().expect("a tag")).collect();
            tags.sort_unstable();
            assert_eq!(tags, [0, 1, 2, 3]);
        });
    }
}
