//! Files on a drive that this process drives.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use exporters::outside::outside;

use super::{Controller, Extent, Namespace};

/// A file by its extents: what to read of a namespace, in order. Whoever supplies them answers for
/// them; the drive knows blocks and no files.
///
/// ```no_run
/// use std::sync::Arc;
/// use bufmap::storage::nvme::{Controller, DriveFile, Extent};
/// use exporters::vfio::Container;
///
/// let container = Arc::new(Container::new()?);
/// let drive = Controller::open(container.open("0000:02:00.0")?, 1)?;
/// let namespace = drive.namespaces()?.remove(0);
/// // One MiB that begins 4 GiB into the namespace.
/// let extents = vec![Extent { file_offset: 0, offset: 4 << 30, len: 1 << 20 }];
/// let file = DriveFile::new(&drive, namespace, "texture.ktx2", extents)?;
/// assert_eq!(file.len(), 1 << 20);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct DriveFile {
    controller: Arc<Controller>,
    namespace: Namespace,
    path: PathBuf,
    extents: Vec<Extent>,
    len: u64,
}

/// Why extents are no file on a namespace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}: the extent at offset {offset} {what}; write down anew where the file lies",
    outside(path)
)]
pub struct BadExtent {
    /// What the file is called.
    pub path: PathBuf,
    /// Where in it the extent begins, in bytes.
    pub offset: u64,
    /// What is wrong with it.
    pub what: &'static str,
}

impl DriveFile {
    /// A file that is called `path` and lies on `namespace` where `extents` say: in order, without
    /// gaps, each beginning at a whole block both in the file and on the namespace, and inside it.
    ///
    /// # Errors
    /// [`BadExtent`], the first that is not so.
    pub fn new(
        controller: &Arc<Controller>,
        namespace: Namespace,
        path: impl Into<PathBuf>,
        extents: Vec<Extent>,
    ) -> Result<Self, BadExtent> {
        let path = path.into();
        let (block, drive_len) = (u64::from(namespace.identity().block_size), namespace.len());
        match check(&extents, block, drive_len) {
            Ok(len) => {
                Ok(Self { controller: Arc::clone(controller), namespace, path, extents, len })
            }
            Err((offset, what)) => Err(BadExtent { path, offset, what }),
        }
    }

    /// What it is called.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How long it is, in bytes.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The drive's controller.
    pub const fn controller(&self) -> &Arc<Controller> {
        &self.controller
    }

    /// The namespace it lies on.
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// What reads begin and end with, in bytes.
    pub const fn block_size(&self) -> u32 {
        self.namespace.identity().block_size
    }

    /// Whether the controller has not been stopped.
    pub(crate) fn is_at_work(&self) -> bool {
        self.controller.link().check_up().is_ok()
    }

    /// Where on the namespace the bytes from `offset` on lie, and how many of them in a row there,
    /// in whole blocks. `None` past the end.
    pub(super) fn place(&self, offset: u64) -> Option<(u64, u64)> {
        let after = self.extents.partition_point(|extent| extent.file_offset <= offset);
        let extent = self.extents.get(after.checked_sub(1)?)?;
        let within = offset - extent.file_offset;
        let whole = extent.len.next_multiple_of(u64::from(self.block_size()));
        (within < whole).then(|| (extent.offset + within, whole - within))
    }
}

impl fmt::Debug for DriveFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriveFile")
            .field("drive", &self.controller.address())
            .field("path", &self.path)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// The length of a file, or what is wrong with its extents and where.
fn check(extents: &[Extent], block: u64, drive_len: u64) -> Result<u64, (u64, &'static str)> {
    let mut len = 0u64;
    for extent in extents {
        let at = extent.file_offset;
        if at != len {
            return Err((at, "does not begin where the one before ends"));
        }
        if !at.is_multiple_of(block) || !extent.offset.is_multiple_of(block) {
            return Err((at, "does not begin with a block of the namespace"));
        }
        let whole = extent.len.checked_next_multiple_of(block).filter(|&whole| whole > 0);
        let end = whole.and_then(|whole| extent.offset.checked_add(whole));
        if end.is_none_or(|end| end > drive_len) {
            return Err((at, "is empty or reaches past the end of the namespace"));
        }
        len = at.checked_add(extent.len).ok_or((at, "reaches past the longest file"))?;
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn extent(file_offset: u64, offset: u64, len: u64) -> Extent {
        Extent { file_offset, offset, len }
    }

    #[test]
    fn extents_in_a_row_are_a_file() {
        let extents = [extent(0, 8192, 4096), extent(4096, 0, 512), extent(4608, 1 << 20, 100)];
        assert_eq!(check(&extents, 512, 2 << 20), Ok(4708));
        assert_eq!(check(&[], 512, 1 << 20), Ok(0));
    }

    #[test]
    fn what_is_not_in_a_row_or_not_there_is_refused() {
        let wrong = |extents: &[Extent]| check(extents, 512, 1 << 20).expect_err("no file").0;
        assert_eq!(wrong(&[extent(512, 0, 512)]), 512);
        assert_eq!(wrong(&[extent(0, 0, 512), extent(1024, 512, 512)]), 1024);
        assert_eq!(wrong(&[extent(0, 0, 100), extent(100, 512, 512)]), 100);
        assert_eq!(wrong(&[extent(0, 100, 512)]), 0);
        assert_eq!(wrong(&[extent(0, 0, 0)]), 0);
        assert_eq!(wrong(&[extent(0, (1 << 20) - 512, 513)]), 0);
        assert_eq!(wrong(&[extent(0, u64::MAX / 512 * 512, 4096)]), 0);
        assert_eq!(wrong(&[extent(0, 0, u64::MAX)]), 0);
    }
}
