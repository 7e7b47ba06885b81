//! A run, and what its steps told.

use serde::Serialize;

use crate::record::Record;

/// A run and all that it found out.
#[derive(Serialize)]
pub struct Run {
    /// When it began, in UTC.
    pub date: String,
    /// The machine's name.
    pub machine: String,
    /// The version of bufmap.
    pub version: &'static str,
    /// The steps, in order.
    pub steps: Vec<Done>,
}

/// A step that was run.
#[derive(Serialize)]
pub struct Done {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// How long it took, in seconds.
    pub took_s: f64,
    /// How it ended, if not well.
    pub ended: Option<String>,
    /// What it told.
    pub records: Vec<Record>,
}
