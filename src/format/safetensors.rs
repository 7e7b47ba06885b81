//! Safetensors: a length, a JSON header of that length, then the tensors' bytes.
//!
//! The header names each tensor's type, shape and place. The [`safetensors`] crate defines those
//! types; the rules between them are checked here, as the crate's own reader takes the whole file
//! as one slice and names neither the tensor nor the offset at fault. They are the format's:
//! tensors fill the file from the header to the end, in some order, without a hole and without an
//! overlap, and each has the size its type and shape ask for.

use super::contents::Contents;
use super::description::Description;
use super::error::FormatError;
use super::item::Item;
use super::kind::Format;
use super::source::Source;
use super::tensor::{Dtype, Tensor};
use ::safetensors::tensor::TensorInfo;
use exporters::outside::outside;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;

/// The longest JSON that is read: the limit of the format's own library.
pub(super) const MAX_JSON_LEN: u64 = 100_000_000;

/// Bytes of the header's length, a little-endian number at the file's start.
const LENGTH_LEN: u64 = 8;

const FIX: &str = "fetch or save the file again";

/// Each tensor as an item.
pub(super) fn contents(source: &Source<'_>) -> Result<Contents, FormatError> {
    let json_len = u64::from_le_bytes(source.array(0, "the header's length")?);
    if json_len > MAX_JSON_LEN {
        let problem = format!(
            "the header's length is given as {json_len} bytes, but the format allows {MAX_JSON_LEN}"
        );
        return Err(source.malformed(
            0,
            problem,
            "the file is damaged or no safetensors file: fetch it again, or load it as raw",
        ));
    }
    let json = source.bytes(LENGTH_LEN, json_len, "the header")?;
    let Tensors(mut tensors) = from_json(source, LENGTH_LEN, &json)?;
    drop(json);
    tensors.sort_by_key(|(_, info): &(_, TensorInfo)| info.data_offsets);
    let items = place(source, LENGTH_LEN + json_len, tensors)?;
    Ok(Contents { format: Format::Safetensors, items, refused: Vec::new(), note: None })
}

/// Whether a file's first bytes are those of a safetensors file: a length that the format allows, and the
/// brace of the header's JSON, followed by a name, a blank or the closing brace.
pub(super) fn is_begun(head: &[u8]) -> bool {
    let Some((len, json)) = head.split_first_chunk::<8>() else { return false };
    let allowed = (2..=MAX_JSON_LEN).contains(&u64::from_le_bytes(*len));
    let follows = |byte: &u8| b"\"} \t\r\n".contains(byte);
    allowed && json.first() == Some(&b'{') && json.get(1).is_some_and(follows)
}

/// Gives each tensor its place in the file, whose data begin at `data`. The tensors are sorted by
/// offset.
fn place(
    source: &Source<'_>,
    data: u64,
    tensors: Vec<(String, TensorInfo)>,
) -> Result<Vec<Item>, FormatError> {
    let mut end = 0;
    let mut items = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let (first, past) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        // An offset too large for the file is reported as such, so it need not be exact.
        let offset = data.saturating_add(first);
        let fault = |problem: String| Err(source.malformed(offset, problem, FIX));
        let shown = outside(&name);
        let Some(len) = past.checked_sub(first) else {
            return fault(format!("tensor `{shown}` ends at {past}, before its start at {first}"));
        };
        source.holds(offset, len, &format!("tensor `{shown}`"))?;
        if first < end {
            return fault(format!(
                "tensor `{shown}` begins inside another tensor, which ends at {}",
                data + end
            ));
        }
        if first > end {
            let gap = first - end;
            return fault(format!("the {gap} bytes before tensor `{shown}` belong to no tensor"));
        }
        let tensor = Tensor {
            dtype: Dtype::of(info.dtype),
            shape: info.shape.into_iter().map(|dim| dim as u64).collect(),
        };
        let kind = || format!("{} of shape {:?}", tensor.dtype, tensor.shape);
        match tensor.byte_len() {
            Some(size) if size == len => {}
            Some(size) => {
                return fault(format!("`{shown}` has {len} bytes, but {} takes {size}", kind()));
            }
            None => return fault(format!("`{shown}`: {} has no size in whole bytes", kind())),
        }
        end = past;
        let description = Description::Tensor(tensor);
        items.push(Item { name, offset, len, checksum: None, description });
    }
    match source.len() - data - end {
        0 => Ok(items),
        rest => {
            let problem = format!("{rest} bytes follow the last tensor and belong to none");
            Err(source.malformed(data + end, problem, FIX))
        }
    }
}

