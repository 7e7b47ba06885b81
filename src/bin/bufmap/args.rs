//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use bufmap::format::Format;
use bufmap::format::Selection;
use bufmap::iomap::PageSize;
use bufmap::pci::driver::DriverName;
use bufmap::pci::{Address, PciError};
use bufmap::transfer::{DataPath, Verify};
use bytesize::ByteSize;
use clap::{Parser, Subcommand, ValueEnum};

/// Moves files by DMA into memory that a GPU can use, and out of it, and says how.
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
  sudo bufmap save bar:0000:04:00.0:2 vram.bin   a BAR's bytes into a new file
  sudo bufmap save p2pmem:0000:03:00.0 copy.bin --from model.bin --verify full
                                                 a file from drive to device to drive, read back from there
  bufmap explain model.safetensors --to p2pmem:0000:03:00.0
                                                 which path, and what would make it a better one
  bufmap extents model.safetensors > model.extents.json
                                                 where it lies, for a drive that is then unmounted and bound
  sudo bufmap load model.extents.json --to vfio:0000:04:00.0
                                                 by the user-space driver into a BAR of another device
  sudo bufmap phyrs --of memory --size 64MiB     where a buffer lies on the memory bus
  sudo bufmap bind 0000:03:00.0                  take a drive from the kernel, for the user-space driver

Exit status: 0 if all is done (loaded or saved, and checked), 1 if not, 2 for a wrong command line, 130 after Ctrl-C.";

#[derive(Subcommand)]
pub enum Command {
    /// Load files into a buffer by the best path there is
    Load(LoadArgs),
    /// Save a buffer, or a file by way of one, into a file by the best path there is
    Save(SaveArgs),
    /// Say which path a load would take, and why not a better one, without running it
    Explain(ExplainArgs),
    /// Write down where files lie on their drive, to load them by the user-space driver
    Extents(ExtentsArgs),
    /// Show what this machine offers for loading, and why the rest is missing
    Probe(ProbeArgs),
    /// Print the physical ranges behind a buffer
    Phyrs(PhyrsArgs),
    /// Give PCI functions to vfio-pci, if nobody uses them
    Bind(BindArgs),
    /// Give PCI functions back to the kernel's own drivers
    Unbind(UnbindArgs),
}

/// Loads files into one buffer, checks them, and reports which path each byte took and why not a
/// better one.
///
/// Every item of a file (a tensor, a mip level, a pack's member, or the whole file) keeps its
/// alignment in the buffer, so that the drive writes it there itself and no CPU copies it.
#[derive(clap::Args)]
#[command(after_help = DATA_PATHS)]
pub struct LoadArgs {
    /// The files: .safetensors, a model's .safetensors.index.json, .ktx2, a zip pack, or anything;
    /// or one .extents.json of `bufmap extents`, for a drive that is bound to vfio-pci
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Where to load: `memory` is the system's, `vulkan` a buffer of a Vulkan device,
    /// `vram` one that the CPU sees, through the GPU's BAR if it has memory of its own,
    /// `p2pmem:ADDRESS` what the PCI function at an address has for peers (`p2pmem:0000:03:00.0`),
    /// `vfio:ADDRESS` or `bar:ADDRESS:N` a BAR of a function that is bound to vfio-pci, the longest
    /// if no number is given, and `udmabuf`, `dma-heap`, `dma-heap:NAME` or `dumb:DRIVER` what /dev/udmabuf, a
    /// dma-heap or the DRM driver of a card makes
    #[arg(long, default_value = "memory", value_name = "WHERE")]
    pub to: To,

    /// Which Vulkan device: its number in `bufmap probe`, or a part of its name
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,

    /// For `--to vram`: I know that the GPU's driver keeps the buffer where it is until the load ends.
    /// Nobody can check that, and a drive writes into other memory if it is not so
    #[arg(long)]
    pub assume_vram_stays: bool,

    /// Take this path or fail; without it, the best one for each byte
    #[arg(long, value_name = "DATA_PATH")]
    pub require: Option<DataPath>,

    /// How thoroughly to check. `auto` takes what suits the path, and the report says what that was. `hash` also reads back
    /// what a drive wrote into another device's memory, which costs the CPU nine times a
    /// buffered read
    #[arg(long, value_enum, default_value_t = VerifyArg::Auto)]
    pub verify: VerifyArg,

    #[command(flatten)]
    pub selection: SelectionArgs,

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

/// Which items of the files, and what these are.
#[derive(clap::Args)]
pub struct SelectionArgs {
    /// Only this item; may be given several times
    #[arg(long = "item", value_name = "NAME")]
    pub items: Vec<String>,

