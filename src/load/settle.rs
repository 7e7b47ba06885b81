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
use crate::transfer::{Checked, Progress, Receipt, Source, TransferError, Valid, Verify};

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
        let read_back = accounts.read_back();
        let fingerprints = accounts.fingerprints();
        let (parts, valid) = accounts.finish(self.stop.load(Ordering::Relaxed))?;
        let (elapsed, cpu) = clock.elapsed();
        let checked = self.check(fingerprints.whole(parts), (place, &valid), again, progress);
        // A file that something changes is not the one that its checksums are of.
        if matches!(checked, Ok(_) | Err(TransferError::Mismatch { .. })) {
            self.check_unchanged()?;
        }
        let mut checked = checked?;
        checked.read_back += read_back;
        let device = place == Place::Gpu;
        Ok(Receipt {
            bytes: valid.wanted(),
            left_out: Vec::new(),
            cpu_copied: decided.cpu_copied(device),
            gpu_copied: if device { valid.wanted() } else { 0 },
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

    /// Proves what the options ask for of the bytes in the buffer.
    fn check(
        &self,
        fingerprints: Vec<u32>,
        (place, valid): (Place, &Valid),
        again: SecondRead<'_, S>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Checked, TransferError> {
        let mut checked = Checked { verify: self.options.verify, ..Checked::default() };
        if self.options.verify == Verify::None {
            return Ok(checked);
        }
        checked.format_checksums = self.compare_checksums(&fingerprints)?;
        checked.fingerprints = fingerprints;
        if self.options.verify == Verify::Full {
            checked.compared = check::compare(&self.filled(), valid, again, progress)?;
            if matches!(place, Place::Peer | Place::Bar) {
                checked.read_back = checked.compared;
            }
        }
        Ok(checked)
    }

    /// Fails for the first file that something may have changed, of those that were read.
    fn check_unchanged(&self) -> Result<(), TransferError> {
        let read: BTreeSet<_> = self.requests.iter().map(|request| request.file).collect();
        read.into_iter().try_for_each(|file| self.files[file].check_unchanged())
    }

    fn compare_checksums(&self, fingerprints: &[u32]) -> Result<usize, TransferError> {
        let mut met = 0;
        for (request, &found) in self.requests.iter().zip(fingerprints) {
            met += usize::from(check::meets(&self.files[request.file], request, found)?);
        }
        Ok(met)
    }
}
