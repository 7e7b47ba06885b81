//! `cargo xtask vm`: the virtual test bench, a machine in software with the hardware in it.

pub mod boot;
pub mod guest;
mod kernel;
pub mod suite;
pub mod topologies;

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;

use self::boot::Boot;
use self::topologies::{Machine, TOPOLOGIES};
use crate::child::{self, Error};
use crate::files;
use crate::inputs;
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

/// Set by Ctrl-C once a guest may be running: it is ended in order, and leaves nothing behind.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Sees to it that this host can run a guest and that Ctrl-C ends it in order.
fn make_ready(install: bool) -> Result<(), Error> {
    packages::bench_is_there(install)
        .map_err(|what| Error::Missing { what, remedy: "then run the command again".to_owned() })?;
    end_guests_on_ctrl_c()
}

/// Has Ctrl-C end guests in order from now on.
fn end_guests_on_ctrl_c() -> Result<(), Error> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).map_err(|error| {
        Error::Missing { what: error.to_string(), remedy: "run the command again".to_owned() }
    })
}

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
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

/// What a guest has of the host: the project, and the real inputs if they were fetched.
pub struct Surroundings {
    /// Directories that the guest sees where the host has them, read-only.
    shares: Vec<PathBuf>,
    /// A directory that is a writable file system of its own in the guest, on a disk.
    scratch: PathBuf,
    /// Variables of the command's environment.
    environment: Vec<(String, String)>,
}

impl Surroundings {
    fn of(machine: Machine) -> Result<Self, Error> {
        let scratch = child::workspace().join("target/tmp");
        files::make_directory(&scratch)?;
        let mut shares = vec![child::workspace().to_owned()];
        let mut environment = vec![("BUFMAP_TOPOLOGY".to_owned(), machine.name())];
        let inputs = inputs::directory()?;
        if inputs.is_dir() {
            environment.push((inputs::VARIABLE.to_owned(), inputs.display().to_string()));
            shares.push(inputs);
        }
        Ok(Self { shares, scratch, environment })
    }
}
