//! Messages of another process that shares frames.
#![no_main]

use bufmap::exporters::socket::{MAX_FDS, MAX_FRAMES, MAX_LEN, Text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = match Text::parse(bytes) {
        Ok(text) => text,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    // A message has one form, and names all that comes with it.
    assert!(bytes.len() <= MAX_LEN && text.fds() <= MAX_FDS);
    assert_eq!(text.encode(), bytes);
    if let Text::Pool { picture, frames, fds } = text {
        assert!((1..=MAX_FRAMES).contains(&frames.len()));
        let planes = || frames.iter().flatten();
        assert!((0..fds as u32).all(|buffer| planes().any(|plane| plane.buffer == buffer)));
        assert!(planes().all(|plane| (plane.buffer as usize) < fds));
        assert_eq!(picture.to_string().parse(), Ok(picture));
    }
});
