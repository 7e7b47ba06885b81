//! Base address registers: which part of the address space a function answers to.

use std::fmt;

use iomap::PhysAddr;

use super::sysfs::{Directory, hexadecimal};
use super::{Address, PciError};

/// How many BARs a function can have. What follows them in `resource` is its ROM and its windows.
const BARS: usize = 6;

// The flags of a resource, from include/linux/ioport.h.
const TYPE: u64 = 0x1f00;
const IO: u64 = 0x100;
const MEMORY: u64 = 0x200;
const PREFETCH: u64 = 0x2000;
const MEMORY_64: u64 = 0x0010_0000;
const DISABLED: u64 = 0x1000_0000;
const UNSET: u64 = 0x2000_0000;

/// What a BAR is a range of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Memory space: what a peer can read and write.
    Memory {
        /// Reads have no side effects, writes may be merged.
        prefetchable: bool,
        /// It may lie above 4 GiB, and takes the place of two BARs.
        wide: bool,
    },
    /// I/O ports, which no peer can reach.
    Io,
}

/// One BAR of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Its number, 0 to 5.
    pub index: u8,
    /// Its first byte in the machine's physical address space; for [`BarKind::Io`] its first port.
    pub start: PhysAddr,
    /// Its length in bytes or ports, at least 1.
    pub len: u64,
    /// What it is a range of.
    pub kind: BarKind,
    /// Whether it has an address. A BAR that the kernel found no room for has none, and then
    /// [`start`](Self::start) means nothing (`pci=realloc`, or "above 4G decoding" in the firmware's
    /// settings, makes room).
    pub assigned: bool,
}

impl Bar {
    /// Its first and last byte, if it is memory that has an address.
    pub(super) fn window(&self) -> Option<(u64, u64)> {
        let memory = matches!(self.kind, BarKind::Memory { .. }) && self.assigned;
        memory.then(|| (self.start.get(), self.start.get() + (self.len - 1)))
    }
}

/// A byte of a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InBar {
    /// Whose BAR it is.
    pub function: Address,
    /// The BAR's number, 0 to 5.
    pub bar: u8,
    /// How far into the BAR, in bytes.
    pub offset: u64,
}

impl fmt::Display for InBar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {:#x} of BAR {} of {}", self.offset, self.bar, self.function)
    }
}

/// Reads the attribute `resource` of a function.
pub(super) fn read(function: Directory<'_>) -> Result<Vec<Bar>, PciError> {
    let text = function.text("resource")?;
    parse(&text).map_err(|line| {
        function.content("resource", "first byte, last byte and flags of a resource", line)
    })
}

/// The BARs among the lines, or the line that is none.
fn parse(text: &str) -> Result<Vec<Bar>, &str> {
    let lines = text.lines().take(BARS).enumerate();
    lines.filter_map(|(index, line)| bar(index as u8, line).ok_or(line).transpose()).collect()
}

/// The BAR of a line, `Some(None)` for a line without one, `None` for nonsense.
fn bar(index: u8, line: &str) -> Option<Option<Bar>> {
    let mut words = line.split_whitespace().map(hexadecimal);
    let (start, end, flags) = (words.next()??, words.next()??, words.next()??);
    if words.next().is_some() {
        return None;
    }
    let kind = match flags & TYPE {
        MEMORY => {
            BarKind::Memory { prefetchable: flags & PREFETCH != 0, wide: flags & MEMORY_64 != 0 }
        }
        IO => BarKind::Io,
        _ => return Some(None),
    };
    let len = end.checked_sub(start)?.checked_add(1)?;
    let assigned = flags & (UNSET | DISABLED) == 0;
    Some(Some(Bar { index, start: PhysAddr::new(start), len, kind, assigned }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn memory_ports_and_gaps() {
        let text = "0x00000000fe800000 0x00000000fe803fff 0x0000000000140204\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x0000380000000000 0x00003803ffffffff 0x000000000014220c\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x000000000000c000 0x000000000000c01f 0x0000000000040101\n\
                    0x0000000000000000 0x0000000000ffffff 0x0000000020040200\n\
                    0x00000000fe900000 0x00000000fe97ffff 0x0000000000046200\n";
        let bars = parse(text).expect("as the kernel writes it");
        assert_eq!(bars.iter().map(|bar| bar.index).collect::<Vec<_>>(), [0, 2, 4, 5]);
        assert_eq!(bars[0].kind, BarKind::Memory { prefetchable: false, wide: true });
        assert_eq!(bars[1].len, 16 << 30);
        assert_eq!(bars[1].window(), Some((0x3800_0000_0000, 0x3803_ffff_ffff)));
        assert_eq!((bars[2].kind, bars[2].window()), (BarKind::Io, None));
        assert!(!bars[3].assigned && bars[3].window().is_none());
    }

    #[test]
    fn nonsense_is_named() {
        for line in
            ["0x1", "0x2 0x1 0x200", "1 2 3", "0x0 0xffffffffffffffff 0x200", "0x1 0x2 0x200 0x0"]
        {
            assert_eq!(parse(line), Err(line));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_bars_or_a_line(text in "(0x[0-9a-f]{1,16} 0x[0-9a-f]{1,16} 0x[0-9a-f]{1,16}\n){0,8}|.*") {
            if let Ok(bars) = parse(&text) {
                prop_assert!(bars.len() <= BARS);
                for bar in bars {
                    prop_assert!(bar.len > 0);
                    if let Some((first, last)) = bar.window() {
                        prop_assert!(first <= last);
                    }
                }
            }
        }
    }
}
