//! Files and directories, with errors that name them.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::child::Error;

/// Holds a lock on a file, waiting for whoever holds it; dropping the file lets it go.
pub fn lock(path: &Path) -> Result<File, Error> {
    let file = File::create(path).map_err(file_error("create", path))?;
    if file.try_lock().is_err() {
        println!("waiting for another command that fetches (it holds {})", path.display());
        file.lock().map_err(file_error("lock", path))?;
    }
    Ok(file)
}

/// Makes a directory and those above it.
pub fn make_directory(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(file_error("create", path))
}

/// Removes a directory and all in it, if it is there.
pub fn remove_directory(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
    .map_err(file_error("remove", path))
}

/// The error for what was being done to a file.
pub fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    let remedy = "check its permissions and the space that is left";
    move |source| Error::File { action, path, source, remedy }
}