    /// Leave out the members of packs that are compressed or encrypted, and list them; without this a
    /// file that has such members is refused, unless --item names others
    #[arg(long, conflicts_with = "items")]
    pub skip_compressed: bool,

    /// What the files are: raw, safetensors, safetensors-index, ktx2 or zip; found out by content and
    /// name if not given
    #[arg(long)]
    pub format: Option<Format>,
}

impl SelectionArgs {
    /// The same in the library's words.
    pub fn selection(&self) -> Selection<'_> {
        let Self { items, skip_compressed, format } = self;
        Selection { format: *format, items, skip_compressed: *skip_compressed }
    }
}

/// Saves a buffer into a file and reports which path each byte took and why not a better one.
///
/// The file is a new one, which takes the old one's place, with its rights, when it is whole and in the drive: a full disk,
/// Ctrl-C or a lost drive leave the old file as it was, and nothing beside it. With --in-place the bytes go into the file
/// itself.
///
/// A device's memory holds bytes already (a BAR; what a function has for peers). Every other buffer is made now, and a file
/// is loaded into it first: --from FILE, byte for byte. So a file is copied by way of a device's memory, past the
/// system's.
#[derive(clap::Args)]
#[command(after_help = DATA_PATHS_OUT)]
pub struct SaveArgs {
    /// The buffer: `bar:ADDRESS:N` or `vfio:ADDRESS` (a BAR of a function that is bound to vfio-pci; to read a register there
    /// may act on the device), `p2pmem:ADDRESS` (what a PCI function has for peers), and with --from also `memory`, `vulkan`,
    /// `vram`, `udmabuf`, `dma-heap`, `dma-heap:NAME` or `dumb:DRIVER`, as `bufmap load --to` has them
    pub source: To,

    /// The file to write
    pub file: PathBuf,

    /// Load this file into the buffer first, and save that
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,

    /// Where in the buffer to begin
    #[arg(long, default_value = "0", value_name = "SIZE")]
    pub offset: ByteSize,

    /// How many bytes to save; all that the buffer holds if not given
    #[arg(long, value_name = "SIZE")]
    pub len: Option<ByteSize>,

    /// Write into the file that is there, which gets no longer and no shorter. If that fails, it holds some old and some new
    /// bytes. A block device can be written in no other way, and only if it is not mounted
    #[arg(long)]
    pub in_place: bool,

    /// Where in the file to write
    #[arg(long, value_name = "SIZE", requires = "in_place")]
    pub at: Option<ByteSize>,

    /// Take this path or fail; without it, the best one for each byte
    #[arg(long, value_name = "DATA_PATH")]
    pub require: Option<DataPath>,

    /// How thoroughly to check: `hash` (and `auto`) fingerprints what is saved, `full` also reads the file back, past the page cache, and
    /// compares before the new file takes the old one's place
    #[arg(long, value_enum, default_value_t = VerifyArg::Hash)]
    pub verify: VerifyArg,

    /// Which Vulkan device: its number in `bufmap probe`, or a part of its name
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,

    /// For `vram`: I know that the GPU's driver keeps the buffer where it is until the save ends
    #[arg(long)]
    pub assume_vram_stays: bool,

    /// The most writes in flight
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub depth: u32,

    /// The most bytes of one write, a power of two from 4 KiB to 1 GiB
    #[arg(long, default_value = "1MiB", value_name = "SIZE", value_parser = block)]
    pub block: u64,

    /// Report as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

const DATA_PATHS_OUT: &str = "\
Paths, best first:
  peer      the drive reads the memory of another device by DMA, past system memory
  direct    the drive reads the buffer's own pages by DMA
  staged    the GPU copies into a ring of pages that it imports; the drive reads those
  bounce    the CPU copies into a ring of pages; the drive reads those
  buffered  the kernel copies into its page cache and writes from there";

const DATA_PATHS: &str = "\
Paths, best first:
  peer      the drive writes by DMA into the memory of another device, past system memory
  direct    the drive writes by DMA into the buffer's own pages
  staged    the drive writes into a ring of pages that the GPU imports; the GPU copies from there
  bounce    the drive writes into a ring of pages; the CPU copies from there into another device
  cached    the kernel copies pages that already sit in its page cache
  buffered  the kernel reads into its page cache and copies from there";

/// Writes where the bytes of files lie on their NVMe drive, what the files hold and a fingerprint of
/// each item, as JSON on standard output. With that, `bufmap load` reads them from a drive that the
/// kernel has no more: unmount their file system, which must be ext4 or xfs, then `bufmap bind` the
/// drive. The map is true until somebody writes to the files or moves them.
#[derive(clap::Args)]
pub struct ExtentsArgs {
    /// The files, all on one drive
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// Decides as `bufmap load` would and says what lies below each file, which path each byte would take,
/// and why not each better one, with what would change that. Nothing is loaded and root is not needed;
/// whether a drive's bytes arrive in a peer's memory is a forecast until a load has proved it.
#[derive(clap::Args)]
pub struct ExplainArgs {
    /// The files, or one .extents.json of `bufmap extents`, of which the user-space driver is asked
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Where to load: `memory`, `vulkan`, `vram`, `p2pmem:ADDRESS` or `vfio:ADDRESS`
    #[arg(long, default_value = "memory", value_name = "WHERE")]
    pub to: To,

