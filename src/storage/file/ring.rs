//! Many reads and writes in flight on one io_uring.
//!
//! A [`Ring`] runs a piece of [`Work`]: it asks for the next command while it has room, hands every
//! completion back, and returns when the work is done and nothing is in flight. [`Steps`] do so step by step for
//! work that comes and goes, which wakes them by a [`WakeFd`].
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. A command is pushed only by `InFlight`, with a file that it holds until the command is completed, and with a map that
//!    outlasts it: of [`Ring::run`], whose maps live for `'m`, or of [`Steps`], whose maps live for `'static`.
//! 2. `InFlight` does not go, nor does a call unwind, before the kernel has completed every command it was given: it waits
//!    for them when it is dropped. What it leaves in the queue the kernel never sees, because a ring that failed is not
//!    used again.
//! 3. The kernel writes only inside the map of a read, which is writable, and into the count of a [`WakeFd`], which
//!    `InFlight` holds at one place until that read is completed too. Of the map of a write it only reads.
#![allow(unsafe_code)]

use std::borrow::BorrowMut;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, opcode, squeue, types};
use iomap::{Access, BufMap};

use super::patience::Patience;
use super::wake::WakeFd;
use crate::storage::work::{Next, Read, Work, Write};

/// The longest run of memory that the kernel takes as one registered buffer, in bytes.
const REGISTERED_MAX: usize = 1 << 30;

/// How much memory is pinned at a time, in bytes: pinning touches every page, and the drive should
/// not wait for more than this.
const WINDOW: usize = 16 << 20;

/// The most registered buffers that the kernel takes (`IORING_MAX_REG_BUFFERS`).
const WINDOWS_MAX: usize = 1 << 14;

/// The user data of the read of a [`WakeFd`].
const WAKE: u64 = u64::MAX;

/// Memory to be registered as one buffer when the first read comes to it.
struct Window<'m> {
    map: BufMap<'m>,
    registered: bool,
}

impl Window<'_> {
    fn holds(&self, map: &BufMap<'_>) -> bool {
        let (own, other) = (self.map.as_ptr() as usize, map.as_ptr() as usize);
        other >= own && other + map.len() <= own + self.map.len()
    }
}

/// An io_uring and the memory registered with it.
pub struct Ring<'m> {
    uring: IoUring,
    depth: u32,
    windows: Vec<Window<'m>>,
    refusal: Option<io::Error>,
    /// It may hold commands that the kernel was not given.
    failed: bool,
}

impl<'m> Ring<'m> {
    /// Sets up a ring for `depth` reads and writes in flight (1 to 32,767).
    ///
    /// # Errors
    /// The kernel's answer: `ENOSYS` without io_uring (before Linux 5.1), `EPERM` where a sandbox
    /// or the sysctl `kernel.io_uring_disabled` forbids it, `ENOMEM`.
    pub fn new(depth: u32) -> io::Result<Self> {
        Ok(Self { uring: set_up(depth)?, depth, windows: Vec::new(), refusal: None, failed: false })
    }

    /// Has memory registered window by window as commands of at most `longest` bytes come to it, so
    /// that the kernel pins its pages once and not at every command. Where it refuses, they go on
    /// without: see [`refusal`](Self::refusal). One call a ring.
    pub fn register(&mut self, maps: &[BufMap<'m>], longest: usize) {
        // Windows reach a command's length into each other: whatever begins in one ends there.
        let len = WINDOW.saturating_add(longest).min(REGISTERED_MAX);
        let parts = maps.iter().flat_map(|map| {
            let starts = (0..map.len()).step_by(WINDOW);
            starts.filter_map(move |at| map.subrange(at..map.len().min(at + len)).ok())
        });
        self.windows =
            parts.take(WINDOWS_MAX).map(|map| Window { map, registered: false }).collect();
        let count = self.windows.len() as u32;
        if let Err(error) = self.uring.submitter().register_buffers_sparse(count) {
            self.windows.clear();
            self.refusal = Some(error);
        }
    }

    /// Why not all memory is registered, once the kernel refused: `ENOMEM` beyond
    /// `RLIMIT_MEMLOCK`, `EINVAL` before Linux 5.19, `EFAULT` for memory that cannot be pinned.
    pub fn refusal(&self) -> Option<&io::Error> {
        self.refusal.as_ref()
    }

    /// Runs `work` to its end, with no more in flight than the ring's depth.
    ///
    /// # Errors
    /// When the ring itself fails. Errors of single commands go to [`Work::completed`].
    pub fn run(&mut self, work: &mut impl Work<'m, File: AsFd>) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("it failed before"));
        }
        self.failed = true;
        let Self { uring, windows, refusal, depth, .. } = self;
        let mut flight = InFlight::new(uring, None);
        loop {
            let done = flight.fill(work, *depth, windows, refusal)?;
            if done && flight.commands == 0 {
                break;
            }
            flight.wait()?;
            flight.hand_back(work);
        }
        drop(flight);
        self.failed = false;
        Ok(())
    }
}

