//! How far long work has come.

use bufmap::transfer::Progress;
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt::Interrupts;

/// A progress bar of bytes on standard error if that is a terminal, and nothing otherwise.
pub fn bar(total: u64) -> ProgressBar {
    let style = "{wide_bar} {bytes:>11} of {total_bytes:11} {bytes_per_sec:>12} {eta:>4} left";
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}

/// Runs a load or a save that shows how far it has come, and that Ctrl-C ends in order. `what` its `files` are asked for is a
/// `read` or a `write`.
pub fn of_transfer<T>(
    interrupts: &Interrupts,
    (what, files): (&'static str, Vec<String>),
    run: impl FnOnce(&mut dyn FnMut(Progress)) -> T,
) -> T {
    let bar = bar(0);
    interrupts.begin(what, files);
    let done = run(&mut |progress| {
        interrupts.note(progress);
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    interrupts.end();
    bar.finish_and_clear();
    done
}
