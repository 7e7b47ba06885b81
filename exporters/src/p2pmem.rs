//! Memory of a PCI device that its driver gives to peers, as the kernel publishes it.
//!
//! A driver may hand memory behind a BAR to the kernel for use by other devices; the NVMe driver
//! does so with a drive's Controller Memory Buffer. It then appears in sysfs, in the function's
//! directory (`Documentation/ABI/testing/sysfs-bus-pci`): `p2pmem/size`, `available`, `published`,
//! and since Linux 6.2 `allocate`, each mapping of which is an allocation of its own, given back
//! when the last mapping of it goes. Its pages are of a kind that the block layer knows: an
//! `O_DIRECT` read into them becomes a transfer from device to device, if the drive's driver can
//! take peer memory and the kernel finds that the two may talk.
//!
//! The page table asks for ordinary caching, because the kernel inserts these pages as it would any
//! others (`p2pmem_alloc_mmap` in `drivers/pci/p2pdma.c`). What counts on x86 is the stricter word
//! of the memory type registers, in which firmware declares the windows of BARs uncached. So a map
//! is I/O memory and uncached: accesses of at most 8 bytes, which are right for either, and slow to
//! read.
//!
//! Whoever unbinds the device's driver does not wait for those who hold its memory, only for the
//! transfers of other devices that are in flight. The kernel takes the pages out of every mapping, and
//! they do not come back with the driver: touching one ends the process with `SIGBUS`, and a system
//! call that is given one fails with `EFAULT`. [`PeerMemory::is_there`] tells whether that has happened.
//! Those of a process that ends come back once what is in flight to them has ended, which may be a
//! little later.
//!
//! # Safety
//!
//! The laws of this module:
//!
//! 1. A mapping of `allocate` made by mmap is readable and writable over its length until it is
//!    unmapped, which is when its [`PeerMemory`] is dropped. (That it may fault with `SIGBUS` ends
//!    the process and returns no value.)
//! 2. It lies outside every Rust allocation, devices write it at any time, and it is reached by
//!    maps alone.
#![allow(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use iomap::{Access, BufMap, Caching, Location, PagemapError, PhyrList, pagemap};
use memmap2::{MmapOptions, MmapRaw};

use crate::Absent;
use crate::destination::{Destination, Peer, PeerAccess};
use crate::dmabuf::Bytes;
use crate::export::{CpuView, Export, ExportError, Exporter, PhyrSource, Phyrs, Provider};
use crate::outside::outside;
use crate::present::{answers_in, exists_in};
use crate::vfio::Mappable;
use crate::vfio::mappable::sealed::Steady;

/// Where the kernel lists PCI functions, each by its address.
const FUNCTIONS: &str = "/sys/bus/pci/devices";

/// Why a function gave no memory for peers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum P2pmemError {
    /// It has none, or none that may be had.
    #[error("{function}: {why}", function = outside(function))]
    Unavailable {
        /// The function's address.
        function: String,
        /// Why not, and what to do.
        why: Absent,
    },
    /// The kernel is too old to give it to user space.
    #[error("{function}: {what} needs {since}", function = outside(function))]
    Unsupported {
        /// The function's address.
        function: String,
        /// What was wanted.
        what: &'static str,
        /// The first version that has it.
        since: &'static str,
    },
    /// There is not so much of it in one piece.
    #[error(
        "{function}: {len} bytes of peer memory cannot be had in one piece: {available} of {size} bytes are free; \
         ask for less, or end the programs that hold it", function = outside(function))]
    TooLittle {
        /// The function's address.
        function: String,
        /// The bytes asked for, in whole pages.
        len: usize,
        /// The bytes that nobody has.
        available: u64,
        /// All of its bytes.
        size: u64,
    },
    /// The kernel refused.
    #[error("{function}: {step}: {source}", function = outside(function))]
    Kernel {
        /// The function's address.
        function: String,
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The memory that one PCI function has for peers.
///
/// ```no_run
/// use exporters::P2pmem;
///
/// let provider = P2pmem::open("0000:03:00.0")?;
/// println!("{} of {} bytes are free", provider.available()?, provider.size());
/// let memory = provider.allocate(1 << 20)?;
/// // ... an O_DIRECT read into `memory.map()` goes from drive to device ...
/// println!("{:?}", memory.phyrs()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct P2pmem {
    name: String,
    function: String,
    directory: PathBuf,
    size: u64,
}

