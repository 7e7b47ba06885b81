//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use bufmap::load::format::Format;
use bufmap::load::{Road, Verify};
use bufmap::pci::{Address, PciError};
use bytesize::ByteSize;
use clap::{Parser, Subcommand, ValueEnum};

/// Moves files by DMA into memory that a GPU can use, and says how.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  bufmap probe                                   what this machine offers, and what is missing
  bufmap load model.safetensors                  every tensor into system memory
  bufmap load model.safetensors --to vulkan      into a buffer of the first Vulkan device
  bufmap load pack.zip --item textures/a.ktx2    one member of a pack, where it lies
  bufmap load model.safetensors --to p2pmem:0000:03:00.0 --require peer
                                                 from drive to device, or not at all
  bufmap load disk.img --verify full --json      compare every byte, report for programs

Exit status: 0 if all is loaded and checked, 1 if not, 2 for a wrong command line, 130 after Ctrl-C.";

#[derive(Subcommand)]
pub enum Command {
    /// Load files into a buffer by the best road there is
    Load(LoadArgs),
    /// Show what this machine offers for loading, and why the rest is missing
    Probe(ProbeArgs),
}

/// Loads files into one buffer, checks them, and reports which road each byte took and why not a
/// better one.
///
/// Every item of a file (a tensor, a mip level, a pack's member, or the whole file) keeps its
/// alignment in the buffer, so that the drive writes it there itself and no CPU copies it.
#[derive(clap::Args)]
#[command(after_help = ROADS)]
pub struct LoadArgs {
    /// The files: .safetensors, a model's .safetensors.index.json, .ktx2, a zip pack, or anything
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Where to load: `memory` is the system's, `vulkan` a buffer of a Vulkan device, and
    /// `p2pmem:ADDRESS` what the PCI function at an address has for peers (`p2pmem:0000:03:00.0`)
    #[arg(long, default_value = "memory", value_name = "WHERE")]
    pub to: To,

    /// Which Vulkan device: its number in `bufmap probe`, or a part of its name
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,

    /// Take this road or fail; without it, the best one for each byte
    #[arg(long, value_name = "ROAD")]
    pub require: Option<Road>,

    /// How thoroughly to check: `hash` compares checksums that the format records, `full` compares
    /// every byte of the buffer with a second read of the file
    #[arg(long, value_enum, default_value_t = VerifyArg::Hash)]
    pub verify: VerifyArg,

    /// Load only this item; may be given several times
    #[arg(long = "item", value_name = "NAME")]
    pub items: Vec<String>,

    /// What the files are: raw, safetensors, safetensors-index, ktx2 or zip; found out if not given
    #[arg(long)]
    pub format: Option<Format>,

    /// The most reads in flight
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub depth: u32,

    /// The most bytes of one read, a power of two from 4 KiB to 1 GiB
    #[arg(long, default_value = "1MiB", value_name = "SIZE", value_parser = block)]
    pub block: u64,

    /// The length of the buffer (64M, 2GiB); as long as it needs to be if not given
    #[arg(long, value_name = "SIZE")]
    pub buffer: Option<ByteSize>,

    /// Report as JSON on standard output, with the place of every item
    #[arg(long)]
    pub json: bool,
}

const ROADS: &str = "\
Roads, best first:
  peer      the drive writes by DMA into the memory of another device, past system memory
  direct    the drive writes by DMA into the buffer's own pages
  staged    the drive writes into a ring of pages that the GPU imports; the GPU copies from there
  bounce    the drive writes into a ring of pages; the CPU copies from there into another device
  cached    the kernel copies pages that already sit in its page cache
  buffered  the kernel reads into its page cache and copies from there";

#[derive(clap::Args)]
pub struct ProbeArgs {
    /// Report as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Where to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// System memory.
    Memory,
    /// A buffer of a Vulkan device.
    Vulkan,
    /// What the PCI function at an address has for peers.
    P2pmem(Address),
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "memory" => Ok(Self::Memory),
            None if text == "vulkan" => Ok(Self::Vulkan),
            Some(("p2pmem", address)) => {
                address.parse().map(Self::P2pmem).map_err(|error: PciError| error.to_string())
            }
            _ => Err("memory, vulkan, or p2pmem:ADDRESS (of a PCI function, 0000:03:00.0)".into()),
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum VerifyArg {
    /// No check
    None,
    /// Fingerprint every item, compare with the format's checksums
    Hash,
    /// Also compare every byte with a second, independent read
    Full,
}

impl From<VerifyArg> for Verify {
    fn from(verify: VerifyArg) -> Self {
        match verify {
            VerifyArg::None => Self::None,
            VerifyArg::Hash => Self::Hash,
            VerifyArg::Full => Self::Full,
        }
    }
}

fn block(text: &str) -> Result<u64, String> {
    let size = ByteSize::from_str(text)?.as_u64();
    if size.is_power_of_two() && (4 << 10..=1 << 30).contains(&size) {
        return Ok(size);
    }
    Err("a power of two from 4KiB to 1GiB is needed".into())
}
