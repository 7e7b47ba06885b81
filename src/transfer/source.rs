//! What a transfer reads from.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::data_path::DataPath;
use super::error::TransferError;
use super::valid::Valid;
use crate::storage::file::{Alignment, Descriptor, SourceFile};
use crate::storage::nvme::DriveFile;
use crate::storage::work::Failure;

/// A file that a transfer reads: one that the kernel has ([`SourceFile`]), or one on a
/// drive that this process drives itself ([`DriveFile`]).
pub trait Source: engine::Readable {
    /// What it is called.
    fn path(&self) -> &Path;

    /// How long it is, in bytes.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The end of a transfer that could not read the file, and has filled what is `valid`.
    fn failed(&self, failure: Failure, valid: Valid) -> TransferError {
        match failure {
            Failure::Io { offset, source } => {
                TransferError::Read { path: self.path().into(), offset, source, valid }
            }
            Failure::Ended { at } => self.ended(at, valid),
        }
    }
}

/// What engines have to know of a source.
pub(crate) mod engine {
    use super::{Alignment, DataPath, TransferError, Valid, io};

    pub trait Readable: Sync {
        /// What names the file to an engine.
        type Handle<'f>: Clone
        where
            Self: 'f;

        /// The file, for reads on a path. What that opens stays open as long as a handle of it is kept.
        fn handle(&self, path: DataPath) -> io::Result<Self::Handle<'_>>;

        /// What reads on a path must be aligned to.
        fn alignment(&self, path: DataPath) -> Alignment;

        /// Whether reads can succeed at all, as far as is known.
        fn can_be_read(&self) -> bool;

        /// Fails if something may have changed its bytes since it was opened.
        fn check_unchanged(&self) -> Result<(), TransferError>;

        /// What it means that a read found no bytes at `at`, where there were some before.
        fn ended(&self, at: u64, valid: Valid) -> TransferError;
    }
}

impl Source for SourceFile {
    fn path(&self) -> &Path {
        self.path()
    }

    fn len(&self) -> u64 {
        self.len()
    }
}

impl engine::Readable for SourceFile {
    type Handle<'f> = Descriptor<'f>;

    fn handle(&self, path: DataPath) -> io::Result<Descriptor<'_>> {
        Ok(match self.direct() {
            Ok(_) if !path.cpu_copies() => Descriptor::Direct(self.open_direct()?),
            _ => Descriptor::Cached(self.as_fd()),
        })
    }

    fn alignment(&self, path: DataPath) -> Alignment {
        match self.direct() {
            Ok(alignment) if !path.cpu_copies() => alignment,
            _ => Alignment { offset: 1, memory: 1 },
        }
    }

    fn can_be_read(&self) -> bool {
        true
    }

    fn check_unchanged(&self) -> Result<(), TransferError> {
        self.check_unchanged()
            .map_err(|why| TransferError::Changed { path: self.path().into(), why })
    }

    fn ended(&self, at: u64, valid: Valid) -> TransferError {
        TransferError::ended(self, at, valid)
    }
}

impl Source for DriveFile {
    fn path(&self) -> &Path {
        self.path()
    }

    fn len(&self) -> u64 {
        self.len()
    }
}

impl engine::Readable for DriveFile {
    type Handle<'f> = &'f Self;

    fn handle(&self, _: DataPath) -> io::Result<&Self> {
        Ok(self)
    }

    fn alignment(&self, _: DataPath) -> Alignment {
        // The first entry of a PRP list begins with a word of 4 bytes (NVMe base 4.1.1).
        Alignment { offset: self.block_size(), memory: 4 }
    }

    fn can_be_read(&self) -> bool {
        self.is_at_work()
    }

    /// No other process has the drive, and this one only reads it.
    fn check_unchanged(&self) -> Result<(), TransferError> {
        Ok(())
    }

    fn ended(&self, at: u64, valid: Valid) -> TransferError {
        let source = std::io::ErrorKind::UnexpectedEof.into();
        TransferError::Read { path: self.path().into(), offset: at, source, valid }
    }
}

/// A file of an extent map, on a drive that nobody has opened: what the planner has to know of it.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub path: PathBuf,
    pub len: u64,
}

impl Recorded {
    /// What drives are formatted with unless somebody chose otherwise, in bytes.
    const BLOCK: u32 = 512;
}

impl Source for Recorded {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.len
    }
}

impl engine::Readable for Recorded {
    type Handle<'f> = &'f Self;

    fn handle(&self, _: DataPath) -> io::Result<&Self> {
        Ok(self)
    }

    fn alignment(&self, _: DataPath) -> Alignment {
        Alignment { offset: Self::BLOCK, memory: 4 }
    }

    fn can_be_read(&self) -> bool {
        false
    }

    fn check_unchanged(&self) -> Result<(), TransferError> {
        Ok(())
    }

    fn ended(&self, at: u64, valid: Valid) -> TransferError {
        let source = std::io::ErrorKind::UnexpectedEof.into();
        TransferError::Read { path: self.path.clone(), offset: at, source, valid }
    }
}
