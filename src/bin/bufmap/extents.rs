//! `bufmap extents`.

use std::fs;

use bufmap::load::{ExtentMap, Selection};
use serde_json::json;

use crate::args::ExtentsArgs;
use crate::progress::bar;
use crate::{Failure, print};

pub fn run(args: &ExtentsArgs) -> Result<(), Failure> {
    // Each byte is read for a fingerprint: at most all of the files.
    let lens = args.files.iter().filter_map(|file| Some(fs::metadata(file).ok()?.len()));
    let bar = bar(lens.sum());
    let selection = Selection {
        format: args.format,
        items: &args.items,
        skip_compressed: args.skip_compressed,
    };
    let map = ExtentMap::record(&args.files, &selection, &mut |done| {
        bar.set_position(done);
    });
    bar.finish_and_clear();
    print(&format!("{:#}", json!(map?)))
}
