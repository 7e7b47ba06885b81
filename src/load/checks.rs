//! What is proved about the bytes of a load when the last one is in place, and the account of all that was.

use super::accounts::Whole;
use super::call::Load;
use crate::check::{
    self, Comparison, Extent, Filled, Fingerprints, FirstUse, Parts, SecondRead, asked_of,
    compare_some,
};
use crate::plan::Place;
use crate::plan::decided::Decided;
use crate::transfer::{
    Check, CheckShare, CheckStepDown, Checked, Progress, Source, TransferError, Valid, Verify,
};

impl<S: Source> Load<'_, S> {
    /// Proves what the options ask for of the bytes in the buffer.
    pub(super) fn check(
        &self,
        whole: Whole,
        fingerprints: &Fingerprints<'_>,
        (place, decided): (Place, &Decided),
        (again, progress): (SecondRead<'_, S>, &mut dyn FnMut(Progress)),
    ) -> Result<Checked, TransferError> {
        let Whole { mut parts, valid, fingerprinted } = whole;
        let verify = self.options.verify;
        let mut checked = Checked { verify, ..Checked::default() };
        if verify == Verify::None {
            return Ok(checked);
        }
        checked.read_back = fingerprinted.read_back;
        let mut checks = vec![
            (Check::FingerprintInBuffer, fingerprinted.in_buffer),
            (Check::FingerprintInSlot, fingerprinted.in_slots),
        ];
        if verify == Verify::Auto {
            let prints = (fingerprints, &mut parts);
            let looked_at = self.look(prints, (decided, &valid), (&mut *again, &mut *progress))?;
            checked.compared = looked_at.compared;
            checked.read_back += looked_at.compared;
            checks.push((looked_at.check(), looked_at.of));
        }
        let found = fingerprints.known(parts);
        self.compare_checksums(&found, &mut checked)?;
        if verify == Verify::Auto && place == Place::Gpu && valid.wanted() > 0 {
            let bytes = fingerprinted.in_slots;
            match self.compare_by_gpu(&found, &valid, (&mut *again, &mut *progress))? {
                Ok(()) => checks = vec![(Check::FingerprintByGpu, bytes)],
                Err(why) => {
                    let check = Check::FingerprintByGpu;
                    checked.step_downs.push(CheckStepDown { check, why, bytes });
                }
            }
        }
        checked.fingerprints = found;
        if verify == Verify::Full {
            checked.compared = check::compare(&self.filled(), &valid, again, progress)?;
            if matches!(place, Place::Peer | Place::Bar) {
                checked.read_back = checked.compared;
            }
            checks = vec![(Check::Compared, checked.compared)];
        }
        checks.retain(|(_, bytes)| *bytes > 0);
        checks.sort_unstable();
        let share = |(check, bytes)| CheckShare { check, bytes };
        checked.checks = checks.into_iter().map(share).collect();
        Ok(checked)
    }

    /// Compares some of what drives wrote into a peer's memory with a second read; all of it, if this process uses a pair of
    /// drive and memory for the first time.
    fn look(
        &self,
        (fingerprints, parts): (&Fingerprints<'_>, &mut Parts),
        (decided, valid): (&Decided, &Valid),
        (again, progress): (SecondRead<'_, S>, &mut dyn FnMut(Progress)),
    ) -> Result<LookedAt, TransferError> {
        let mut looked_at = LookedAt { of: 0, compared: 0 };
        if decided.peer.is_empty() {
            return Ok(looked_at);
        }
        let first = FirstUse::of(&decided.proofs);
        let extent = if first.is_any() { Extent::All } else { Extent::Sample };
        let filled = self.filled();
        let mut comparison = Comparison::new(&filled, valid, again, progress)?;
        for batch in &decided.peer {
            let runs = asked_of(batch, fingerprints.requested());
            looked_at.of += runs.iter().map(|run| run.len).sum::<u64>();
            compare_some(&runs, extent, (fingerprints, &mut *parts), &mut comparison)?;
        }
        looked_at.compared = comparison.compared;
        first.done();
        Ok(looked_at)
    }

    /// Compares the fingerprints of what was read with those that a GPU takes of what lies in its memory, unless it takes none.
    fn compare_by_gpu(
        &self,
        found: &[Option<u32>],
        valid: &Valid,
        (again, progress): (SecondRead<'_, S>, &mut dyn FnMut(Progress)),
    ) -> Result<Result<(), String>, TransferError> {
        let by_gpu = match check::by_gpu(self.destination, self.requests)? {
            Ok(by_gpu) => by_gpu,
            Err(why) => return Ok(Err(why)),
        };
        let mut pairs = self.requests.iter().zip(found).zip(by_gpu);
        let other = pairs.find(|((_, found), by_gpu)| **found != Some(*by_gpu));
        let Some(((request, found), by_gpu)) = other else { return Ok(Ok(())) };
        // Which byte it is, a second read tells.
        let filled = Filled { requests: std::slice::from_ref(request), ..self.filled() };
        check::compare(&filled, valid, again, progress)?;
        Err(TransferError::Mismatch {
            path: self.files[request.file].path().to_owned(),
            offset: request.offset,
            what: format!(
                "the GPU finds the CRC-32 {by_gpu:08x} in its memory, and what was read has {:08x}",
                found.unwrap_or_default()
            ),
        })
    }

    fn compare_checksums(
        &self,
        found: &[Option<u32>],
        checked: &mut Checked,
    ) -> Result<(), TransferError> {
        for (request, found) in self.requests.iter().zip(found) {
            match found {
                Some(found) => {
                    let met = check::meets(&self.files[request.file], request, *found)?;
                    checked.format_checksums += usize::from(met);
                }
                None => checked.format_checksums_left += usize::from(request.crc32.is_some()),
            }
        }
        Ok(())
    }
}

/// What was looked at of the bytes that drives wrote into a peer's memory.
struct LookedAt {
    of: u64,
    compared: u64,
}

impl LookedAt {
    const fn check(&self) -> Check {
        if self.compared == self.of { Check::Compared } else { Check::Sample }
    }
}
