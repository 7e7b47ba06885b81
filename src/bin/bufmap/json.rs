//! JSON for programs, and harmless to the terminals of people who look at it.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bufmap::exporters::outside::is_harmless;
use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::write;

/// Prints a report. Names are whole, and their characters the same for whoever parses it; those that a terminal would
/// act on are written by their numbers.
pub fn print(report: &impl Serialize) -> Result<(), Failure> {
    write(&escaped(&serde_json::to_string_pretty(report)?))
}

/// The same JSON. What is replaced stands in strings alone: beside them JSON is ASCII, and in them line ends and the
/// like are escaped already.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => escaped.push(c),
            c if is_harmless(c) => escaped.push(c),
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }),
        }
    }
    escaped
}

/// A path: text, or a list of its bytes where it is none, as in a map of extents.
pub fn path(path: &Path) -> Value {
    path.to_str().map_or_else(|| json!(path.as_os_str().as_bytes()), Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_says_the_same_and_holds_nothing_that_acts_on_a_terminal() {
        let names = json!({ "a\x1b[2J\u{7f}\u{9b}\u{202e}": ["größe 模型 👍🏽", "\u{e0041}\n\"\\"] });
        let text = escaped(&format!("{names:#}"));
        assert!(text.chars().all(|c| c == '\n' || is_harmless(c)), "{text:?}");
        assert!(text.contains(r"\u202e") && text.contains(r"\udb40\udc41"), "{text}");
        assert!(text.contains("größe 模型 👍🏽"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), names);
    }
}
