//! Tables for people.

use comfy_table::Table;
use comfy_table::presets::NOTHING;

/// A table without lines.
pub fn table() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table
}
