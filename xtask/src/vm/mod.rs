//! `cargo xtask vm`: the virtual test bench, a machine in software with the hardware in it.

pub mod boot;
pub mod guest;
mod interrupt;
mod kernel;
pub mod suite;
mod surroundings;
pub mod topologies;

use std::os::fd::AsFd;
use std::time::Duration;

use clap::Args;

use self::boot::Boot;
use self::interrupt::end_guests_on_ctrl_c;
use self::surroundings::Surroundings;
use self::topologies::{Machine, TOPOLOGIES};
use crate::child::Error;
use crate::packages;

#[derive(Args)]
pub struct Options {
    /// Which machine to boot
    #[arg(long, default_value = "plain", value_name = "NAME")]
    topology: String,
    /// List the machines and end
    #[arg(long)]
    list: bool,
    /// Make one guest nanosecond one guest instruction, so that a cost is a count
    #[arg(long)]
    counted: bool,
    /// End the guest after so many seconds
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    time_limit: u64,
    #[command(flatten)]
    given: guest::Given,
    /// What to run in it, with the host's files where the host has them; a shell if nothing is given
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Sees to it that this host can run a guest and that Ctrl-C ends it in order.
fn make_ready(install: bool) -> Result<(), Error> {
    packages::bench_is_there(install)
        .map_err(|what| Error::Missing { what, remedy: "then run the command again".to_owned() })?;
    end_guests_on_ctrl_c()
}

/// Boots a machine and runs a command in it. Returns the command's exit status.
pub fn run(options: &Options) -> Result<i32, Error> {
    if options.list {
        for topology in TOPOLOGIES {
            println!("{:10} {}", topology.name, topology.shows);
        }
        return Ok(0);
    }
    let machine = Machine::named(&options.topology, options.counted)?;
    make_ready(options.given.needs_root())?;
    let guest = options.given.guest()?;
    for line in guest.versions.lines() {
        eprintln!("{}", line.replace('\t', " "));
    }
    let surroundings = Surroundings::of(machine)?;
    let boot = Boot {
        guest: &guest,
        machine,
        command: &options.command,
        surroundings: &surroundings,
        limit: Duration::from_secs(options.time_limit),
    };
    let output = std::io::stdout().as_fd().try_clone_to_owned();
    boot.run(output.map_err(|source| Error::Start {
        command: "dup".to_owned(),
        source,
        remedy: "close other programs".to_owned(),
    })?)
}
