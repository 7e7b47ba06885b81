//! One of the things between a file and its drive.

use exporters::Absent;

/// Something between a file and its drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What it is: `ext4 on /data`, `partition nvme0n1p2`.
    pub name: String,
    /// Why no drive can move the bytes alone past it, or `None` if it passes requests on unchanged.
    pub hindrance: Option<Absent>,
}

impl Layer {
    pub(super) fn passes(name: impl Into<String>) -> Self {
        Self { name: name.into(), hindrance: None }
    }

    pub(super) fn hinders(name: impl Into<String>, hindrance: Absent) -> Self {
        Self { name: name.into(), hindrance: Some(hindrance) }
    }
}
