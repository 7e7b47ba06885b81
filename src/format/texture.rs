//! What a mip level of a texture is, and where in it the image of one layer and face lies.

use std::fmt;
use std::ops::Range;

use ::ktx2::SupercompressionScheme;
use serde::{Deserialize, Serialize};

/// A mip level of a texture, by the header of its file.
///
/// A level is one run of bytes that holds the images of all layers and faces, the faces of a layer beside
/// each other, and in a three-dimensional image all its slices ([`image`](Self::image)). The bytes are the
/// texels' own unless the level is supercompressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Texture {
    /// What the texels are.
    pub format: VkFormat,
    /// What the level is compressed with as a whole; `None` if it is not. (Formats such as BC7 and ASTC
    /// compress blocks of texels, which is no matter of this.)
    #[serde(default)]
    pub supercompression: Option<Supercompression>,
    /// How many dimensions an image has: 1, 2 or 3.
    pub dimensions: u32,
    /// Which mip level it is: 0 is the largest image.
    pub level: u32,
    /// How wide the level's images are, in texels.
    pub width: u32,
    /// How high they are, in texels; 1 if they have no second dimension.
    pub height: u32,
    /// How deep they are, in texels; 1 if they have no third dimension.
    pub depth: u32,
    /// How many layers it has: at least 1.
    pub layers: u32,
    /// Whether the texture is an array, which may have a single layer.
    pub is_array: bool,
    /// How many faces a layer has: 6 in a cube map, or else 1.
    pub faces: u32,
    /// How many bytes the level has when its supercompression is undone, as the file says; 0 if that does
    /// not tell (BasisLZ).
    pub uncompressed_len: u64,
}

impl Texture {
    /// Where in the level the image of one layer and face lies: bytes from the level's start on, of the
    /// level's `len` bytes ([`Item::len`](super::Item::len)).
    ///
    /// # Errors
    /// [`NoImage`]: the level is supercompressed, has no such layer or face, or its bytes do not divide
    /// into its images.
    ///
    /// ```no_run
    /// use bufmap::format::{self, Description};
    ///
    /// for opened in format::read("sky.ktx2".as_ref(), None)? {
    ///     for item in &opened.contents.items {
    ///         if let Description::Texture(texture) = &item.description {
    ///             let face = texture.image(item.len, 0, 5)?;
    ///             println!("level {}: face 5 is bytes {face:?}", texture.level);
    ///         }
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn image(&self, len: u64, layer: u32, face: u32) -> Result<Range<u64>, NoImage> {
        if let Some(scheme) = self.supercompression {
            return Err(NoImage::Supercompressed { scheme });
        }
        let &Self { layers, faces, .. } = self;
        if layer >= layers || face >= faces {
            return Err(NoImage::NotThere { layer, face, layers, faces });
        }
        // No overflow: the numbers of layers and faces have 32 bits, and the last image ends at `len`.
        let images = u64::from(layers) * u64::from(faces);
        if !len.is_multiple_of(images) {
            return Err(NoImage::Uneven { len, layers, faces });
        }
        let image_len = len / images;
        let start = (u64::from(layer) * u64::from(faces) + u64::from(face)) * image_len;
        Ok(start..start + image_len)
    }
}

/// Why no range can be given for an image within its level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoImage {
    /// The level is supercompressed.
    #[error(
        "the level is supercompressed with {scheme}, so no image in it has bytes of its own; decode the whole level"
    )]
    Supercompressed {
        /// What with.
        scheme: Supercompression,
    },
    /// The level has no such layer or face.
    #[error(
        "the level has no face {face} of layer {layer}; give a layer below {layers} and a face below {faces}"
    )]
    NotThere {
        /// The layer asked for.
        layer: u32,
        /// The face asked for.
        face: u32,
        /// How many layers there are.
        layers: u32,
        /// How many faces a layer has.
        faces: u32,
    },
    /// The level's length is not that of its images.
    #[error(
        "the level's {len} bytes do not divide into {layers} layers of {faces} faces; give the level's length, or write the texture again"
    )]
    Uneven {
        /// The length, in bytes.
        len: u64,
        /// How many layers there are.
        layers: u32,
        /// How many faces a layer has.
        faces: u32,
    },
}

/// What texels are: the number of a `VkFormat` of Vulkan, whether this library knows its name or not. 0,
/// `VK_FORMAT_UNDEFINED`, stands where the texels are to be transcoded, as those of Basis Universal are, and
/// where Vulkan has no number for them.
///
/// In JSON it is an object with the number and, where it is known, the name; read from there, the number
/// counts.
///
/// ```
/// use bufmap::format::VkFormat;
///
/// assert_eq!(VkFormat(37).name().as_deref(), Some("VK_FORMAT_R8G8B8A8_UNORM"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "Numbered", from = "Numbered")]
pub struct VkFormat(pub u32);

impl VkFormat {
    /// Its name in Vulkan, if it is known.
    pub fn name(self) -> Option<String> {
        match ::ktx2::Format::new(self.0) {
            None => Some("VK_FORMAT_UNDEFINED".into()),
            Some(format) => {
                ::ktx2::Format::ALL.contains(&format).then(|| format!("VK_FORMAT_{format:?}"))
            }
        }
    }
}

/// What a level is compressed with as a whole, by the KTX File Format Specification 2.0, section 3.10.
///
/// In JSON it is an object with the scheme's number and its name; read from there, the number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Numbered", from = "Numbered")]
#[non_exhaustive]
pub enum Supercompression {
    /// BasisLZ, which is to be transcoded with the texture's supercompression global data.
    BasisLz,
    /// Zstandard.
    Zstandard,
    /// zlib.
    Zlib,
    /// A scheme that this library has no name for: one of a vendor's from 0x10000 on.
    Other(u32),
}

