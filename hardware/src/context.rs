//! What every step works with.

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What every step works with.
pub struct Context {
    /// The file that is loaded.
    pub file: PathBuf,
    /// The most bytes that it may have when it is made.
    pub most: u64,
    /// When the step is ended.
    pub deadline: Instant,
}

impl Context {
    /// The time left to the step.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}
