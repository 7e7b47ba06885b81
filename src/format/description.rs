//! What an item is, so that a caller need not read its file's header again.

use serde::{Deserialize, Deserializer, Serialize};

use super::member::Member;
use super::tensor::Tensor;
use super::texture::Texture;

/// What an item is, as the file that holds it says.
///
/// In JSON it is an object whose member `kind` says which: `bytes`, `tensor`, `texture` or `member`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Description {
    /// Bytes of which nothing more is known: a whole file, the supercompression global data of a texture, an
    /// item of a map of extents that does not say what it is.
    #[default]
    #[serde(deserialize_with = "nothing_more")]
    Bytes,
    /// A tensor.
    Tensor(Tensor),
    /// A mip level of a texture.
    Texture(Texture),
    /// A member of an archive.
    Member(Member),
}

impl Description {
    /// Whether so many bytes can be this.
    pub(super) fn fits(&self, len: u64) -> bool {
        match self {
            Self::Bytes | Self::Texture(_) => true,
            Self::Tensor(tensor) => tensor.byte_len() == Some(len),
            Self::Member(member) => member.size == len,
        }
    }
}

/// Reads an object without a further member; serde's own reader of a variant without fields would pass over
/// them.
fn nothing_more<'de, D: Deserializer<'de>>(from: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    Nothing::deserialize(from).map(|Nothing {}| ())
}
