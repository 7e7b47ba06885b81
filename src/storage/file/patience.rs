//! Reads that the kernel puts off.
//!
//! `EAGAIN` and `EINTR` ask for another try. A file system that says nothing else would be asked for ever:
//! it is asked again after a pause, the longer the more often it refused, and given up in the end.

use std::io;
use std::time::{Duration, Instant};

/// How long a read is tried again.
const LIMIT: Duration = Duration::from_secs(10);

const SHORTEST: Duration = Duration::from_millis(1);

const LONGEST: Duration = Duration::from_millis(50);

/// How often one read was put off.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    put_off: Option<PutOff>,
}

#[derive(Clone, Copy, Debug)]
struct PutOff {
    first: Instant,
    pause: Duration,
}

impl Patience {
    /// How long to wait before the next try, after an error that asks for one; nothing after any other
    /// error, and once the limit is over.
    pub(crate) fn after(&mut self, error: &io::Error) -> Option<Duration> {
        if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) {
            return None;
        }
        let now = Instant::now();
        let PutOff { first, pause } =
            self.put_off.unwrap_or(PutOff { first: now, pause: SHORTEST });
        if now.duration_since(first) >= LIMIT {
            return None;
        }
        self.put_off = Some(PutOff { first, pause: (2 * pause).min(LONGEST) });
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut patience = Patience::default();
        let pauses: Vec<_> = (0..10).filter_map(|_| patience.after(&error(libc::EAGAIN))).collect();
        assert_eq!(pauses.len(), 10);
        assert_eq!((pauses[0], pauses[1]), (SHORTEST, 2 * SHORTEST));
        assert_eq!(pauses[9], LONGEST);
    }

    #[test]
    fn other_errors_are_not_tried_again() {
        let mut patience = Patience::default();
        assert_eq!(patience.after(&error(libc::EIO)), None);
        assert_eq!(patience.after(&io::ErrorKind::UnexpectedEof.into()), None);
    }

    #[test]
    fn it_ends() {
        let first = Instant::now().checked_sub(LIMIT).expect("a machine up for ten seconds");
        let mut patience = Patience { put_off: Some(PutOff { first, pause: LONGEST }) };
        assert_eq!(patience.after(&error(libc::EINTR)), None);
    }
}
