//! Tables for people, as wide as the terminal that shows them.

use std::io::{self, IsTerminal};

use bytesize::ByteSize;
use comfy_table::presets::NOTHING;
use comfy_table::{ColumnConstraint, Table, Width};
use rustix::termios::tcgetwinsize;

/// How wide a terminal is taken to be that does not say it.
const USUAL_WIDTH: u16 = 80;

/// What the table puts around each cell.
const PADDING: u16 = 2;

/// Rows of cells under each other, without lines.
pub struct Rows {
    table: Table,
    /// The same with a line for each word, for the widths that the words need.
    words: Table,
}

impl Rows {
    pub fn new() -> Self {
        Self { table: Table::new(), words: Table::new() }
    }

    pub fn add_row<C: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let cells: Vec<_> = cells.into_iter().map(|cell| cell.as_ref().to_owned()).collect();
        self.words.add_row(cells.iter().map(|cell| cell.replace(' ', "\n")));
        self.table.add_row(cells);
    }

    /// The table for standard output: wrapped between words to the width of a terminal, and not at all in a pipe or file.
    pub fn text(self) -> String {
        self.of_width(terminal_width())
    }

    fn of_width(mut self, width: Option<u16>) -> String {
        self.table.load_style(NOTHING);
        if let Some(width) = width {
            let whole = self.table.column_max_content_widths();
            let columns = self.table.column_iter_mut();
            let widths = share(width, &whole, &self.words.column_max_content_widths());
            for (column, width) in columns.zip(widths) {
                column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(
                    width.saturating_add(PADDING),
                )));
            }
        }
        self.table.trim_fmt()
    }
}

/// A size as people write it, with the exact bytes behind it.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        _ => format!("{} ({bytes} B)", ByteSize::b(bytes).display().iec()),
    }
}

/// A line of words below or in the place of a table.
pub fn line(words: &str) -> String {
    let mut rows = Rows::new();
    rows.add_row([words]);
    rows.text()
}

/// Shares `width` out to columns, so that each has room for its longest word, then for as much of its longest cell
/// as the others. Where the words do not fit, it is the longest that are broken.
fn share(width: u16, cells: &[u16], words: &[u16]) -> Vec<u16> {
    let at_the_end_of_lines = 1;
    let padding = usize::from(PADDING) * cells.len();
    let room = (usize::from(width) + at_the_end_of_lines).saturating_sub(padding).max(cells.len());
    let fits =
        |widths: &Vec<u16>| widths.iter().map(|&one| usize::from(one)).sum::<usize>() <= room;
    let for_cells = |most: u16| -> Vec<u16> {
        cells.iter().zip(words).map(|(cell, word)| *cell.min(word.max(&most))).collect()
    };
    let for_words = |most: u16| -> Vec<u16> { words.iter().map(|word| *word.min(&most)).collect() };
    let widest = || (1..=width.max(1)).rev();
    let chosen = widest().map(for_cells).find(fits).or_else(|| widest().map(for_words).find(fits));
    chosen.unwrap_or_else(|| vec![1; cells.len()])
}

/// How wide the terminal is that standard output is, if it is one: what the environment says in `COLUMNS`, or else
/// what the terminal does.
fn terminal_width() -> Option<u16> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let asked = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let told = || Some(tcgetwinsize(&out).ok()?.ws_col);
    let known = |width: &u16| *width > 0;
    asked.filter(known).or_else(|| told().filter(known)).or(Some(USUAL_WIDTH))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "the driver has no VK_EXT_external_memory_dma_buf; take a newer one";

    fn rows(rows: &[&[&str]]) -> Rows {
        let mut made = Rows::new();
        rows.iter().for_each(|row| made.add_row(row.iter()));
        made
    }

    /// Whether each word stands whole in one of the lines, none of which is longer than `width`.
    #[track_caller]
    fn assert_wrapped(rows_of: &[&[&str]], width: u16) {
        let text = rows(rows_of).of_width(Some(width));
        let wide = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        assert!(wide <= width.into(), "{wide} columns for {width}:\n{text}");
        let shown: Vec<_> = text.split_whitespace().collect();
        for word in rows_of.iter().flat_map(|row| row.iter()).flat_map(|cell| cell.split(' ')) {
            assert!(word.is_empty() || shown.contains(&word), "{word} at {width}:\n{text}");
        }
    }

    #[test]
    fn words_stay_whole_at_every_width_that_has_room_for_them() {
        let facts: &[&[&str]] = &[&["why not", LONG], &["path", "direct: 86.6 MiB (90856960 B)"]];
        // The longest word of each column, and the padding of both but for the end of the line.
        let needed = "path".len() + "VK_EXT_external_memory_dma_buf;".len() + 3;
        let four: &[&[&str]] = &[
            &["memory of", "drive", "peer", ""],
            &["0000:03:00.0", "0000:04:00.0", "kernel", "they share a switch that forwards"],
        ];
        for width in needed as u16..250 {
            assert_wrapped(facts, width);
        }
        for width in 12 + 12 + 6 + "forwards".len() as u16 + 7..250 {
            assert_wrapped(four, width);
        }
    }

    #[test]
    fn a_table_that_fits_is_as_in_a_pipe() {
        let facts: &[&[&str]] = &[&["why not", LONG], &["to", "memory"]];
        let whole = rows(facts).of_width(None);
        assert_eq!(whole.lines().count(), 2, "{whole}");
        assert_eq!(rows(facts).of_width(Some(200)), whole);
    }

    #[test]
    fn a_word_without_room_is_broken_and_the_others_are_not() {
        let name = "n".repeat(100);
        let facts: &[&[&str]] = &[&["loaded", &name], &["why not", "the format is not known"]];
        let text = rows(facts).of_width(Some(40));
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert_eq!(text.matches('n').count() - "not not known".matches('n').count(), 100, "{text}");
        for word in ["loaded", "format", "known"] {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn no_width_is_too_small() {
        for width in 0..20 {
            let text = rows(&[&["why not", LONG, "模型", "b"]]).of_width(Some(width));
            assert!(text.lines().count() > 1);
        }
    }
}
