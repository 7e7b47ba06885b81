//! RDMA in software over an ordinary network card.

use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

use bufmap_bench::{Outcome, check, said};

fn main() -> ExitCode {
    bufmap_bench::run("rdma", &[("two_queue_pairs_ping_each_other", ping)])
}

fn ping() -> Outcome {
    let link = said("ip", &["-br", "link"])?;
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let card = link.lines().filter_map(name).find(|name| name != "lo").ok_or("no network card")?;
    for link in ["lo", &card] {
        said("ip", &["link", "set", link, "up"])?;
    }
    said("ip", &["addr", "add", "10.0.2.15/24", "dev", &card])?;
    said("rdma", &["link", "add", "rxe0", "type", "rxe", "netdev", &card])?;
    let arguments = ["-d", "rxe0", "-g", "1"];
    let mut server =
        Command::new("ibv_rc_pingpong").args(arguments).stdout(Stdio::null()).spawn()?;
    sleep(Duration::from_secs(1)); // It has no way to say that it listens.
    let client = said("ibv_rc_pingpong", &["-d", "rxe0", "-g", "1", "10.0.2.15"]);
    if client.is_err() {
        server.kill()?;
    }
    let served = server.wait()?;
    let client = client?;
    check(client.contains("bytes in"), client)?;
    check(served.success(), served)
}
