//! A buffer that a loader fills.

use std::sync::Arc;

use exporters::{Destination, Intent};

use crate::check::map_of;
use crate::plan::Place;
use crate::plan::asked;
use crate::transfer::TransferError;

/// A buffer that a [`Loader`](super::Loader) fills, and what it found out about it once. Clones are the same buffer.
///
/// While a clone, or a request into the buffer, is left, the [`Destination`] is kept. A request has given it back when
/// its outcome is known.
#[derive(Clone, Debug)]
pub struct Buffer(Arc<Known>);

#[derive(Debug)]
struct Known {
    destination: Arc<dyn Destination>,
    facts: asked::Buffer,
}

impl Buffer {
    /// A destination to be filled by loaders.
    ///
    /// # Errors
    /// [`TransferError::Unreachable`] for memory that a loader does not fill: the memory of a GPU or of another device,
    /// and memory whose caches must be told of every access of the CPU. [`Load`](crate::load::Load) fills these.
    pub fn new(destination: Arc<dyn Destination>) -> Result<Self, TransferError> {
        let facts = asked::Buffer::of(&*destination)?;
        let refused = |why: &str| {
            let why = format!("{why}, which a loader does not fill: take `Load`");
            Err(TransferError::Unreachable { holder: destination.holder(), why })
        };
        match facts.place {
            Place::System | Place::Cpu => {}
            Place::Gpu => return refused("it is a GPU's own memory"),
            Place::Peer | Place::Bar => return refused("it is another device's memory"),
        }
        if destination.access(Intent::ReadWrite)?.is_some() {
            return refused("its caches must be told of each access of the CPU");
        }
        Ok(Self(Arc::new(Known { destination, facts })))
    }

    /// The length in bytes.
    pub fn len(&self) -> u64 {
        self.0.facts.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it is a buffer of.
    pub fn destination(&self) -> &Arc<dyn Destination> {
        &self.0.destination
    }

    pub(super) fn facts(&self) -> &asked::Buffer {
        &self.0.facts
    }

    pub(super) fn map(&self) -> iomap::BufMap<'_> {
        map_of(&*self.0.destination)
    }
}
