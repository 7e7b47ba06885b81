//! Ctrl-C.
//!
//! The first one ends a load or a save in order, or the opening of a drive for it, the second one at once. Else nothing has to be
//! undone, and the first ends the program at once too.
//!
//! `SIGINT` is blocked in every thread but one, which takes it from a file (signalfd(2)). A handler would not
//! do: it runs in any thread, and one that waits for a dead file system in the kernel runs none.
//!
//! # Safety
//!
//! The one unsafe call ends the process. Handlers of exit(3) are not run, because they may belong to a library
//! that is at work in another thread.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, thread};

use bufmap::exporters::outside::outside;
use bufmap::remedy::{Call, remedy};
use bufmap::transfer::{Pending, Progress};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::output::say;

/// What a shell expects of a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

/// How long a load or a save may take to end in order, before it is said what it waits for.
const SOON: Duration = Duration::from_secs(1);

/// Programs such as timeout(1) send a signal twice, to their child and to its group: what comes so soon
/// after the first is the same.
const TOGETHER: Duration = Duration::from_millis(200);

/// Whether Ctrl-C was pressed, and what for.
#[derive(Clone, Default)]
pub struct Interrupts {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: Arc<AtomicBool>,
    /// What there is to end in order.
    work: Mutex<Option<Work>>,
}

struct Work {
    /// What its files are asked for: reads or writes.
    what: &'static str,
    /// What they are called.
    files: Vec<String>,
    pending: Option<Pending>,
}

impl Interrupts {
    /// Takes Ctrl-C from now on. Call it before any other thread is started. Where it cannot be taken, that is
    /// said, and it ends the program at once.
    pub fn take() -> Self {
        let interrupts = Self::default();
        if let Err(error) = interrupts.listen() {
            let fix = remedy(Call::Thread, &error);
            say(&format!("Ctrl-C will end this at once and not in order ({error}: {fix})"));
        }
        interrupts
    }

    fn listen(&self) -> io::Result<()> {
        let interrupt = SigSet::from(Signal::SIGINT);
        let signals = SignalFd::with_flags(&interrupt, SfdFlags::SFD_CLOEXEC)?;
        interrupt.thread_block()?;
        let shared = Arc::clone(&self.shared);
        let started = thread::Builder::new().spawn(move || shared.attend(&signals));
        if started.is_err() {
            interrupt.thread_unblock()?;
        }
        started.map(drop)
    }

    /// The flag that the first Ctrl-C sets.
    pub fn stop(&self) -> &Arc<AtomicBool> {
        &self.shared.stop
    }

    /// From now on there is something to end in order, with a `read` or a `write` of files that are called so.
    pub fn begin(&self, what: &'static str, files: Vec<String>) {
        self.set(Some(Work { what, files, pending: None }));
    }

    /// Notes how far it has come.
    pub fn note(&self, progress: Progress) {
        let mut work = self.shared.work.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(work) = &mut *work {
            work.pending = progress.pending;
        }
    }

    /// It has ended.
    pub fn end(&self) {
        self.set(None);
    }

    fn set(&self, work: Option<Work>) {
        *self.shared.work.lock().unwrap_or_else(PoisonError::into_inner) = work;
    }
}

impl Shared {
    fn attend(&self, signals: &SignalFd) {
        if !pressed(signals, None) {
            return;
        }
        if self.waits_for().is_none() {
            exit();
        }
        self.stop.store(true, Ordering::Relaxed);
        thread::sleep(TOGETHER);
        while pressed(signals, Some(Duration::ZERO)) {}
        if pressed(signals, Some(SOON - TOGETHER)) {
            exit();
        }
        if let Some(what) = self.waits_for() {
            say(&format!(
                "stopping: {what}; Ctrl-C again ends it at once, or as soon as the kernel gives it up (a dead file system: umount -f)"
            ));
        }
        if pressed(signals, None) {
            exit();
        }
    }

    /// What is waited for, in words; nothing if there is nothing to end.
    fn waits_for(&self) -> Option<String> {
        let work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let Work { what, files, pending } = work.as_ref()?;
        let Some(Pending { file, offset, since, .. }) = pending else {
            return Some(format!(
                "the kernel or a device has not answered yet, for {}",
                outside(files.join(", ").as_str())
            ));
        };
        let name = outside(files.get(*file).map_or("", String::as_str));
        let waited = since.elapsed();
        let waited = waited.as_secs_f32();
        Some(format!(
            "{name}: a {what} at offset {offset} has not come back for {waited:.1} seconds"
        ))
    }
}

/// Waits for Ctrl-C. False once `limit` is over, or if none can come.
fn pressed(signals: &SignalFd, limit: Option<Duration>) -> bool {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    loop {
        match poll(&mut [PollFd::new(signals, PollFlags::IN)], limit.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => return false,
            Ok(_) => return signals.read_signal().is_ok_and(|signal| signal.is_some()),
        }
    }
}

fn exit() -> ! {
    // SAFETY: no code of this process runs after it.
    unsafe { libc::_exit(INTERRUPTED.into()) }
}
