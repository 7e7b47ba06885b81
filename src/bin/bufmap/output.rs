//! What is printed: reports on standard output, and what there is to say beside on standard error.

use std::fmt::Display;
use std::io::{self, Write};

use bufmap::exporters::outside::report;

use crate::failure::Failure;

/// Says something on standard error. Where that cannot be written to, there is nobody to tell.
pub fn say(words: &str) {
    let one_line = words.replace('\n', "\\n");
    let _ = writeln!(io::stderr(), "bufmap: {}", report(&one_line));
}

/// Prints a report for people.
pub fn print(words: &str) -> Result<(), Failure> {
    write(&report(words))
}

/// Writes to standard output. A reader that closes the pipe early has read enough.
pub fn write(all: &dyn Display) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{all}").map_err(unprinted) {
        Err(Some(why)) => Err(Failure::Error(why)),
        Ok(()) | Err(None) => Ok(()),
    }
}

/// What kept a report from being written.
pub fn unprinted(error: io::Error) -> Option<String> {
    let closed = error.kind() == io::ErrorKind::BrokenPipe;
    (!closed).then(|| format!("the report cannot be written: {error}"))
}
