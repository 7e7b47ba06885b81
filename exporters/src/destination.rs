//! What a transfer may ask of a buffer that it fills.
//!
//! A buffer can be system memory, a GPU's, or behind another device's BAR. Who fills it does not need to know
//! which: it asks for facets, and each is present or [`Absent`] with a reason.
//!
//! | facet | who uses it |
//! |---|---|
//! | [`cpu_map`](Destination::cpu_map) | the CPU, for what no device brings, and to check what was brought |
//! | [`pages`](Destination::pages) | the kernel's drivers, for reads past the page cache |
//! | [`steady`](Destination::steady) | a driver in user space, to map the memory for its device |
//! | [`peer`](Destination::peer) | the planner: the device whose own memory it is, and who gives others access to it |
//! | [`gpu`](Destination::gpu) | a GPU's queue, which copies into it what the drive cannot bring |
//! | [`upload`](Destination::upload) | the same for queues of any library, and for textures |
//! | [`is_present`](Destination::is_present) | everybody: whether the memory has gone away |
//!
//! A buffer that is saved into a file is asked for the same facets: what brings bytes into it can take them out of it.
//!
//! Each source of buffers implements the trait in its own module; system memory does here.

use std::fmt;
use std::sync::Arc;

use iomap::{Borrowed, BufMap, Memory, MemoryError, PageSize, PhyrList};

use crate::Absent;
use crate::dmabuf::{CpuAccess, DmaBufError, Intent};
use crate::export::{Export, PhyrSource, Provider};
use crate::pages::can_be_pinned;
use crate::upload::UploadTarget;
use crate::vfio::Mappable;
use crate::vulkan::Buffer;

/// A buffer that can be filled, and whose bytes can be saved.
///
/// A program's own buffer has the facets of what it is made of:
///
/// ```
/// use exporters::vfio::Mappable;
/// use exporters::{Absent, Destination};
/// use iomap::{BufMap, Memory, PageSize};
///
/// /// Rows of samples, which a drive fills.
/// #[derive(Debug)]
/// struct Samples(Memory);
///
/// impl Destination for Samples {
///     fn len(&self) -> usize {
///         self.0.len()
///     }
///
///     fn cpu_map(&self) -> Result<BufMap<'_>, Absent> {
///         Ok(self.0.map())
///     }
///
///     fn pages(&self) -> Result<(), Absent> {
///         Ok(())
///     }
///
///     fn steady(&self) -> Result<&dyn Mappable, Absent> {
///         Ok(&self.0)
///     }
/// }
///
/// let samples = Samples(Memory::anonymous(4096, PageSize::Base)?);
/// assert!(samples.gpu().is_err() && samples.peer().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Destination: fmt::Debug + Send + Sync {
    /// The length in bytes.
    fn len(&self) -> usize;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The CPU's view of all of it. Its bytes are touched during an [`access`](Self::access).
    ///
    /// # Errors
    /// Absent for memory that the CPU does not reach.
    fn cpu_map(&self) -> Result<BufMap<'_>, Absent>;

    /// Begins an access of the CPU, for memory whose caches must be told of it; `None` for all other.
    ///
    /// # Errors
    /// The driver's answer.
    fn access(&self, intent: Intent) -> Result<Option<CpuAccess<'_>>, DmaBufError> {
        let _ = intent;
        Ok(None)
    }

    /// Whether the kernel's drivers may be given the memory of the CPU's view: pages that the kernel pins for
    /// a read past the page cache (`O_DIRECT`).
    ///
    /// # Errors
    /// Absent for mappings without pages, such as most drivers make of their memory.
    fn pages(&self) -> Result<(), Absent>;

    /// Memory that a driver in user space may map for its device.
    ///
    /// # Errors
    /// Absent for memory that may move, or is not whole pages.
    fn steady(&self) -> Result<&dyn Mappable, Absent>;

    /// The PCI device whose own memory it is; `None` for the system's.
    fn peer(&self) -> Option<Peer<'_>> {
        None
    }

    /// The buffer of a GPU that it is, for queues that copy into it and out of it.
    ///
    /// # Errors
    /// Absent for memory that no GPU knows.
    fn gpu(&self) -> Result<&Arc<Buffer>, Absent> {
        Err(Absent::new("no GPU has this buffer", "import it into a Vulkan device"))
    }

    /// What a queue of its device copies into, out of slots that a drive or the CPU fills: the buffer of a GPU that it is, if it
    /// is no other.
    ///
    /// # Errors
    /// Absent for memory that no such queue is needed for.
    fn upload(&self) -> Result<&dyn UploadTarget, Absent> {
        Ok(self.gpu()?)
    }

    /// Where the memory claims to lie on the memory bus, if it is a device's own and this user may know.
    fn claims(&self) -> Option<PhyrList> {
        None
    }

    /// Whether the memory is present. It goes away when its device is removed, reset, or given to another
    /// driver.
    fn is_present(&self) -> bool {
        true
    }

    /// Who has the memory, as errors say it: a PCI address where one is known.
    fn holder(&self) -> String {
        "the system".into()
    }

    /// How many bytes of the system's memory filling it will take, which are only promised so far.
    ///
    /// # Errors
    /// The kernel's answer.
    fn promised(&self) -> Result<usize, MemoryError> {
        Ok(0)
    }
}

