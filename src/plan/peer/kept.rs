//! Verdicts about peer paths, kept until the machine boots again.
//!
//! They lie in `bufmap/peer-paths.json` of the user's runtime directory (`XDG_RUNTIME_DIR`), or of
//! the cache directory where there is none. A lie is kept as well as a success, with its words: who
//! wants to have a pair tried again removes the file.
//!
//! What a file says decides whether bytes are trusted to a path, so only one's own is believed: file
//! and directory belong to this user, nobody else may write them, and none is a link. What does not
//! make sense, or was written before this boot, is as if it were not there; and where nothing can be
//! kept, every load proves its paths itself.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, open, openat, renameat};
use serde::{Deserialize, Serialize};

use exporters::outside::outside;

use crate::pci::Address;
use crate::transfer::Direction;

const DIRECTORY: &str = "bufmap";
const FILE: &str = "peer-paths.json";
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// More than all pairs of a machine take, in bytes.
const LONGEST: u64 = 1 << 20;

/// Whose driver the drive obeys: each maps memory its own way, and a verdict about one says nothing of the
/// other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Driver {
    /// The kernel's.
    Kernel,
    /// This process's own.
    UserSpace,
}

/// Whom a verdict is about.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    /// Whose memory.
    pub provider: Address,
    /// Who reaches it.
    pub drive: Address,
    pub driver: Driver,
    pub direction: Direction,
    /// What else it depends on.
    pub circumstances: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    boot: String,
    paths: Vec<DataPath>,
}

#[derive(Debug, Serialize, Deserialize)]
struct DataPath {
    provider: String,
    drive: String,
    driver: Driver,
    direction: Direction,
    circumstances: String,
    /// Why bytes do not arrive; absent if they do.
    lie: Option<String>,
}

impl DataPath {
    fn is_of(&self, pair: &Pair) -> bool {
        self.provider == pair.provider.to_string()
            && self.drive == pair.drive.to_string()
            && (self.driver, self.direction) == (pair.driver, pair.direction)
    }
}

/// The verdicts of this boot.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    /// Absent where nothing can be kept.
    directory: Option<OwnedFd>,
    contents: Contents,
}

impl Kept {
    pub fn open() -> Self {
        let boot = fs::read_to_string(BOOT).unwrap_or_default();
        Self::open_in(place().as_deref(), boot.trim())
    }

    fn open_in(place: Option<&Path>, boot: &str) -> Self {
        let path = place.map(|place| place.join(DIRECTORY)).unwrap_or_default();
        // Without the name of a boot, nothing could ever be found to be of another one.
        let directory = match boot {
            "" => None,
            _ => place.and_then(|_| own_directory(&path).ok()),
        };
        let contents = directory.as_ref().and_then(|directory| read(directory).ok());
        let contents = contents
            .filter(|contents| contents.boot == boot)
            .unwrap_or_else(|| Contents { boot: boot.to_owned(), paths: Vec::new() });
        Self { path: path.join(FILE), directory, contents }
    }

    /// The verdict about a pair, if there is one.
    pub fn verdict(&self, pair: &Pair) -> Option<Result<(), String>> {
        let paths = &self.contents.paths;
        let path = paths
            .iter()
            .find(|path| path.is_of(pair) && path.circumstances == pair.circumstances)?;
        Some(match &path.lie {
            None => Ok(()),
            Some(lie) => Err(format!(
                "{lie} (found out since the machine booted; remove {} to have it tried again)",
                outside(&self.path)
            )),
        })
    }

    /// Keeps a verdict. Where that does not work, it will be found out again.
    pub fn keep(&mut self, pair: &Pair, verdict: &Result<(), String>) {
        self.contents.paths.retain(|path| !path.is_of(pair));
        self.contents.paths.push(DataPath {
            provider: pair.provider.to_string(),
            drive: pair.drive.to_string(),
            driver: pair.driver,
            direction: pair.direction,
            circumstances: pair.circumstances.clone(),
            lie: verdict.as_ref().err().cloned(),
        });
        if let Some(directory) = &self.directory {
            let _ = write(directory, &self.contents);
        }
    }
}

/// The user's directory for what does not outlive a boot, or else for what may be lost.
fn place() -> Option<PathBuf> {
    let directory = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    directory("XDG_RUNTIME_DIR")
        .or_else(|| directory("XDG_CACHE_HOME"))
        .or_else(|| directory("HOME").map(|home| home.join(".cache")))
}

/// Opens a directory that is this user's alone, made if need be.
fn own_directory(path: &Path) -> io::Result<OwnedFd> {
    match fs::DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    own(open(path, flags, Mode::empty())?)
}

