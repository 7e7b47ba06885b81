//! Where memory lives, which decides how it may be accessed.

/// Where the bytes of a map live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// The machine's own memory.
    System,
    /// Behind an I/O bus: a PCI BAR, VRAM.
    Io,
}
