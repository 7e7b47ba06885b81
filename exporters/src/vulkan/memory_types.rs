//! Which of a device's memory types a buffer or an image is put into, and how the CPU sees it there.
//!
//! A driver lists its types best first among equals (Vulkan, "Device Memory Properties"), so for
//! each wish the first that fulfils it is taken.

use ash::vk;
use ash::vk::MemoryPropertyFlags as Flags;
use iomap::{Caching, Location};

use crate::Absent;

/// Types for special ends: for memory that is hidden from everybody, that may not be there, and
/// that needs a feature to be turned on (VUID-vkAllocateMemory-deviceCoherentMemory-02790).
const NEVER: Flags = Flags::from_raw(
    Flags::PROTECTED.as_raw()
        | Flags::LAZILY_ALLOCATED.as_raw()
        | Flags::DEVICE_COHERENT_AMD.as_raw()
        | Flags::DEVICE_UNCACHED_AMD.as_raw(),
);

/// Wishes for a buffer that the device works on.
pub(crate) const DEVICE_LOCAL: &[Flags] = &[Flags::DEVICE_LOCAL];

/// Wishes for a buffer of the device's own memory that the CPU and other devices reach too. Coherent:
/// another device's writes could not be flushed.
pub(super) const HOST_VISIBLE: &[Flags] =
    &[Flags::from_raw(Flags::DEVICE_LOCAL.as_raw() | COHERENT.as_raw())];

/// Wishes for memory in which the CPU reads what the device wrote: cached if possible, even where that
/// is not coherent, because to read what is not cached is slower than to invalidate what is. Coherent
/// and not cached if need be, which every device has (Vulkan promises one such type).
pub(super) const READ_BACK: &[Flags] = &[
    Flags::from_raw(COHERENT.as_raw() | Flags::HOST_CACHED.as_raw()),
    Flags::from_raw(Flags::HOST_VISIBLE.as_raw() | Flags::HOST_CACHED.as_raw()),
    COHERENT,
];

/// Wishes for memory that the CPU or a drive fills and the device copies from: coherent, because what a drive writes
/// could not be flushed; cached if possible, because what it holds is read by the CPU too, for fingerprints.
pub(super) const STAGING: &[Flags] =
    &[Flags::from_raw(COHERENT.as_raw() | Flags::HOST_CACHED.as_raw()), COHERENT];

/// Wishes for imported pages of this process: coherent, because they are written without Vulkan's
/// knowledge and so without a flush.
pub(super) const HOST_PAGES: &[Flags] = &[COHERENT];

/// Wishes for somebody else's dma-buf: as near to the device as it comes.
pub(crate) const IMPORTED: &[Flags] = &[Flags::DEVICE_LOCAL, Flags::empty()];

const COHERENT: Flags =
    Flags::from_raw(Flags::HOST_VISIBLE.as_raw() | Flags::HOST_COHERENT.as_raw());

/// How the CPU sees memory of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) location: Location,
    pub(super) caching: Caching,
    /// Whether CPU and device see each other's writes without the driver's help.
    pub(super) coherent: bool,
}

impl Seen {
    /// Through a BAR if it is the device's own. Whatever is not cached is write-combining, with every
    /// driver, and coherent, as Vulkan says of `HOST_CACHED`.
    pub(super) fn new(flags: Flags, shares_system_memory: bool) -> Self {
        let own = flags.contains(Flags::DEVICE_LOCAL) && !shares_system_memory;
        let cached = flags.contains(Flags::HOST_CACHED);
        Self {
            location: if own { Location::Io } else { Location::System },
            caching: if cached { Caching::WriteBack } else { Caching::WriteCombining },
            coherent: flags.contains(Flags::HOST_COHERENT),
        }
    }
}

/// Whether a device has memory of its own that the CPU reaches too.
pub(super) fn host_visible(
    device: &str,
    memory: &vk::PhysicalDeviceMemoryProperties,
) -> Result<(), Absent> {
    match choose(memory, !0, HOST_VISIBLE) {
        Some(_) => Ok(()),
        None => Err(Absent::new(
            format!(
                "{device} has no memory of its own that the CPU reaches (no type is DEVICE_LOCAL, \
                 HOST_VISIBLE and HOST_COHERENT)"
            ),
            "switch on resizable BAR in the firmware's setup, if its driver can use it, or copy by \
             the device (vulkan::Transfer)",
        )),
    }
}

