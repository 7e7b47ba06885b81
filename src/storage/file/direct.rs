//! A file past the page cache: a descriptor of its own, made when reads need it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};

use super::open_files;
use super::own_path::own_path;

/// What the kernel asks of a direct read or write, in bytes. Both are powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Of the file offset and the length.
    pub offset: u32,
    /// Of the memory address.
    pub memory: u32,
}

/// The alignment that suits every drive, used where the kernel does not say.
const CAUTIOUS: Alignment = Alignment { offset: 4096, memory: 4096 };

/// What reads and writes of a file use: its own descriptor through the page cache, or one past it, which is
/// shared and closed when the last user is done.
#[derive(Clone, Debug)]
pub enum Descriptor<'f> {
    /// Through the page cache.
    Cached(BorrowedFd<'f>),
    /// Past it (`O_DIRECT`).
    Direct(Arc<File>),
}

impl AsFd for Descriptor<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Cached(file) => file.as_fd(),
            Self::Direct(file) => file.as_fd(),
        }
    }
}

/// What a file is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Reads,
    /// Writes, and reads of what was written.
    Writes,
}

/// Whether a file can be used past the page cache, and the descriptor for it while somebody does.
#[derive(Debug)]
pub(super) struct Direct {
    pub alignment: Result<Alignment, String>,
    use_for: Use,
    open: Mutex<Weak<File>>,
}

impl Direct {
    /// Tries it, and keeps nothing open.
    pub fn of(file: &File, path: &Path, use_for: Use) -> Self {
        let opened = open(file, path, use_for).map_err(|error| match open_files::remedy(&error) {
            Some(remedy) => format!("it cannot be opened once more ({error}): {remedy}"),
            None => format!("the file system does not open it with O_DIRECT ({error})"),
        });
        let alignment = opened.and_then(|file| ask_alignment(&file, use_for));
        Self { alignment, use_for, open: Mutex::default() }
    }

    /// The descriptor that others have, or else a new one.
    pub fn open(&self, file: &File, path: &Path) -> io::Result<Arc<File>> {
        let mut shared = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = shared.upgrade() {
            return Ok(opened);
        }
        let opened = Arc::new(open(file, path, self.use_for)?);
        *shared = Arc::downgrade(&opened);
        Ok(opened)
    }
}

/// Opens the file of a descriptor once more, past the page cache. A path is another file's by now if
/// somebody renamed one to it: it is taken only where there is no `/proc`, and only if it is not.
fn open(opened: &File, path: &Path, use_for: Use) -> io::Result<File> {
    let open = |path: &Path| {
        let flags = (OFlags::DIRECT | OFlags::NONBLOCK).bits() as i32;
        let writes = use_for == Use::Writes;
        OpenOptions::new().read(true).write(writes).custom_flags(flags).open(path)
    };
    match open(own_path(opened).as_ref()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => same(opened, open(path)?),
        answer => answer,
    }
}

/// A file opened by path, if it is the one that is open already.
fn same(opened: &File, found: File) -> io::Result<File> {
    match Identity::of(opened)? == Identity::of(&found)? {
        true => Ok(found),
        false => Err(io::Error::other(
            "there is no /proc to open it once more by, and its path names another file by now: \
             mount /proc",
        )),
    }
}

/// What tells a file from every other, by statx(2). Its length and its times are compared too,
/// because a file that was removed gives its number to the next one.
#[derive(PartialEq, Eq)]
struct Identity {
    device: (u32, u32),
    inode: u64,
    mount: u64,
    born: (i64, u32),
    len: u64,
    changed: (i64, u32),
}

impl Identity {
    fn of(file: &File) -> io::Result<Self> {
        let asked = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
        let stat = statx(file, "", AtFlags::EMPTY_PATH, asked)?;
        Ok(Self {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            mount: stat.stx_mnt_id,
            born: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
            len: stat.stx_size,
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        })
    }
}

/// Asks the kernel by `STATX_DIOALIGN` (since Linux 6.1, statx(2)).
fn ask_alignment(file: &File, use_for: Use) -> Result<Alignment, String> {
    let Ok(stat) = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else {
        return Ok(CAUTIOUS);
    };
    if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return Ok(CAUTIOUS);
    }
    // A file system that supports relaxed reads says so separately (since Linux 6.16).
    let offset = match (use_for, stat.stx_dio_read_offset_align) {
        (Use::Writes, _) | (Use::Reads, 0) => stat.stx_dio_offset_align,
        (Use::Reads, read) => read,
    };
    let memory = stat.stx_dio_mem_align;
    if offset == 0 || memory == 0 {
        return Err("the file system says that this file has no direct reads and writes".into());
    }
    if !offset.is_power_of_two() || !memory.is_power_of_two() {
        return Ok(CAUTIOUS);
    }
    Ok(Alignment { offset, memory })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_trusted_only_while_it_names_the_open_file() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["file", "other"] {
            std::fs::write(at(name), [1; 100]).unwrap();
        }
        let opened = File::open(at("file")).unwrap();
        same(&opened, File::open(at("file")).unwrap()).expect("the same file");
        std::fs::rename(at("other"), at("file")).unwrap();
        let error = same(&opened, File::open(at("file")).unwrap()).expect_err("another file");
        assert!(error.to_string().contains("mount /proc"), "{error}");
    }
}
