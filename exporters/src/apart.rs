//! Files of others are closed on a thread of its own.
//!
//! A descriptor that another process sent may be of any file. If its file system is a program (FUSE), `close` asks that program
//! (`FUSE_FLUSH`) and waits for its answer, which no signal cuts short (`fs/fuse/dev.c`, `request_wait_answer`). NFS and
//! terminals can wait too. So nobody but a thread of [`Apart`] closes such a file.
//!
//! # Safety
//!
//! The law of this module: what an [`Apart`] holds is taken out once, when it is dropped or undone, and not touched afterwards.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long a drop waits for the thread. All files but those of a program that does not answer are closed by then.
const LIMIT: Duration = Duration::from_millis(100);

/// The most threads that wait in `close`. A peer that hangs in all of them costs this process a descriptor for each more
/// file, and not a thread.
const MOST: usize = 64;

/// The threads that close.
static CLOSING: AtomicUsize = AtomicUsize::new(0);

/// File descriptors.
pub(crate) trait Files: Send + 'static {
    fn is_none(&self) -> bool;
}

impl Files for OwnedFd {
    fn is_none(&self) -> bool {
        false
    }
}

impl Files for Vec<OwnedFd> {
    fn is_none(&self) -> bool {
        self.is_empty()
    }
}

/// File descriptors that are closed by a thread of their own.
///
/// A drop returns once they are closed, after a tenth of a second at the latest. If no thread can be started they stay open.
#[derive(Debug)]
pub(crate) struct Apart<F: Files>(ManuallyDrop<F>);

impl<F: Files> Apart<F> {
    pub(crate) const fn new(files: F) -> Self {
        Self(ManuallyDrop::new(files))
    }

    /// The files, once it is known that their `close` waits for nobody.
    pub(crate) fn known(self) -> F {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: the module's law: `this` is not dropped.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }
}

impl<F: Files> Drop for Apart<F> {
    fn drop(&mut self) {
        // SAFETY: the module's law: this is the drop.
        let files = unsafe { ManuallyDrop::take(&mut self.0) };
        if !files.is_none() {
            close(files);
        }
    }
}

impl<F: Files> Deref for Apart<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.0
    }
}

impl<F: Files> DerefMut for Apart<F> {
    fn deref_mut(&mut self) -> &mut F {
        &mut self.0
    }
}

fn close<F: Files>(files: F) {
    // Whatever becomes of the closure, this thread closes nothing.
    let files = ManuallyDrop::new(files);
    if CLOSING.fetch_add(1, Ordering::Relaxed) >= MOST {
        CLOSING.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let (done, closed) = mpsc::channel();
    let closer = move || {
        drop(ManuallyDrop::into_inner(files));
        CLOSING.fetch_sub(1, Ordering::Relaxed);
        // Nobody listens if it took too long.
        let _ = done.send(());
    };
    match thread::Builder::new().name("close".to_owned()).spawn(closer) {
        Ok(thread) => {
            if closed.recv_timeout(LIMIT).is_ok() {
                // It ends at once. The C library then has its stack for the next thread.
                let _ = thread.join();
            }
        }
        Err(_) => {
            CLOSING.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};

    use super::*;

    #[test]
    fn what_is_dropped_is_closed_and_what_is_known_is_not() {
        let (mut reader, writer) = pipe().expect("a pipe");
        let writer = Apart::new(OwnedFd::from(writer)).known();
        drop(Apart::new(vec![writer]));
        // The end of the pipe: nobody has its other side.
        assert_eq!(reader.read(&mut [0]).expect("the end"), 0);
        drop(Apart::new(Vec::<OwnedFd>::new()));
    }
}
