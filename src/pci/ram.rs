//! Where the machine's own memory lies, from `/proc/iomem`.

use std::path::Path;

use exporters::outside::outside;
use iomap::PhysAddr;

use super::PciError;
use super::sysfs::bounded;
use super::windows::{Found, Windows};

/// More than the map of any machine.
const LONGEST: u64 = 16 << 20;

/// The physical ranges of system memory.
#[derive(Clone, Debug)]
pub struct SystemRam {
    ranges: Windows<()>,
}

/// Why the ranges of system memory are not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RamError {
    /// The kernel hides them from this process.
    #[error("{0}")]
    Hidden(exporters::Absent),
    /// The file cannot be read, or makes no sense.
    #[error(transparent)]
    Iomem(#[from] PciError),
}

impl SystemRam {
    /// Reads the map of the running machine, `/proc/iomem`.
    ///
    /// # Errors
    /// [`RamError::Hidden`] for a process without `CAP_SYS_ADMIN`, to which the kernel shows zeros
    /// for addresses; [`RamError::Iomem`] if the file cannot be read or has another form.
    pub fn read() -> Result<Self, RamError> {
        Self::from_proc("/proc".as_ref())
    }

    /// Reads the file `iomem` in a directory with the form of `/proc`.
    ///
    /// # Errors
    /// Those of [`SystemRam::read`].
    pub fn from_proc(proc: &Path) -> Result<Self, RamError> {
        let path = proc.join("iomem");
        let text = bounded(&path, LONGEST)?;
        let ranges =
            parse(&text).map_err(|line| PciError::content(&path, "a range and its name", line))?;
        // One byte at zero is no memory of any machine, it is what others than root are shown.
        if ranges.iter().all(|&range| range == (0, 0)) {
            return Err(RamError::Hidden(exporters::Absent::new(
                format!("{} shows no address of system memory", outside(&path)),
                "run as root (CAP_SYS_ADMIN): others are shown zeros",
            )));
        }
        Ok(Self { ranges: Windows::new(ranges.into_iter().map(|range| (range, ()))) })
    }

    /// Whether a byte lies in system memory.
    pub fn contains(&self, address: PhysAddr) -> bool {
        self.at(address.get()).owner.is_some()
    }

    /// The same, and how far it is true.
    pub(super) fn at(&self, address: u64) -> Found<()> {
        self.ranges.at(address)
    }
}

/// The first and last byte of each range of system memory, or the line that has no range. Memory
/// that a driver added (`System RAM (kmem)`) is among it, at whatever depth it stands.
fn parse(text: &str) -> Result<Vec<(u64, u64)>, &str> {
    let mut ranges = Vec::new();
    for line in text.lines() {
        let (range, name) = line.split_once(" : ").ok_or(line)?;
        if !name.starts_with("System RAM") {
            continue;
        }
        ranges.push(first_and_last(range.trim()).ok_or(line)?);
    }
    Ok(ranges)
}

fn first_and_last(range: &str) -> Option<(u64, u64)> {
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
    };
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_at_any_depth_are_memory() {
        let text = "00000000-00000fff : Reserved\n\
                    00001000-0009fbff : System RAM\n\
                    100000000-63fffffff : System RAM\n  \
                      4b4000000-4b50025ff : Kernel code\n\
                    640000000-73fffffff : CXL Window 0\n  \
                      640000000-73fffffff : dax0.0\n    \
                        640000000-73fffffff : System RAM (kmem)\n";
        let ranges = parse(text).expect("as the kernel writes it");
        assert_eq!(
            ranges,
            [(0x1000, 0x9fbff), (0x1_0000_0000, 0x6_3fff_ffff), (0x6_4000_0000, 0x7_3fff_ffff)]
        );
    }

    fn of(text: &str) -> Result<SystemRam, RamError> {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("iomem"), text).expect("a file");
        SystemRam::from_proc(directory.path())
    }

    #[test]
    fn what_others_than_root_are_shown_is_not_believed() {
        let error = of("00000000-00000000 : System RAM\n00000000-00000000 : PCI Bus 0000:00\n");
        assert!(matches!(&error, Err(RamError::Hidden(_))), "{error:?}");
        assert!(matches!(of(""), Err(RamError::Hidden(_))));
        let ram = of("00001000-0009fbff : System RAM\n").expect("a map");
        assert!(ram.contains(PhysAddr::new(0x9fbff)) && !ram.contains(PhysAddr::new(0x9fc00)));
    }

    #[test]
    fn nonsense_is_named() {
        for line in ["x", "2-1 : System RAM", "+1-2 : System RAM", "12 : System RAM"] {
            let error = of(line).expect_err(line).to_string();
            assert!(error.contains(line), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_ranges_or_a_line(
            text in "([0-9a-f]{0,17}-[0-9a-f]{0,17} : (System RAM|Reserved)\n){0,4}|.*"
        ) {
            if let Ok(ranges) = parse(&text) {
                prop_assert!(ranges.iter().all(|(first, last)| first <= last));
            }
        }
    }
}
