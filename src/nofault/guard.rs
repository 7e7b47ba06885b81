//! Work that a `SIGBUS` ends without ending the process.
//!
//! A thread notes which memory it is about to touch and where to go on if that is not there. The
//! process's handler of `SIGBUS` finds the note and has the thread go on there. So the kernel copies
//! user memory itself (its exception tables), and so display servers read what their clients share.
//!
//! The handler is installed at the first attempt and stays. What concerns no attempt of its thread it
//! passes on to the handler that was there before, or to the kernel, which ends the process. A program
//! that installs a handler later, and does not pass on what is not its own, undoes this.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. Work is left by the handler only at an access to the memory of its attempt. Its frames are then
//!    abandoned: whoever makes an attempt promises that nothing in them needs to be dropped.
//! 2. The note of an attempt is a local of it, and is found by its own thread alone and while it lasts.
//! 3. The handler calls nothing that is not async-signal-safe (signal-safety(7)), and touches nothing
//!    but the note, its arguments, and what was stored before it was installed.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem;
use std::ops::Range;
use std::ptr;
use std::sync::{Once, OnceLock};

use super::arch::{self, Landing};

/// What the handler has to know of an attempt.
struct Attempt {
    memory: Range<usize>,
    landing: Landing,
}

thread_local! {
    /// The attempt of this thread. It is there from the thread's beginning to its end, and nothing has to
    /// be done before it is looked at.
    static CURRENT: Cell<*const Attempt> = const { Cell::new(ptr::null()) };
}

/// Work, and then its result.
struct Job<W, T> {
    work: Option<W>,
    result: Option<T>,
}

/// Does some work, and returns its result, or nothing if an access to `memory` was a `SIGBUS`. On
/// processors for which this is not written, that ends the process as ever.
///
/// # Safety
/// The work can be left at any access to `memory`: then it holds no lock, and nothing that has to be
/// dropped.
pub(super) unsafe fn attempt<T: Copy, W: FnOnce() -> T>(
    memory: Range<usize>,
    work: W,
) -> Option<T> {
    const { assert!(!mem::needs_drop::<W>()) };
    if arch::CAN_LEAVE {
        install();
    }
    let blocked = bus_errors(libc::SIG_UNBLOCK);
    let mut job = Job { work: Some(work), result: None };
    let mut attempt = Attempt { memory, landing: Landing::default() };
    let note = &raw mut attempt;
    CURRENT.set(note);
    // SAFETY: `run` takes a job of this type, and note and job are locals that nobody else touches. The
    // caller promises that `run` may be abandoned (law 1).
    let done = unsafe { arch::call(&raw mut (*note).landing, run::<T, W>, (&raw mut job).cast()) };
    CURRENT.set(ptr::null());
    if blocked {
        bus_errors(libc::SIG_BLOCK);
    }
    if done { job.result } else { None }
}

extern "C" fn run<T, W: FnOnce() -> T>(job: *mut c_void) {
    // SAFETY: a job of this type, which `attempt` made and leaves alone until this returns.
    let job = unsafe { &mut *job.cast::<Job<W, T>>() };
    job.result = job.work.take().map(|work| work());
}

/// Blocks the signal for this thread, or unblocks it: one that comes while it is blocked ends the
/// process. Returns whether it was blocked.
fn bus_errors(how: c_int) -> bool {
    // SAFETY: a set of zeros is an empty one; the calls touch these two and this thread's mask.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        let mut before = set;
        libc::sigaddset(&raw mut set, libc::SIGBUS);
        libc::pthread_sigmask(how, &raw const set, &raw mut before);
        libc::sigismember(&raw const before, libc::SIGBUS) == 1
    }
}

/// What was done about the signal before. It is stored before the handler can be called.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the calls read and write local structures, for which zeros are valid; the handler has
        // the type that its flags say, and obeys law 3. It runs on the thread's own stack for signals
        // where there is one, with the mask that the one before it had.
        unsafe {
            let mut before: libc::sigaction = mem::zeroed();
            libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before);
            let mut own = *BEFORE.get_or_init(|| before);
            let handler: extern "C" fn(_, _, _) = on_bus_error;
            own.sa_sigaction = handler as libc::sighandler_t;
            own.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &raw const own, ptr::null_mut());
        }
    });
}

extern "C" fn on_bus_error(signal: c_int, information: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes both; an attempt that is current is a live local of this thread's,
    // which waits for this handler (law 2).
    unsafe {
        // The kernel says where the access was; for a signal that somebody sent, there is none.
        let at = ((*information).si_code > 0).then(|| (*information).si_addr() as usize);
        let attempt = CURRENT.get().as_ref();
        match attempt.filter(|attempt| at.is_some_and(|at| attempt.memory.contains(&at))) {
            Some(attempt) => arch::land(context.cast(), &attempt.landing),
            None => pass_on(signal, information, context),
        }
    }
}

/// Does what would have been done without this module.
///
/// # Safety
/// The arguments are those that the kernel passed to the handler.
unsafe fn pass_on(signal: c_int, information: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(before) = BEFORE.get() else { return };
    // SAFETY: a handler that the program installed has the type that its flags say, and is called as the
    // kernel would; the others are calls that a handler may make.
    unsafe {
        match before.sa_sigaction {
            libc::SIG_IGN if (*information).si_code <= 0 => {}
            libc::SIG_DFL | libc::SIG_IGN => {
                // It is delivered when this handler returns.
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
            handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                    mem::transmute(handler);
                handler(signal, information, context);
            }
            handler => {
                let handler: extern "C" fn(c_int) = mem::transmute(handler);
                handler(signal);
            }
        }
    }
}