impl Supercompression {
    /// The scheme's number in the file: never 0 in one that was read.
    pub fn number(self) -> u32 {
        match self {
            Self::BasisLz => SupercompressionScheme::BasisLZ.value(),
            Self::Zstandard => SupercompressionScheme::Zstandard.value(),
            Self::Zlib => SupercompressionScheme::ZLIB.value(),
            Self::Other(number) => number,
        }
    }

    pub(super) fn of(number: u32) -> Self {
        [Self::BasisLz, Self::Zstandard, Self::Zlib]
            .into_iter()
            .find(|scheme| scheme.number() == number)
            .unwrap_or(Self::Other(number))
    }
}

/// `BasisLZ`, `Zstandard`, `zlib`, or `scheme` and the number.
impl fmt::Display for Supercompression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BasisLz => f.pad("BasisLZ"),
            Self::Zstandard => f.pad("Zstandard"),
            Self::Zlib => f.pad("zlib"),
            Self::Other(number) => write!(f, "scheme {number}"),
        }
    }
}

/// A number and the name that says to people what it means.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbered {
    number: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl From<VkFormat> for Numbered {
    fn from(format: VkFormat) -> Self {
        Self { number: format.0, name: format.name() }
    }
}

impl From<Numbered> for VkFormat {
    fn from(numbered: Numbered) -> Self {
        Self(numbered.number)
    }
}

impl From<Supercompression> for Numbered {
    fn from(scheme: Supercompression) -> Self {
        Self { number: scheme.number(), name: Some(scheme.to_string()) }
    }
}

impl From<Numbered> for Supercompression {
    fn from(numbered: Numbered) -> Self {
        Self::of(numbered.number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texture(layers: u32, faces: u32) -> Texture {
        Texture {
            format: VkFormat(37),
            supercompression: None,
            dimensions: 2,
            level: 0,
            width: 8,
            height: 4,
            depth: 1,
            layers,
            is_array: layers > 1,
            faces,
            uncompressed_len: 0,
        }
    }

    #[test]
    fn formats_are_named_where_they_are_known() {
        assert_eq!(VkFormat(0).name().unwrap(), "VK_FORMAT_UNDEFINED");
        assert_eq!(VkFormat(145).name().unwrap(), "VK_FORMAT_BC7_UNORM_BLOCK");
        assert_eq!(VkFormat(11).name(), None);
        assert_eq!(VkFormat(u32::MAX).name(), None);
    }

    #[test]
    fn the_number_counts_and_not_the_name() {
        let json = r#"{"number": 37, "name": "what a later library calls it"}"#;
        assert_eq!(serde_json::from_str::<VkFormat>(json).unwrap(), VkFormat(37));
        assert_eq!(serde_json::from_str::<VkFormat>(r#"{"number": 9}"#).unwrap(), VkFormat(9));
        assert!(serde_json::from_str::<VkFormat>(r#"{"number": 9, "size": 1}"#).is_err());
        for number in [1, 2, 3, 4, 0x10001] {
            assert_eq!(Supercompression::of(number).number(), number);
        }
        assert_eq!(Supercompression::of(2).to_string(), "Zstandard");
        assert_eq!(Supercompression::of(0x10001).to_string(), "scheme 65537");
    }

    #[test]
    fn what_has_no_range_says_why() {
        let zlib = Texture { supercompression: Some(Supercompression::Zlib), ..texture(1, 1) };
        let words = zlib.image(64, 0, 0).unwrap_err().to_string();
        assert!(words.contains("supercompressed with zlib"), "{words}");
        for (layer, face) in [(2, 0), (0, 6), (u32::MAX, u32::MAX)] {
            let words = texture(2, 6).image(144, layer, face).unwrap_err().to_string();
            assert!(words.contains("below 2") && words.contains("below 6"), "{words}");
        }
        let words = texture(2, 6).image(145, 0, 0).unwrap_err().to_string();
        assert!(words.contains("145 bytes do not divide"), "{words}");
        // As a map by hand may have it.
        assert!(texture(0, 0).image(0, 0, 0).is_err());
        let most = texture(u32::MAX, u32::MAX);
        let len = u64::from(u32::MAX) * u64::from(u32::MAX);
        assert_eq!(most.image(len, u32::MAX - 1, u32::MAX - 1).unwrap(), len - 1..len);
    }

    proptest! {
        /// A level written as the specification has it (section 4, `levelImages`): for each layer, for each
        /// face, the bytes of its image. Each range holds its own image's bytes and no other's.
        #[test]
        fn the_range_of_an_image_holds_its_bytes(layers in 1_u32..7, faces in 1_u32..7, image_len in 0_usize..50) {
            let mut level = Vec::new();
            for layer in 0..layers {
                for face in 0..faces {
                    level.extend(std::iter::repeat_n((layer, face), image_len));
                }
            }
            for layer in 0..layers {
                for face in 0..faces {
                    let range = texture(layers, faces).image(level.len() as u64, layer, face).unwrap();
                    let bytes = &level[range.start as usize..range.end as usize];
                    prop_assert_eq!(bytes.len(), image_len);
                    prop_assert!(bytes.iter().all(|&byte| byte == (layer, face)));
                }
            }
        }

        #[test]
        fn any_numbers_give_a_range_inside_the_level_or_none(
            layers: u32, faces: u32, layer: u32, face: u32, image_len in 0_u64..1 << 20
        ) {
            let images = u64::from(layers) * u64::from(faces);
            let len = images.wrapping_mul(image_len);
            if let Ok(range) = texture(layers, faces).image(len, layer, face) {
                prop_assert!(range.start <= range.end && range.end <= len);
            }
        }
    }
}
