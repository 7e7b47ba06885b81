//! RDMA in software over an ordinary network card.

use std::fs;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use bufmap_bench::{Outcome, check, comes_true, said};

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
    wait_for_listener()?;
    let client = said("ibv_rc_pingpong", &["-d", "rxe0", "-g", "1", "10.0.2.15"]);
    if client.is_err() {
        server.kill()?;
    }
    let served = server.wait()?;
    let client = client?;
    check(client.contains("bytes in"), client)?;
    check(served.success(), served)
}

/// Waits until somebody listens on the port of `ibv_rc_pingpong`, 18515, as the kernel tells
/// (`Documentation/networking/proc_net_tcp.rst`): the server has no way to say so itself.
fn wait_for_listener() -> Outcome {
    const LISTENS: &str = ":4853 ";
    const STATE: &str = " 0A ";
    let listens = comes_true(Duration::from_secs(30), || {
        let sockets = fs::read_to_string("/proc/net/tcp")? + &fs::read_to_string("/proc/net/tcp6")?;
        Ok(sockets.lines().any(|line| line.contains(LISTENS) && line.contains(STATE)))
    })?;
    check(listens, "ibv_rc_pingpong does not listen")
}
