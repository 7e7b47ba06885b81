//! The file's own bytes: are they on the drive as they are read?

use exporters::Absent;
use fiemap::{Fiemap, FiemapExtentFlags};
use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};

use super::layer::Layer;
use crate::storage::file::SourceFile;

/// How many extents are looked at: a file in more pieces is judged by these.
const EXTENTS: usize = 4096;

/// What stands in the way, if anything does: a file says so of itself (statx(2)), or its extents do
/// (`Documentation/filesystems/fiemap.rst`). File systems without either say nothing.
pub(super) fn layers(file: &SourceFile) -> Vec<Layer> {
    let mut layers = Vec::new();
    let mut found = |name: &str, why: &str, fix: &'static str| {
        if !layers.iter().any(|layer: &Layer| layer.name == name) {
            layers.push(Layer::hinders(name, Absent::new(format!("the file is {why}"), fix)));
        }
    };
    if let Ok(stat) = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS) {
        let has = |attribute| stat.stx_attributes.contains(attribute);
        if has(StatxAttributes::COMPRESSED) {
            found("compressed data", "compressed, and the CPU unpacks it", UNCOMPRESSED);
        }
        if has(StatxAttributes::ENCRYPTED) {
            found("encrypted data", "encrypted, and the CPU decrypts it", UNENCRYPTED);
        }
        if has(StatxAttributes::VERITY) {
            let why = "checked by the CPU as it is read (fs-verity)";
            found("verified data", why, "copy it to a file without fs-verity");
        }
    }
    for extent in Fiemap::new(file).take(EXTENTS).map_while(Result::ok) {
        let has = |flag| extent.fe_flags.contains(flag);
        if has(FiemapExtentFlags::DATA_INLINE) || has(FiemapExtentFlags::DATA_TAIL) {
            let why = "so short that its bytes lie among the file system's own";
            found("inline data", why, "nothing is to be gained for so few bytes");
        } else if has(FiemapExtentFlags::DATA_ENCRYPTED) {
            found("encrypted data", "encrypted, and the CPU decrypts it", UNENCRYPTED);
        } else if has(FiemapExtentFlags::ENCODED) {
            found("compressed data", "compressed, and the CPU unpacks it", UNCOMPRESSED);
        } else if has(FiemapExtentFlags::DELALLOC) {
            found("unwritten data", "not yet on the drive", "sync it");
        }
    }
    layers
}

const UNCOMPRESSED: &str =
    "copy it to a directory whose files are not compressed (chattr -c, btrfs property set)";
const UNENCRYPTED: &str = "copy it to a directory that is not encrypted";