    /// Which Vulkan device: its number in `bufmap probe`, or a part of its name
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,

    #[command(flatten)]
    pub selection: SelectionArgs,

    /// Report as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Shows what loading can use on this machine, each absence with its reason and remedy; then the PCI
/// tree of drives and of devices with memory, and for every pair of the two whether the drive may
/// write into that memory, by which path, or why not and what would change it.
///
/// Only root is shown all of the configuration space on which the verdicts depend.
#[derive(clap::Args)]
pub struct ProbeArgs {
    /// Report as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Makes a buffer, prints the physical ranges behind it and what lies at their addresses, and frees it.
/// Physical addresses are root's to know (CAP_SYS_ADMIN). Of some memory nobody tells them: then the
/// reason is printed, and the exit status is 1.
#[derive(clap::Args)]
pub struct PhyrsArgs {
    /// What the buffer is of: `memory`, `udmabuf`, `dma-heap` or `dma-heap:NAME`, `dumb:DRIVER` (a dumb
    /// buffer of the DRM card that a driver has: `dumb:bochs-drm`), `vulkan` (memory of a Vulkan device that
    /// the CPU sees), `p2pmem:ADDRESS` (what a PCI function has for peers), or `bar:ADDRESS:N` (BAR N of a
    /// function that is bound to vfio-pci)
    #[arg(long, default_value = "memory", value_name = "SOURCE")]
    pub of: Source,

    /// How long it is
    #[arg(long, default_value = "64MiB", value_name = "SIZE")]
    pub size: ByteSize,

    /// The pages of system memory; huge ones must be reserved
    #[arg(long, value_enum, default_value_t = PagesArg::Base)]
    pub pages: PagesArg,

    /// Report as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Moves PCI functions to another driver, vfio-pci unless asked otherwise, by their driver_override.
/// All are checked before the first is moved, and each is moved only if nobody uses it. In use is a disk
/// that is mounted in any mount namespace, swapped to, part of a volume or open in a program; a GPU, a
/// sound card or another device that a program has open; a network interface that is up; the console's
/// screen; a function of which other functions hang. What hangs below a function counts, as a USB
/// disk below its controller. Where it cannot be told whether a function is in use, it is refused: the
/// files of /dev, /sys and /proc must be there and readable, which they often are not in a container.
/// A disk is held exclusively from the check until its driver has let it go. Needs root.
#[derive(clap::Args)]
pub struct BindArgs {
    /// Their addresses, as `lspci -D` and `bufmap probe` write them
    #[arg(required = true, value_name = "ADDRESS")]
    pub addresses: Vec<Address>,

    /// The driver that is to have them, one that is loaded
    #[arg(long, default_value = "vfio-pci", value_name = "NAME")]
    pub driver: DriverName,

    /// Check all that would be checked, say what would be done, and change nothing. The exit status is 1 where the
    /// functions would be refused; root is needed for this, too
    #[arg(long)]
    pub dry_run: bool,

    /// Report as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Lets the kernel choose a driver for PCI functions again, as at boot. A function in use is refused as
/// by `bufmap bind`, and so is one whose IOMMU group a program has open through VFIO: the kernel would
/// wait for that program, however long, and could not be interrupted. Needs root.
#[derive(clap::Args)]
pub struct UnbindArgs {
    /// Their addresses
    #[arg(required = true, value_name = "ADDRESS")]
    pub addresses: Vec<Address>,

