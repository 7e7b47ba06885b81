//! Maps of extents: JSON that anybody may have written.
#![no_main]

use std::path::Path;

use bufmap::format::{Description, ExtentMap, placement};
use bufmap::plan::Place;
use bufmap::transfer::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let map = match ExtentMap::parse(Path::new("fuzzed"), json) {
        Ok(map) => map,
        Err(error) => return assert!(error.to_string().contains("bufmap extents"), "{error}"),
    };
    let mut requests = Vec::new();
    for (index, file) in map.files.iter().enumerate() {
        let mut len = 0;
        for extent in &file.extents {
            assert_eq!(extent.file_offset, len);
            len += extent.len;
        }
        for item in &file.items {
            assert!(item.offset + item.len <= len);
            if let Description::Texture(texture) = &item.description {
                bufmap_fuzz::check_images(texture, item.len);
            }
            requests.push(Request::new(index, item.offset, item.len, 0));
        }
    }
    let placed = placement::place(requests, 512);
    assert!(placed.requests.iter().all(|request| request.buffer().end <= placed.len));
    let written = serde_json::to_vec(&map).expect("JSON");
    assert_eq!(ExtentMap::parse(Path::new("written"), &written).expect("a map"), map);
    for place in [Place::System, Place::Bar] {
        let Ok(explanation) = map.explain(&[], (place, None), &[]) else { continue };
        let bytes: u64 = explanation.paths.iter().map(|share| share.bytes).sum();
        assert_eq!(bytes, placed.requests.iter().map(|request| request.len).sum::<u64>());
    }
});