/// Refuses what another user owns or may write.
fn own(fd: OwnedFd) -> io::Result<OwnedFd> {
    let stat = fstat(&fd)?;
    let writable_by_others = Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH);
    match stat.st_uid == rustix::process::geteuid().as_raw() && !writable_by_others {
        true => Ok(fd),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

fn read(directory: &OwnedFd) -> io::Result<Contents> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(own(openat(directory, FILE, flags, Mode::empty())?)?);
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

/// Puts new contents in the place of the old at once.
fn write(directory: &OwnedFd, contents: &Contents) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(contents)?;
    let new = format!("{FILE}.{}", std::process::id());
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(directory, &new, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(&text)?;
    Ok(renameat(directory, &new, directory, FILE)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const BOOT: &str = "8b0c6b9e-4e0c-4f5a-8f9f-1f1f4c9f0a11";

    fn pair(drive: &str, circumstances: &str) -> Pair {
        Pair {
            provider: "0000:03:00.0".parse().expect("an address"),
            drive: drive.parse().expect("an address"),
            driver: Driver::Kernel,
            direction: Direction::FromDrive,
            circumstances: circumstances.to_owned(),
        }
    }

    fn kept(place: &tempfile::TempDir, boot: &str) -> Kept {
        Kept::open_in(Some(place.path()), boot)
    }

    /// A place where one success and one lie are kept.
    fn filled() -> tempfile::TempDir {
        let place = tempfile::tempdir().expect("a directory");
        let mut own = kept(&place, BOOT);
        assert_eq!(own.verdict(&pair("0000:04:00.0", "a")), None);
        own.keep(&pair("0000:04:00.0", "a"), &Ok(()));
        own.keep(&pair("0000:05:00.0", "a"), &Err("it lied".into()));
        place
    }

    #[test]
    fn a_success_and_a_lie_are_remembered_for_their_pair_and_boot() {
        let place = filled();
        let same = kept(&place, BOOT);
        assert_eq!(same.verdict(&pair("0000:04:00.0", "a")), Some(Ok(())));
        let lie = same.verdict(&pair("0000:05:00.0", "a")).expect("kept").expect_err("a lie");
        assert!(lie.starts_with("it lied (") && lie.contains("peer-paths.json"), "{lie}");
        assert_eq!(same.verdict(&pair("0000:06:00.0", "a")), None);
        assert_eq!(same.verdict(&pair("0000:04:00.0", "b")), None);
        assert_eq!(kept(&place, "another").verdict(&pair("0000:04:00.0", "a")), None);
        assert_eq!(kept(&place, "").verdict(&pair("0000:04:00.0", "a")), None);
    }

    #[test]
    fn the_last_verdict_about_a_pair_counts() {
        let place = filled();
        kept(&place, BOOT).keep(&pair("0000:04:00.0", "b"), &Err("no more".into()));
        let same = kept(&place, BOOT);
        assert_eq!(same.verdict(&pair("0000:04:00.0", "a")), None);
        assert!(matches!(same.verdict(&pair("0000:04:00.0", "b")), Some(Err(_))));
    }

    #[test]
    fn each_driver_has_verdicts_of_its_own() {
        let place = filled();
        let own = Pair { driver: Driver::UserSpace, ..pair("0000:04:00.0", "a") };
        assert_eq!(kept(&place, BOOT).verdict(&own), None);
        kept(&place, BOOT).keep(&own, &Err("it lied".into()));
        let both = kept(&place, BOOT);
        assert!(matches!(both.verdict(&own), Some(Err(_))));
        assert_eq!(both.verdict(&pair("0000:04:00.0", "a")), Some(Ok(())));
    }

    #[test]
    fn each_direction_has_verdicts_of_its_own() {
        let place = filled();
        let out = Pair { direction: Direction::ToDrive, ..pair("0000:04:00.0", "a") };
        assert_eq!(kept(&place, BOOT).verdict(&out), None);
        kept(&place, BOOT).keep(&out, &Err("it lied".into()));
        let both = kept(&place, BOOT);
        assert!(matches!(both.verdict(&out), Some(Err(_))));
        assert_eq!(both.verdict(&pair("0000:04:00.0", "a")), Some(Ok(())));
    }

    #[test]
    fn what_others_may_write_or_nobody_understands_is_not_believed() {
        let asked = pair("0000:04:00.0", "a");
        let spoilt = |spoil: &dyn Fn(&Path)| {
            let place = filled();
            spoil(&place.path().join(DIRECTORY));
            kept(&place, BOOT).verdict(&asked)
        };
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
        };
        assert_eq!(spoilt(&|_| ()), Some(Ok(())));
        assert_eq!(spoilt(&|own| mode(&own.join(FILE), 0o620)), None);
        assert_eq!(spoilt(&|own| mode(own, 0o777)), None);
        for text in ["", "[]", "{\"boot\": 3}", "\u{0}"] {
            assert_eq!(spoilt(&|own| fs::write(own.join(FILE), text).expect("a file")), None);
        }
        let link = |own: &Path| {
            fs::rename(own.join(FILE), own.join("elsewhere")).expect("another name");
            symlink("elsewhere", own.join(FILE)).expect("a link");
        };
        assert_eq!(spoilt(&link), None);
    }

    #[test]
    fn where_nothing_can_be_kept_it_is_known_for_the_load() {
        let mut own = Kept::open_in(None, BOOT);
        own.keep(&pair("0000:04:00.0", "a"), &Ok(()));
        assert_eq!(own.verdict(&pair("0000:04:00.0", "a")), Some(Ok(())));
    }
}
