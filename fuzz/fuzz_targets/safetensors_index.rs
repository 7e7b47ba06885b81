//! The index of a sharded model, and what it takes from its shards. The input is the index, a byte
//! of zero, and a safetensors file that stands for each shard.
#![no_main]

use bufmap::format::{Format, ShardIndex};
use libfuzzer_sys::fuzz_target;
use std::path::{Component, Path};

fuzz_target!(|bytes: &[u8]| {
    let cut = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let (json, shard) = (&bytes[..cut], bytes.get(cut + 1..).unwrap_or_default());
    let index = match ShardIndex::parse(Path::new(bufmap_fuzz::NAME), json) {
        Ok(index) => index,
        Err(error) => return bufmap_fuzz::check_error(&error),
    };
    assert!(index.shards().count() > 0);
    let contents = bufmap_fuzz::read(Format::Safetensors, shard);
    for name in index.shards() {
        let path = Path::new("dir").join(name);
        assert_eq!(path.components().count(), 2, "{name:?} is in the same directory");
        assert!(matches!(path.components().next_back(), Some(Component::Normal(_))), "{name:?}");
        if let Ok(contents) = &contents
            && let Ok(claimed) = index.claim(&path, name, contents.clone())
        {
            assert!(!claimed.items.is_empty());
            assert!(claimed.items.iter().all(|item| contents.items.contains(item)));
        }
    }
});
