//! The `bufmap` command.
fn main() {}
