//! A run as a page for people, in Markdown.

use std::fmt::Write;

use serde_json::Value;

use crate::record::{Limited, Record};
use crate::run::{Done, Run};

/// The page.
pub fn render(run: &Run) -> String {
    let mut page = format!(
        "# {} on {}\n\nbufmap {}. Speeds are in GiB a second; a share is of the best that was measured for what bounds it.\n",
        plain(&run.machine),
        plain(&run.date),
        run.version
    );
    for step in &run.steps {
        section(&mut page, step);
    }
    page
}

/// Adds a line. Text that is written to memory always finds room.
macro_rules! line {
    ($page:expr, $($words:tt)*) => {
        let _ = writeln!($page, $($words)*);
    };
}

fn section(page: &mut String, step: &Done) {
    let ended = step.ended.as_deref().unwrap_or("done");
    line!(page, "\n## {}\n\nStep `{}`: {ended}, {:.1} s.\n", step.title, step.name, step.took_s);
    for record in &step.records {
        if let Record::Fact { name, value } = record {
            line!(page, "- {}: {}", plain(name), plain(value));
        }
    }
    limits(page, &step.records);
    for table in tables(&step.records) {
        rows(page, table, &step.records);
    }
    for record in &step.records {
        match record {
            Record::Report { name, value } => {
                line!(
                    page,
                    "\n<details><summary>{}</summary>\n\n```json\n{value:#}\n```\n\n</details>",
                    plain(name)
                );
            }
            Record::Failed { what, why } => {
                line!(page, "- **failed**: {}: {}", plain(what), plain(why));
            }
            Record::Skipped { what, why } => {
                line!(page, "- skipped: {}: {}", plain(what), plain(why));
            }
            Record::Fact { .. } | Record::Row { .. } | Record::Limit { .. } => {}
        }
    }
}

fn limits(page: &mut String, records: &[Record]) {
    let mut all = records.iter().filter_map(|record| match record {
        Record::Limit { of, how, gib_s } => Some((name(*of), how, gib_s)),
        _ => None,
    });
    let Some(first) = all.next() else { return };
    line!(page, "\n| limit | how | GiB/s |\n|---|---|---|");
    for (of, how, rate) in [first].into_iter().chain(all) {
        line!(page, "| {of} | {} | {rate} |", plain(how));
    }
    line!(page, "");
}

fn name(of: Limited) -> &'static str {
    match of {
        Limited::Drive => "drive",
        Limited::PageCache => "page cache",
        Limited::HostToDevice => "host to device",
    }
}

/// The tables' names, each once, in the order of their first rows.
fn tables(records: &[Record]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for record in records {
        if let Record::Row { table, .. } = record
            && !names.contains(&table.as_str())
        {
            names.push(table);
        }
    }
    names
}

fn rows(page: &mut String, wanted: &str, records: &[Record]) {
    let rows: Vec<&Vec<(String, Value)>> = records
        .iter()
        .filter_map(|record| match record {
            Record::Row { table, cells } if table == wanted => Some(cells),
            _ => None,
        })
        .collect();
    let mut columns: Vec<&str> = Vec::new();
    for (column, _) in rows.iter().copied().flatten() {
        if !columns.contains(&column.as_str()) {
            columns.push(column);
        }
    }
    line!(page, "\n{}\n", plain(wanted));
    line!(
        page,
        "| {} |",
        columns.iter().map(|column| plain(column)).collect::<Vec<_>>().join(" | ")
    );
    line!(page, "|{}", "---|".repeat(columns.len()));
    for cells in rows {
        let cell = |column: &&str| {
            cells
                .iter()
                .find(|(own, _)| own == column)
                .map_or(String::new(), |(_, value)| shown(value))
        };
        line!(page, "| {} |", columns.iter().map(cell).collect::<Vec<_>>().join(" | "));
    }
    line!(page, "");
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        Value::Array(all) => all.iter().map(shown).collect::<Vec<_>>().join(" and "),
        other => plain(&other.to_string()),
    }
}

/// Text of one line that Markdown takes as it is: what drivers and files are called is anybody's.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '|' | '<' | '>' | '*' | '_' | '`' | '[' | ']' | '\\' => {
                out.push('\\');
                out.push(letter);
            }
            letter if letter.is_control() => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(records: Vec<Record>) -> Run {
        let done = Done {
            name: "one",
            title: "One",
            took_s: 1.25,
            ended: Some("crashed by signal 11".into()),
            records,
        };
        Run {
            date: "2026-01-02T03:04:05Z".into(),
            machine: "a|b".into(),
            version: "0",
            steps: vec![done],
        }
    }

    #[test]
    fn a_page_holds_all_that_was_told() {
        let row = |speed: f64| Record::Row {
            table: "Loads".into(),
            cells: vec![("to".into(), "x\ny|z".into()), ("GiB/s".into(), speed.into())],
        };
        let page = render(&run(vec![
            Record::Fact { name: "kernel".into(), value: "<b>7".into() },
            row(1.5),
            Record::Limit { of: Limited::PageCache, how: "8 threads".into(), gib_s: 9.0 },
            row(2.0),
            Record::Skipped { what: "CUDA".into(), why: "no library".into() },
            Record::Failed { what: "udmabuf".into(), why: "EINVAL".into() },
        ]));
        for line in [
            "# a\\|b on 2026-01-02T03:04:05Z",
            "Step `one`: crashed by signal 11, 1.2 s.",
            "- kernel: \\<b\\>7",
            "| to | GiB/s |",
            "| x y\\|z | 1.5 |",
            "| x y\\|z | 2.0 |",
            "| page cache | 8 threads | 9 |",
            "- skipped: CUDA: no library",
            "- **failed**: udmabuf: EINVAL",
        ] {
            assert!(page.lines().any(|found| found == line), "{line:?} is not in\n{page}");
        }
    }
}
