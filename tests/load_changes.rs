//! Files that something changes while they are opened and loaded.

mod support;

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};
use std::thread;

use bufmap::format::{Manifest, Selection};
use bufmap::load::Load;
use bufmap::transfer::{Around, DataPath, Options, Receipt, Request, TransferError, Verify};
use iomap::{Memory, PageSize};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
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
fn run(
    manifest: &Manifest,
    require: Option<DataPath>,
) -> Result<(Receipt, Vec<u8>), TransferError> {
    let memory = Memory::anonymous(manifest.buffer_len() as usize, PageSize::Base)?;
    let receipt = Load {
        files: manifest.files(),
        requests: manifest.requests(),
        around: Around::Scratch,
        destination: &memory,
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

/// The header, and the bytes by every path, are those of one file, whatever its path names by then.
#[test]
fn a_file_that_is_replaced_stays_the_one_that_was_opened() {
    const LEN: usize = 1 << 20;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = dir.path().join("model.safetensors");
    let other = dir.path().join("other");
    for require in [DataPath::Direct, DataPath::Buffered] {
        fs::write(&path, of_one(b'a', LEN)).expect("a file");
        fs::write(&other, of_one(b'b', LEN)).expect("a file");
        let manifest =
            Manifest::open(std::slice::from_ref(&path), &Selection::default()).expect("a manifest");
        fs::rename(&other, &path).expect("a rename");
        let (_, found) = run(&manifest, Some(require)).expect("a load");
        assert_of_one_file(&manifest, &found);
    }
}

/// Somebody replaces a file all the time, by one and by another.
#[test]
fn a_file_that_is_replaced_while_it_is_opened_is_one_of_both() {
    const LEN: usize = 64 << 10;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("model.safetensors"), of_one(b'a', LEN)).expect("a file");
    let index = r#"{"weight_map":{"a":"model.safetensors"}}"#;
    fs::write(at("model.safetensors.index.json"), index).expect("a file");
    let token = Arc::new(());
    thread::scope(|scope| {
        let held = Arc::clone(&token);
        scope.spawn({
            let at = &at;
            move || {
                // Until the other thread is done, or an assertion of it failed.
                for byte in [b'b', b'a'].into_iter().cycle() {
                    if Arc::strong_count(&token) == 1 {
                        return;
                    }
                    fs::write(at("next"), of_one(byte, LEN)).expect("a file");
                    fs::rename(at("next"), at("model.safetensors")).expect("a rename");
                }
            }
        });
        let paths = [at("model.safetensors"), at("model.safetensors.index.json")];
        for round in 0..400 {
            // An index names a tensor that only one of both files has.
            let Ok(manifest) = Manifest::open(&paths[round % 2..][..1], &Selection::default())
            else {
                continue;
            };
            let path = [DataPath::Direct, DataPath::Buffered][round / 2 % 2];
            let (_, found) = run(&manifest, Some(path)).expect("a load");
            assert_of_one_file(&manifest, &found);
        }
        drop(held);
    });
}

/// What somebody does to a file, and a word that its error must hold.
type Deed = (&'static str, fn(&Path), &'static str);

fn opened_for_writing(path: &Path) -> File {
    File::options().write(true).open(path).expect("the file")
}

fn overwrite(path: &Path) {
    opened_for_writing(path).write_all_at(b"new", 2 << 20).expect("a write");
}

fn overwrite_directly(path: &Path) {
    let flags = (OFlags::RDWR | OFlags::DIRECT).bits() as i32;
    let file = File::options().read(true).write(true).custom_flags(flags).open(path);
    let pages = vec![1; 8192];
    let at = pages.as_ptr().align_offset(4096);
    file.expect("O_DIRECT").write_all_at(&pages[at..at + 4096], 2 << 20).expect("a write");
}

fn overwrite_and_set_the_time_back(path: &Path) {
    let file = opened_for_writing(path);
    let was = file.metadata().expect("metadata").modified().expect("a time");
    file.write_all_at(b"new", 2 << 20).expect("a write");
    file.set_times(FileTimes::new().set_modified(was)).expect("a time");
}

fn store_by_a_mapping(path: &Path) {
    let file = File::options().read(true).write(true).open(path).expect("the file");
    // SAFETY: the mapping is only stored into, by this thread alone.
    #[allow(unsafe_code)]
    let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.expect("a mapping");
    map[2 << 20] ^= 1;
}

fn punch(path: &Path) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(opened_for_writing(path), flags, 2 << 20, 1 << 20).expect("a hole");
}

fn append(path: &Path) {
    let len = fs::metadata(path).expect("metadata").len();
    opened_for_writing(path).write_all_at(b"new", len).expect("a write");
}

fn change_its_rights(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("a mode");
}

const IN_PLACE: [Deed; 7] = [
    ("overwritten", overwrite, "(mtime)"),
    ("overwritten past the page cache", overwrite_directly, "(mtime)"),
    ("overwritten, its time set back", overwrite_and_set_the_time_back, "(ctime) alone"),
    ("stored into by a mapping", store_by_a_mapping, "(mtime)"),
    ("given a hole", punch, "(mtime)"),
    ("appended to", append, "its length from 4194304 to 4194307 bytes"),
    ("given other rights", change_its_rights, "(ctime) alone"),
];

