//! Memory that a drive may write, and that stays mapped for it as long as it may.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use exporters::vfio::{Container, DmaMapping};
use iomap::DmaAddr;

use crate::dma::{DmaError, DmaKind, DmaList, DmaRange};

/// Pieces of mapped memory in a row: where the bytes of a read go. They may lie in system memory and
/// in the BARs of other devices, side by side.
///
/// It keeps the mappings, and a read in flight keeps it: what the drive may write is neither unmapped
/// nor unpinned before the drive is done with it, whatever else is dropped or forgotten.
///
/// ```no_run
/// use std::sync::Arc;
/// use bufmap::storage::nvme::Target;
/// use exporters::Intent;
/// use exporters::vfio::Container;
/// use iomap::{Memory, PageSize};
///
/// let container = Arc::new(Container::new()?);
/// let card = container.open("0000:01:00.0")?;
/// let vram = Arc::new(container.map_dma(card.map_region(2)?, Intent::Write)?);
/// let memory = Memory::anonymous(1 << 20, PageSize::Base)?;
/// let memory = Arc::new(container.map_dma(memory, Intent::Write)?);
///
/// // The first 4 KiB of a read go to system memory, the rest to the card.
/// let mut target = Target::default();
/// target.push(&memory, 0..4096)?;
/// target.push(&vram, 0..60 << 10)?;
/// assert_eq!(target.len(), 64 << 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Target {
    list: DmaList,
    guards: Vec<Arc<dyn Any + Send + Sync>>,
    container: Option<Arc<Container>>,
}

/// Why a piece was not added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// It is empty or reaches past the end of the mapping.
    #[error("bytes {start:#x} to {end:#x} are no part of a mapping of {len:#x} bytes")]
    Outside {
        /// Its first byte.
        start: u64,
        /// One past its last byte.
        end: u64,
        /// How long the mapping is, in bytes.
        len: u64,
    },
    /// A mapping in another container, whose addresses mean nothing to the devices of this one.
    #[error("the pieces are mapped in two containers; open both devices in one")]
    Container,
    /// Its addresses are none.
    #[error(transparent)]
    Dma(#[from] DmaError),
}

impl Target {
    /// Adds a part of a mapping behind what there is.
    ///
    /// # Errors
    /// [`TargetError`]; the target is unchanged.
    pub fn push<M: Send + Sync + 'static>(
        &mut self,
        mapping: &Arc<DmaMapping<M>>,
        part: Range<u64>,
    ) -> Result<(), TargetError> {
        let Range { start, end } = part;
        if start >= end || end > mapping.len() {
            return Err(TargetError::Outside { start, end, len: mapping.len() });
        }
        let container = self.container.get_or_insert_with(|| Arc::clone(mapping.container()));
        if !Arc::ptr_eq(container, mapping.container()) {
            return Err(TargetError::Container);
        }
        let addr = DmaAddr::new(mapping.iova().get() + start);
        let range = DmaRange::new(DmaKind::Iova, addr, end - start).map_err(DmaError::from)?;
        self.list.push(range);
        self.guards.push(Arc::clone(mapping) as Arc<dyn Any + Send + Sync>);
        Ok(())
    }

    /// What somebody else keeps mapped in a container for as long as it is read into.
    pub(super) fn lent(list: &DmaList, container: &Arc<Container>) -> Self {
        let container = Some(Arc::clone(container));
        Self { list: list.clone(), guards: Vec::new(), container }
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.list.total()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.ranges().is_empty()
    }

    /// Whether its addresses mean something to the devices of a container.
    pub(super) fn is_in(&self, container: &Arc<Container>) -> bool {
        self.container.as_ref().is_some_and(|own| Arc::ptr_eq(own, container))
    }

    /// What the drive sees of it.
    #[inline]
    pub(super) const fn list(&self) -> &DmaList {
        &self.list
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("list", &self.list).finish_non_exhaustive()
    }
}
