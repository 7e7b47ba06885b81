//! What rounds of a benchmark are told by: single rounds are disturbed by whatever else the machine does.

/// The value in the middle. There is one at least.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
