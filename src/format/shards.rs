//! A model spread over several safetensors files, by the index that says which tensor lies in
//! which.
//!
//! The index is JSON beside its shards: `{"weight_map": {"tensor": "file", ...}}`. It comes from
//! wherever the model comes from, so the files it names are taken from its own directory and from
//! nowhere else.

use exporters::outside::outside;

use super::contents::{Contents, Opened};
use super::error::FormatError;
use super::item::Item;
use super::kind::Format;
use super::refused::{Refusal, Refused};
use super::safetensors::{self, MAX_JSON_LEN, Tensors};
use super::source::{self, Source};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Component, Path};

/// Which tensor lies in which file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardIndex {
    shards: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Json<'a> {
    #[serde(borrow)]
    weight_map: Tensors<FileName<'a>>,
}

/// A name that is kept once for all tensors that it stands for.
#[derive(Deserialize)]
struct FileName<'a>(#[serde(borrow)] Cow<'a, str>);

impl ShardIndex {
    /// Reads an index whose bytes are in memory; `path` only names it.
    ///
    /// # Errors
    ///
    /// [`FormatError::Malformed`] if it is not the JSON it should be, names no tensor, or names a
    /// file by anything but a plain name: a shard lies in the index's own directory.
    pub fn parse(path: &Path, json: &[u8]) -> Result<Self, FormatError> {
        Self::from_source(&Source::in_memory(path, Format::SafetensorsIndex, json))
    }

    pub(super) fn from_source(source: &Source<'_>) -> Result<Self, FormatError> {
        if source.len() > MAX_JSON_LEN {
            let problem = format!("the index has {} bytes, over {MAX_JSON_LEN}", source.len());
            return Err(source.malformed(0, problem, "give the index, not a shard"));
        }
        let json = source.bytes(0, source.len(), "the index")?;
        let Json { weight_map: Tensors(weight_map) } = safetensors::from_json(source, 0, &json)?;
        if weight_map.is_empty() {
            return Err(source.malformed(
                0,
                "`weight_map` names no tensor",
                "fetch the index again",
            ));
        }
        let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (tensor, FileName(shard)) in weight_map {
            if !is_plain_name(&shard) {
                let problem = format!(
                    "tensor `{}` is said to be in `{}`, which is no plain file name",
                    outside(&tensor),
                    outside(&*shard)
                );
                return Err(source.malformed(
                    0,
                    problem,
                    "put the shards beside the index and name them without a directory",
                ));
            }
            match shards.get_mut(&*shard) {
                Some(tensors) => tensors.push(tensor),
                None => drop(shards.insert(shard.into_owned(), vec![tensor])),
            }
        }
        Ok(Self { shards })
    }

    /// The shards' file names, sorted.
    pub fn shards(&self) -> impl Iterator<Item = &str> {
        self.shards.keys().map(String::as_str)
    }

    /// The part of a shard's contents that the index takes from it, in file order; the rest is refused
    /// ([`Refusal::NotInIndex`]). A shard that the index does not name gives nothing.
    ///
    /// `path` is the shard's; it only names it.
    ///
    /// # Errors
    ///
    /// [`FormatError::NotInShard`] if a tensor is missing.
    pub fn claim(
        &self,
        path: &Path,
        shard: &str,
        mut contents: Contents,
    ) -> Result<Contents, FormatError> {
        let tensors = self.shards.get(shard).map(Vec::as_slice).unwrap_or_default();
        let mut wanted: HashSet<&str> = tensors.iter().map(String::as_str).collect();
        let (claimed, others): (Vec<_>, Vec<_>) =
            contents.items.into_iter().partition(|item| wanted.remove(item.name.as_str()));
        contents.items = claimed;
        contents.refused.extend(others.into_iter().map(|Item { name, offset, len, .. }| Refused {
            name,
            offset,
            len,
            why: Refusal::NotInIndex,
        }));
        match tensors.iter().find(|tensor| wanted.contains(tensor.as_str())) {
            Some(tensor) => {
                Err(FormatError::NotInShard { shard: path.to_owned(), tensor: tensor.clone() })
            }
            None => Ok(contents),
        }
    }

    /// Reads every shard beside the index at `path`.
    pub(super) fn read_shards(&self, path: &Path) -> Result<Vec<Opened>, FormatError> {
        self.shards
            .iter()
            .map(|(shard, tensors)| {
                let file = source::open(&path.with_file_name(shard))
                    .map_err(|error| missing(error, path, &tensors[0]))?;
                let contents = safetensors::contents(&Source::of(&file, Format::Safetensors))?;
                source::check_unchanged(&file)?;
                let contents = self.claim(file.path(), shard, contents)?;
                Ok(Opened { file, contents })
            })
            .collect()
    }
}

/// A shard that is not there is the index's matter.
fn missing(error: FormatError, index: &Path, tensor: &str) -> FormatError {
    match error {
        FormatError::Open { path: shard, source } if source.kind() == io::ErrorKind::NotFound => {
            FormatError::MissingShard { path: index.to_owned(), shard, tensor: tensor.to_owned() }
        }
        other => other,
    }
}

/// Whether a name leads to a file of the same directory and nowhere else.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let plain = matches!(components.next(), Some(Component::Normal(first)) if first == name);
    plain && components.next().is_none() && !name.contains('\0')
}
