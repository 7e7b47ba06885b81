//! `cargo xtask matrix`: which source's frames which importer takes, tried in the bench and written down.

use std::fs;

use crate::child::{self, Error};
use crate::files;
use crate::vm::suite::Printer;

/// What stands above the table.
const HEAD: &str = "\
# Who takes whose frames

`cargo xtask matrix` writes this page; `bench/tests/matrix` holds it against what the drivers of three machines of the bench do. Each source
draws a test card into a picture of 200 x 64 pixels, `AR24 LINEAR`; the importer compares every pixel, draws another, and the CPU
compares that in the source's buffer. `=` says that both were exact; a number, why there is no such cell.
";

/// The machines that have sources, and what the sources are.
const MACHINES: [(&str, &str); 3] = [
    ("gpu", "Memory of the system and of graphics drivers (machine `gpu`)"),
    ("vfio", "A BAR of a device that vfio-pci has (machine `vfio`)"),
    ("switch", "Memory that a drive has for its peers (machine `switch`)"),
];

pub fn run() -> Result<(), Error> {
    let matrix = Printer::new("matrix", "BUFMAP_MATRIX")?;
    let mut page = HEAD.to_owned();
    for (machine, sources) in MACHINES {
        let table = matrix.output_in(machine)?;
        let section = format!("\n## {sources}\n\n{table}");
        print!("{section}");
        page += &section;
    }
    let path = child::workspace().join("docs/matrix.md");
    fs::write(&path, page).map_err(files::file_error("write", &path))
}
