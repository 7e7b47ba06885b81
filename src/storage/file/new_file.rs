//! A new file, which takes an old one's place when it is whole.
//!
//! Until it is [committed](NewFile::commit) the old file is untouched, and afterwards the name is the new one's: at
//! no moment is it that of a part. The new file is made in the same directory, because a name cannot move to another
//! file system: without a name (`O_TMPFILE`, open(2)), so that nothing stays of it when the process is killed, or, on
//! file systems that cannot do that (NFS, FAT), with a name that nobody has.
//!
//! Between its synchronisation and the rename the new file has a name of its own for a moment, because the kernel gives
//! a nameless file no name that is another's (linkat(2)). A process that is killed just then leaves a whole copy
//! under a name that begins with `.bufmap-`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, Stat, Uid, accessat, fallocate,
    fchmod, fchown, linkat, openat, readlinkat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::own_path::own_path;
use super::{LONGEST_FILE, NotAFile, SinkFile};

/// The most symbolic links that are followed, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// A file that nobody sees before it is whole. Dropped without [`commit`](Self::commit), it is gone.
///
/// ```no_run
/// use bufmap::storage::file::{NewFile, pread};
/// use iomap::BufMap;
///
/// let new = NewFile::beside("checkpoint.bin")?;
/// new.allocate(4096)?;
/// pread::write_at(new.sink(), 0, &BufMap::from_slice(&[1; 4096]))?;
/// new.commit()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct NewFile {
    sink: SinkFile,
    directory: OwnedFd,
    /// The name that it takes.
    name: OsString,
    /// The name that it has meanwhile, if it has one.
    temporary: Option<OsString>,
    replaced: Option<Replaced>,
}

/// What is taken over of the file that is replaced.
#[derive(Clone, Copy, Debug)]
struct Replaced {
    mode: Mode,
    user: Uid,
    group: Gid,
}

impl From<Stat> for Replaced {
    fn from(stat: Stat) -> Self {
        Self {
            mode: Mode::from_raw_mode(stat.st_mode),
            user: Uid::from_raw(stat.st_uid),
            group: Gid::from_raw(stat.st_gid),
        }
    }
}

/// Why a new file did not get its name.
#[derive(Debug, thiserror::Error)]
#[error("{step} failed: {source}")]
pub struct Uncommitted {
    /// What failed.
    pub step: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
    /// Whether the new file has the name all the same, and a loss of power may yet take it away.
    pub named: bool,
}

impl NewFile {
    /// Makes one beside the file that `path` names, which it is to replace, or where that name is to be. A symbolic
    /// link is followed, so that it stays what it is.
    ///
    /// # Errors
    /// The kernel's answer: `EACCES` for a directory, or a file in the name's place, that this user may not write.
    /// For what is no regular file, an error that holds [`NotAFile`].
    pub fn beside(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let (directory, name) = followed(path)?;
        let replaced = match statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(stat) = &replaced {
            check_replaceable(stat)?;
            // A file that may not be written is not to be replaced either, though its directory would allow it.
            accessat(&directory, &name, rustix::fs::Access::WRITE_OK, AtFlags::EACCESS)?;
        }
        // Of a file that is replaced, the rights are taken over at the end: nobody reads this one before.
        let mode = Mode::from_raw_mode(if replaced.is_some() { 0o600 } else { 0o666 });
        let (file, temporary) = made_in(&directory, mode)?;
        let sink = SinkFile::of(file, path.to_owned());
        Ok(Self { sink, directory, name, temporary, replaced: replaced.map(Replaced::from) })
    }

    /// The file, to be written to.
    pub const fn sink(&self) -> &SinkFile {
        &self.sink
    }

