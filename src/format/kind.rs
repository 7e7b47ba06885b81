//! The formats that can be loaded, and their names.

use std::fmt;
use std::str::FromStr;

use exporters::outside::outside;
use serde::{Deserialize, Serialize};

/// A file format that can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Bytes without a structure: one item, the whole file.
    Raw,
    /// A safetensors file.
    Safetensors,
    /// The index of a model that is spread over several safetensors files.
    SafetensorsIndex,
    /// A KTX 2.0 texture.
    Ktx2,
    /// A zip archive.
    Zip,
}

impl Format {
    const ALL: [Self; 5] =
        [Self::Raw, Self::Safetensors, Self::SafetensorsIndex, Self::Ktx2, Self::Zip];

    /// The endings of names that tell a format.
    pub(super) const ENDINGS: [(&str, Self); 4] = [
        (".safetensors.index.json", Self::SafetensorsIndex),
        (".safetensors", Self::Safetensors),
        (".ktx2", Self::Ktx2),
        (".zip", Self::Zip),
    ];
}

/// The format as people write it: `raw`, `safetensors`, `safetensors-index`, `KTX2`, `zip`.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Raw => "raw",
            Self::Safetensors => "safetensors",
            Self::SafetensorsIndex => "safetensors-index",
            Self::Ktx2 => "KTX2",
            Self::Zip => "zip",
        })
    }
}

/// The name given is no format's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a format: give raw, safetensors, safetensors-index, ktx2 or zip", outside(.0))]
pub struct UnknownFormat(String);

/// Reads what [`Display`](fmt::Display) writes, in upper or lower case.
impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Self::ALL
            .into_iter()
            .find(|format| format.to_string().eq_ignore_ascii_case(name))
            .ok_or_else(|| UnknownFormat(name.to_owned()))
    }
}
