//! A file system that a test serves itself, by FUSE.

use std::time::UNIX_EPOCH;

use fuser::{BackgroundSession, Config, FileAttr, FileType, Filesystem, INodeNo, MountOption};

/// A mounted file system, unmounted when it is dropped.
pub struct Mount {
    session: Option<BackgroundSession>,
    pub at: tempfile::TempDir,
}

impl Mount {
    /// Mounts what `served` serves, or says what that needs.
    pub fn new(served: impl Filesystem + 'static, options: &[MountOption]) -> Result<Self, String> {
        let at = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut config = Config::default();
        config.mount_options = options.to_vec();
        config.mount_options.push(MountOption::FSName("sick".into()));
        let session = fuser::spawn_mount(served, at.path(), &config);
        let session = session.map_err(|error| format!("FUSE needs root and /dev/fuse: {error}"))?;
        Ok(Self { session: Some(session), at })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}

/// Of a file of so many bytes, or else of a directory.
pub fn attributes(file: INodeNo, len: Option<u64>) -> FileAttr {
    FileAttr {
        ino: file,
        size: len.unwrap_or(0),
        blocks: len.unwrap_or(0).div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if len.is_none() { FileType::Directory } else { FileType::RegularFile },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
