//! Why something is not there, in words a person can act on.

use std::borrow::Cow;

/// A thing that is not to be had here: why, and what would change that.
///
/// It stands where the thing would stand, so that a program can go on without it and still say at
/// the end what was missing.
///
/// ```
/// use exporters::Absent;
///
/// let absent = Absent::new("/dev/udmabuf does not exist", "load the module: modprobe udmabuf");
/// assert_eq!(absent.to_string(), "/dev/udmabuf does not exist; load the module: modprobe udmabuf");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}; {fix}")]
pub struct Absent {
    /// What stands in the way.
    pub why: Cow<'static, str>,
    /// What a person can do about it.
    pub fix: Cow<'static, str>,
}

impl Absent {
    /// An absence with its reason and remedy.
    pub fn new(why: impl Into<Cow<'static, str>>, fix: impl Into<Cow<'static, str>>) -> Self {
        Self { why: why.into(), fix: fix.into() }
    }
}