impl P2pmem {
    /// That of the function at an address, written in full as the kernel does: `0000:03:00.0`.
    ///
    /// # Errors
    /// [`P2pmemError::Unavailable`] if there is no such function, its driver has given no memory to
    /// peers or has not published it; [`P2pmemError::Unsupported`] before Linux 6.2.
    pub fn open(function: &str) -> Result<Self, P2pmemError> {
        let plain = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.');
        let directory = Path::new(FUNCTIONS).join(function);
        if !function.contains(':') || !function.chars().all(plain) || !directory.exists() {
            let why = Absent::new(
                "there is no such PCI function",
                "write its address in full, as in 0000:03:00.0 (`lspci -D` lists them)",
            );
            return Err(P2pmemError::Unavailable { function: function.into(), why });
        }
        Self::in_directory(&directory)
    }

    /// That of the function whose directory in sysfs this is, or a link to it.
    ///
    /// # Errors
    /// Those of [`P2pmem::open`].
    pub fn in_directory(directory: &Path) -> Result<Self, P2pmemError> {
        let kernel = |step| {
            let function = directory.to_string_lossy().into_owned();
            move |source| P2pmemError::Kernel { function, step, source }
        };
        let directory =
            directory.canonicalize().map_err(kernel("finding its directory in sysfs"))?;
        let function = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = format!("peer memory of {function}");
        let mut own = Self { name, function, directory, size: 0 };
        own.size = match own.number("size") {
            Err(P2pmemError::Kernel { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(own.unavailable(
                    "its driver gives the kernel no memory for peers",
                    "take a function whose driver does, as nvme does for a drive with a controller \
                     memory buffer (`bufmap probe` shows them)",
                ));
            }
            size => size?,
        };
        if own.number("published")? == 0 {
            return Err(own.unavailable(
                "its driver has memory for peers and has not published it (p2pmem/published is 0)",
                "such memory may not take data from others: take another function's",
            ));
        }
        if !own.attribute("allocate").exists() {
            return Err(P2pmemError::Unsupported {
                function: own.function,
                what: "giving peer memory to a program (p2pmem/allocate in sysfs)",
                since: "Linux 6.2",
            });
        }
        Ok(own)
    }

    /// The function's address.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// All of its bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes that nobody has at this moment, not necessarily in one piece.
    ///
    /// # Errors
    /// [`P2pmemError::Kernel`] if the device went away.
    pub fn available(&self) -> Result<u64, P2pmemError> {
        self.number("available")
    }

    /// Takes `len` bytes, rounded up to whole pages. What they hold is what the last user left.
    ///
    /// # Errors
    /// [`P2pmemError::TooLittle`] if there is not so much in one piece; [`P2pmemError::Kernel`] with
    /// `EACCES` for a user who may not (the file is root's), and for a length of zero.
    pub fn allocate(&self, len: usize) -> Result<PeerMemory, P2pmemError> {
        let kernel = |step| {
            let function = self.function.clone();
            move |source| P2pmemError::Kernel { function, step, source }
        };
        let page = rustix::param::page_size();
        let len = len.checked_next_multiple_of(page).filter(|&len| len > 0).ok_or_else(|| {
            kernel("taking peer memory of no length")(io::ErrorKind::InvalidInput.into())
        })?;
        let allocate = self.attribute("allocate");
        let file = OpenOptions::new().read(true).write(true).open(&allocate);
        let file = file.map_err(kernel("opening p2pmem/allocate (it is root's)"))?;
        let inode = file.metadata().map_err(kernel("looking at p2pmem/allocate"))?.ino();
        let pages = MmapOptions::new().len(len).map_raw(&file).map_err(|source| {
            let too_little = |available| P2pmemError::TooLittle {
                function: self.function.clone(),
                len,
                available,
                size: self.size,
            };
            match (source.raw_os_error(), self.available()) {
                (Some(libc::ENOMEM), Ok(available)) => too_little(available),
                _ => kernel("mapping p2pmem/allocate")(source),
            }
        })?;
        Ok(PeerMemory { pages, function: self.function.as_str().into(), source: (allocate, inode) })
    }

    fn attribute(&self, name: &str) -> PathBuf {
        self.directory.join("p2pmem").join(name)
    }

    fn number(&self, name: &'static str) -> Result<u64, P2pmemError> {
        let text = fs::read_to_string(self.attribute(name));
        let number = text.and_then(|text| text.trim().parse().map_err(io::Error::other));
        number.map_err(|source| P2pmemError::Kernel {
            function: self.function.clone(),
            step: match name {
                "size" => "reading p2pmem/size",
                "available" => "reading p2pmem/available",
                _ => "reading p2pmem/published",
            },
            source,
        })
    }

    fn unavailable(&self, why: &'static str, fix: &'static str) -> P2pmemError {
        P2pmemError::Unavailable { function: self.function.clone(), why: Absent::new(why, fix) }
    }
}

impl Exporter for P2pmem {
    fn name(&self) -> &str {
        &self.name
    }

