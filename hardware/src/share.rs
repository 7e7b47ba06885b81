//! Each speed as a share of what bounds it.

use serde_json::Value;

use crate::record::{Limited, Record};
use crate::run::Run;

/// The column that says what bounds a row.
const BOUNDED: &str = "bounded by";

/// The column that is added.
pub const SHARE: &str = "of its limit";

/// Adds to each row that says what bounds it which share of that it reached.
pub fn add(run: &mut Run) {
    let limits: Vec<_> =
        run.steps.iter().flat_map(|step| &step.records).filter_map(limit).collect();
    for record in run.steps.iter_mut().flat_map(|step| &mut step.records) {
        let Record::Row { cells, .. } = record else { continue };
        if let Some(share) = share(cells, &limits) {
            cells.push((SHARE.into(), ((share * 100.0).round() / 100.0).into()));
        }
    }
}

fn limit(record: &Record) -> Option<(Limited, f64)> {
    match record {
        Record::Limit { of, gib_s, .. } => Some((*of, *gib_s)),
        _ => None,
    }
}

/// The share of the least of the limits; none if one of them is not known.
fn share(cells: &[(String, Value)], limits: &[(Limited, f64)]) -> Option<f64> {
    let cell = |name: &str| cells.iter().find(|(own, _)| own == name).map(|(_, value)| value);
    let bounds: Vec<Limited> = serde_json::from_value(cell(BOUNDED)?.clone()).ok()?;
    let best = |of: &Limited| {
        let rates = limits.iter().filter(|(one, _)| one == of).map(|(_, rate)| *rate);
        rates.reduce(f64::max)
    };
    let least =
        bounds.iter().map(best).collect::<Option<Vec<_>>>()?.into_iter().reduce(f64::min)?;
    let reads = cell("reads of each byte").and_then(Value::as_f64).unwrap_or(1.0);
    (least > 0.0).then(|| cell("GiB/s")?.as_f64().map(|rate| rate * reads / least))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_the_narrowest_of_the_best_limits() {
        let limits = [(Limited::Drive, 2.0), (Limited::Drive, 4.0), (Limited::HostToDevice, 10.0)];
        let row = |bounds: &str, reads: u32| {
            vec![
                ("GiB/s".to_owned(), 3.0.into()),
                (BOUNDED.to_owned(), serde_json::from_str(bounds).unwrap()),
                ("reads of each byte".to_owned(), reads.into()),
            ]
        };
        assert_eq!(share(&row(r#"["drive"]"#, 1), &limits), Some(0.75));
        assert_eq!(share(&row(r#"["drive","host-to-device"]"#, 1), &limits), Some(0.75));
        assert_eq!(share(&row(r#"["host-to-device"]"#, 2), &limits), Some(0.6));
        assert_eq!(
            share(&row(r#"["page-cache"]"#, 1), &limits),
            None,
            "a limit that nobody measured"
        );
        assert_eq!(share(&row(r#"[]"#, 1), &limits), None);
    }
}