    /// Check all that would be checked, say what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Report as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// What a buffer is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// System memory.
    Memory,
    /// System memory under a dma-buf.
    Udmabuf,
    /// A dma-heap's, by its name.
    DmaHeap(String),
    /// A dumb buffer of a DRM card, by the name of its driver.
    Dumb(String),
    /// Memory of a Vulkan device that the CPU sees.
    Vulkan,
    /// What the PCI function at an address has for peers.
    P2pmem(Address),
    /// A BAR of a PCI function.
    Bar(Address, u32),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "memory" => Ok(Self::Memory),
            None if text == "udmabuf" => Ok(Self::Udmabuf),
            None if text == "dma-heap" => Ok(Self::DmaHeap("system".into())),
            None if text == "vulkan" => Ok(Self::Vulkan),
            Some(("dma-heap", heap)) if !heap.is_empty() => Ok(Self::DmaHeap(heap.into())),
            Some(("dumb", driver)) if !driver.is_empty() => Ok(Self::Dumb(driver.into())),
            Some(("p2pmem", function)) => address(function).map(Self::P2pmem),
            Some(("bar", rest)) => {
                numbered_bar(rest).map(|(function, bar)| Self::Bar(function, bar))
            }
            _ => Err(
                "memory, udmabuf, dma-heap, dma-heap:NAME, dumb:DRIVER, vulkan, p2pmem:ADDRESS or \
                      bar:ADDRESS:N"
                    .into(),
            ),
        }
    }
}

fn address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|error: PciError| error.to_string())
}

/// `0000:03:00.0:2`.
fn numbered_bar(text: &str) -> Result<(Address, u32), String> {
    let (function, index) =
        text.rsplit_once(':').ok_or_else(|| format!("{text}: write ADDRESS:N"))?;
    let index = index.parse().ok().filter(|index| *index < 6);
    let index = index.ok_or_else(|| format!("{text}: a BAR's number is 0 to 5"))?;
    Ok((address(function)?, index))
}

#[derive(Clone, Copy, ValueEnum)]
pub enum PagesArg {
    /// The machine's ordinary pages
    Base,
    /// Pages of 2 MiB
    #[value(name = "2M")]
    Huge2M,
    /// Pages of 1 GiB
    #[value(name = "1G")]
    Huge1G,
}

impl From<PagesArg> for PageSize {
    fn from(pages: PagesArg) -> Self {
        match pages {
            PagesArg::Base => Self::Base,
            PagesArg::Huge2M => Self::Huge2M,
            PagesArg::Huge1G => Self::Huge1G,
        }
    }
}

/// Where to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// System memory.
    Memory,
    /// A buffer of a Vulkan device.
    Vulkan,
    /// One that the CPU sees.
    Vram,
    /// What the PCI function at an address has for peers.
    P2pmem(Address),
    /// A BAR of the PCI function at an address, by its number or the longest one.
    Vfio(Address, Option<u32>),
    /// What a source exports: `/dev/udmabuf`, a dma-heap, a DRM driver.
    Exported(Source),
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "memory" => Ok(Self::Memory),
            None if text == "vulkan" => Ok(Self::Vulkan),
            None if text == "vram" => Ok(Self::Vram),
            Some(("p2pmem", function)) => address(function).map(Self::P2pmem),
            Some(("bar", rest)) => {
                numbered_bar(rest).map(|(function, bar)| Self::Vfio(function, Some(bar)))
            }
            Some(("vfio", rest)) => match rest.parse() {
                Ok(function) => Ok(Self::Vfio(function, None)),
                Err(_) => numbered_bar(rest).map(|(function, bar)| Self::Vfio(function, Some(bar))),
            },
            _ => match text.parse() {
                Ok(source @ (Source::Udmabuf | Source::DmaHeap(_) | Source::Dumb(_))) => {
                    Ok(Self::Exported(source))
                }
                _ => {
                    Err("memory, vulkan, vram, p2pmem:ADDRESS, vfio:ADDRESS or bar:ADDRESS:N (of a PCI function, \
                          0000:03:00.0), udmabuf, dma-heap, dma-heap:NAME or dumb:DRIVER"
                        .into())
                }
            },
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum VerifyArg {
    /// Fingerprint every item while it is at hand, compare with the format's checksums. In a GPU's own memory, have the GPU
    /// take the fingerprints again, and compare. Of what a drive wrote into another
    /// device's memory, compare with a second read: all the first time, then a sample that nobody can foretell, of one
    /// block of 4 KiB in 64 and each file's first and last
    Auto,
    /// No check
    None,
    /// Fingerprint every item wherever it lies, compare with the format's checksums
    Hash,
    /// Also compare every byte with a second, independent read
    Full,
}

impl From<VerifyArg> for Verify {
    fn from(verify: VerifyArg) -> Self {
        match verify {
            VerifyArg::Auto => Self::Auto,
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
