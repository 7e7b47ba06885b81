//! Pictures, formats and modifiers as people write them.

use std::fmt;
use std::str::FromStr;

use drm_fourcc::{DrmFourcc, DrmModifier};

use super::{Frame, FrameError, Picture};

/// The format with this FourCC: `XR24`, `NV12`, `R8`.
///
/// # Errors
/// [`FrameError::Text`] for anything that `drm_fourcc.h` does not define. Case matters: `NV12` is a
/// format, and `nv12` is none.
pub fn format_named(name: &str) -> Result<DrmFourcc, FrameError> {
    let unknown = || FrameError::Text {
        text: name.to_owned(),
        what: "format; write its FourCC, such as XR24, AB24 or NV12",
    };
    let mut code = [b' '; 4];
    let letters = code.get_mut(..name.len()).filter(|letters| !letters.is_empty());
    letters.ok_or_else(unknown)?.copy_from_slice(name.as_bytes());
    format_coded(u32::from_le_bytes(code)).ok_or_else(unknown)
}

/// The format with this code. `DRM_FORMAT_BIG_ENDIAN` by itself is none: it is a flag, which the crate
/// `drm-fourcc` takes for a format and then panics over when it is to be printed.
pub(crate) fn format_coded(code: u32) -> Option<DrmFourcc> {
    const BIG_ENDIAN: u32 = 1 << 31;
    DrmFourcc::try_from(code).ok().filter(|_| code != BIG_ENDIAN)
}

/// The modifier that is called so: `LINEAR`, or a vendor's in hexadecimal (`0x0100000000000001`).
///
/// # Errors
/// [`FrameError::Text`] for anything else, and for the number that stands for no modifier at all.
pub fn modifier_named(name: &str) -> Result<DrmModifier, FrameError> {
    let unknown = || FrameError::Text {
        text: name.to_owned(),
        what: "modifier; write LINEAR or its number, such as 0x0100000000000001",
    };
    if name == "LINEAR" {
        return Ok(DrmModifier::Linear);
    }
    let digits = name.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
    let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    match number.map(DrmModifier::from) {
        None | Some(DrmModifier::Invalid) => Err(unknown()),
        Some(modifier) => Ok(modifier),
    }
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = self.format.to_string();
        write!(f, "{}x{} {}", self.width, self.height, format.trim_end())?;
        match self.modifier {
            None => Ok(()),
            Some(DrmModifier::Linear) => f.write_str(" LINEAR"),
            Some(modifier) => write!(f, " {:#018x}", u64::from(modifier)),
        }
    }
}

impl FromStr for Picture {
    type Err = FrameError;

    fn from_str(text: &str) -> Result<Self, FrameError> {
        let unknown = || FrameError::Text {
            text: text.to_owned(),
            what: "picture; write 640x480 XR24 LINEAR, and leave the last word out if it is implicit",
        };
        let words: Vec<_> = text.split_ascii_whitespace().collect();
        let (size, format, modifier) = match words[..] {
            [size, format] => (size, format, None),
            [size, format, modifier] => (size, format, Some(modifier_named(modifier)?)),
            _ => return Err(unknown()),
        };
        let (width, height) = size.split_once('x').ok_or_else(unknown)?;
        let side = |digits: &str| match digits.starts_with('+') {
            true => Err(unknown()),
            false => digits.parse().map_err(|_| unknown()),
        };
        Ok(Self {
            width: side(width)?,
            height: side(height)?,
            format: format_named(format)?,
            modifier,
        })
    }
}

/// The picture, and `+offset/pitch` of each plane.
impl<B> fmt::Display for Frame<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.picture.fmt(f)?;
        self.planes.iter().try_for_each(|plane| write!(f, " +{}/{}", plane.offset, plane.pitch))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_as_people_write_them() {
        assert_eq!(format_named("XR24"), Ok(DrmFourcc::Xrgb8888));
        assert_eq!(format_named("NV12"), Ok(DrmFourcc::Nv12));
        assert_eq!(format_named("R8"), Ok(DrmFourcc::R8));
        for wrong in ["", "xr24", "XR24 ", "XRGB8888", "ÄÄ", "\0\0\0\0"] {
            assert!(format_named(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(modifier_named("LINEAR"), Ok(DrmModifier::Linear));
        assert_eq!(modifier_named("0x0100000000000001"), Ok(DrmModifier::I915_x_tiled));
        for wrong in ["", "linear", "0x", "0x+1", "1", "0x00ffffffffffffff", "0x10000000000000000"]
        {
            assert!(modifier_named(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn pictures_as_people_write_them() {
        let picture = Picture { modifier: None, ..Picture::linear(1280, 800, DrmFourcc::R8) };
        assert_eq!(picture.to_string(), "1280x800 R8");
        let tiled = Picture { modifier: Some(DrmModifier::I915_x_tiled), ..picture };
        assert_eq!(tiled.to_string(), "1280x800 R8 0x0100000000000001");
        let frame = Picture::linear(64, 64, DrmFourcc::Nv12).lay_out(64).expect("it is linear");
        assert_eq!(frame.to_string(), "64x64 NV12 LINEAR +0/64 +4096/64");
        for wrong in ["", "XR24", "640 480 XR24", "640x XR24", "+1x1 XR24", "1x1 XR24 LINEAR x"] {
            assert!(wrong.parse::<Picture>().is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(width: u32, height: u32, modifier: Option<u64>) {
            let modifier = modifier.map(DrmModifier::from);
            prop_assume!(modifier != Some(DrmModifier::Invalid));
            for format in [DrmFourcc::Xrgb8888, DrmFourcc::R8, DrmFourcc::Yuv420] {
                let picture = Picture { width, height, format, modifier };
                prop_assert_eq!(picture.to_string().parse(), Ok(picture));
            }
        }

        #[test]
        fn any_text_is_answered(text: String) {
            let _ = text.parse::<Picture>();
        }
    }
}
