//! Ten thousand loads by the kernel into the memory of another drive, of which nothing is left.

mod peer;

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use bufmap::load::Load;
use bufmap::storage::file::SourceFile;
use bufmap::transfer::{Around, DataPath, Options, Request};
use bufmap_bench::cut_short::holds;
use bufmap_bench::drive::Drive;
use bufmap_bench::leaks::leave_nothing;
use bufmap_bench::{Outcome, check};

fn main() -> ExitCode {
    let cycles = ("ten_thousand_loads_into_peer_memory_leave_nothing_behind", cycles as fn() -> _);
    bufmap_bench::run("switch-counted", &[cycles])
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
