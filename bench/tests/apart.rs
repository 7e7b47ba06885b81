//! Two drives under root ports that the kernel does not trust to forward between them.

mod peer;

use std::process::ExitCode;

fn main() -> ExitCode {
    bufmap_bench::run("apart", &[("a_read_into_peer_memory_is_refused", peer::is_refused)])
}
