//! Safetensors, judged against the format's own library.
#![no_main]

use bufmap::format::Format;
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

fuzz_target!(|bytes: &[u8]| {
    let ours = bufmap_fuzz::read(Format::Safetensors, bytes);
    match (&ours, SafeTensors::read_metadata(bytes)) {
        (Ok(contents), Ok((header, metadata))) => {
            assert_eq!(contents.items.len(), metadata.tensors().len());
            for item in &contents.items {
                let info = metadata.info(&item.name).expect("the library has the tensor");
                let start = 8 + header + info.data_offsets.0;
                assert_eq!(
                    (item.offset, item.end()),
                    (start as u64, (8 + header + info.data_offsets.1) as u64)
                );
            }
        }
        (Err(_), Err(_)) => {}
        // The library takes the last of two members by one name.
        (Err(error), Ok(_)) if error.to_string().contains("comes twice") => {}
        (ours, theirs) => panic!("ours {ours:?}, theirs {theirs:?}"),
    }
});
