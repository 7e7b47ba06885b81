//! What a guest has of the host.

use std::path::PathBuf;

use super::topologies::Machine;
use crate::child::{self, Error};
use crate::files;
use crate::inputs;

/// The project, and the real inputs if they were fetched.
pub struct Surroundings {
    /// Directories that the guest sees where the host has them, read-only.
    pub shares: Vec<PathBuf>,
    /// A directory that is a writable file system of its own in the guest, on a disk.
    pub scratch: PathBuf,
    /// Variables of the command's environment.
    pub environment: Vec<(String, String)>,
}

impl Surroundings {
    pub fn of(machine: Machine) -> Result<Self, Error> {
        let scratch = child::workspace().join("target/tmp");
        files::make_directory(&scratch)?;
        let mut shares = vec![child::workspace().to_owned()];
        let mut environment = vec![("BUFMAP_TOPOLOGY".to_owned(), machine.name())];
        let inputs = inputs::directory()?;
        if inputs.is_dir() {
            environment.push((inputs::VARIABLE.to_owned(), inputs.display().to_string()));
            shares.push(inputs);
        }
        Ok(Self { shares, scratch, environment })
    }
}
