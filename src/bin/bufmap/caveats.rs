//! What has to be known of files beside their items' bytes, for people.

use std::path::Path;

use bufmap::exporters::outside::outside;
use bufmap::transfer::LeftOut;

use crate::table::{Rows, size};

/// How many parts are listed one by one.
const LISTED: usize = 8;

/// A row for each file of whose bytes something must be known.
pub fn add_notes(facts: &mut Rows, files: &[impl AsRef<Path>], notes: &[Option<String>]) {
    for (file, note) in files.iter().zip(notes) {
        if let Some(note) = note {
            facts.add_row(["note", &format!("{}: {}", outside(file.as_ref()), outside(note))]);
        }
    }
}

/// A row for each part of a file that was left out; of many parts, for the first, and how much the
/// others are.
pub fn add_left_out(facts: &mut Rows, files: &[&Path], parts: &[LeftOut]) {
    let (first, others) = parts.split_at(parts.len().min(LISTED));
    for LeftOut { file, name, len, why, .. } in first {
        let file = files.get(*file).copied().unwrap_or(Path::new(""));
        let (name, why, file) = (outside(name), outside(why), outside(file));
        facts.add_row(["left out", &format!("`{name}` of {file}, {}: {why}", size(*len))]);
    }
    if !others.is_empty() {
        let bytes = others.iter().fold(0, |sum: u64, part| sum.saturating_add(part.len));
        let words = format!("{} more, {}, which --json lists", others.len(), size(bytes));
        facts.add_row(["left out", &words]);
    }
}
