//! The blocks of Vulkan's formats: how many bytes one has in a copy, and how many texels it covers.
//!
//! As in the tables of Vulkan, "Compatible Formats of Planes" aside: formats of several planes and those that share
//! texels between neighbours (`G8B8G8R8_422`) are left out, because a region of one is not one run of rows.

use ash::vk::{Format, ImageAspectFlags as Aspect};

/// A block: a texel, or what a compressed format keeps together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) bytes: usize,
    /// How many texels it is wide and high.
    pub(super) texels: [u32; 2],
}

const fn texel(bytes: usize) -> Block {
    Block { bytes, texels: [1, 1] }
}

const fn square(bytes: usize) -> Block {
    Block { bytes, texels: [4, 4] }
}

/// Formats that follow each other in Vulkan's list, from the first to the last, and their block.
const COLOURS: [(Format, Format, Block); 42] = [
    (Format::R4G4_UNORM_PACK8, Format::R4G4_UNORM_PACK8, texel(1)),
    (Format::R4G4B4A4_UNORM_PACK16, Format::A1R5G5B5_UNORM_PACK16, texel(2)),
    (Format::A4R4G4B4_UNORM_PACK16, Format::A4B4G4R4_UNORM_PACK16, texel(2)),
    (Format::R8_UNORM, Format::R8_SRGB, texel(1)),
    (Format::R8G8_UNORM, Format::R8G8_SRGB, texel(2)),
    (Format::R8G8B8_UNORM, Format::B8G8R8_SRGB, texel(3)),
    (Format::R8G8B8A8_UNORM, Format::A2B10G10R10_SINT_PACK32, texel(4)),
    (Format::R16_UNORM, Format::R16_SFLOAT, texel(2)),
    (Format::R16G16_UNORM, Format::R16G16_SFLOAT, texel(4)),
    (Format::R16G16B16_UNORM, Format::R16G16B16_SFLOAT, texel(6)),
    (Format::R16G16B16A16_UNORM, Format::R16G16B16A16_SFLOAT, texel(8)),
    (Format::R32_UINT, Format::R32_SFLOAT, texel(4)),
    (Format::R32G32_UINT, Format::R32G32_SFLOAT, texel(8)),
    (Format::R32G32B32_UINT, Format::R32G32B32_SFLOAT, texel(12)),
    (Format::R32G32B32A32_UINT, Format::R32G32B32A32_SFLOAT, texel(16)),
    (Format::R64_UINT, Format::R64_SFLOAT, texel(8)),
    (Format::R64G64_UINT, Format::R64G64_SFLOAT, texel(16)),
    (Format::R64G64B64_UINT, Format::R64G64B64_SFLOAT, texel(24)),
    (Format::R64G64B64A64_UINT, Format::R64G64B64A64_SFLOAT, texel(32)),
    (Format::B10G11R11_UFLOAT_PACK32, Format::E5B9G9R9_UFLOAT_PACK32, texel(4)),
    (Format::BC1_RGB_UNORM_BLOCK, Format::BC1_RGBA_SRGB_BLOCK, square(8)),
    (Format::BC2_UNORM_BLOCK, Format::BC3_SRGB_BLOCK, square(16)),
    (Format::BC4_UNORM_BLOCK, Format::BC4_SNORM_BLOCK, square(8)),
    (Format::BC5_UNORM_BLOCK, Format::BC7_SRGB_BLOCK, square(16)),
    (Format::ETC2_R8G8B8_UNORM_BLOCK, Format::ETC2_R8G8B8A1_SRGB_BLOCK, square(8)),
    (Format::ETC2_R8G8B8A8_UNORM_BLOCK, Format::ETC2_R8G8B8A8_SRGB_BLOCK, square(16)),
    (Format::EAC_R11_UNORM_BLOCK, Format::EAC_R11_SNORM_BLOCK, square(8)),
    (Format::EAC_R11G11_UNORM_BLOCK, Format::EAC_R11G11_SNORM_BLOCK, square(16)),
    (Format::ASTC_4X4_UNORM_BLOCK, Format::ASTC_4X4_SRGB_BLOCK, astc(4, 4)),
    (Format::ASTC_5X4_UNORM_BLOCK, Format::ASTC_5X4_SRGB_BLOCK, astc(5, 4)),
    (Format::ASTC_5X5_UNORM_BLOCK, Format::ASTC_5X5_SRGB_BLOCK, astc(5, 5)),
    (Format::ASTC_6X5_UNORM_BLOCK, Format::ASTC_6X5_SRGB_BLOCK, astc(6, 5)),
    (Format::ASTC_6X6_UNORM_BLOCK, Format::ASTC_6X6_SRGB_BLOCK, astc(6, 6)),
    (Format::ASTC_8X5_UNORM_BLOCK, Format::ASTC_8X5_SRGB_BLOCK, astc(8, 5)),
    (Format::ASTC_8X6_UNORM_BLOCK, Format::ASTC_8X6_SRGB_BLOCK, astc(8, 6)),
    (Format::ASTC_8X8_UNORM_BLOCK, Format::ASTC_8X8_SRGB_BLOCK, astc(8, 8)),
    (Format::ASTC_10X5_UNORM_BLOCK, Format::ASTC_10X5_SRGB_BLOCK, astc(10, 5)),
    (Format::ASTC_10X6_UNORM_BLOCK, Format::ASTC_10X6_SRGB_BLOCK, astc(10, 6)),
    (Format::ASTC_10X8_UNORM_BLOCK, Format::ASTC_10X8_SRGB_BLOCK, astc(10, 8)),
    (Format::ASTC_10X10_UNORM_BLOCK, Format::ASTC_10X10_SRGB_BLOCK, astc(10, 10)),
    (Format::ASTC_12X10_UNORM_BLOCK, Format::ASTC_12X10_SRGB_BLOCK, astc(12, 10)),
    (Format::ASTC_12X12_UNORM_BLOCK, Format::ASTC_12X12_SRGB_BLOCK, astc(12, 12)),
];