/// The device whose own memory a buffer is.
#[derive(Debug)]
pub struct Peer<'a> {
    /// The PCI address of the function, or why it is not known.
    pub function: Result<&'a str, Absent>,
    /// Who gives other devices access to it.
    pub access: PeerAccess,
}

/// Who gives other devices access to a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAccess {
    /// The kernel, to which the device's driver has published it (`pci_p2pdma`).
    Kernel,
    /// VFIO, which maps what this process has mapped: the BAR of a device of its own, or of a GPU.
    Vfio,
}

impl Destination for Memory {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn cpu_map(&self) -> Result<BufMap<'_>, Absent> {
        Ok(self.map())
    }

    fn pages(&self) -> Result<(), Absent> {
        Ok(())
    }

    fn steady(&self) -> Result<&dyn Mappable, Absent> {
        Ok(self)
    }

    fn promised(&self) -> Result<usize, MemoryError> {
        self.absent()
    }
}

/// A slice of the program's own.
impl Destination for Borrowed<'_> {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn cpu_map(&self) -> Result<BufMap<'_>, Absent> {
        Ok(self.map())
    }

    fn pages(&self) -> Result<(), Absent> {
        Ok(())
    }

    fn steady(&self) -> Result<&dyn Mappable, Absent> {
        Err(Absent::new(
            "a slice shares its pages with other memory of the program",
            "take iomap::Memory, which has pages of its own",
        ))
    }

    fn promised(&self) -> Result<usize, MemoryError> {
        self.map().absent().map_err(|source| MemoryError::Kernel {
            step: "mincore",
            len: Self::len(self),
            page: PageSize::Base.bytes(),
            source,
        })
    }
}

/// What a source exported. Of a device's own memory that is published for peers, and of BARs, take the
/// memory itself ([`PeerMemory`](crate::PeerMemory), [`Region`](crate::vfio::Region)) where a driver in user
/// space is to map it.
impl Destination for Export {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn cpu_map(&self) -> Result<BufMap<'_>, Absent> {
        Ok(self.cpu.as_ref().map_err(Absent::clone)?.bytes())
    }

    fn access(&self, intent: Intent) -> Result<Option<CpuAccess<'_>>, DmaBufError> {
        self.cpu.as_ref().ok().map(|view| view.begin(intent)).transpose()
    }

    fn pages(&self) -> Result<(), Absent> {
        match (&self.phyrs, self.provider()) {
            (PhyrSource::Pages(_), _) | (_, Provider::PeerMemory { .. }) => Ok(()),
            _ => can_be_pinned(Destination::cpu_map(self)?),
        }
    }

    fn steady(&self) -> Result<&dyn Mappable, Absent> {
        match &self.phyrs {
            PhyrSource::Pages(memory) => Ok(memory),
            PhyrSource::Fixed(_) | PhyrSource::Absent(_) => Err(Absent::new(
                format!("the memory is of {}, which may move it", self.provider()),
                "take system memory (SystemMemory, Udmabuf)",
            )),
        }
    }

    fn peer(&self) -> Option<Peer<'_>> {
        let (device, access) = match self.provider() {
            Provider::PeerMemory { device } => (device, PeerAccess::Kernel),
            Provider::Bar { device, .. } => (device, PeerAccess::Vfio),
            _ => return None,
        };
        Some(Peer { function: Ok(device), access })
    }

    fn claims(&self) -> Option<PhyrList> {
        match &self.phyrs {
            PhyrSource::Fixed(list) => Some(list.clone()),
            PhyrSource::Pages(_) | PhyrSource::Absent(_) => None,
        }
    }

    fn holder(&self) -> String {
        self.provider().to_string()
    }

    fn promised(&self) -> Result<usize, MemoryError> {
        match &self.phyrs {
            PhyrSource::Pages(memory) => memory.absent(),
            PhyrSource::Fixed(_) | PhyrSource::Absent(_) => Ok(0),
        }
    }
}

/// What is behind a pointer has the facets of the buffer.
macro_rules! by_deref {
    ($($pointer:ty),*) => {$(
        impl<T: Destination + ?Sized> Destination for $pointer {
            fn len(&self) -> usize {
                T::len(self)
            }

            fn cpu_map(&self) -> Result<BufMap<'_>, Absent> {
                T::cpu_map(self)
            }

            fn access(&self, intent: Intent) -> Result<Option<CpuAccess<'_>>, DmaBufError> {
                T::access(self, intent)
            }

            fn pages(&self) -> Result<(), Absent> {
                T::pages(self)
            }

            fn steady(&self) -> Result<&dyn Mappable, Absent> {
                T::steady(self)
            }

            fn peer(&self) -> Option<Peer<'_>> {
                T::peer(self)
            }

            fn gpu(&self) -> Result<&Arc<Buffer>, Absent> {
                T::gpu(self)
            }

            fn upload(&self) -> Result<&dyn UploadTarget, Absent> {
                T::upload(self)
            }

            fn claims(&self) -> Option<PhyrList> {
                T::claims(self)
            }

            fn is_present(&self) -> bool {
                T::is_present(self)
            }

            fn holder(&self) -> String {
                T::holder(self)
            }

            fn promised(&self) -> Result<usize, MemoryError> {
                T::promised(self)
            }
        }
    )*};
}

by_deref!(&T, Arc<T>);
