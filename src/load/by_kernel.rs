//! Loads by the kernel's drivers.

use exporters::Intent;

use super::accounts::Accounts;
use super::call::Load;
use crate::check::Fingerprints;
use crate::engine::clock::Clock;
use crate::plan::Place;
use crate::plan::asked::Buffer;
use crate::plan::by_kernel::decide;
use crate::plan::peer::Pairs;
use crate::storage::file::again::Again;
use crate::storage::file::{SourceFile, pread};
use crate::traced::Traced;
use crate::transfer::{Progress, Receipt, TransferError, Verify};

impl Load<'_> {
    /// Runs the load to its end. `progress` is called on this thread as pieces land, and ten times a second
    /// at least while none does.
    ///
    /// # Errors
    /// [`TransferError`]; nothing is in flight when it is returned.
    pub fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<Receipt, TransferError> {
        Traced::load(self.files.len(), self.requests.len()).over(|| self.carry_out(progress))
    }

    fn carry_out(&self, progress: &mut dyn FnMut(Progress)) -> Result<Receipt, TransferError> {
        let buffer = Buffer::of_bytes(self.destination)?;
        let place = buffer.place;
        let asked = self.asked(buffer)?;
        let clock = Clock::start();
        let fingerprints = Fingerprints::new(self.requests);
        let pairs = Pairs::of(self.destination);
        let decided = decide(&asked, fingerprints.requested(), pairs);
        let mut decided = decided.map_err(|error| self.lost_or(error))?;
        let mut accounts = Accounts::new(self.filled(), &self.options, &fingerprints);
        let access = self.destination.access(Intent::ReadWrite)?;
        let engine = match (place, self.destination.gpu()) {
            (Place::Gpu, Ok(buffer)) => self.in_windows(
                (&decided.direct, &decided.copied),
                &mut accounts,
                &mut |work, accounts| self.fill_device(buffer, work, accounts, progress),
            ),
            _ => self.fill_memory(&mut decided, &mut accounts, |work, accounts| {
                self.fill_map(work, accounts, progress)
            }),
        }?;
        let mut past_the_cache = Again::default();
        let mut again = |file: &SourceFile, offset, out: &mut _| match self.options.verify {
            Verify::Auto => past_the_cache.read_exact(file, offset, out, self.stop),
            _ => pread::read_exact(file, offset, out, self.stop),
        };
        let receipt =
            self.settle(&clock, (place, decided), engine, accounts, (&mut again, progress))?;
        access.map_or(Ok(()), |access| access.finish())?;
        Ok(receipt)
    }
}
