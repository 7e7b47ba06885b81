//! Copies out of and into memory that can go away.
//!
//! What lies behind a BAR is there as long as its device and its driver are. The kernel waits for
//! nobody who has it mapped: it takes the pages out of the mapping, and the next access of the CPU is a
//! `SIGBUS`, which ends the process. So a load touches such memory through this module alone. Where the
//! memory goes away, the copy ends early and says so.
//!
//! The copies themselves are [`BufMap`]'s, with its rules for device memory. Having the kernel copy
//! (`pwrite` into a memfd), which answers `EFAULT`, would be simpler. But the kernel copies user memory
//! by string instructions where the processor has fast ones (`rep movsb`: ERMS, FSRM), and in uncached
//! memory that is one access for each byte, where words of eight are right, and eight times as slow.
//!
//! System memory does not go away, and is copied as ever.
//!
//! # Safety
//!
//! The law of this module: a copy that may be left in the middle is one call of a method of [`BufMap`]'s,
//! on borrowed maps and slices. Where such a copy touches memory, it holds no lock and nothing to drop; what
//! it has not done yet, nobody relies on, because bytes that may be anything are valid in both.
#![allow(unsafe_code)]

mod arch;
mod guard;

use iomap::{BufMap, Location, MapError};

/// Why memory was not copied, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// It is not there any more. Some of it may have been copied.
    #[error("the memory is not there any more")]
    Gone,
    /// It does not reach so far, or may not be written.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// [`BufMap::copy_to_slice`].
pub(super) fn copy_to_slice(
    map: &BufMap<'_>,
    offset: usize,
    bytes: &mut [u8],
) -> Result<(), Fault> {
    touch(map, || map.copy_to_slice(offset, bytes))
}

/// [`BufMap::copy_from_slice`].
pub(super) fn copy_from_slice(map: &BufMap<'_>, offset: usize, bytes: &[u8]) -> Result<(), Fault> {
    touch(map, || map.copy_from_slice(offset, bytes))
}

/// [`BufMap::copy_from`]. The source is system memory.
pub(super) fn copy_from(map: &BufMap<'_>, source: &BufMap<'_>) -> Result<(), Fault> {
    touch(map, || map.copy_from(source))
}

/// [`BufMap::copy_to`]. The destination is system memory.
pub(super) fn copy_to(map: &BufMap<'_>, destination: &BufMap<'_>) -> Result<(), Fault> {
    touch(map, || map.copy_to(destination))
}

