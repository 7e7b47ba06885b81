//! Files into buffers: plan a road, run it, verify it, account for it.

pub mod format;
