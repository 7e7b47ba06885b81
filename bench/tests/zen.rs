//! Two root ports of a processor whose host bridge the kernel trusts.

mod peer;

use std::process::ExitCode;

fn main() -> ExitCode {
    bufmap_bench::run("zen", &[("a_read_into_peer_memory_arrives", peer::arrives)])
}