/// What the file holds at first.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| bytes_of(4 << 20));

/// Loads a file of 4 MiB, to which a deed is done when so much of it has landed.
fn load_while(
    path: &Path,
    options: Options,
    from: u64,
    deed: impl Fn(&Path),
) -> Result<Vec<u8>, TransferError> {
    fs::write(path, &*BYTES).expect("a file");
    let source = source(path);
    let memory = memory_of(4 << 20);
    let mut done = false;
    Load {
        files: std::slice::from_ref(&source),
        requests: &[Request::new(0, 0, 4 << 20, 0)],
        around: Around::Untouched,
        destination: &memory,
        options,
        stop: &AtomicBool::new(false),
    }
    .run(&mut |progress| {
        if progress.done >= from && !std::mem::replace(&mut done, true) {
            deed(path);
        }
    })?;
    assert!(done, "nothing landed");
    Ok(contents(&memory))
}

/// At the first progress, and at the last: then the buffer is whole, and only the second read is not.
const MOMENTS: [u64; 2] = [1, 4 << 20];

fn ways() -> impl Iterator<Item = Options> {
    [DataPath::Direct, DataPath::Buffered].into_iter().flat_map(|path| {
        [Verify::None, Verify::Hash, Verify::Full].map(|verify| Options {
            require: Some(path),
            verify,
            ..Options::default()
        })
    })
}

#[test]
fn a_file_that_is_changed_in_place_ends_the_load() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = dir.path().join("file");
    for (what, deed, word) in IN_PLACE {
        for (options, from) in
            ways().flat_map(|options| MOMENTS.map(|from| (options.clone(), from)))
        {
            let case = format!("{what} from {from}, {options:?}");
            let error = load_while(&path, options, from, deed).expect_err(&case);
            let text = error.to_string();
            assert!(matches!(error, TransferError::Changed { .. }), "{case}: {text}");
            assert!(text.starts_with(&*path.to_string_lossy()), "{case}: {text}");
            assert!(text.contains(word) && text.contains("load it again"), "{case}: {text}");
        }
    }
}

/// Other names for a file, or none, change no byte of it: what was opened is loaded whole.
#[test]
fn a_file_that_is_replaced_or_removed_is_loaded_as_it_was() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = dir.path().join("file");
    let other = dir.path().join("other");
    let replace = |path: &Path| {
        fs::write(&other, vec![7; 4 << 20]).expect("a file");
        fs::rename(&other, path).expect("a rename");
    };
    let remove = |path: &Path| fs::remove_file(path).expect("removed");
    let link = |path: &Path| {
        fs::hard_link(path, &other).expect("a link");
        fs::remove_file(&other).expect("removed");
        fs::hard_link(path, &other).expect("a link");
    };
    for (options, from) in ways().flat_map(|options| MOMENTS.map(|from| (options.clone(), from))) {
        for deed in [&replace as &dyn Fn(&Path), &remove, &link] {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_file(&other);
            let found = load_while(&path, options.clone(), from, deed).expect("a load");
            assert_same(&found, &BYTES);
        }
    }
}

/// Shorter and long again: an error whenever it happens, and never the bytes of both.
#[test]
fn a_file_that_is_cut_and_lengthened_again_ends_the_load() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = dir.path().join("file");
    let cut = |path: &Path| {
        let file = opened_for_writing(path);
        file.set_len(1 << 20).expect("a length");
        file.set_len(4 << 20).expect("a length");
    };
    for (options, from) in ways().flat_map(|options| MOMENTS.map(|from| (options.clone(), from))) {
        let error = load_while(&path, options, from, cut).expect_err("it was cut");
        let expected =
            matches!(error, TransferError::Changed { .. } | TransferError::Shrank { .. });
        assert!(expected, "{error}");
    }
}

/// A read that fails for itself keeps its own error.
#[test]
fn a_file_that_is_cut_short_is_said_to_be() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = dir.path().join("file");
    let cut = |path: &Path| opened_for_writing(path).set_len(1 << 20).expect("a length");
    let full = Options { verify: Verify::Full, ..Options::default() };
    let error = load_while(&path, full, 4 << 20, cut).expect_err("it was cut");
    assert!(matches!(error, TransferError::Shrank { at: 1_048_576, .. }), "{error}");
}

/// A file that is changed and loaded over and over: each load is of one version, or an error.
#[test]
fn a_file_that_is_written_right_before_and_after_it_is_opened() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = dir.path().join("file");
    for round in 0..100_u8 {
        fs::write(&path, [round; 8192]).expect("a file");
        let source = source(&path);
        opened_for_writing(&path).write_all_at(&[255], 8191).expect("a write");
        let memory = memory_of(8192);
        let requests = [Request::new(0, 0, 8192, 0)];
        let error = load(&source, &requests, Around::Untouched, &memory, Options::default());
        let error = error.expect_err("it was written to after it was opened");
        assert!(matches!(error, TransferError::Changed { .. }), "round {round}: {error}");
    }
}
