//! Whether a file may have been changed while it was read.
//!
//! A file that somebody writes to while it is read gives some of its old bytes and some of its new
//! ones, and no read fails. What tells is its length and its times: every write, hole and truncation
//! sets the time of modification (mtime) and the change time (ctime) before it touches a byte, and no
//! program can set the change time. So a file's [`Stamps`] are taken before the first byte is read and
//! compared after the last.
//!
//! - The times are those of a clock that moves in steps: 1 to 10 ms, whole seconds on some file
//!   systems. A write in the same step as an earlier one leaves the same time. So stamps are
//!   [`settled`](Stamps::settled) first: a file that was changed in the step before is looked at again
//!   when the step is over.
//! - Memory that is mapped for writing sets the times when a page is first written to, and again only
//!   after the kernel has written that page back. What a program stores in between is not seen.
//! - One write call sets the times once, at its beginning. One that began before the stamps were taken
//!   and still goes on is not seen.
//! - A file system on the network has its server's times, and their steps begin when the server's do.
//! - A block device has no such times.
//! - The kernel's change cookie (`STATX_CHANGE_COOKIE`) would tell more: statx(2) does not give it to
//!   programs, up to Linux 7.3.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Statx, StatxFlags, StatxTimestamp, statx};
use rustix::time::{ClockId, clock_gettime};

/// A time in nanoseconds since 1970.
type Nanoseconds = i128;

const SECOND: Nanoseconds = 1_000_000_000;

/// The longest step of a file system's times: FAT's.
const LONGEST_STEP: Nanoseconds = 2 * SECOND;

/// How long to wait for a file that somebody goes on writing to.
const PATIENCE: Duration = Duration::from_millis(2500);

/// What statx(2) says of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamps {
    len: u64,
    modified: Nanoseconds,
    changed: Nanoseconds,
    links: u32,
}

impl Stamps {
    fn now(file: impl AsFd) -> io::Result<Self> {
        // On the network, the server is asked.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        Ok(Self::from(statx(file, "", flags, StatxFlags::BASIC_STATS)?))
    }

    /// The stamps of a file of which every later change will show. Waits for the clock's next step if
    /// the file was changed in this one; `None` for a file that does not stop changing.
    pub fn settled(file: impl AsFd) -> io::Result<Option<Self>> {
        let began = Instant::now();
        loop {
            // Read first: what happens from here on has a time of at least this.
            let clock = clock();
            let stamps = Self::now(&file)?;
            let wait = stamps.changed + step(stamps.changed) - clock;
            // A time further in the future was given by another clock, or before it was set back.
            if wait <= 0 || wait > LONGEST_STEP {
                return Ok(Some(stamps));
            }
            if began.elapsed() > PATIENCE {
                return Ok(None);
            }
            thread::sleep(Duration::from_nanos(wait.clamp(100_000, SECOND) as u64));
        }
    }

    /// Fails if the file may have been changed since its stamps were these. A link that was made or
    /// removed, as when another file is renamed to its name, changes no byte.
    pub fn check(&self, file: impl AsFd) -> Result<(), Changed> {
        let now = Self::now(file).map_err(Changed::Unknown)?;
        let difference = Difference {
            lens: (self.len, now.len),
            modified: now.modified != self.modified,
            changed: now.changed != self.changed,
        };
        let same = now.len == self.len && !difference.modified;
        match same && (!difference.changed || now.links != self.links) {
            true => Ok(()),
            false => Err(Changed::Since(difference)),
        }
    }
}

impl From<Statx> for Stamps {
    fn from(stat: Statx) -> Self {
        let time = |time: StatxTimestamp| {
            Nanoseconds::from(time.tv_sec) * SECOND + Nanoseconds::from(time.tv_nsec)
        };
        Self {
            len: stat.stx_size,
            modified: time(stat.stx_mtime),
            changed: time(stat.stx_ctime),
            links: stat.stx_nlink,
        }
    }
}

