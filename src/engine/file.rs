//! A file that a loader has open.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use crate::storage::file::SourceFile;
use crate::transfer::DataPath;

/// A file that a [`Loader`](super::Loader) has open, for every way it can be read. Clones are the same file; when the
/// last is dropped, and no request of it is left, the file is closed.
#[derive(Clone, Debug)]
pub struct File(Arc<Open>);

#[derive(Debug)]
struct Open {
    source: SourceFile,
    /// Past the page cache, where the file system can.
    direct: Option<Arc<fs::File>>,
}

impl File {
    /// Opens it past the page cache too, where the file system can.
    ///
    /// # Errors
    /// The kernel's answer: `EMFILE` at the process's limit on open files.
    pub(super) fn of(source: SourceFile) -> io::Result<Self> {
        let direct = source.direct().is_ok().then(|| source.open_direct()).transpose()?;
        Ok(Self(Arc::new(Open { source, direct })))
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        self.0.source.path()
    }

    /// The length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.0.source.len()
    }

    /// Whether it was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn source(&self) -> &SourceFile {
        &self.0.source
    }

    /// The descriptor for reads on a path.
    pub(super) fn descriptor(&self, path: DataPath) -> BorrowedFd<'_> {
        match &self.0.direct {
            Some(direct) if !path.cpu_copies() => direct.as_fd(),
            _ => self.0.source.as_fd(),
        }
    }

    /// Whether both are one open file.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn downgrade(&self) -> Remembered {
        Remembered(Arc::downgrade(&self.0))
    }
}

/// A file, for as long as somebody else has it.
#[derive(Debug)]
pub(super) struct Remembered(std::sync::Weak<Open>);

impl Remembered {
    pub(super) fn is(&self, file: &File) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&file.0))
    }

    pub(super) fn get(&self) -> Option<File> {
        self.0.upgrade().map(File)
    }
}
