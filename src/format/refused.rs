//! What is in a file and cannot be loaded as it lies, and why.

use std::fmt;

/// A member of a file that is there and cannot be loaded, because its bytes in the file are not its
/// content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its name.
    pub name: String,
    /// Where it is in the file, in bytes: a zip member's local header, a tensor.
    pub offset: u64,
    /// How many bytes it has in the file.
    pub len: u64,
    /// Why it cannot be loaded.
    pub why: Refusal,
}

/// Why a member cannot be loaded as it lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is compressed, by this method of the zip specification (APPNOTE 4.4.5).
    Compressed {
        /// The method's number: 8 is deflate.
        method: u16,
    },
    /// It is encrypted.
    Encrypted,
    /// It is a tensor of a shard, and the index of the model does not name it.
    NotInIndex,
}

impl Refusal {
    /// Whether a load of the whole file goes on without it. What the index of a model does not name is no
    /// part of the model; what is compressed or encrypted is a part that would be missing.
    pub const fn is_expected(self) -> bool {
        matches!(self, Self::NotInIndex)
    }

    /// What to do to load it all the same.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Compressed { .. } | Self::Encrypted => {
                "pack it again without compression and encryption (`zip -0`)"
            }
            Self::NotInIndex => "give its shard by itself to load it",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compressed { method } => match method_name(*method) {
                Some(name) => write!(f, "compressed with {name}"),
                None => write!(f, "compressed with method {method}"),
            },
            Self::Encrypted => f.write_str("encrypted"),
            Self::NotInIndex => f.write_str("not named by the model's index"),
        }
    }
}

/// The name of a compression method (APPNOTE 4.4.5).
fn method_name(method: u16) -> Option<&'static str> {
    Some(match method {
        1 => "shrink",
        6 => "implode",
        8 => "deflate",
        9 => "deflate64",
        12 => "bzip2",
        14 => "LZMA",
        93 => "Zstandard",
        95 => "XZ",
        98 => "PPMd",
        _ => return None,
    })
}