/// The clock that the kernel takes a file's times from.
fn clock() -> Nanoseconds {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    Nanoseconds::from(now.tv_sec) * SECOND + Nanoseconds::from(now.tv_nsec)
}

/// The longest step that a file system's times may have, of which one is this.
fn step(time: Nanoseconds) -> Nanoseconds {
    match time % SECOND {
        0 => LONGEST_STEP,
        part => {
            (0..9).map(|n| 10_i128.pow(n)).take_while(|step| part % step == 0).last().unwrap_or(1)
        }
    }
}

/// A file that may not have been one and the same while it was read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Changed {
    /// Its length or its times are others.
    #[error("something changed it after it was opened: {0}")]
    Since(Difference),
    /// It was written to when it was opened, and for seconds after that.
    #[error("something was writing to it when it was opened, and went on")]
    Restless,
    /// The kernel does not say.
    #[error("the kernel does not say whether something changed it after it was opened: {0}")]
    Unknown(io::Error),
}

/// What of a file is not as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The lengths in bytes, before and now.
    lens: (u64, u64),
    modified: bool,
    changed: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, now) = self.lens;
        if now != before {
            write!(f, "its length from {before} to {now} bytes, ")?;
        }
        f.write_str(match (self.modified, self.changed) {
            (true, true) => "its times of modification (mtime) and change (ctime)",
            (true, false) => "its time of modification (mtime)",
            (false, true) => {
                "its change time (ctime) alone, so that it was renamed or given other rights, or \
                 written to and its time of modification set back"
            }
            (false, false) => "and no time of it",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes, hard_link};
    use std::io::Write;

    use super::*;

    fn file() -> (tempfile::TempDir, File) {
        let dir = tempfile::tempdir().unwrap();
        let mut file = File::create_new(dir.path().join("file")).unwrap();
        file.write_all(&[1; 100]).unwrap();
        (dir, file)
    }

    fn settled(file: &File) -> Stamps {
        Stamps::settled(file).unwrap().unwrap()
    }

    /// Without the wait, many of these writes would have the time of the one before.
    #[test]
    fn a_write_right_after_another_shows() {
        let (_dir, mut file) = file();
        for round in 0..50 {
            file.write_all(b"x").unwrap();
            let mut stamps = settled(&file);
            file.write_all(b"y").unwrap();
            stamps.len += 1; // Only the times shall tell.
            assert!(matches!(stamps.check(&file), Err(Changed::Since(_))), "round {round}");
        }
    }

    #[test]
    fn what_changed_is_said() {
        let (dir, mut file) = file();
        let stamps = settled(&file);
        file.write_all(&[2; 11]).unwrap();
        let words = stamps.check(&file).unwrap_err().to_string();
        assert!(words.contains("from 100 to 111 bytes") && words.contains("(mtime)"), "{words}");

        let stamps = settled(&file);
        let was = file.metadata().unwrap().modified().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"z", 0).unwrap();
        file.set_times(FileTimes::new().set_modified(was)).unwrap();
        let words = stamps.check(&file).unwrap_err().to_string();
        assert!(words.contains("(ctime) alone"), "{words}");

        let stamps = settled(&file);
        hard_link(dir.path().join("file"), dir.path().join("link")).unwrap();
        stamps.check(&file).expect("a link changes no byte");
        let stamps = settled(&file);
        std::fs::rename(dir.path().join("link"), dir.path().join("other")).unwrap();
        std::fs::write(dir.path().join("new"), [3; 111]).unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join("file")).unwrap();
        stamps.check(&file).expect("the file has lost a name and no byte");
    }

    #[test]
    fn the_step_of_a_time_is_never_taken_too_short() {
        for (time, expected) in [
            (5 * SECOND, LONGEST_STEP),
            (5 * SECOND + 1, 1),
            (5 * SECOND + 10_000_000, 10_000_000),
            (5 * SECOND + 123_400, 100),
            (5 * SECOND + 500_000_000, 100_000_000),
        ] {
            assert_eq!(step(time), expected, "{time}");
        }
    }
}
