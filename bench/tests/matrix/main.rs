//! Every source of frames against every importer, on the drivers of the machine `gpu`; and what is no
//! memory of graphics, in the machines that have it.
//!
//! A source draws a test card, the importer compares every pixel of it, draws another, and the CPU
//! compares that in the source's buffer. So a cell of the table is *exact*, or the importer or the
//! source refuses with a reason; anything else is a failure. The table is `docs/matrix.md`, which
//! `cargo xtask matrix` writes and the test here holds against what it sees.

mod devices;
mod importers;
mod sources;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use bufmap_bench::{Outcome, check, said};
use exporters::Intent;
use exporters::frame::{DrmFourcc, Picture, TestCard};
use importers::IMPORTERS;
use libtest_mimic::Failed;
use sources::{Draw, Drawn};

/// Has the table be printed and not compared.
const PRINT: &str = "BUFMAP_MATRIX";

const PICTURE: Picture = Picture::linear(200, 64, DrmFourcc::Argb8888);

fn main() -> ExitCode {
    if std::env::var_os(PRINT).is_some() {
        return bufmap_bench::end("the matrix", table().map(|table| print!("{}", table.text())));
    }
    let machine = MACHINES.into_iter().find(|machine| *machine == here()).unwrap_or("gpu");
    bufmap_bench::run(machine, &[("the_matrix_is_as_documented", as_documented)])
}

/// The machines that have sources.
const MACHINES: [&str; 3] = ["gpu", "vfio", "switch"];

/// This machine's name, if it is one of the bench.
fn here() -> String {
    std::env::var("BUFMAP_TOPOLOGY").unwrap_or_default()
}

fn as_documented() -> Outcome {
    let table = table()?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/matrix.md");
    let documented = fs::read_to_string(path)?;
    let differs = table.cells().find(|line| !documented.contains(line.as_str()));
    let text = table.text();
    check(
        differs.is_none(),
        format!("not in docs/matrix.md, see cargo xtask matrix: {differs:?}\n{text}"),
    )
}

/// Why a cell is empty, by a number.
type Reasons = BTreeMap<String, usize>;

struct Table {
    rows: Vec<(&'static str, Vec<Result<(), String>>)>,
}

fn table() -> Result<Table, Failed> {
    // What the machine `gpu` has from its start, as far as no device is needed for it.
    said("modprobe", &["vgem"])?;
    let rows = sources::of(&here()).iter().map(|&(name, draw)| {
        let cells = IMPORTERS.iter().map(|&(importer, import)| {
            let cell = cell(draw, import).and_then(|cell| devices::are_valid().map(|()| cell));
            cell.map_err(|error| {
                let why = error.message().unwrap_or("no message").to_owned();
                Failed::from(format!("{name} to {importer}: {why}"))
            })
        });
        Ok((name, cells.collect::<Result<_, Failed>>()?))
    });
    Ok(Table { rows: rows.collect::<Result<_, Failed>>()? })
}

/// Exact, or why not; an error if it is neither.
fn cell(
    draw: Draw,
    import: fn(&exporters::Frame) -> Result<Box<dyn importers::Importer>, Failed>,
) -> Result<Result<(), String>, Failed> {
    let why = |error: Failed| error.message().unwrap_or("no reason").to_owned();
    let (first, second) = (TestCard::new(PICTURE, 1)?, TestCard::new(PICTURE, 2)?);
    let drawn: Drawn = match draw(PICTURE, &first) {
        Ok(drawn) => drawn,
        Err(error) => return Ok(Err(why(error))),
    };
    let mut importer = match import(&drawn.frame) {
        Ok(importer) => importer,
        Err(error) => return Ok(Err(why(error))),
    };
    importer.read(&first)?;
    importer.write(&second)?;
    let mapping = drawn.frame.planes[0].buffer.map()?;
    let access = mapping.begin_cpu_access(Intent::Read)?;
    second.check(0, &drawn.frame.rows(0, access.map())?)?;
    Ok(Ok(()))
}

impl Table {
    fn reasons(&self) -> Reasons {
        let mut reasons = Reasons::new();
        for why in
            self.rows.iter().flat_map(|(_, cells)| cells).filter_map(|cell| cell.as_ref().err())
        {
            let next = reasons.len() + 1;
            reasons.entry(why.clone()).or_insert(next);
        }
        reasons
    }

    /// The lines of the table.
    fn cells(&self) -> impl Iterator<Item = String> {
        let reasons = self.reasons();
        self.rows.iter().map(move |(name, cells)| {
            let mut line = format!("| {name} |");
            for cell in cells {
                let _ = match cell {
                    Ok(()) => write!(line, " = |"),
                    Err(why) => write!(line, " {} |", reasons[why]),
                };
            }
            line
        })
    }

    fn text(&self) -> String {
        let mut text = String::from("| from, to |");
        for (name, _) in IMPORTERS {
            let _ = write!(text, " {name} |");
        }
        let _ = write!(text, "\n|---|{}\n", "---|".repeat(IMPORTERS.len()));
        for line in self.cells() {
            let _ = writeln!(text, "{line}");
        }
        let mut reasons: Vec<_> = self.reasons().into_iter().collect();
        reasons.sort_by_key(|&(_, number)| number);
        for (why, number) in reasons {
            let _ = write!(text, "\n{number}. {why}");
        }
        text + "\n"
    }
}
