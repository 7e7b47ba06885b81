//! Files that something changes while they are opened and loaded.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use bufmap::load::{Around, Destination, Load, LoadError, Manifest, Options, Receipt, Road};
use iomap::{Memory, PageSize};
use support::*;

/// A safetensors file of one tensor that is all `byte`, which the tensor's name tells.
fn of_one(byte: u8, len: usize) -> Vec<u8> {
    let header = format!(
        r#"{{"{}":{{"dtype":"U8","shape":[{len}],"data_offsets":[0,{len}]}}}}"#,
        char::from(byte)
    );
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + len, byte);
    file
}

/// Loads a manifest, and returns the buffer.
fn run(manifest: &Manifest, require: Option<Road>) -> Result<(Receipt, Vec<u8>), LoadError> {
    let memory = Memory::anonymous(manifest.buffer_len() as usize, PageSize::Base)?;
    let receipt = Load {
        files: manifest.files(),
        requests: manifest.requests(),
        around: Around::Scratch,
        destination: Destination::Memory(&memory),
        options: Options { require, ..Options::default() },
        stop: &AtomicBool::new(false),
    }
    .run(&mut |_| {})?;
    Ok((receipt, contents(&memory)))
}

/// Asserts that a manifest's one item is filled with the byte that its name tells.
#[track_caller]
fn assert_of_one_file(manifest: &Manifest, found: &[u8]) {
    let item = manifest.items().next().expect("an item");
    let at = item.request.buffer_offset as usize;
    let found = &found[at..at + item.request.len as usize];
    let other = found.iter().position(|&byte| byte != item.name.as_bytes()[0]);
    assert_eq!(other, None, "a tensor `{}` holds another's bytes", item.name);
}

/// The header, and the bytes by every road, are those of one file, whatever its path names by then.
#[test]
fn a_file_that_is_replaced_stays_the_one_that_was_opened() {
    const LEN: usize = 1 << 20;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = dir.path().join("model.safetensors");
    let other = dir.path().join("other");
    for road in [Road::Direct, Road::Buffered] {
        fs::write(&path, of_one(b'a', LEN)).expect("a file");
        fs::write(&other, of_one(b'b', LEN)).expect("a file");
        let manifest = Manifest::open(&[path.clone()], None, &[]).expect("a manifest");
        fs::rename(&other, &path).expect("a rename");
        let (_, found) = run(&manifest, Some(road)).expect("a load");
        assert_of_one_file(&manifest, &found);
    }
}

/// Somebody swaps two files all the time.
#[test]
fn a_file_that_is_replaced_while_it_is_opened_is_one_of_both() {
    const LEN: usize = 64 << 10;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("model.safetensors"), of_one(b'a', LEN)).expect("a file");
    fs::write(at("other"), of_one(b'b', LEN)).expect("a file");
    let index = r#"{"weight_map":{"a":"model.safetensors"}}"#;
    fs::write(at("model.safetensors.index.json"), index).expect("a file");
    let token = Arc::new(());
    thread::scope(|scope| {
        let held = Arc::clone(&token);
        scope.spawn({
            let at = &at;
            move || {
                // Until the other thread is done, or an assertion of it failed.
                while Arc::strong_count(&token) > 1 {
                    swap(&at("model.safetensors"), &at("other"));
                }
            }
        });
        let paths = [at("model.safetensors"), at("model.safetensors.index.json")];
        for round in 0..400 {
            // An index names a tensor that only one of both files has.
            let Ok(manifest) = Manifest::open(&paths[round % 2..][..1], None, &[]) else {
                continue;
            };
            let road = [Road::Direct, Road::Buffered][round / 2 % 2];
            let (_, found) = run(&manifest, Some(road)).expect("a load");
            assert_of_one_file(&manifest, &found);
        }
        drop(held);
    });
}

fn swap(one: &Path, other: &Path) {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("a swap");
}