/// An io_uring for work that comes and goes, done step by step. The steps are one thread's: the kernel takes commands from
/// the first that asks alone, where it knows of that (`IORING_SETUP_SINGLE_ISSUER`).
///
/// When it is dropped, what is in flight is waited for, and not handed back.
pub struct Steps<F> {
    flight: InFlight<IoUring, F>,
    depth: u32,
}

impl<F: AsFd> Steps<F> {
    /// Sets up a ring for `depth` reads and writes in flight (1 to 32,767), which `wake` wakes.
    ///
    /// # Errors
    /// As [`Ring::new`].
    pub fn new(depth: u32, wake: Arc<WakeFd>) -> io::Result<Self> {
        Ok(Self { flight: InFlight::new(set_up(depth)?, Some(wake)), depth })
    }

    /// Begins what `work` wants, waits until something is completed or somebody wakes it, and hands back what is
    /// completed. Returns whether the work is done and nothing is in flight: then it does not wait.
    ///
    /// # Errors
    /// When the ring itself fails: it is of no use any more. Errors of single commands go to [`Work::completed`].
    pub fn step(&mut self, work: &mut impl Work<'static, File = F>) -> io::Result<bool> {
        let done = self.fill(work)?;
        if !done {
            self.flight.listen()?;
            self.flight.wait()?;
            self.flight.hand_back(work);
        }
        Ok(done)
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_at_once(&mut self, work: &mut impl Work<'static, File = F>) -> io::Result<bool> {
        let done = self.fill(work)?;
        if !done {
            self.flight.go_on()?;
            self.flight.hand_back(work);
        }
        Ok(done)
    }

    /// Gives the kernel what `work` wants, without waiting, and without taking in what is completed.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn begin(&mut self, work: &mut impl Work<'static, File = F>) -> io::Result<()> {
        self.fill(work)?;
        patiently(|| self.flight.uring().submit())
    }

    fn fill(&mut self, work: &mut impl Work<'static, File = F>) -> io::Result<bool> {
        let done = self.flight.fill(work, self.depth, &mut [], &mut None)?;
        Ok(done && self.flight.commands == 0)
    }
}

fn set_up(depth: u32) -> io::Result<IoUring> {
    let entries = depth.saturating_add(1); // One is for a `WakeFd`.
    IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries).or_else(|error| {
        match error.raw_os_error() {
            // The flags are newer than io_uring itself (Linux 6.0 and 6.1).
            Some(libc::EINVAL) => IoUring::new(entries),
            _ => Err(error),
        }
    })
}

/// A read or a write, as the kernel is told of it.
struct Command<'m, F> {
    file: F,
    offset: u64,
    memory: BufMap<'m>,
    tag: usize,
    way: Way,
}

/// Which way the bytes go.
#[derive(Clone, Copy)]
enum Way {
    /// From the file into memory.
    In,
    /// From memory into the file.
    Out,
}

impl<'m, F> From<Read<'m, F>> for Command<'m, F> {
    fn from(Read { file, offset, into, tag }: Read<'m, F>) -> Self {
        Self { file, offset, memory: into, tag, way: Way::In }
    }
}

impl<'m, F> From<Write<'m, F>> for Command<'m, F> {
    fn from(Write { file, offset, from, tag }: Write<'m, F>) -> Self {
        Self { file, offset, memory: from, tag, way: Way::Out }
    }
}

