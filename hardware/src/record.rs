//! What a step tells, one line of JSON each.

use std::io::{self, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Something that a step found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// A fact of the machine.
    Fact {
        /// What of.
        name: String,
        /// The fact.
        value: String,
    },
    /// A report of another program's, whole.
    Report {
        /// The program.
        name: String,
        /// Its JSON.
        value: Value,
    },
    /// A speed that nothing above it can exceed.
    Limit {
        /// What is limited.
        of: Limited,
        /// Under which conditions it was measured.
        how: String,
        /// In GiB a second.
        gib_s: f64,
    },
    /// A line of a table.
    Row {
        /// The table.
        table: String,
        /// The columns with their values, in order.
        cells: Vec<(String, Value)>,
    },
    /// The machine lacks it, or there was no time.
    Skipped {
        /// What was left out.
        what: String,
        /// Why.
        why: String,
    },
    /// It does not work.
    Failed {
        /// What failed.
        what: String,
        /// Why.
        why: String,
    },
}

/// What bounds a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limited {
    /// Reads from the drive past the page cache.
    Drive,
    /// Copies out of the page cache.
    PageCache,
    /// Copies by the GPU from system memory into its own.
    HostToDevice,
}

/// Tells records on standard output, to the supervisor.
#[derive(Default)]
pub struct Teller(());

impl Teller {
    /// Tells a record. A supervisor that is gone is told nothing.
    pub fn tell(&mut self, record: &Record) {
        let Ok(line) = serde_json::to_string(record) else { return };
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    pub fn fact(&mut self, name: &str, value: impl Into<String>) {
        self.tell(&Record::Fact { name: name.into(), value: value.into() });
    }

    pub fn row<const N: usize>(&mut self, table: &str, cells: [(&str, Value); N]) {
        let cells = cells.map(|(name, value)| (name.to_owned(), value)).into();
        self.tell(&Record::Row { table: table.into(), cells });
    }

    pub fn skipped(&mut self, what: impl Into<String>, why: impl ToString) {
        self.tell(&Record::Skipped { what: what.into(), why: why.to_string() });
    }

    pub fn failed(&mut self, what: impl Into<String>, why: impl ToString) {
        self.tell(&Record::Failed { what: what.into(), why: why.to_string() });
    }
}

/// Bytes in a time as GiB a second, to three digits behind the point.
pub fn gib_per_second(bytes: u64, time: Duration) -> f64 {
    let rate = bytes as f64 / (1u64 << 30) as f64 / time.as_secs_f64().max(1e-9);
    (rate * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_line() {
        let records = [
            Record::Fact { name: "kernel".into(), value: "7.3 \"x\"\n".into() },
            Record::Limit { of: Limited::HostToDevice, how: "64 MiB".into(), gib_s: 12.5 },
            Record::Row {
                table: "t".into(),
                cells: vec![("b".into(), 2.into()), ("a".into(), "1".into())],
            },
            Record::Skipped { what: "w".into(), why: "y".into() },
        ];
        for record in records {
            let line = serde_json::to_string(&record).unwrap();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
        }
    }

    #[test]
    fn rates_are_binary() {
        assert_eq!(gib_per_second(3 << 30, Duration::from_millis(1500)), 2.0);
    }
}
