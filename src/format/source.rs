//! Where a reader takes bytes from: a file or memory, by positioned reads, with every length
//! checked against the size first. A source also knows what it is called and how it is read, so
//! that an error made from it is complete.

use super::error::FormatError;
use super::kind::Format;
use crate::storage::file::patience::Patience;
use crate::storage::file::{NotAFile, SourceFile};
use std::io::{self, Read};
use std::path::Path;
use std::thread;

/// Bytes that can be read at any position.
#[derive(Clone, Copy)]
enum Bytes<'a> {
    File(&'a SourceFile),
    Memory(&'a [u8]),
}

impl Bytes<'_> {
    /// Reads some bytes at `offset`; zero of them only at the end.
    fn read_at(self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::File(file) => Ok(rustix::io::pread(file, buf, offset)?),
            Self::Memory(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|start| bytes.get(start..));
                rest.unwrap_or_default().read(buf)
            }
        }
    }
}

/// Opens a regular file or a block device.
pub(super) fn open(path: &Path) -> Result<SourceFile, FormatError> {
    SourceFile::open(path).map_err(|source| {
        let path = path.to_owned();
        match source.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(&NotAFile { what, fix }) => FormatError::NotAFile { path, what, fix },
            None => FormatError::Open { path, source },
        }
    })
}

/// Fails if something may have changed a file since it was opened, so that what was read of it is of
/// two versions.
pub(super) fn check_unchanged(file: &SourceFile) -> Result<(), FormatError> {
    file.check_unchanged().map_err(|why| FormatError::Changed { path: file.path().to_owned(), why })
}

/// The bytes of one file, read as one format.
pub(super) struct Source<'a> {
    path: &'a Path,
    format: Format,
    bytes: Bytes<'a>,
    len: u64,
}

impl<'a> Source<'a> {
    /// A file that is open, for the reader of `format`.
    pub fn of(file: &'a SourceFile, format: Format) -> Self {
        Self { path: file.path(), format, bytes: Bytes::File(file), len: file.len() }
    }

    /// A file whose bytes are in memory.
    pub fn in_memory(path: &'a Path, format: Format, bytes: &'a [u8]) -> Self {
        Self { path, format, bytes: Bytes::Memory(bytes), len: bytes.len() as u64 }
    }

    pub fn path(&self) -> &'a Path {
        self.path
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// The file's length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Says that `need` bytes at `offset` lie inside the file; `what` is there.
    pub fn holds(&self, offset: u64, need: u64, what: &str) -> Result<(), FormatError> {
        match offset.checked_add(need) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(FormatError::Truncated {
                path: self.path.to_owned(),
                format: self.format,
                what: what.to_owned(),
                offset,
                need,
                len: self.len,
            }),
        }
    }

    /// Reads `len` bytes at `offset`, where `what` is. No memory is taken before the file is known
    /// to be that long.
    pub fn bytes(&self, offset: u64, len: u64, what: &str) -> Result<Vec<u8>, FormatError> {
        self.holds(offset, len, what)?;
        let no_memory = || FormatError::NoMemory { path: self.path.to_owned(), offset, len };
        let size = usize::try_from(len).map_err(|_| no_memory())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| no_memory())?;
        bytes.resize(size, 0);
        self.fill(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads `N` bytes at `offset`, where `what` is.
    pub fn array<const N: usize>(&self, offset: u64, what: &str) -> Result<[u8; N], FormatError> {
        self.holds(offset, N as u64, what)?;
        let mut bytes = [0; N];
        self.fill(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn fill(&self, offset: u64, bytes: &mut [u8]) -> Result<(), FormatError> {
        let mut patience = Patience::default();
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            match self.bytes.read_at(&mut bytes[done..], at) {
                Ok(0) => {
                    let path = self.path.to_owned();
                    return Err(FormatError::Shrank { path, offset: at, len: self.len });
                }
                Ok(read) => {
                    done += read;
                    patience = Patience::default();
                }
                Err(source) => {
                    if let Some(pause) = patience.after(&source) {
                        thread::sleep(pause);
                        continue;
                    }
                    let len = (bytes.len() - done) as u64;
                    let path = self.path.to_owned();
                    return Err(FormatError::Read { path, offset: at, len, source });
                }
            }
        }
        Ok(())
    }

    /// The error for bytes at `offset` that break a rule of the format.
    pub fn malformed(
        &self,
        offset: u64,
        problem: impl Into<String>,
        fix: &'static str,
    ) -> FormatError {
        let problem = problem.into();
        FormatError::Malformed {
            path: self.path.to_owned(),
            format: self.format,
            offset,
            problem,
            fix,
        }
    }

    /// The error for a part of the format, used at `offset`, that its reader does not have.
    pub fn unsupported(
        &self,
        offset: u64,
        what: impl Into<String>,
        fix: &'static str,
    ) -> FormatError {
        let what = what.into();
        FormatError::Unsupported {
            path: self.path.to_owned(),
            format: self.format,
            offset,
            what,
            fix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_shrinks_is_an_error_with_its_new_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(100).unwrap();
        let opened = open(file.path()).unwrap();
        file.as_file().set_len(40).unwrap();
        let source = Source::of(&opened, Format::Raw);
        let error = source.bytes(30, 20, "something").unwrap_err();
        assert!(
            matches!(&error, FormatError::Shrank { offset: 40, len: 100, .. }),
            "{error}: {error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains("offset 40") && text.contains("wait until its writer is done"),
            "{text}"
        );
    }

    #[test]
    fn a_file_that_is_written_to_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(100).unwrap();
        let opened = open(file.path()).unwrap();
        check_unchanged(&opened).unwrap();
        std::os::unix::fs::FileExt::write_all_at(file.as_file(), b"x", 50).unwrap();
        let error = check_unchanged(&opened).unwrap_err();
        assert!(matches!(error, FormatError::Changed { .. }), "{error:?}");
        assert_eq!(error.path(), file.path());
        let text = error.to_string();
        assert!(text.contains("(mtime)") && text.contains("; load it again"), "{text}");
    }

    #[test]
    fn a_length_past_the_end_is_refused_before_memory_is_taken() {
        let source = Source::in_memory(Path::new("f"), Format::Raw, &[1, 2, 3]);
        for (offset, len) in [(0, 4), (3, 1), (4, 0), (u64::MAX, 1), (1, u64::MAX), (0, 1 << 62)] {
            let error = source.bytes(offset, len, "x").unwrap_err();
            assert!(matches!(error, FormatError::Truncated { .. }), "{offset} {len}: {error}");
        }
        assert_eq!(source.bytes(1, 2, "x").unwrap(), [2, 3]);
        assert!(source.bytes(3, 0, "x").unwrap().is_empty());
        assert_eq!(source.array(0, "x").unwrap(), [1, 2, 3]);
    }
}