    /// Makes it `len` bytes long, and has the file system set blocks aside for them where it can: then what follows
    /// does not fail for want of space.
    ///
    /// # Errors
    /// `ENOSPC` or `EDQUOT` if they are not to be had; `EFBIG` beyond what the file system or this process's limit
    /// (`RLIMIT_FSIZE`) allows, in which case no signal is sent.
    pub fn allocate(&self, len: u64) -> io::Result<()> {
        let most = getrlimit(Resource::Fsize).current.unwrap_or(LONGEST_FILE).min(LONGEST_FILE);
        if len > most {
            return Err(Errno::FBIG.into());
        }
        loop {
            match len {
                0 => return self.sink.set_len(0),
                _ => match fallocate(&self.sink, FallocateFlags::empty(), 0, len) {
                    Ok(()) => return self.sink.set_len(len),
                    Err(Errno::INTR) => {}
                    Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                        return self.sink.set_len(len);
                    }
                    Err(error) => return Err(error.into()),
                },
            }
        }
    }

    /// Makes it `len` bytes long, without anything for them.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.sink.set_len(len)
    }

    /// Puts all of it in the drive, gives it the rights of the file that it replaces and then its name, and puts that in
    /// the drive too.
    ///
    /// # Errors
    /// [`Uncommitted`]: which step failed. The name is still the old file's, unless `named`.
    pub fn commit(mut self) -> Result<(), Uncommitted> {
        let failed =
            |step, named| move |error: Errno| Uncommitted { step, source: error.into(), named };
        if let Some(replaced) = self.replaced {
            take_over(&self.sink, replaced)
                .map_err(failed("taking over the old file's rights", false))?;
        }
        let synced = self.sink.file().sync_all();
        synced.map_err(|source| Uncommitted { step: "writing it out", source, named: false })?;
        self.take_name().map_err(failed("giving it its name", false))?;
        self.temporary = None;
        rustix::fs::fsync(&self.directory).map_err(failed("writing its directory out", true))
    }

    fn take_name(&mut self) -> rustix::io::Result<()> {
        if self.temporary.is_none() {
            if self.replaced.is_none() {
                match self.link(&self.name) {
                    // Somebody was quicker: that file is replaced.
                    Err(Errno::EXIST) => {}
                    done => return done,
                }
            }
            let name = unlikely_name();
            self.link(&name)?;
            self.temporary = Some(name);
        }
        let Some(temporary) = &self.temporary else { return Ok(()) };
        renameat(&self.directory, temporary, &self.directory, &self.name)
    }

    /// Gives the nameless file a name that nobody has.
    fn link(&self, name: &OsStr) -> rustix::io::Result<()> {
        let own = own_path(&self.sink);
        linkat(CWD, own, &self.directory, name, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            let _ = unlinkat(&self.directory, name, AtFlags::empty());
        }
    }
}

/// The directory and the name that a path stands for in the end.
fn followed(path: &Path) -> io::Result<(OwnedFd, OsString)> {
    let mut from: Option<OwnedFd> = None;
    let mut path: PathBuf = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, NotAFile::DIRECTORY));
        };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let base = from.as_ref().map_or(CWD, |from| from.as_fd());
        let directory = openat(base, parent, flags, Mode::empty())?;
        match readlinkat(&directory, &name, Vec::new()) {
            Ok(target) => {
                path = OsString::from_vec(target.into_bytes()).into();
                from = Some(directory);
            }
            // It is no link, or nothing has the name.
            Err(Errno::INVAL | Errno::NOENT) => return Ok((directory, name)),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::LOOP.into())
}

fn check_replaceable(stat: &Stat) -> io::Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => {
            Err(io::Error::new(io::ErrorKind::IsADirectory, NotAFile::DIRECTORY))
        }
        FileType::BlockDevice => Err(io::Error::new(io::ErrorKind::InvalidInput, NotAFile::DRIVE)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, NotAFile::OTHER)),
    }
}

