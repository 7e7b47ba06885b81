//! What really lies at the addresses of a range list.
//!
//! A range list says of each range whether it is system memory or a peer's. Who told it so may have
//! been wrong: a GPU driver that moved a buffer out of the GPU, a stale list. Before a device is
//! given addresses, they are held against the BARs and the memory of the machine.

use std::fmt;

use iomap::{Phyr, PhyrKind, PhyrList, PhysAddr};

use super::{Bar, Function, InBar, SystemRam, Tree};

/// What lies at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The machine's own memory.
    SystemRam,
    /// A BAR of a function.
    Bar(InBar),
    /// Neither: a hole, or a device that is no PCI function.
    Neither,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SystemRam => f.write_str("system memory"),
            Self::Bar(bar) => bar.fmt(f),
            Self::Neither => f.write_str("neither system memory nor a BAR"),
        }
    }
}

/// A range, or a part of one, that lies in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The range, of the kind that its list claims.
    pub range: Phyr,
    /// Where its first byte lies; the others follow in the same place.
    pub place: Place,
}

impl Placed {
    /// Whether the range is what its list claims: system memory in system memory, a peer's in a BAR.
    pub fn is_as_claimed(&self) -> bool {
        matches!(
            (self.range.kind(), self.place),
            (PhyrKind::System, Place::SystemRam) | (PhyrKind::Peer, Place::Bar(_))
        )
    }
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.range, self.place)
    }
}

/// Says of each range in which place it lies, in order. A range that lies in several is divided;
/// where a BAR and system memory claim the same address, it is system memory.
///
/// ```no_run
/// use bufmap::pci::{SystemRam, Tree, classify};
/// use iomap::{PhysAddr, Phyr, PhyrKind, PhyrList};
///
/// let vram = Phyr::new(PhyrKind::Peer, PhysAddr::new(0x38_0000_0000), 2 << 20)?;
/// let list = PhyrList::from_iter([vram]);
/// for placed in classify(&list, &Tree::read()?, &SystemRam::read()?) {
///     if !placed.is_as_claimed() {
///         return Err(format!("no device is given this: {placed}").into());
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn classify(list: &PhyrList, tree: &Tree, ram: &SystemRam) -> Vec<Placed> {
    list.iter().flat_map(|range| pieces(range, tree, ram)).collect()
}

/// Whether each range lies in a BAR of one function, and no part of it in system memory.
pub(crate) fn lies_in(list: &PhyrList, function: &Function, ram: &SystemRam) -> bool {
    list.iter().all(|range| {
        let (start, last) = (range.addr().get(), range.addr().get() + (range.len() - 1));
        let mut windows = function.bars.iter().filter_map(Bar::window);
        let in_ram = ram.at(start);
        windows.any(|(first, end)| first <= start && last <= end)
            && in_ram.owner.is_none()
            && in_ram.last >= last
    })
}

fn pieces(range: Phyr, tree: &Tree, ram: &SystemRam) -> impl Iterator<Item = Placed> {
    let last = range.addr().get() + (range.len() - 1);
    let mut at = Some(range.addr().get());
    std::iter::from_fn(move || {
        let start = at?;
        let (place, until) = place(start, tree, ram);
        let end = until.min(last);
        at = (end < last).then(|| end + 1);
        let part = Phyr::new(range.kind(), PhysAddr::new(start), end - start + 1).ok()?;
        Some(Placed { range: part, place })
    })
}

/// What lies at an address, and the last address of which that is true.
fn place(address: u64, tree: &Tree, ram: &SystemRam) -> (Place, u64) {
    let in_ram = ram.at(address);
    if in_ram.owner.is_some() {
        return (Place::SystemRam, in_ram.last);
    }
    let in_bar = tree.bars_at(address);
    let place = in_bar.owner.map_or(Place::Neither, Place::Bar);
    (place, in_bar.last.min(in_ram.last))
}
