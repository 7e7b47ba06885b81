//! A switch that forwards nothing: the kernel reports success and the data never arrives.

mod peer;

use std::process::ExitCode;

fn main() -> ExitCode {
    bufmap_bench::run("liar", &[("a_read_into_peer_memory_is_a_lie", peer::is_a_lie)])
}
