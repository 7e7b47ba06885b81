//! Zip archives.
#![no_main]

use bufmap::format::Format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = bufmap_fuzz::read(Format::Zip, bytes);
});
