//! The mounts of a process (`/proc/self/mountinfo`, proc_pid_mountinfo(5)).

use std::path::PathBuf;

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number, which statx(2) tells of a file.
    pub id: u64,
    /// The device's numbers, `259:2`. A major number of 0 is no block device's.
    pub device: String,
    /// Which directory of the file system is mounted there, `/` for all of it.
    pub root: PathBuf,
    /// Where it is mounted.
    pub on: PathBuf,
    /// What kind of file system it is.
    pub kind: String,
    /// What is mounted, as the file system calls it.
    pub source: String,
    /// Its own options.
    pub options: String,
}

/// A line that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLine<'a>(pub &'a str);

/// All of them, in order.
pub fn parse(mountinfo: &str) -> impl Iterator<Item = Result<Mount, BadLine<'_>>> {
    mountinfo.lines().map(|line| mount(line).ok_or(BadLine(line)))
}

fn mount(line: &str) -> Option<Mount> {
    let (place, what) = line.split_once(" - ")?;
    let mut place = place.split(' ');
    let id = place.next()?.parse().ok()?;
    let (_parent, device, root, on) = (place.next()?, place.next()?, place.next()?, place.next()?);
    let mut what = what.split(' ');
    let (kind, source, options) = (what.next()?, what.next()?, what.next()?);
    Some(Mount {
        id,
        device: device.to_owned(),
        root: PathBuf::from(unescaped(root)),
        on: PathBuf::from(unescaped(on)),
        kind: kind.to_owned(),
        source: unescaped(source),
        options: unescaped(options),
    })
}

/// A word whose white space and backslashes are written as three octal digits.
pub fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) if byte.is_ascii() => {
                plain.push(char::from(byte));
                plain.push_str(&part[3..]);
            }
            _ => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mounts_are_read_as_the_kernel_writes_them() {
        let text = "\
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw,errors=remount-ro
36 22 0:45 /sub /mnt/my\\040disk\\134 rw - btrfs /dev/nvme0n1p3 rw,compress=zstd:3
nonsense
37 22 x
";
        let lines: Vec<_> = parse(text).collect();
        assert_eq!(lines[2..], [Err(BadLine("nonsense")), Err(BadLine("37 22 x"))]);
        let mounts: Vec<_> = lines.into_iter().flatten().collect();
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[0].id, mounts[0].device.as_str()), (22, "259:2"));
        assert_eq!(mounts[1].on, PathBuf::from("/mnt/my disk\\"));
        assert_eq!(mounts[1].root, PathBuf::from("/sub"));
        assert_eq!(mounts[1].kind, "btrfs");
        assert_eq!(mounts[1].options, "rw,compress=zstd:3");
    }

    proptest! {
        #[test]
        fn any_text_is_mounts_or_none(
            text in "([0-9:]{0,6} ){0,5}(/[a-z\\\\0-9]{0,9} ){0,3}(- )?([a-z]{0,4} ?){0,4}|.*"
        ) {
            let _ = parse(&text).count();
            prop_assert!(unescaped(&text).len() <= text.len());
        }
    }
}