    fn export(&self, len: usize) -> Result<Export, ExportError> {
        let memory = self.allocate(len).map_err(|e| ExportError::new(self.name(), e))?;
        let memory = Arc::new(memory);
        Ok(Export {
            len: memory.len(),
            provider: Provider::PeerMemory { device: self.function.clone() },
            phyrs: match PeerMemory::phyrs(&memory) {
                Ok(list) => PhyrSource::Fixed(list),
                Err(error) => PhyrSource::Absent(Absent::new(
                    format!("the physical addresses cannot be learned: {error}"),
                    "read files into its mapping with O_DIRECT: the kernel knows them",
                )),
            },
            dma_bufs: Err(Absent::new(
                "the kernel gives memory for peers as pages and not as a dma-buf",
                "read files into its mapping with O_DIRECT; for a dma-buf of a BAR, bind the device \
                 to vfio-pci (exporters::vfio::Bar)",
            )),
            cpu: Ok(CpuView::new(memory, Vec::new())),
        })
    }
}

/// Memory of a PCI function, taken from what it has for peers, and given back when it is dropped.
#[derive(Debug)]
pub struct PeerMemory {
    pages: MmapRaw,
    function: Arc<str>,
    /// The attribute it was taken from, and its inode, which is another each time that a driver
    /// gives memory to peers.
    source: (PathBuf, u64),
}

impl PeerMemory {
    /// The address of the function whose memory it is.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// Whether the function's driver has given the memory to peers all the time since it was taken, and
    /// the function answers. If not, no byte of it is left. Touching one ends the process with `SIGBUS`
    /// then, unless the function was pulled out and the kernel does not know it yet.
    pub fn is_there(&self) -> bool {
        self.is_given() && exists_in(self.directory())
    }

    fn is_given(&self) -> bool {
        let (attribute, inode) = &self.source;
        fs::metadata(attribute).is_ok_and(|now| now.ino() == *inode)
    }

    /// The function's directory in sysfs.
    fn directory(&self) -> &Path {
        self.source.0.ancestors().nth(2).unwrap_or(Path::new(FUNCTIONS))
    }

