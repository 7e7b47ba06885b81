//! The threads of a loader, which may start others.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Threads that are waited for together.
#[derive(Debug, Default)]
pub(super) struct Threads(Mutex<Vec<JoinHandle<()>>>);

impl Threads {
    /// Starts one, which is told how many there were before it. Returns that number.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(super) fn start(
        &self,
        name: &str,
        work: impl FnOnce(usize) + Send + 'static,
    ) -> io::Result<usize> {
        let mut threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = threads.len();
        threads.push(thread::Builder::new().name(name.into()).spawn(move || work(number))?);
        Ok(number)
    }

    /// Waits until they have ended, and those that they are just starting, but for the one that asks.
    pub(super) fn join(&self) {
        let own = thread::current().id();
        let next = || self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        while let Some(thread) = next() {
            if thread.thread().id() != own {
                // A thread that panicked has left its requests unanswered, and nobody to tell it to.
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_is_just_started_is_waited_for_too() {
        let (threads, ended) = (Arc::new(Threads::default()), Arc::new(AtomicUsize::new(0)));
        let (others, end) = (Arc::clone(&threads), Arc::clone(&ended));
        let first = threads.start("first", move |number| {
            thread::sleep(Duration::from_millis(20));
            let second = others.start("second", move |_| {
                thread::sleep(Duration::from_millis(20));
                end.fetch_add(1, Ordering::Relaxed);
            });
            assert!(number == 0 && second.is_ok());
        });
        assert_eq!(first.ok(), Some(0));
        threads.join();
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn who_asks_does_not_wait_for_itself() {
        let threads = Arc::new(Threads::default());
        let (own, ended) = (Arc::clone(&threads), Arc::new(AtomicUsize::new(0)));
        let end = Arc::clone(&ended);
        let started = threads.start("own", move |_| {
            own.join();
            end.fetch_add(1, Ordering::Relaxed);
        });
        assert!(started.is_ok());
        while ended.load(Ordering::Relaxed) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
