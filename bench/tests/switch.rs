//! Two drives under one PCIe switch: the kernel maps bus addresses.

mod peer;

use std::process::ExitCode;

use bufmap_bench::drive::Drive;
use bufmap_bench::peer::{PeerMemory, frames, published};
use bufmap_bench::{Outcome, check};

fn main() -> ExitCode {
    bufmap_bench::run(
        "switch",
        &[
            ("a_read_into_peer_memory_arrives", peer::arrives),
            ("peer_memory_is_published", || {
                let size = published(&Drive::with_serial("provider")?)?;
                check(size == 64 << 20, format!("{size} bytes"))
            }),
            ("frames_of_peer_memory_are_those_of_a_bar", frames_are_a_bars),
        ],
    )
}

fn frames_are_a_bars() -> Outcome {
    let provider = Drive::with_serial("provider")?;
    let memory = PeerMemory::of(&provider, peer::LEN)?;
    memory.map().fill(0)?; // A page has a frame once it was touched.
    let bars = provider.bars()?;
    for frame in frames(&memory.map())? {
        let address = frame * 4096;
        let inside = bars.iter().any(|&(start, end)| (start..=end).contains(&address));
        check(frame != 0 && inside, format!("{address:#x} is in none of {bars:x?}"))?;
    }
    Ok(())
}
