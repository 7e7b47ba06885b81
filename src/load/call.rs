//! The call: what is to be loaded, where to, and how.

use std::sync::atomic::AtomicBool;

use exporters::Destination;

use crate::check::{self, Filled};
use crate::plan::asked::{Asked, Buffer};
use crate::storage::file::SourceFile;
use crate::transfer::{Around, Options, Request, Source, TransferError};

/// A load to be run, of files that the kernel has or, with [`DriveFile`], of files on a drive that
/// this process drives itself.
///
/// [`DriveFile`]: crate::storage::nvme::DriveFile
#[derive(Clone, Debug)]
pub struct Load<'a, S = SourceFile> {
    /// The files, named by their index in the requests.
    pub files: &'a [S],
    /// What to load.
    pub requests: &'a [Request],
    /// What may become of the buffer's other bytes.
    pub around: Around,
    /// Where to.
    pub destination: &'a dyn Destination,
    /// How.
    pub options: Options,
    /// Set to true by anyone, at any time, it ends the load early with [`TransferError::Stopped`], as soon as the
    /// reads that are under way are answered.
    pub stop: &'a AtomicBool,
}

impl<S: Source> Load<'_, S> {
    /// What the planner decides by, if it makes sense.
    pub(super) fn asked(&self, buffer: Buffer) -> Result<Asked<'_, S>, TransferError> {
        let asked = Asked {
            files: self.files,
            requests: self.requests,
            around: self.around,
            options: &self.options,
            buffer,
            stop: self.stop,
        };
        asked.validate()?;
        Ok(asked)
    }

    /// What is filled, and with what.
    pub(super) const fn filled(&self) -> Filled<'_, S> {
        let Self { files, requests, destination, stop, .. } = self;
        Filled { files, requests, destination: *destination, stop }
    }

    /// That the buffer has gone away, if it has, and else the error that was met.
    pub(super) fn lost_or(&self, error: TransferError) -> TransferError {
        check::present(self.destination).err().unwrap_or(error)
    }
}
