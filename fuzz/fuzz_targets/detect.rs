//! Files of any content under any name: what they are found to be, and read as that.
#![no_main]

use std::path::Path;

use bufmap::format::{self, Format};
use libfuzzer_sys::fuzz_target;

/// Names that say a format, or nothing.
const NAMES: [&str; 6] = ["", ".safetensors", ".safetensors.index.json", ".ktx2", ".zip", ".bin"];

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let name = format!("{}{}", bufmap_fuzz::NAME, NAMES[usize::from(*choice) % NAMES.len()]);
    match format::detect(Path::new(&name), bytes) {
        Ok(Format::SafetensorsIndex) => {
            if let Err(error) = format::ShardIndex::parse(Path::new(&name), bytes) {
                bufmap_fuzz::check_error(&error);
            }
        }
        Ok(format) => drop(bufmap_fuzz::read(format, bytes)),
        Err(error) => bufmap_fuzz::check_error(&error),
    }
});
