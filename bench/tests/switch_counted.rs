//! Ten thousand loads by the kernel into the memory of another drive, of which nothing is left.

mod peer;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bufmap::engine::{self, Buffer, Loader};
use bufmap::load::Load;
use bufmap::storage::file::SourceFile;
use bufmap::transfer::{Around, DataPath, Options, Request};
use bufmap_bench::cut_short::holds;
use bufmap_bench::drive::Drive;
use bufmap_bench::leaks::{cpu_time, leave_nothing};
use bufmap_bench::{Outcome, check};
use libtest_mimic::Failed;

fn main() -> ExitCode {
    bufmap_bench::run(
        "switch-counted",
        &[
            ("ten_thousand_loads_into_peer_memory_leave_nothing_behind", cycles),
            ("a_loader_s_second_load_costs_little", second_load),
        ],
    )
}

/// The first finds out whether the drive may write into the memory; the others know it. The kernel's part is counted too,
/// on all threads.
fn second_load() -> Outcome {
    const SOME: u64 = 8 << 10;
    let memory = Arc::new(peer::memory(SOME as usize)?);
    let loader = Loader::new()?;
    let file = loader.open(Drive::with_serial("reader")?.block)?;
    let buffer = Buffer::new(memory.clone())?;
    let load = || -> Result<u64, Failed> {
        memory.map().fill(0xEE)?;
        let start = cpu_time();
        let request = engine::Request::new(&file, 0..SOME, &buffer, 0).require(DataPath::Peer);
        let landed = loader.submit(request)?.wait()?;
        let cost = (cpu_time() - start).as_nanos() as u64;
        check(landed.paths.of(DataPath::Peer) == SOME, format!("{landed:?}"))?;
        holds(&memory.map(), 0..SOME)?;
        Ok(cost)
    };
    let (first, second) = (load()?, (0..10).map(|_| load()).collect::<Result<Vec<_>, _>>()?);
    println!("instructions for the first load of {SOME} bytes: {first}; for others: {second:?}");
    let most = second.iter().max().ok_or("none")?;
    check(*most <= 100_000, format!("{most} for one that is not the first"))
}

/// Peer memory taken, loaded into and given back.
fn cycles() -> Outcome {
    const SOME: u64 = 8 << 10;
    let (provider, reader) = (peer::provider()?, Drive::with_serial("reader")?.block);
    let each = leave_nothing(
        || Ok(provider.available()?),
        |_| {
            let memory = provider.allocate(SOME as usize)?;
            memory.map().fill(0xEE)?;
            let receipt = Load {
                files: &[SourceFile::open(&reader)?],
                requests: &[Request::new(0, 0, SOME, 0)],
                around: Around::Untouched,
                destination: &memory,
                options: Options { require: Some(DataPath::Peer), ..Options::default() },
                stop: &AtomicBool::new(false),
            }
            .run(&mut |_| ())?;
            check(receipt.bytes == SOME && receipt.cpu_copied == 0, format!("{receipt:?}"))?;
            holds(&memory.map(), 0..SOME)
        },
    )?;
    println!("instructions to allocate, load {SOME} bytes and free: {}", each.as_nanos());
    Ok(())
}
