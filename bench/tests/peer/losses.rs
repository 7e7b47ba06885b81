//! A loader that stays, while what it loads from and into is taken away by the kernel, and comes back.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bufmap::engine::{Buffer, File, Landed, Loader, LoaderOptions, Request};
use bufmap::transfer::{DataPath, TransferError};
use bufmap_bench::cut_short::{LEN, SOON, holds};
use bufmap_bench::drive::Drive;
use bufmap_bench::{Outcome, check};
use exporters::PeerMemory;
use iomap::{Memory, PageSize};
use libtest_mimic::Failed;

/// A drive of 4 MiB a second.
const SLOW: &str = "victim";

fn loader() -> Result<Loader, Failed> {
    Ok(Loader::with(LoaderOptions::default().depth(4).block(256 << 10))?)
}

/// Has `len` bytes of a drive loaded into its peer memory by the drive.
fn by_peer(loader: &Loader, file: &File, memory: Arc<PeerMemory>, len: u64) -> Outcome {
    memory.map().fill(0xEE)?;
    let buffer = Buffer::new(memory.clone())?;
    let request = Request::new(file, 0..len, &buffer, 0).require(DataPath::Peer);
    let landed: Landed = loader.submit(request)?.wait()?;
    check(landed.paths.of(DataPath::Peer) == len, format!("{landed:?}"))?;
    holds(&memory.map(), 0..len)
}

/// Requests into memory whose driver is unbound end with that error, also those that come after it; the loader loads into the
/// memory that the driver gives out when it is back.
pub fn of_the_provider(unbind: fn() -> Outcome) -> Outcome {
    let loader = loader()?;
    let file = loader.open(Drive::with_serial(SLOW)?.block)?;
    let memory = Arc::new(super::memory(LEN as usize)?);
    by_peer(&loader, &file, memory.clone(), SOON)?;
    let buffer = Buffer::new(memory)?;
    let fingerprints = loader.submit(Request::new(&file, 0..LEN, &buffer, 0).fingerprints())?;
    let plain = loader.submit(Request::new(&file, SOON..LEN, &buffer, SOON))?;
    thread::sleep(Duration::from_millis(500));
    let since = Instant::now();
    unbind()?;
    let late = Request::new(&file, 0..4096, &buffer, 0);
    let late = loader.submit(late).map_or_else(Err, |ticket| ticket.wait());
    for outcome in [fingerprints.wait(), plain.wait(), late] {
        match outcome {
            Err(error @ TransferError::BufferLost { .. }) => println!("{error}"),
            other => return Err(format!("{other:?}").into()),
        }
    }
    println!("all were answered {:?} after the driver was unbound", since.elapsed());
    drop(buffer);
    by_peer(&loader, &file, Arc::new(super::memory(SOON as usize)?), SOON)
}

/// Requests of a drive that is unbound end with the kernel's answer and the truth about what is valid; when it is back its
/// path is another file's, which is loaded from. What was found out about another drive meanwhile is found out anew.
pub fn of_the_drive() -> Outcome {
    let loader = loader()?;
    let drive = Drive::with_serial(SLOW)?;
    let file = loader.open(&drive.block)?;
    let peer = Buffer::new(Arc::new(super::memory(LEN as usize)?))?;
    let other = loader.open(Drive::with_serial("reader")?.block)?;
    let asks = || -> Result<bool, Failed> {
        super::loads::forget()?;
        let landed = loader.submit(Request::new(&other, 0..4096, &peer, 0))?.wait()?;
        check(landed.paths.of(DataPath::Peer) == 4096, format!("{landed:?}"))?;
        super::loads::is_any_kept()
    };
    check(asks()? && !asks()?, "it is found out once")?;

    let memory = Arc::new(Memory::anonymous(LEN as usize, PageSize::Base)?);
    let buffer = Buffer::new(memory.clone())?;
    let ticket = loader.submit(Request::new(&file, 0..LEN, &buffer, 0))?;
    thread::sleep(Duration::from_millis(700));
    let address = drive.address()?;
    let since = Instant::now();
    let unbind = format!("/sys/bus/pci/devices/{address}/driver/unbind");
    fs::write(unbind, address.to_string())?;
    match ticket.wait() {
        Err(TransferError::Read { source, valid, .. }) => {
            println!("{source}, {valid}, {:?} after it was unbound", since.elapsed());
            check(matches!(source.raw_os_error(), Some(libc::ENODEV | libc::EIO)), source)?;
            check(valid.bytes() > 0 && valid.bytes() < LEN, &valid)?;
            valid.ranges().iter().try_for_each(|range| holds(&memory.map(), range.clone()))?;
        }
        other => return Err(format!("{other:?}").into()),
    }
    check(asks()?, "a driver was unbound, and nobody listened")?;

    // Nobody has the old one open any more, so that the drive gets its name back.
    drop((file, buffer));
    let drive = Drive::returned(SLOW)?;
    check(asks()?, "a drive has come back, and nobody listened")?;
    check(!asks()?, "it is found out again without a change")?;
    let file = loader.open(&drive.block)?;
    by_peer(&loader, &file, Arc::new(super::memory(SOON as usize)?), SOON)
}