/// Parses JSON that lies at `offset` of the file.
pub(super) fn from_json<'de, T: Deserialize<'de>>(
    source: &Source<'_>,
    offset: u64,
    json: &'de [u8],
) -> Result<T, FormatError> {
    serde_json::from_slice(json).map_err(|error| {
        let before: usize = json
            .split_inclusive(|&byte| byte == b'\n')
            .take(error.line() - 1)
            .map(<[u8]>::len)
            .sum();
        let at = offset + (before + error.column()) as u64;
        let error = error.to_string();
        let problem = format!("the JSON there is not as it should be: {}", outside(&error));
        source.malformed(at, problem, FIX)
    })
}

/// A JSON object from tensor names to `V`, in the order it is written. A name that comes twice is
/// an error, and the format's one name for something else, `__metadata__`, is checked and passed
/// over.
pub(super) struct Tensors<V>(pub Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Tensors<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TensorsVisitor(PhantomData))
    }
}

struct TensorsVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for TensorsVisitor<V> {
    type Value = Tensors<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a member for each tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut seen = Seen::default();
        let mut tensors: Vec<(String, V)> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let before = || tensors.iter().any(|(other, _)| *other == name);
            if seen.may_have(&name) && (name == METADATA || before()) {
                return Err(A::Error::custom(format!("`{}` comes twice", outside(&name))));
            }
            if name == METADATA {
                map.next_value::<Option<Texts>>()?;
            } else {
                tensors.push((name, map.next_value()?));
            }
        }
        Ok(Tensors(tensors))
    }
}

/// The name that is no tensor's.
const METADATA: &str = "__metadata__";

/// Which names have been seen, by their hashes: with the names themselves, a header would be held once
/// more.
#[derive(Default)]
struct Seen {
    state: RandomState,
    hashes: HashSet<u64>,
}

impl Seen {
    /// Whether the name may have been seen before; it has been now.
    fn may_have(&mut self, name: &str) -> bool {
        !self.hashes.insert(self.state.hash_one(name))
    }
}

/// A JSON object from strings to strings that is checked and not kept.
struct Texts;

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Texts)
    }
}

impl<'de> Visitor<'de> for Texts {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<Text, Text>()?.is_some() {}
        Ok(self)
    }
}

/// A string that is checked and not kept.
pub(super) struct Text;

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text)
    }
}

impl Visitor<'_> for Text {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the tensors of a file with this header and so many bytes of data are.
    fn described(header: &str, data: usize) -> Vec<(String, Description)> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        let source = Source::in_memory("f".as_ref(), Format::Safetensors, &bytes);
        let contents = contents(&source).expect("contents");
        contents.items.into_iter().map(|item| (item.name, item.description)).collect()
    }

    #[test]
    fn a_tensor_has_the_type_and_shape_of_its_header() {
        let header = r#"{"b": {"dtype": "F6_E3M2", "shape": [2, 4], "data_offsets": [12, 18]},
            "a": {"dtype": "F32", "shape": [3, 1], "data_offsets": [0, 12]},
            "c": {"dtype": "C64", "shape": [], "data_offsets": [18, 26]}}"#;
        let tensor =
            |dtype, shape: &[u64]| Description::Tensor(Tensor { dtype, shape: shape.into() });
        let expected = [
            ("a".to_owned(), tensor(Dtype::F32, &[3, 1])),
            ("b".to_owned(), tensor(Dtype::F6_E3M2, &[2, 4])),
            ("c".to_owned(), tensor(Dtype::C64, &[])),
        ];
        assert_eq!(described(header, 26), expected);
    }

    #[test]
    fn every_type_is_read() {
        for dtype in Dtype::ALL {
            let len = dtype.bits();
            let header = format!(
                r#"{{"x": {{"dtype": "{dtype}", "shape": [8], "data_offsets": [0, {len}]}}}}"#
            );
            let read = described(&header, len as usize);
            let expected = Description::Tensor(Tensor { dtype: *dtype, shape: vec![8] });
            assert_eq!(read, [("x".to_owned(), expected)]);
        }
    }
}
