//! How far long work has come.

use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar of bytes on standard error if that is a terminal, and nothing otherwise.
pub fn bar(total: u64) -> ProgressBar {
    let style = "{wide_bar} {bytes:>11} of {total_bytes:11} {bytes_per_sec:>12} {eta:>4} left";
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}
