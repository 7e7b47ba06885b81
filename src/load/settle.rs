//! The end of a load: what landed is checked, and accounted for.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::accounts::Accounts;
use super::call::Load;
use super::fill::Engine;
use crate::check::{self, SecondRead};
use crate::engine::clock::Clock;
use crate::plan::Place;
use crate::plan::decided::Decided;
use crate::transfer::{Progress, Receipt, Source, TransferError};

impl<S: Source> Load<'_, S> {
    /// Checks what landed, and accounts for it.
    pub(super) fn settle(
        &self,
        clock: &Clock,
        (place, decided): (Place, Decided),
        engine: Engine,
        accounts: Accounts<'_, S>,
        (again, progress): (SecondRead<'_, S>, &mut dyn FnMut(Progress)),
    ) -> Result<Receipt, TransferError> {
        check::present(self.destination)?;
        let fingerprints = accounts.fingerprints();
        let whole = accounts.finish(self.stop.load(Ordering::Relaxed))?;
        let wanted = whole.valid.wanted();
        let (elapsed, cpu) = clock.elapsed();
        let checked = self.check(whole, fingerprints, (place, &decided), (again, progress));
        // A file that something changes is not the one that its checksums are of.
        if matches!(checked, Ok(_) | Err(TransferError::Mismatch { .. })) {
            self.check_unchanged()?;
        }
        let checked = checked?;
        let device = place == Place::Gpu;
        Ok(Receipt {
            bytes: wanted,
            left_out: Vec::new(),
            cpu_copied: decided.cpu_copied(device),
            gpu_copied: if device { wanted } else { 0 },
            reads: decided.reads(),
            paths: decided.shares,
            step_downs: decided.step_downs,
            engine: engine.words,
            slots: engine.slots,
            elapsed,
            cpu,
            proofs: decided.proofs,
            checked,
        })
    }

    /// Fails for the first file that something may have changed, of those that were read.
    fn check_unchanged(&self) -> Result<(), TransferError> {
        let read: BTreeSet<_> = self.requests.iter().map(|request| request.file).collect();
        read.into_iter().try_for_each(|file| self.files[file].check_unchanged())
    }
}
