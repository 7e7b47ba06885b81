//! What a tensor is: the type of its elements and its shape.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A tensor, by the header of its file. Its elements lie in row-major order and are little-endian.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Tensor {
    /// The type of its elements.
    pub dtype: Dtype,
    /// How many elements it has in each dimension, the one that changes slowest first. A tensor without a
    /// dimension is one element.
    pub shape: Vec<u64>,
}

impl Tensor {
    /// How many elements it has; `None` if that is no 64-bit number.
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim))
    }

    /// How many bytes its elements take; `None` if they are not whole bytes or not a 64-bit number of
    /// bits. An item that is a tensor has this length.
    pub fn byte_len(&self) -> Option<u64> {
        let bits = self.elements()?.checked_mul(self.dtype.bits().into())?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

/// The type of a tensor's elements, called as the safetensors format calls it.
///
/// ```
/// use bufmap::format::Dtype;
///
/// assert_eq!(Dtype::BF16.bits(), 16);
/// assert_eq!(Dtype::F8_E4M3.to_string(), "F8_E4M3");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Dtype(::safetensors::Dtype);

impl Dtype {
    /// How many bits an element has: 4 at least and 64 at most. Elements of fewer than 8 bits lie packed.
    pub fn bits(self) -> u32 {
        // No cut: no element has more bits than its kind has numbers.
        self.0.bitsize() as u32
    }

    pub(super) fn of(dtype: ::safetensors::Dtype) -> Self {
        Self(dtype)
    }
}

/// As the format names it: `F32`, `BF16`, `F8_E4M3`.
impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

macro_rules! dtypes {
    ($($(#[$docs:meta])* $name:ident)*) => {
        impl Dtype {
            $($(#[$docs])* pub const $name: Self = Self(::safetensors::Dtype::$name);)*

            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

dtypes! {
    /// True or false, in 8 bits.
    BOOL
    /// A number of 4 bits with 2 of exponent (OCP Microscaling Formats).
    F4
    /// A number of 6 bits with 2 of exponent (OCP Microscaling Formats).
    F6_E2M3
    /// A number of 6 bits with 3 of exponent (OCP Microscaling Formats).
    F6_E3M2
    /// An unsigned integer of 8 bits.
    U8
    /// A signed integer of 8 bits.
    I8
    /// A number of 8 bits with 5 of exponent (arXiv 2209.05433).
    F8_E5M2
    /// A number of 8 bits with 4 of exponent (arXiv 2209.05433).
    F8_E4M3
    /// A power of two: 8 bits of exponent and nothing else (OCP Microscaling Formats).
    F8_E8M0
    /// A number of 8 bits with 4 of exponent, without infinities and a negative zero (arXiv 2206.02915).
    F8_E4M3FNUZ
    /// A number of 8 bits with 5 of exponent, without infinities and a negative zero (arXiv 2206.02915).
    F8_E5M2FNUZ
    /// A signed integer of 16 bits.
    I16
    /// An unsigned integer of 16 bits.
    U16
    /// A number of half precision, in 16 bits.
    F16
    /// A number of 16 bits with the 8 bits of exponent that single precision has.
    BF16
    /// A signed integer of 32 bits.
    I32
    /// An unsigned integer of 32 bits.
    U32
    /// A number of single precision, in 32 bits.
    F32
    /// A complex number of two parts of single precision, in 64 bits.
    C64
    /// A number of double precision, in 64 bits.
    F64
    /// A signed integer of 64 bits.
    I64
    /// An unsigned integer of 64 bits.
    U64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_named_and_measured_as_the_format_does() {
        let bits: Vec<_> =
            Dtype::ALL.iter().map(|dtype| (dtype.to_string(), dtype.bits())).collect();
        for (name, bits) in &bits {
            let digits: String = name
                .chars()
                .skip_while(|c| !c.is_ascii_digit())
                .take_while(char::is_ascii_digit)
                .collect();
            assert_eq!(*bits, digits.parse().unwrap_or(8), "{name}");
            let json = format!("\"{name}\"");
            let read: Dtype = serde_json::from_str(&json).expect("a type");
            assert_eq!(serde_json::to_string(&read).expect("JSON"), json);
        }
        assert_eq!(bits.len(), 22);
        assert!(serde_json::from_str::<Dtype>("\"F33\"").is_err());
    }

    #[test]
    fn bytes_are_whole_and_counted_without_overflow() {
        let len = |dtype, shape: &[u64]| Tensor { dtype, shape: shape.into() }.byte_len();
        assert_eq!(len(Dtype::F32, &[2, 3]), Some(24));
        assert_eq!(len(Dtype::U8, &[]), Some(1));
        assert_eq!(len(Dtype::F64, &[0, 7]), Some(0));
        assert_eq!(len(Dtype::F4, &[3, 2]), Some(3));
        assert_eq!(len(Dtype::F4, &[3]), None);
        assert_eq!(len(Dtype::F6_E2M3, &[4]), Some(3));
        assert_eq!(len(Dtype::U8, &[1 << 32, 1 << 32]), None);
        assert_eq!(len(Dtype::U64, &[1 << 58]), None);
    }
}
