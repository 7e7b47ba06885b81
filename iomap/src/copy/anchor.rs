//! Which side of a copy keeps its words whole.

/// The side of a copy whose words stay whole: the one that others may watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    Source,
    Destination,
}

impl Anchor {
    #[inline]
    pub(super) fn address(self, src: *const u8, dst: *const u8) -> usize {
        match self {
            Self::Source => src as usize,
            Self::Destination => dst as usize,
        }
    }
}
