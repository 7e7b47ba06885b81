//! A loader that stays, into the peer memory of a drive.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bufmap::engine::{Buffer, Landed, Loader, Request};
use bufmap::transfer::{DataPath, TransferError};
use bufmap_bench::drive::{Drive, pattern};
use bufmap_bench::{Outcome, check};
use libtest_mimic::Failed;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

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

/// What was found out about a pair is asked for again when the kernel has told of a change, and not otherwise.
pub fn learns_of_changes() -> Outcome {
    let memory = Arc::new(super::memory(LEN as usize)?);
    let loader = Loader::new()?;
    let drive = Drive::with_serial("reader")?;
    let (file, buffer) = (loader.open(&drive.block)?, Buffer::new(memory)?);
    let asks = || -> Result<bool, Failed> {
        super::loads::forget()?;
        let landed = loader.submit(Request::new(&file, 0..4096, &buffer, 0))?.wait()?;
        check(landed.paths.of(DataPath::Peer) == 4096, format!("{landed:?}"))?;
        super::loads::is_any_kept()
    };
    check(asks()?, "nothing was found out for the first request")?;
    check(!asks()?, "it was found out again for the second")?;
    fs::write("/sys/devices/system/cpu/cpu0/uevent", "change")?;
    check(!asks()?, "it was found out again for what happened to a processor")?;

    let name = drive.block.file_name().ok_or("a drive without a name")?;
    fs::write(Path::new("/sys/class/block").join(name).join("uevent"), "change")?;
    check(asks()?, "the kernel told of the drive, and nobody listened")?;
    check(!asks()?, "it was found out again after that")?;

    let mounted = std::env::temp_dir().join("a-loader-learns-of-changes");
    fs::create_dir_all(&mounted)?;
    mount("none", &mounted, "tmpfs", MountFlags::empty(), None)?;
    check(asks()?, "something was mounted, and nobody looked")?;
    check(!asks()?, "it was found out again after that")?;
    unmount(&mounted, UnmountFlags::empty())?;
    check(asks()?, "something was unmounted, and nobody looked")
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
