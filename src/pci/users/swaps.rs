//! What the system swaps to (`/proc/swaps`, proc(5)).

use std::path::{Path, PathBuf};

use crate::pci::PciError;
use iomap::mounts::unescaped;

/// The files and devices that the system swaps to.
pub(super) fn read(proc: &Path) -> Result<Vec<PathBuf>, PciError> {
    let path = proc.join("swaps");
    let bytes = std::fs::read(&path).map_err(PciError::read(&path))?;
    parse(&String::from_utf8_lossy(&bytes))
        .map_err(|line| PciError::content(&path, "a swap space in each line", line))
}

/// All of them, or the line that makes no sense.
fn parse(text: &str) -> Result<Vec<PathBuf>, &str> {
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    if !head.starts_with("Filename") {
        return Err(head);
    }
    lines.map(|line| swap(line).ok_or(line)).collect()
}

/// Its path, then type, size, used and priority.
fn swap(line: &str) -> Option<PathBuf> {
    let words: Vec<_> = line.split_whitespace().collect();
    match words[..] {
        [path, "partition" | "file", _, _, _] => Some(PathBuf::from(unescaped(path))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

    #[test]
    fn swaps_are_read_as_the_kernel_writes_them() {
        let text = format!(
            "{HEAD}/dev/nvme0n1p4                          partition\t8388604\t\t0\t\t-2\n\
             /my\\040swap                             file\t\t1020\t\t0\t\t-3\n"
        );
        let swaps = parse(&text).expect("two swap spaces");
        assert_eq!(swaps, [PathBuf::from("/dev/nvme0n1p4"), PathBuf::from("/my swap")]);
        assert_eq!(parse(HEAD), Ok(Vec::new()));
    }

    #[test]
    fn what_makes_no_sense_is_no_swap_less() {
        assert_eq!(parse(""), Err(""));
        assert_eq!(
            parse("/dev/nvme0n1p4 partition 1 0 -2\n"),
            Err("/dev/nvme0n1p4 partition 1 0 -2")
        );
        let text = format!("{HEAD}/dev/nvme0n1p4\n");
        assert_eq!(parse(&text), Err("/dev/nvme0n1p4"));
    }
}
