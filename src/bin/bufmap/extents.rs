//! `bufmap extents`.

use std::fs;
use std::sync::atomic::AtomicBool;

use bufmap::format::ExtentMap;

use crate::args::ExtentsArgs;
use crate::failure::Failure;
use crate::json;
use crate::progress::bar;

pub fn run(args: &ExtentsArgs) -> Result<(), Failure> {
    // Each byte is read for a fingerprint: at most all of the files.
    let lens = args.files.iter().filter_map(|file| Some(fs::metadata(file).ok()?.len()));
    let bar = bar(lens.fold(0, u64::saturating_add));
    // Ctrl-C ends the program itself: nothing has to be undone.
    let stop = AtomicBool::new(false);
    let map = ExtentMap::record(&args.files, &args.selection.selection(), &stop, &mut |done| {
        bar.set_position(done);
    });
    bar.finish_and_clear();
    json::print(&map?)
}
