//! JSON for programs.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Value, json};

/// A path: text, or a list of its bytes where it is none, as in a map of extents.
pub fn path(path: &Path) -> Value {
    path.to_str().map_or_else(|| json!(path.as_os_str().as_bytes()), Value::from)
}
