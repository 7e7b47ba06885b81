//! `cargo xtask matrix`: which source's frames which importer takes, tried in the bench and written down.

use std::fs;

use crate::child::Error;
use crate::vm;

/// What stands above the table.
const HEAD: &str = "\
# Who takes whose frames

`cargo xtask matrix` writes this page; `bench/tests/matrix` holds it against what the drivers of the machine `gpu` do. Each source
draws a test card into a picture of 200 x 64 pixels, `AR24 LINEAR`; the importer compares every pixel, draws another, and the CPU
compares that in the source's buffer. `=` says that both were exact; a number, why there is no such cell.

";

pub fn run() -> Result<(), Error> {
    let table = vm::suite::output_of("matrix", "gpu", "BUFMAP_MATRIX")?;
    print!("{table}");
    let path = vm::repository().join("docs/matrix.md");
    fs::write(&path, format!("{HEAD}{table}")).map_err(|source| Error::File {
        action: "write",
        path: path.clone(),
        source,
        remedy: "give this user the right to write it",
    })
}