const fn astc(width: u32, height: u32) -> Block {
    Block { bytes: 16, texels: [width, height] }
}

/// The block of a format's aspect in a copy between a buffer and an image; none for a format that is not known here,
/// or an aspect that it has not.
pub(super) fn block(format: Format, aspect: Aspect) -> Option<Block> {
    let in_range = |&(first, last, _): &(Format, Format, Block)| {
        (first.as_raw()..=last.as_raw()).contains(&format.as_raw())
    };
    // Vulkan, "Copying Data Between Buffers and Images": what depth and stencil are in a buffer.
    match aspect {
        Aspect::COLOR => COLOURS.iter().find(|range| in_range(range)).map(|&(.., block)| block),
        Aspect::DEPTH => match format {
            Format::D16_UNORM | Format::D16_UNORM_S8_UINT => Some(texel(2)),
            Format::X8_D24_UNORM_PACK32
            | Format::D24_UNORM_S8_UINT
            | Format::D32_SFLOAT
            | Format::D32_SFLOAT_S8_UINT => Some(texel(4)),
            _ => None,
        },
        Aspect::STENCIL => match format {
            Format::S8_UINT
            | Format::D16_UNORM_S8_UINT
            | Format::D24_UNORM_S8_UINT
            | Format::D32_SFLOAT_S8_UINT => Some(texel(1)),
            _ => None,
        },
        _ => None,
    }
}

/// All aspects of a format, which change their layout together.
pub(super) fn aspects(format: Format, aspect: Aspect) -> Aspect {
    match format {
        Format::D16_UNORM_S8_UINT | Format::D24_UNORM_S8_UINT | Format::D32_SFLOAT_S8_UINT => {
            Aspect::DEPTH | Aspect::STENCIL
        }
        _ => aspect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a format's name says: the bits of its parts, or those of the word that it is packed into.
    fn by_name(name: &str) -> Option<Block> {
        if let Some((_, rest)) = name.split_once("ASTC_") {
            let sides: Vec<_> = rest.split(['X', '_']).map_while(|n| n.parse().ok()).collect();
            return Some(astc(sides[0], sides[1]));
        }
        let half = ["BC1", "BC4", "ETC2_R8G8B8_", "ETC2_R8G8B8A1", "EAC_R11_"];
        if name.contains("_BLOCK") {
            let half = half.iter().any(|begin| name.starts_with(begin));
            return Some(square(if half { 8 } else { 16 }));
        }
        let digits = |text: &str| -> usize {
            text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<usize>().ok()).sum()
        };
        let bits = match name.split_once("PACK") {
            Some((_, bits)) => digits(bits),
            None => digits(name.split('_').next()?),
        };
        Some(texel(bits / 8))
    }

    #[test]
    fn a_block_has_as_many_bytes_as_its_name_says() {
        let mut known = 0;
        // Of Vulkan's first version, and the two that came with 1.3.
        for raw in (1..185).chain([1_000_340_000, 1_000_340_001]) {
            let format = Format::from_raw(raw);
            if (124..=130).contains(&raw) {
                assert_eq!(block(format, Aspect::COLOR), None, "{format:?}");
                continue;
            }
            let name = format!("{format:?}");
            assert_eq!(block(format, Aspect::COLOR), by_name(&name), "{name}");
            known += 1;
        }
        assert_eq!(known, 179);
        assert_eq!(block(Format::UNDEFINED, Aspect::COLOR), None);
        assert_eq!(block(Format::G8_B8R8_2PLANE_420_UNORM, Aspect::COLOR), None);
        assert_eq!(block(Format::R8_UNORM, Aspect::DEPTH), None);
        assert_eq!(block(Format::D24_UNORM_S8_UINT, Aspect::DEPTH), Some(texel(4)));
        assert_eq!(block(Format::D24_UNORM_S8_UINT, Aspect::STENCIL), Some(texel(1)));
    }
}
