//! The file that the later steps load.

use std::time::Instant;

use bufmap::storage::file::SourceFile;
use bufmap::storage::stack::Stack;
use bytesize::ByteSize;

use crate::context::Context;
use crate::file;
use crate::record::{Teller, gib_per_second};

pub fn run(context: &Context, teller: &mut Teller) {
    let started = Instant::now();
    // A fifth of the time is kept for the rest of the step.
    let limit = context.left() * 4 / 5;
    let len = match file::make(&context.file, context.most, limit) {
        Ok(len) => len,
        Err(error) => return teller.failed("making the file", error),
    };
    let took = started.elapsed();
    teller.fact("length", ByteSize::b(len).display().iec().to_string());
    if len < context.most {
        let most = ByteSize::b(context.most).display().iec();
        teller.skipped(format!("a file of {most}"), "there is no room, or no time to write it");
    }
    teller.fact("written and synced", format!("{} GiB/s", gib_per_second(len, took)));
    match SourceFile::open(&context.file) {
        Ok(opened) => {
            teller.fact("lies on", Stack::below(&opened).to_string());
            match opened.direct() {
                Ok(alignment) => teller.fact("O_DIRECT", format!("{alignment:?}")),
                Err(why) => teller.skipped("reads past the page cache", why),
            }
        }
        Err(error) => teller.failed("opening the file", error),
    }
}
