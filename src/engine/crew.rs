//! The threads of a load, as many as the system starts.
//!
//! A user's limit (`ulimit -u`), the cgroup's `pids.max` or the lack of memory for a stack keeps a
//! thread from being started. Then fewer do the work, and in the place of the first the caller itself.

use std::fmt;
use std::io;
use std::thread::{Builder, Scope, ScopedJoinHandle};

use crate::remedy::{Call, remedy};

/// Threads that do the same work.
pub(crate) struct Crew<'scope, T> {
    threads: Vec<ScopedJoinHandle<'scope, T>>,
    /// What came of the work that the caller did.
    own: Option<T>,
    refusal: Option<io::Error>,
}

impl<'scope, T: Send + 'scope> Crew<'scope, T> {
    /// Starts up to `count` threads, each of which is told its number. Where not even one can be started,
    /// returns only when the caller has done the work.
    pub(crate) fn start<W>(scope: &'scope Scope<'scope, '_>, count: usize, work: W) -> Self
    where
        W: FnOnce(usize) -> T + Clone + Send + 'scope,
    {
        let mut crew = Self { threads: Vec::new(), own: None, refusal: None };
        for number in 0..count {
            let theirs = work.clone();
            match Builder::new().spawn_scoped(scope, move || theirs(number)) {
                Ok(thread) => crew.threads.push(thread),
                Err(refusal) => {
                    crew.refusal = Some(refusal);
                    break;
                }
            }
        }
        if crew.threads.is_empty() && count > 0 {
            crew.own = Some(work(0));
        }
        crew
    }

    /// Waits for all of them. Returns what came of the work, and who did it.
    pub(crate) fn join(self) -> (Vec<T>, Hands) {
        let why = |error| format!("{error}: {}", remedy(Call::Thread, &error));
        let hands = Hands { threads: self.threads.len(), refusal: self.refusal.map(why) };
        // A thread that panicked has left its work undone, which the accounts of the load show.
        let done = self.threads.into_iter().filter_map(|thread| thread.join().ok());
        (self.own.into_iter().chain(done).collect(), hands)
    }
}

/// Who did the work.
#[derive(Clone, Debug)]
pub(crate) struct Hands {
    threads: usize,
    /// Why there are fewer than there should be, and what to do.
    refusal: Option<String>,
}

impl Hands {
    /// Whether there are fewer threads than there should be.
    pub(crate) const fn are_few(&self) -> bool {
        self.refusal.is_some()
    }
}

/// `3 threads`, or fewer and why.
impl fmt::Display for Hands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.threads {
            0 => f.write_str("the caller's thread")?,
            1 => f.write_str("1 thread")?,
            more => write!(f, "{more} threads")?,
        }
        match &self.refusal {
            None => Ok(()),
            Some(why) => write!(f, " (no more can be started: {why})"),
        }
    }
}
