//! A loader that stays, into the peer memory of a drive.

use std::sync::Arc;

use bufmap::engine::{Buffer, Landed, Loader, Request};
use bufmap::transfer::{DataPath, TransferError};
use bufmap_bench::drive::{Drive, pattern};
use bufmap_bench::{Outcome, check};
use libtest_mimic::Failed;

const LEN: u64 = 8 << 20;

/// Requests of every size, and one whose bytes lie elsewhere in the buffer's blocks than in the drive's: whole blocks
/// take `path`, for the reason in `why` if that is not the best.
pub fn fills(path: DataPath, why: &str) -> Outcome {
    super::loads::forget()?;
    let memory = Arc::new(super::memory(LEN as usize)?);
    memory.map().fill(0xEE)?;
    let loader = Loader::new()?;
    let file = loader.open(Drive::with_serial("reader")?.block)?;
    let buffer = Buffer::new(memory.clone())?;
    let load = |from: u64, to: u64, at: u64| -> Result<Landed, Failed> {
        let request = Request::new(&file, from..to, &buffer, at).fingerprints();
        Ok(loader.submit(request)?.wait()?)
    };
    let all = [
        (load(0, LEN / 2, 0)?, LEN / 2),
        (load(LEN / 2, LEN / 2 + 4096, LEN / 2)?, 4096),
        (load(LEN / 2 + 4096, LEN, LEN / 2 + 4096)?, LEN / 2 - 4096),
    ];
    for (landed, bytes) in &all {
        println!("{:?}, {:?}", landed.paths, landed.step_downs);
        check(landed.paths.of(path) == *bytes, format!("{landed:?}"))?;
        let told = landed.step_downs.iter().any(|step| step.why.contains(why));
        check(path == DataPath::Peer || told, format!("{landed:?}"))?;
    }
    let mut found = vec![0; LEN as usize];
    memory.map().copy_to_slice(0, &mut found)?;
    check(found == pattern(LEN as usize), "other bytes")?;
    let shifted = load(1000, 9000, 3)?;
    check(shifted.paths.of(DataPath::Bounce) == 8000, format!("{shifted:?}"))?;
    memory.map().copy_to_slice(0, &mut found)?;
    check(found[3..8003] == pattern(LEN as usize)[1000..9000], "other bytes, shifted")
}

/// Of a drive whose medium fails for the first two reads of its middle: who requires the peer path is told which bytes are
/// valid, and for anybody else what failed is bounced.
pub fn falls_back_in_flight() -> Outcome {
    let loader = Loader::new()?;
    let file = loader.open(Drive::with_serial("flaky-too")?.block)?;
    let memory = Arc::new(super::memory(file.len() as usize)?);
    let expected = pattern(memory.len());
    let buffer = Buffer::new(memory.clone())?;
    let request = || Request::new(&file, 0..file.len(), &buffer, 0);
    let found = || -> Result<Vec<u8>, Failed> {
        let mut found = vec![0; memory.len()];
        memory.map().copy_to_slice(0, &mut found)?;
        Ok(found)
    };

    memory.map().fill(0xEE)?;
    let error = loader.submit(request().require(DataPath::Peer))?.wait();
    let Err(TransferError::Read { valid, .. }) = &error else {
        return Err(format!("{error:?}").into());
    };
    check(valid.bytes() > 0 && valid.bytes() < valid.wanted(), valid)?;
    let bytes = found()?;
    for range in valid.ranges() {
        let range = range.start as usize..range.end as usize;
        check(bytes[range.clone()] == expected[range.clone()], format!("{range:?} differ"))?;
    }

    memory.map().fill(0xEE)?;
    let landed = loader.submit(request())?.wait()?;
    println!("{:?}, {:?}", landed.paths, landed.step_downs);
    let bounced = landed.paths.of(DataPath::Bounce);
    check(bounced > 0 && landed.paths.of(DataPath::Peer) + bounced == landed.bytes, bounced)?;
    let [step_down] = &landed.step_downs[..] else {
        return Err(format!("{:?}", landed.step_downs).into());
    };
    check(step_down.bytes == bounced && step_down.why.contains("in flight"), &step_down.why)?;
    check(found()? == expected, "other bytes")
}
