//! A read or a write that may be done in parts: how far it has come, and what an answer to it means.

use std::io;
use std::time::Duration;

use super::patience::Patience;
use crate::storage::work::Failure;

/// How far a read or a write has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Partial {
    got: u64,
    patience: Patience,
}

/// What an answer means.
#[derive(Debug)]
pub(crate) enum Came {
    /// All that must come has come, or is written.
    Whole,
    /// The rest is to be asked for, after a pause.
    Rest(Duration),
    /// It has failed.
    Failed(Failure),
}

impl Partial {
    /// How many bytes have come, or are written.
    pub(crate) const fn got(&self) -> u64 {
        self.got
    }

    /// Takes an answer to a read from `offset` on, of which `need` bytes must come. What comes in part comes in multiples
    /// of `granule`, and anything else is the end of the file.
    pub(crate) fn came(
        &mut self,
        result: io::Result<usize>,
        (offset, need): (u64, u64),
        granule: u64,
    ) -> Came {
        match result {
            Ok(bytes) => {
                self.patience = Patience::default();
                self.got += bytes as u64;
                if self.got >= need {
                    Came::Whole
                } else if bytes == 0 || !self.got.is_multiple_of(granule) {
                    Came::Failed(Failure::Ended { at: offset + self.got })
                } else {
                    Came::Rest(Duration::ZERO)
                }
            }
            Err(source) => self.refused(offset, source),
        }
    }

    /// Takes an answer to a write of `len` bytes from `offset` on, of which each part but the last must be a multiple of
    /// `granule`: of a block that was written in part, all is written again.
    pub(crate) fn went(
        &mut self,
        result: io::Result<usize>,
        (offset, len): (u64, u64),
        granule: u64,
    ) -> Came {
        match result {
            Ok(bytes) if self.got + bytes as u64 >= len => {
                self.got = len;
                Came::Whole
            }
            Ok(bytes) => {
                let whole = bytes as u64 / granule * granule;
                self.patience = Patience::default();
                self.got += whole;
                match whole {
                    // Nothing would come of asking again and again.
                    0 => Came::Failed(Failure::Io {
                        offset: offset + self.got,
                        source: io::ErrorKind::WriteZero.into(),
                    }),
                    _ => Came::Rest(Duration::ZERO),
                }
            }
            Err(source) => self.refused(offset, source),
        }
    }

    fn refused(&mut self, offset: u64, source: io::Error) -> Came {
        match self.patience.after(&source) {
            Some(pause) => Came::Rest(pause),
            None => Came::Failed(Failure::Io { offset: offset + self.got, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANULE: u64 = 512;

    fn came(partial: &mut Partial, result: io::Result<usize>) -> Came {
        partial.came(result, (4096, 1000), GRANULE)
    }

    #[test]
    fn parts_become_the_whole() {
        let mut partial = Partial::default();
        assert!(matches!(came(&mut partial, Ok(512)), Came::Rest(Duration::ZERO)));
        let put_off = came(&mut partial, Err(io::Error::from_raw_os_error(libc::EAGAIN)));
        assert!(matches!(put_off, Came::Rest(pause) if !pause.is_zero()), "{put_off:?}");
        assert_eq!(partial.got(), 512);
        assert!(matches!(came(&mut partial, Ok(488)), Came::Whole));
    }

    #[test]
    fn a_part_of_a_granule_or_nothing_is_the_end() {
        for (bytes, end) in [(0, 4096), (100, 4196)] {
            let ended = came(&mut Partial::default(), Ok(bytes));
            assert!(matches!(ended, Came::Failed(Failure::Ended { at }) if at == end), "{ended:?}");
        }
    }

    #[test]
    fn an_error_is_told_with_its_place() {
        let mut partial = Partial::default();
        came(&mut partial, Ok(512));
        let failed = came(&mut partial, Err(io::Error::from_raw_os_error(libc::EIO)));
        let told = matches!(failed, Came::Failed(Failure::Io { offset: 4608, .. }));
        assert!(told, "{failed:?}");
    }

    fn went(partial: &mut Partial, result: io::Result<usize>) -> Came {
        partial.went(result, (4096, 2000), GRANULE)
    }

    #[test]
    fn a_write_in_parts_goes_on_at_a_whole_block() {
        let mut partial = Partial::default();
        assert!(matches!(went(&mut partial, Ok(600)), Came::Rest(Duration::ZERO)));
        assert_eq!(partial.got(), 512);
        let put_off = went(&mut partial, Err(io::Error::from_raw_os_error(libc::EINTR)));
        assert!(matches!(put_off, Came::Rest(pause) if !pause.is_zero()), "{put_off:?}");
        assert!(matches!(went(&mut partial, Ok(1488)), Came::Whole));
        assert_eq!(partial.got(), 2000);
    }

    #[test]
    fn a_write_that_gets_nowhere_has_failed() {
        for bytes in [0, 100] {
            let mut partial = Partial::default();
            went(&mut partial, Ok(512));
            let failed = went(&mut partial, Ok(bytes));
            let told = matches!(&failed, Came::Failed(Failure::Io { offset: 4608, source })
                if source.kind() == io::ErrorKind::WriteZero);
            assert!(told, "{failed:?}");
        }
        let full = went(&mut Partial::default(), Err(io::Error::from_raw_os_error(libc::ENOSPC)));
        assert!(matches!(full, Came::Failed(Failure::Io { offset: 4096, .. })), "{full:?}");
    }
}
