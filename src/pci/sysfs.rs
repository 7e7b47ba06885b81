//! Attributes of a directory in sysfs, read with a bound on their size.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::PciError;

/// No attribute that is read here is longer; the kernel gives most of them one page.
const LONGEST: u64 = 64 << 10;

/// A directory whose files are attributes.
#[derive(Clone, Copy)]
pub(super) struct Directory<'a>(pub &'a Path);

impl Directory<'_> {
    /// The text of an attribute without the white space around it.
    pub fn text(self, name: &str) -> Result<String, PciError> {
        let path = self.0.join(name);
        let text = bounded(&path, LONGEST)?;
        Ok(text.trim().to_owned())
    }

    /// The same, or `None` if there is no such attribute.
    pub fn optional(self, name: &str) -> Result<Option<String>, PciError> {
        match self.text(name) {
            Ok(text) => Ok(Some(text)),
            Err(PciError::Read { source, .. }) if is_missing(&source) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A hexadecimal number such as `0x8086`, at most `max`.
    pub fn hexadecimal(self, name: &str, max: u32) -> Result<u32, PciError> {
        let text = self.text(name)?;
        hexadecimal(&text)
            .and_then(|number| u32::try_from(number).ok().filter(|&number| number <= max))
            .ok_or_else(|| self.content(name, "a hexadecimal number in range", &text))
    }

    /// The last part of what a link points to, or `None` if there is no such link.
    pub fn link_name(self, name: &str) -> Result<Option<String>, PciError> {
        let path = self.0.join(name);
        match std::fs::read_link(&path) {
            Ok(target) => match target.file_name().and_then(|name| name.to_str()) {
                Some(last) => Ok(Some(last.to_owned())),
                None => Err(self.content(name, "a link to a name", &target.to_string_lossy())),
            },
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(PciError::read(path)(error)),
        }
    }

    /// The complaint that an attribute holds something else than expected.
    pub fn content(self, name: &str, expected: &'static str, found: &str) -> PciError {
        PciError::content(self.0.join(name), expected, found)
    }
}

/// The names in a directory, sorted; those that are not UTF-8 are none of the kernel's.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, PciError> {
    let entries = std::fs::read_dir(directory).map_err(PciError::read(directory))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(PciError::read(directory))?.file_name();
        names.extend(name.into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// Where a path leads once its links are followed.
pub(super) fn resolved(path: &Path) -> Result<PathBuf, PciError> {
    path.canonicalize().map_err(PciError::read(path))
}

/// A file of at most `longest` bytes, whatever it says of its size; bytes that are not UTF-8 are
/// replaced, which no reader here takes for something that it expects.
pub(super) fn bounded(path: &Path, longest: u64) -> Result<String, PciError> {
    // An attribute is at most a page, and then given at once.
    let mut bytes = Vec::with_capacity(4096);
    let file = File::open(path).map_err(PciError::read(path))?;
    file.take(longest + 1).read_to_end(&mut bytes).map_err(PciError::read(path))?;
    let text = String::from_utf8_lossy(&bytes);
    match bytes.len() as u64 > longest {
        true => Err(PciError::content(path, "a short file", &text)),
        false => Ok(text.into_owned()),
    }
}

/// A number that is written `0x` and hexadecimal digits.
pub(super) fn hexadecimal(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x")?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// Whether something is not there, or went away with its device.
pub(super) fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}