/// The commands that the kernel has not completed. Dropping it waits for them.
struct InFlight<U: BorrowMut<IoUring>, F> {
    uring: U,
    /// The tag and the file of each command, at the index that is its user data.
    held: Vec<Option<(usize, F)>>,
    /// The indices of `held` at which nothing is.
    free: Vec<usize>,
    commands: u32,
    wake: Option<Listening>,
}

/// An eventfd, and the read of it.
struct Listening {
    wake: Arc<WakeFd>,
    /// Where the kernel puts how often it was written to.
    count: Box<u64>,
    /// Whether the read is in flight.
    armed: bool,
}

impl<U: BorrowMut<IoUring>, F> InFlight<U, F> {
    fn new(uring: U, wake: Option<Arc<WakeFd>>) -> Self {
        let wake = wake.map(|wake| Listening { wake, count: Box::new(0), armed: false });
        Self { uring, held: Vec::new(), free: Vec::new(), commands: 0, wake }
    }

    fn uring(&mut self) -> &mut IoUring {
        self.uring.borrow_mut()
    }

    /// Pushes what `work` wants, while there is space for it. Returns whether it wants no more.
    fn fill<'m>(
        &mut self,
        work: &mut impl Work<'m, File = F>,
        depth: u32,
        windows: &mut [Window<'m>],
        refusal: &mut Option<io::Error>,
    ) -> io::Result<bool>
    where
        F: AsFd,
    {
        while self.commands < depth {
            let command = match work.next() {
                Next::Read(read) => Command::from(read),
                Next::Write(write) => Command::from(write),
                Next::Wait => return Ok(false),
                Next::Done => return Ok(true),
            };
            let window = match refusal {
                None => self.window(windows, &command.memory).unwrap_or_else(|error| {
                    *refusal = Some(error);
                    None
                }),
                Some(_) => None,
            };
            self.push(command, window)?;
        }
        Ok(false)
    }

