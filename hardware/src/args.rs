//! The command line.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Parser;

use crate::steps;

/// Finds out what this machine does for bufmap, and writes hardware.md and hardware.json.
///
/// Each step runs in a process of its own with a time limit. A step that fails, crashes or takes too long does
/// not stop the rest, and what the machine lacks is named. No root and no network is needed; root sees more.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Args {
    /// Where hardware.md and hardware.json go, into a directory named by the date and the machine
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub out: PathBuf,

    /// Where the file to load is made, on the drive that shall be measured; as --out if not given
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,

    /// How long the file is at most; less where there is no room or the drive is slow
    #[arg(long, default_value = "4GiB", value_name = "SIZE")]
    pub size: ByteSize,

    /// How long all steps together may take, in seconds
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub limit: u64,

    /// Only this step; may be given several times
    #[arg(long = "only", value_name = "STEP", value_parser = steps::names())]
    pub only: Vec<String>,

    /// Run one step in this process, for at most --limit seconds: how the program calls itself
    #[arg(long, hide = true, value_name = "STEP", value_parser = steps::names())]
    pub step: Option<String>,
}