    /// The length in bytes, a multiple of the page size.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Always false: it has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The bytes, for the CPU: I/O memory, uncached.
    pub fn map(&self) -> BufMap<'_> {
        // SAFETY: law 1; the lifetime is this memory's.
        unsafe {
            BufMap::from_raw(
                self.pages.as_mut_ptr(),
                self.pages.len(),
                Location::Io,
                Caching::Uncached,
                Access::ReadWrite,
            )
        }
    }

    /// The physical ranges, each a peer's, as the kernel tells them. They hold while this memory is
    /// kept and the function's driver stays.
    ///
    /// # Errors
    /// [`PagemapError::Unprivileged`] without `CAP_SYS_ADMIN`.
    pub fn phyrs(&self) -> Result<PhyrList, PagemapError> {
        pagemap::peer_phyrs(self.map())
    }
}

impl Bytes for PeerMemory {
    fn map(&self) -> BufMap<'_> {
        PeerMemory::map(self)
    }
}

impl Steady for PeerMemory {}

impl Mappable for PeerMemory {
    fn map(&self) -> BufMap<'_> {
        PeerMemory::map(self)
    }

    fn phyrs(&self) -> Result<Phyrs<'_>, Absent> {
        PeerMemory::phyrs(self).map(Phyrs::fixed).map_err(|e| Phyrs::unknown(&e))
    }
}

impl Destination for PeerMemory {
    fn len(&self) -> usize {
        PeerMemory::len(self)
    }

    fn cpu_map(&self) -> Result<BufMap<'_>, Absent> {
        Ok(PeerMemory::map(self))
    }

    fn pages(&self) -> Result<(), Absent> {
        Ok(())
    }

    fn steady(&self) -> Result<&dyn Mappable, Absent> {
        Ok(self)
    }

    fn peer(&self) -> Option<Peer<'_>> {
        Some(Peer { function: Ok(self.function()), access: PeerAccess::Kernel })
    }

    fn claims(&self) -> Option<PhyrList> {
        PeerMemory::phyrs(self).ok()
    }

    fn is_present(&self) -> bool {
        self.is_given() && answers_in(self.directory())
    }

    fn holder(&self) -> String {
        self.function().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with the form of a function's in sysfs.
    fn function(attributes: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("p2pmem")).expect("a directory");
        for (name, text) in attributes {
            fs::write(directory.path().join("p2pmem").join(name), text).expect("a file");
        }
        directory
    }

    #[test]
    fn what_is_not_there_is_said_with_the_reason() {
        let refused = |attributes: &[(&str, &str)]| {
            let directory = function(attributes);
            P2pmem::in_directory(directory.path()).expect_err("no memory for peers").to_string()
        };
        let none = refused(&[]);
        assert!(none.contains("gives the kernel no memory for peers"), "{none}");
        let unpublished = refused(&[("size", "65536\n"), ("published", "0\n")]);
        assert!(unpublished.contains("published is 0"), "{unpublished}");
        let old = refused(&[("size", "65536\n"), ("published", "1\n")]);
        assert!(old.contains("Linux 6.2"), "{old}");
        let nonsense = refused(&[("size", "many\n")]);
        assert!(nonsense.contains("reading p2pmem/size"), "{nonsense}");
    }

    #[test]
    fn only_an_address_names_a_function() {
        for name in ["", ".", "..", "nvme0", "../devices/0000:00:00.0", "ffff:ff:1f.7"] {
            let error = P2pmem::open(name).expect_err("no function");
            assert!(matches!(error, P2pmemError::Unavailable { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn no_bytes_are_refused_before_the_kernel_is_asked() {
        let directory = function(&[("size", "65536"), ("published", "1"), ("allocate", "")]);
        let provider = P2pmem::in_directory(directory.path()).expect("a provider");
        for len in [0, usize::MAX] {
            let error = provider.allocate(len).expect_err("no such length");
            assert!(matches!(error, P2pmemError::Kernel { .. }), "{error}");
        }
    }
}