/// Touches `map` by one of its own methods.
fn touch(map: &BufMap<'_>, copy: impl FnOnce() -> Result<(), MapError>) -> Result<(), Fault> {
    if map.location() == Location::System {
        return Ok(copy()?);
    }
    let start = map.as_ptr() as usize;
    // SAFETY: every `copy` is a closure of this module's that obeys its law.
    let outcome = unsafe { guard::attempt(start..start + map.len(), copy) };
    Ok(outcome.ok_or(Fault::Gone)??)
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use std::fs::File;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::{mem, ptr, thread};

    use iomap::{Access, Caching};
    use memmap2::{MmapOptions, MmapRaw};
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    const PAGE: usize = 4096;

    /// Pages that can be taken away under their mapping.
    struct Pages {
        file: File,
        mapping: MmapRaw,
    }

    impl Pages {
        fn new(count: usize) -> Self {
            let file = File::from(memfd_create("pages", MemfdFlags::CLOEXEC).expect("a memfd"));
            file.set_len((count * PAGE) as u64).expect("room");
            let mapping = MmapOptions::new().len(count * PAGE).map_raw(&file).expect("a mapping");
            Self { file, mapping }
        }

        /// As if they lay behind a BAR.
        fn map(&self, caching: Caching) -> BufMap<'_> {
            let (start, len) = (self.mapping.as_mut_ptr(), self.mapping.len());
            // SAFETY: the mapping lives as long as `self`, and is reached through maps alone.
            unsafe { BufMap::from_raw(start, len, Location::Io, caching, Access::ReadWrite) }
        }

        fn keep(&self, count: usize) {
            self.file.set_len((count * PAGE) as u64).expect("it shrinks");
        }
    }

    const CACHING: [Caching; 2] = [Caching::Uncached, Caching::WriteCombining];

    #[test]
    fn what_is_there_is_copied() {
        for caching in CACHING {
            let (pages, bytes) = (Pages::new(2), [0x5a; PAGE]);
            let map = pages.map(caching);
            let mut found = [0; PAGE];
            copy_from_slice(&map, 100, &bytes).expect("it is there");
            copy_to_slice(&map, 100, &mut found).expect("it is there");
            assert_eq!(found, bytes);
            let middle = map.subrange(1000..1000 + PAGE).expect("inside");
            copy_from(&middle, &BufMap::from_slice(&[7; PAGE])).expect("it is there");
            assert_eq!(map.read::<u8>(1000 + PAGE - 1), Ok(7));
            copy_to(&middle, &BufMap::from_mut_slice(&mut found)).expect("it is there");
            assert_eq!(found, [7; PAGE]);
            let outside = MapError::OutOfBounds { offset: PAGE + 1, len: PAGE, map_len: 2 * PAGE };
            assert_eq!(copy_to_slice(&map, PAGE + 1, &mut found), Err(Fault::Map(outside)));
        }
    }

    #[test]
    fn what_has_gone_is_said_to_have_gone() {
        for caching in CACHING {
            let pages = Pages::new(2);
            let map = pages.map(caching);
            let mut bytes = [1; 2 * PAGE];
            copy_from_slice(&map, 0, &bytes).expect("it is there");
            // Half of it, and all of it, again and again.
            for kept in [1, 0, 0] {
                pages.keep(kept);
                assert_eq!(copy_to_slice(&map, 0, &mut bytes), Err(Fault::Gone));
                assert_eq!(copy_from_slice(&map, 0, &bytes), Err(Fault::Gone));
                assert_eq!(copy_from(&map, &BufMap::from_slice(&bytes)), Err(Fault::Gone));
                assert_eq!(copy_to(&map, &BufMap::from_mut_slice(&mut bytes)), Err(Fault::Gone));
                let first = copy_to_slice(&map, 0, &mut bytes[..PAGE]);
                assert_eq!(first.is_ok(), kept == 1, "{first:?}");
            }
            pages.keep(2);
            copy_to_slice(&map, 0, &mut bytes).expect("it is there again");
            assert_eq!(bytes, [0; 2 * PAGE]);
        }
    }

    /// Registers that a callee saves are what they were, floating point too.
    #[test]
    fn whoever_is_told_goes_on_as_before() {
        let (gone, mut bytes) = (Pages::new(1), [0; 64]);
        gone.keep(0);
        let (mut sum, mut product) = (0_u64, 1.0_f64);
        for i in 1..=100_u64 {
            let fault = copy_to_slice(&gone.map(Caching::Uncached), (i % 8) as usize, &mut bytes);
            assert_eq!(fault, Err(Fault::Gone));
            sum += i;
            product *= 1.0 + i as f64 / 100.0;
        }
        let expected = (1..=100_u64).fold(1.0, |product, i| product * (1.0 + i as f64 / 100.0));
        assert_eq!((sum, product.to_bits()), (5050, expected.to_bits()));
    }

    /// Each thread has its own answer, in the middle of the others' copies.
    #[test]
    fn threads_do_not_disturb_each_other() {
        thread::scope(|scope| {
            for i in 0..8 {
                scope.spawn(move || {
                    let (pages, mut bytes) = (Pages::new(1), [0; PAGE]);
                    if i % 2 == 0 {
                        pages.keep(0);
                    }
                    for _ in 0..200 {
                        let copied = copy_to_slice(&pages.map(Caching::Uncached), 0, &mut bytes);
                        assert_eq!(copied.is_ok(), i % 2 == 1);
                    }
                });
            }
        });
    }

    fn block_bus_errors() {
        // SAFETY: both calls read and write one local set, and the second this thread's mask alone.
        unsafe {
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigaddset(&raw mut set, libc::SIGBUS);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
        }
    }

    /// A program may have blocked all signals on all of its threads but one.
    #[test]
    fn a_thread_that_blocks_the_signal_is_told_too() {
        let told = thread::spawn(|| {
            block_bus_errors();
            let gone = Pages::new(1);
            gone.keep(0);
            let fault = copy_to_slice(&gone.map(Caching::Uncached), 0, &mut [0; 8]);
            // SAFETY: it writes one local set.
            let blocked = unsafe {
                let mut set: libc::sigset_t = mem::zeroed();
                libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &raw mut set);
                libc::sigismember(&raw const set, libc::SIGBUS)
            };
            (fault, blocked)
        });
        assert_eq!(told.join().expect("no panic"), (Err(Fault::Gone), 1));
    }

    /// The variable that has a test of this program do something by itself, and says what.
    const ALONE: &str = "BUFMAP_ALONE";

    /// Does something in a process of its own: the same test, run again.
    fn alone(test: &str, what: &str, work: fn()) -> ExitStatus {
        if std::env::var_os(ALONE).is_some_and(|alone| alone == what) {
            work();
            std::process::exit(0);
        }
        let name = format!("nofault::tests::{test}");
        let program = std::env::current_exe().expect("this program");
        let mut again = Command::new(program);
        again.args(["--exact", "--test-threads=1", &name]).env(ALONE, what);
        again.output().expect("it runs").status
    }

    fn lose_a_page() -> Pages {
        let gone = Pages::new(1);
        gone.keep(0);
        let fault = copy_to_slice(&gone.map(Caching::Uncached), 0, &mut [0; 8]);
        assert_eq!(fault, Err(Fault::Gone));
        gone
    }

    fn touch_it() {
        let _ = lose_a_page().map(Caching::Uncached).read::<u8>(0);
    }

    fn touch_it_beside_a_copy() {
        let (gone, there) = (lose_a_page(), Pages::new(1));
        let source = gone.map(Caching::Uncached);
        let _ = copy_from(&there.map(Caching::Uncached), &source);
    }

    /// Rust's runtime has a handler of this signal, for stacks that overflow.
    fn without_the_runtimes_handler() {
        // SAFETY: the default action is no handler.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }

    fn send_it() {
        // SAFETY: it sends a signal to this thread.
        unsafe { libc::raise(libc::SIGBUS) };
    }

    #[test]
    fn what_is_no_copy_of_ours_ends_the_process_as_ever() {
        let test = "what_is_no_copy_of_ours_ends_the_process_as_ever";
        let all: [(_, fn()); 4] = [
            ("touch", touch_it),
            ("touch beside a copy", touch_it_beside_a_copy),
            ("touch without a handler", || {
                without_the_runtimes_handler();
                touch_it();
            }),
            ("send the signal", || {
                without_the_runtimes_handler();
                lose_a_page();
                send_it();
            }),
        ];
        for (what, work) in all {
            let status = alone(test, what, work);
            assert_eq!(status.signal(), Some(libc::SIGBUS), "{what}: {status}");
        }
    }

    static HEARD: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn hear(_: libc::c_int) {
        HEARD.fetch_add(1, Ordering::Relaxed);
    }

    /// The program's own handler was there first, and goes on hearing what is the program's.
    #[test]
    fn a_handler_that_was_there_is_called() {
        let status = alone("a_handler_that_was_there_is_called", "hear", || {
            // SAFETY: the handler touches an atomic number alone.
            unsafe { libc::signal(libc::SIGBUS, hear as *const () as libc::sighandler_t) };
            lose_a_page();
            assert_eq!(HEARD.load(Ordering::Relaxed), 0);
            send_it();
            assert_eq!(HEARD.load(Ordering::Relaxed), 1);
        });
        assert_eq!(status.code(), Some(0), "{status}");
    }
}
