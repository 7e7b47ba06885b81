//! What is looked at, and what is found out about a function's users.

use std::path::Path;

use exporters::Absent;
use exporters::outside::outside;

use super::user::User;
use crate::pci::PciError;

/// Where the kernel shows itself.
pub(super) struct Roots<'a> {
    pub sys: &'a Path,
    pub proc: &'a Path,
    pub dev: &'a Path,
}

/// What was found out about one function's users.
#[derive(Default)]
pub(super) struct Findings {
    pub users: Vec<User>,
    pub unknown: Vec<Absent>,
}

impl Findings {
    /// What was read, or nothing, and then it is known that it is not known.
    pub fn read<T: Default>(&mut self, result: Result<T, PciError>) -> T {
        result.unwrap_or_else(|error| {
            self.unknown.push(unread(&error));
            T::default()
        })
    }
}

/// That a file of the kernel's cannot be read, and what to do.
pub(super) fn unread(error: &PciError) -> Absent {
    const FIX: &str = "run as root, outside of a container, with all of sysfs and procfs in sight";
    match error {
        PciError::Read { path, source } => {
            Absent::new(format!("{} cannot be read ({source})", outside(path)), FIX)
        }
        other => Absent::new(other.to_string(), FIX),
    }
}