/// Makes a file in a directory: without a name, or else with the one that comes along.
fn made_in(directory: &OwnedFd, mode: Mode) -> io::Result<(File, Option<OsString>)> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match openat(directory, ".", flags | OFlags::TMPFILE, mode) {
        // Without /proc, it could never be given a name.
        Ok(file) if Path::new(&own_path(&file)).exists() => return Ok((file.into(), None)),
        // `EISDIR` and `EINVAL` are the answers of kernels and file systems that do not know it.
        Ok(_) | Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let name = unlikely_name();
    let file = openat(directory, &name, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
    Ok((file.into(), Some(name)))
}

/// A name that nobody has, and nobody can foretell.
fn unlikely_name() -> OsString {
    let random = RandomState::new().build_hasher().finish();
    format!(".bufmap-{}-{random:016x}", std::process::id()).into()
}

/// Gives a file the owner and the rights of another. Who may not give it away keeps it, and then it gives nobody the
/// rights of its owner (set-user-ID).
fn take_over(file: &SinkFile, Replaced { mode, user, group }: Replaced) -> rustix::io::Result<()> {
    let owned = match fchown(file, Some(user), Some(group)) {
        Err(Errno::PERM) => fchown(file, None, Some(group)),
        done => done,
    };
    let given = owned.is_ok() && rustix::fs::fstat(file)?.st_uid == user.as_raw();
    fchmod(file, if given { mode } else { mode - (Mode::SUID | Mode::SGID) })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use iomap::BufMap;

    use super::*;
    use crate::storage::file::pread;

    fn write(new: &NewFile, bytes: &[u8]) {
        new.allocate(bytes.len() as u64).expect("space");
        let put = pread::write_at(new.sink(), 0, &BufMap::from_slice(bytes)).expect("a write");
        assert_eq!(put, bytes.len());
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    }

    /// The same with a name and without one.
    fn both(test: impl Fn(&Path, &dyn Fn(&Path) -> NewFile)) {
        let named = |path: &Path| {
            let mut new = NewFile::beside(path).expect("a new file");
            let name = unlikely_name();
            new.link(&name).expect("a name");
            new.temporary = Some(name);
            new
        };
        let nameless = |path: &Path| {
            let new = NewFile::beside(path).expect("a new file");
            assert!(new.temporary.is_none(), "the tests' directory knows O_TMPFILE");
            new
        };
        for make in [&named as &dyn Fn(&Path) -> NewFile, &nameless] {
            let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/target");
            test(dir.expect("a directory").path(), make);
        }
    }

    #[test]
    fn the_old_file_is_whole_until_the_new_one_is() {
        both(|dir, make| {
            let path = dir.join("file");
            fs::write(&path, b"old").expect("a file");
            let new = make(&path);
            write(&new, b"quite new");
            assert_eq!(fs::read(&path).expect("a file"), b"old");
            new.commit().expect("a name");
            assert_eq!(fs::read(&path).expect("a file"), b"quite new");
            assert_eq!(names(dir), ["file"]);
        });
    }

    #[test]
    fn dropped_it_leaves_nothing() {
        both(|dir, make| {
            fs::write(dir.join("file"), b"old").expect("a file");
            write(&make(&dir.join("file")), b"new");
            write(&make(&dir.join("another")), b"new");
            assert_eq!(names(dir), ["file"]);
            assert_eq!(fs::read(dir.join("file")).expect("a file"), b"old");
        });
    }

    #[test]
    fn mode_and_owner_are_the_old_files() {
        both(|dir, make| {
            let path = dir.join("file");
            fs::write(&path, b"old").expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).expect("a mode");
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::chown(&path, Some(1234), Some(4321)).expect("an owner");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).expect("a mode");
            }
            let before = fs::metadata(&path).expect("a file");
            make(&path).commit().expect("a name");
            let after = fs::metadata(&path).expect("a file");
            let of = |data: &fs::Metadata| (data.mode(), data.uid(), data.gid());
            assert_eq!(of(&before), of(&after));
            assert_ne!(before.ino(), after.ino());
        });
    }

    #[test]
    fn a_link_stays_and_what_it_names_is_replaced() {
        both(|dir, make| {
            fs::create_dir(dir.join("below")).expect("a directory");
            fs::write(dir.join("below/file"), b"old").expect("a file");
            symlink("below/second", dir.join("first")).expect("a link");
            symlink("file", dir.join("below/second")).expect("a link");
            symlink("below/absent", dir.join("dangling")).expect("a link");
            for (link, file) in [("first", "below/file"), ("dangling", "below/absent")] {
                let new = make(&dir.join(link));
                write(&new, b"new");
                new.commit().expect("a name");
                assert!(dir.join(link).is_symlink());
                assert_eq!(fs::read(dir.join(file)).expect("a file"), b"new");
            }
            assert_eq!(names(dir), ["below", "dangling", "first"]);
            assert_eq!(names(&dir.join("below")), ["absent", "file", "second"]);
            symlink("round", dir.join("round")).expect("a link");
            let error = NewFile::beside(dir.join("round")).expect_err("a circle");
            assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        });
    }

    #[test]
    fn who_takes_the_name_first_is_replaced() {
        both(|dir, make| {
            let path = dir.join("file");
            let new = make(&path);
            write(&new, b"new");
            fs::write(&path, b"quicker").expect("a file");
            new.commit().expect("a name");
            assert_eq!(fs::read(&path).expect("a file"), b"new");
            assert_eq!(names(dir), ["file"]);
        });
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let kind = |path: &Path| NewFile::beside(path).expect_err("no file").kind();
        assert_eq!(kind(dir.path()), io::ErrorKind::IsADirectory);
        assert_eq!(kind(Path::new("/")), io::ErrorKind::IsADirectory);
        assert_eq!(kind(Path::new("/dev/null")), io::ErrorKind::InvalidInput);
        assert_eq!(kind(&dir.path().join("absent/file")), io::ErrorKind::NotFound);
    }
}
