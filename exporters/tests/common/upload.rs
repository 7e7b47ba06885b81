//! Queues that copy, whichever device they are of.

use exporters::upload::{CopyRegion, Filled, UploadError, UploadQueue, UploadTarget};

use super::common::{Outcome, check};

/// Fills a target out of three slots, two together, several pieces each, and the last bytes of a slot first.
pub fn fill(queue: &mut dyn UploadQueue, target: &dyn UploadTarget, bytes: &[u8]) -> Outcome {
    check(target.len() == bytes.len() && target.owner().owns(target), "another target")?;
    let granule = target.granule();
    // Where they begin in a slot, and behind one another with as much between.
    let (first, gap) = (3, 5);
    let piece = (queue.slot_len() - first - gap) / 2 / granule * granule;
    check(piece > 0, "a slot is shorter than two granules")?;
    let mut together = Vec::new();
    for (index, both) in bytes.chunks(2 * piece).enumerate() {
        let slot = queue.wait_for_slot()?;
        let mut regions = Vec::new();
        for (half, bytes) in both.chunks(piece).enumerate() {
            let src_offset = first + half * (piece + gap);
            slot.map().copy_from_slice(src_offset, bytes)?;
            let dst_offset = (2 * index + half) * piece;
            regions.push(CopyRegion { src_offset, dst_offset, len: bytes.len() });
        }
        regions.reverse();
        together.push(Filled { slot, regions });
        if together.len() == 2 {
            let _ = queue.copy_together(std::mem::take(&mut together), target)?;
        }
    }
    for Filled { slot, regions } in together {
        let _ = queue.copy(slot, target, &regions)?;
    }
    let done = queue.finish(target)?;
    queue.wait(done)?;
    check(queue.is_done(done)?, "waited for and not done")
}

/// What every queue refuses. `target` has room for sixteen granules at least, and may be filled with anything.
pub fn refusals(
    queue: &mut dyn UploadQueue,
    target: &dyn UploadTarget,
    foreign: &dyn UploadTarget,
) -> Outcome {
    let (granule, slot_len) = (target.granule(), queue.slot_len());
    check(!target.owner().owns(foreign), "another device's")?;
    // All slots and no more, which are free again when they are handed in or dropped.
    let mut slots = Vec::new();
    while let Some(slot) = queue.slot()? {
        check(slot.map().len() == slot_len, slot.map().len())?;
        slots.push(slot);
    }
    let count = slots.len();
    let none = queue.wait_for_slot().map(drop);
    check(
        matches!(none, Err(UploadError::AllTaken { slots }) if slots == count),
        format!("{none:?}"),
    )?;
    let bad = [
        (0, target.len(), granule),
        (0, usize::MAX / granule * granule, granule),
        (slot_len, 0, granule),
        (usize::MAX, 0, granule),
        (0, 0, slot_len + granule),
    ];
    let divided = [(0, 1, granule), (0, 0, granule - 1), (0, granule, granule + 1)];
    let divided = divided.into_iter().filter(|_| granule > 1);
    for (src_offset, dst_offset, len) in bad.into_iter().chain(divided) {
        let slot = slots.pop().map_or_else(|| queue.wait_for_slot(), Ok)?;
        let refused = queue.copy(slot, target, &[CopyRegion { src_offset, dst_offset, len }]);
        let device = matches!(refused, Err(UploadError::Device { .. }));
        check(device, format!("{src_offset} {dst_offset} {len}: {refused:?}"))?;
    }
    let slot = slots.pop().map_or_else(|| queue.wait_for_slot(), Ok)?;
    let region = CopyRegion { src_offset: 0, dst_offset: 0, len: granule };
    let refused = queue.copy(slot, foreign, &[region]);
    check(matches!(refused, Err(UploadError::OtherQueue)), format!("{refused:?}"))?;
    let refused = queue.finish(foreign);
    check(refused.is_err(), format!("{refused:?}"))?;
    let mut other = target.owner().open(1, 4096)?;
    let refused = queue.copy(other.wait_for_slot()?, target, &[region]);
    check(matches!(refused, Err(UploadError::OtherQueue)), format!("{refused:?}"))?;
    check(other.slot()?.is_some(), "the other queue has lost its slot")?;
    drop(slots);
    let free = (0..count).map(|_| queue.wait_for_slot()).collect::<Result<Vec<_>, _>>()?;
    check(free.len() == count, "a slot is lost")
}
