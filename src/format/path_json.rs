//! A path in JSON: text, or a list of its bytes where it is none.
//!
//! A path is any bytes to Linux, and JSON has nothing but Unicode. Characters in the place of bytes would name
//! another file.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written<T, B> {
    Text(T),
    Bytes(B),
}

pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => Written::Text(text),
        None => Written::Bytes(path.as_os_str().as_bytes()),
    }
    .serialize(to)
}

pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<PathBuf, D::Error> {
    Ok(match Written::<String, Vec<u8>>::deserialize(from)? {
        Written::Text(text) => text.into(),
        Written::Bytes(bytes) => OsString::from_vec(bytes).into(),
    })
}