    /// Hands back what is completed.
    fn hand_back<'m>(&mut self, work: &mut impl Work<'m, File = F>) {
        while let Some((tag, result)) = self.completion() {
            work.completed(tag, result);
        }
        work.settled();
    }

    /// Has the eventfd read, unless it is.
    fn listen(&mut self) -> io::Result<()> {
        let Some(listening) = self.wake.as_mut().filter(|listening| !listening.armed) else {
            return Ok(());
        };
        let fd = types::Fd(listening.wake.as_fd().as_raw_fd());
        let count: *mut u64 = &mut *listening.count;
        let entry = opcode::Read::new(fd, count.cast(), 8).build().user_data(WAKE);
        // SAFETY: law 3. The queue has room: it has one entry more than commands are ever in flight.
        unsafe { self.uring.borrow_mut().submission().push(&entry) }
            .map_err(|full| io::Error::other(full.to_string()))?;
        listening.armed = true;
        Ok(())
    }

    /// How many answers the kernel owes.
    fn owed(&self) -> u32 {
        self.commands + u32::from(self.wake.as_ref().is_some_and(|listening| listening.armed))
    }

    /// The number of the registered buffer that holds `map`; registers it at the first call.
    fn window(&mut self, windows: &mut [Window<'_>], map: &BufMap<'_>) -> io::Result<Option<u16>> {
        let Some(index) = windows.iter().position(|window| window.holds(map)) else {
            return Ok(None);
        };
        let window = &mut windows[index];
        if !window.registered {
            self.uring().submit()?; // The drive works while the pages are touched.
            let (iov_base, iov_len) = (window.map.as_ptr().cast(), window.map.len());
            let buffer = libc::iovec { iov_base, iov_len };
            // SAFETY: the map is valid for `'m`; from here on the kernel's own pin keeps the pages.
            unsafe {
                self.uring().submitter().register_buffers_update(index as u32, &[buffer], None)?;
            }
            window.registered = true;
        }
        Ok(Some(index as u16))
    }

    fn push(&mut self, command: Command<'_, F>, window: Option<u16>) -> io::Result<()>
    where
        F: AsFd,
    {
        let place = self.free.pop().unwrap_or_else(|| {
            self.held.push(None);
            self.held.len() - 1
        });
        let entry = entry(&command, window)?.user_data(place as u64);
        // SAFETY: laws 1 and 2: file and memory outlive the command's completion. The queue has room,
        // because no more commands are ever in flight than it has entries.
        unsafe { self.uring().submission().push(&entry) }
            .map_err(|full| io::Error::other(full.to_string()))?;
        self.held[place] = Some((command.tag, command.file));
        self.commands += 1;
        Ok(())
    }

    /// Gives the kernel what was pushed, and waits for an answer.
    fn wait(&mut self) -> io::Result<()> {
        let want = usize::from(self.owed() > 0);
        patiently(|| self.uring.borrow_mut().submit_and_wait(want))
    }

    /// Gives the kernel what was pushed, and has it answer what it can.
    fn go_on(&mut self) -> io::Result<()> {
        // Without the flag, a ring that leaves its work to its thread (`IORING_SETUP_DEFER_TASKRUN`) answers nothing.
        let flags = EnterFlags::GETEVENTS.bits();
        patiently(|| {
            let pushed = self.uring().submission().len() as u32;
            // SAFETY: there is no argument.
            unsafe { self.uring().submitter().enter::<libc::sigset_t>(pushed, 0, flags, None) }
        })
    }

    /// The tag of a command that is completed, and what came of it.
    fn completion(&mut self) -> Option<(usize, io::Result<usize>)> {
        let mut entry = self.uring().completion().next()?;
        if entry.user_data() == WAKE {
            if let Some(listening) = &mut self.wake {
                listening.armed = false;
            }
            entry = self.uring().completion().next()?;
        }
        self.commands -= 1;
        let place = entry.user_data() as usize;
        let (tag, _file) = self.held.get_mut(place)?.take()?;
        self.free.push(place);
        let result = match entry.result() {
            negative if negative < 0 => Err(io::Error::from_raw_os_error(-negative)),
            bytes => Ok(bytes as usize),
        };
        Some((tag, result))
    }
}

impl<U: BorrowMut<IoUring>, F> Drop for InFlight<U, F> {
    fn drop(&mut self) {
        if let Some(listening) = self.wake.as_ref().filter(|listening| listening.armed) {
            listening.wake.wake();
        }
        loop {
            while self.completion().is_some() {}
            let unseen = self.uring().submission().len() as u32;
            if self.owed() <= unseen {
                return;
            }
            // SAFETY: nothing is submitted, and there is no argument.
            let waited = unsafe {
                let flags = EnterFlags::GETEVENTS.bits();
                self.uring().submitter().enter::<libc::sigset_t>(0, 1, flags, None)
            };
            match waited.map_err(|error| error.raw_os_error()) {
                Ok(_) | Err(Some(libc::EINTR)) => {}
                Err(Some(libc::EAGAIN | libc::EBUSY)) => thread::sleep(Duration::from_millis(50)),
                // Memory under a command in flight must not be given back (law 2), and nothing is left
                // to ask the kernel with.
                Err(_) => std::process::abort(),
            }
        }
    }
}

/// Asks the kernel again while a signal comes between, or it is short of memory for the moment.
fn patiently(mut enter: impl FnMut() -> io::Result<usize>) -> io::Result<()> {
    let mut patience = Patience::default();
    loop {
        match enter() {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What is in flight will free some.
            Err(error) => match patience.after(&error) {
                Some(pause) => thread::sleep(pause),
                None => return Err(error),
            },
        }
    }
}

fn entry(command: &Command<'_, impl AsFd>, window: Option<u16>) -> io::Result<squeue::Entry> {
    let &Command { ref file, offset, memory, way, .. } = command;
    let len = u32::try_from(memory.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    if matches!(way, Way::In) && memory.access() == Access::ReadOnly {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the map is read-only"));
    }
    let (fd, at) = (types::Fd(file.as_fd().as_raw_fd()), memory.as_ptr());
    Ok(match (way, window) {
        (Way::In, Some(index)) => opcode::ReadFixed::new(fd, at, len, index).offset(offset).build(),
        (Way::In, None) => opcode::Read::new(fd, at, len).offset(offset).build(),
        (Way::Out, Some(index)) => {
            opcode::WriteFixed::new(fd, at, len, index).offset(offset).build()
        }
        (Way::Out, None) => opcode::Write::new(fd, at, len).offset(offset).build(),
    })
}