/// The first type among `allowed` (a bit each) that fulfils the first of `wishes` that any does.
pub(crate) fn choose(
    memory: &vk::PhysicalDeviceMemoryProperties,
    allowed: u32,
    wishes: &[Flags],
) -> Option<u32> {
    wishes.iter().find_map(|&wish| {
        memory.memory_types_as_slice().iter().zip(0..).find_map(|(kind, index)| {
            let fits = kind.property_flags.contains(wish) && !kind.property_flags.intersects(NEVER);
            (allowed & (1 << index) != 0 && fits).then_some(index)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(types: &[Flags]) -> vk::PhysicalDeviceMemoryProperties {
        let mut memory = vk::PhysicalDeviceMemoryProperties {
            memory_type_count: types.len() as u32,
            ..Default::default()
        };
        for (slot, &flags) in memory.memory_types.iter_mut().zip(types) {
            slot.property_flags = flags;
        }
        memory
    }

    #[test]
    fn the_first_wish_that_an_allowed_type_fulfils_wins() {
        let discrete = memory(&[
            Flags::DEVICE_LOCAL | Flags::PROTECTED,
            Flags::DEVICE_LOCAL,
            COHERENT,
            COHERENT | Flags::HOST_CACHED,
        ]);
        assert_eq!(choose(&discrete, !0, DEVICE_LOCAL), Some(1));
        assert_eq!(choose(&discrete, !0, READ_BACK), Some(3));
        assert_eq!(choose(&discrete, 0b0111, READ_BACK), Some(2));
        assert_eq!(choose(&discrete, 0b1000, IMPORTED), Some(3));
        assert_eq!(choose(&discrete, 0b0001, IMPORTED), None);
        assert_eq!(choose(&discrete, 0, DEVICE_LOCAL), None);
    }

    #[test]
    fn only_the_devices_own_memory_is_host_visible_here() {
        let types = [Flags::DEVICE_LOCAL, COHERENT, COHERENT | Flags::HOST_CACHED];
        let absent = host_visible("Closed GPU", &memory(&types)).expect_err("no window");
        assert!(absent.why.contains("Closed GPU has no memory of its own"), "{absent}");
        assert!(absent.fix.contains("resizable BAR"), "{absent}");
        let incoherent = Flags::DEVICE_LOCAL | Flags::HOST_VISIBLE;
        assert!(host_visible("Closed GPU", &memory(&[incoherent])).is_err());

        let window = Flags::DEVICE_LOCAL | COHERENT;
        let open = memory(&[types[0], types[1], types[2], incoherent, window]);
        assert_eq!(host_visible("Open GPU", &open), Ok(()));
        assert_eq!(choose(&open, !0, HOST_VISIBLE), Some(4));
    }

    #[test]
    fn reading_back_wants_what_is_cached() {
        let cached = Flags::HOST_VISIBLE | Flags::HOST_CACHED;
        let both = COHERENT | Flags::HOST_CACHED;
        assert_eq!(choose(&memory(&[COHERENT, cached, both]), !0, READ_BACK), Some(2));
        assert_eq!(choose(&memory(&[COHERENT, cached]), !0, READ_BACK), Some(1));
        assert_eq!(choose(&memory(&[Flags::DEVICE_LOCAL, COHERENT]), !0, READ_BACK), Some(1));
        // What another device or the CPU writes without Vulkan's knowledge cannot be flushed.
        for wishes in [HOST_PAGES, HOST_VISIBLE] {
            assert_eq!(choose(&memory(&[cached | Flags::DEVICE_LOCAL]), !0, wishes), None);
        }
    }

    #[test]
    fn own_memory_is_seen_through_a_bar_and_shared_memory_is_the_systems() {
        use Caching::{WriteBack, WriteCombining};
        use Location::{Io, System};
        let visible = Flags::HOST_VISIBLE;
        let (own, cached) = (visible | Flags::DEVICE_LOCAL, Flags::HOST_CACHED);
        let coherent = Flags::HOST_COHERENT;
        for (flags, shares, location, caching) in [
            (own | coherent, false, Io, WriteCombining),
            (own | cached | coherent, false, Io, WriteBack),
            (own | cached, false, Io, WriteBack),
            (visible | coherent, false, System, WriteCombining),
            (visible | cached, false, System, WriteBack),
            (own | coherent, true, System, WriteCombining),
            (own | cached, true, System, WriteBack),
        ] {
            let expected = Seen { location, caching, coherent: flags.contains(coherent) };
            assert_eq!(Seen::new(flags, shares), expected, "{flags:?}, {shares}");
        }
    }
}
