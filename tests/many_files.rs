//! Models of many files: how many descriptors they take, and what is said where there are too few.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bufmap::engine::{Buffer, Completions, Loader, Request};
use bufmap::format::{Manifest, Selection};
use bufmap::load::Load;
use bufmap::transfer::{Around, DataPath, Options};
use rustix::process::{Resource, getrlimit};
use support::*;
use tempfile::TempDir;

/// As many shards as the largest models have, and ten times more.
const MANY: usize = 10_000;

fn main() -> ExitCode {
    run(vec![
        trial("ten_thousand_shards_are_loaded", hard_limit(MANY as u64 + 100), |()| all_loaded()),
        trial("ten_thousand_files_are_read_by_one_loader", hard_limit(MANY as u64 + 100), |()| {
            all_by_a_loader()
        }),
        trial("too_many_files_are_said", Ok(()), |()| too_many()),
        trial("a_file_that_nobody_reads_takes_one_descriptor", Ok(()), |()| one_descriptor()),
    ])
}

fn hard_limit(needed: u64) -> Result<(), String> {
    match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < needed => Err(format!(
            "the hard limit on open files is {limit}, {needed} are needed: `ulimit -Hn`"
        )),
        _ => Ok(()),
    }
}

/// A model of `count` shards with one tensor of 8 bytes each, and its index.
fn sharded(count: usize) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut map = serde_json::Map::new();
    for shard in 0..count {
        let header = format!(r#"{{"t{shard}":{{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}}}"#);
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend((shard as u64).to_le_bytes());
        let name = format!("{shard:05}.safetensors");
        fs::write(dir.path().join(&name), file).expect("a shard");
        map.insert(format!("t{shard}"), name.into());
    }
    let path = dir.path().join("model.safetensors.index.json");
    let index = serde_json::json!({ "weight_map": map }).to_string();
    fs::write(&path, index).expect("an index");
    (dir, path)
}

/// Runs a load under a limit that the shell sets: `-S` for the soft one, nothing for both.
fn load_under(limit: &str, path: &Path) -> Output {
    let script = format!("ulimit {limit} && exec \"$@\"");
    Command::new("sh")
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_bufmap"), "load", "--json"])
        .arg(path)
        .output()
        .expect("a shell")
}

fn all_loaded() {
    let (_dir, path) = sharded(MANY);
    let output = load_under("-S -n 1024", &path);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["receipt"]["bytes"], 8 * MANY);
    let items = report["items"].as_array().expect("items");
    assert_eq!(items.len(), MANY);
    for item in items {
        let shard: u64 = item["name"].as_str().expect("a name")[1..].parse().expect("a number");
        let crc32 = crc32fast::hash(&shard.to_le_bytes());
        assert_eq!(item["crc32"], format!("{crc32:08x}"), "{item}");
    }
}

/// As many at a time as two descriptors each allow, and none is left open.
fn all_by_a_loader() {
    const TOGETHER: usize = 400;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = |number: usize| dir.path().join(format!("{number:05}"));
    let bytes = |number: usize| vec![number as u8 ^ (number >> 8) as u8; 1 + number % 5000];
    (0..MANY).for_each(|number| fs::write(path(number), bytes(number)).expect("a file"));
    let loader = Loader::new().expect("a loader");
    let completions = Completions::new();
    // The ring's thread makes its ring when it begins.
    let mut before = None;
    for first in (0..MANY).step_by(TOGETHER) {
        let numbers = first..first + TOGETHER;
        let memory = Arc::new(memory_of(TOGETHER * 5000));
        let buffer = Buffer::new(memory.clone()).expect("memory");
        let place = |number: usize| (number - first) * 5000;
        let requests = numbers.clone().map(|number| {
            let file = loader.open(path(number)).expect("a file");
            let (len, at) = (file.len(), place(number) as u64);
            Request::new(&file, 0..len, &buffer, at).tag(number as u64)
        });
        loader.submit_all(requests, &completions).expect("a plan");
        for _ in numbers.clone() {
            let done = completions.wait();
            let landed = done.outcome.expect("its bytes");
            assert_eq!(landed.bytes, bytes(done.tag as usize).len() as u64);
        }
        let found = contents(&memory);
        for number in numbers {
            let wanted = bytes(number);
            assert_same(&found[place(number)..][..wanted.len()], &wanted);
        }
        assert_eq!(open_now(), *before.get_or_insert_with(open_now), "a file is left open");
    }
    let counts = loader.counts();
    assert_eq!((counts.landed, counts.under_way()), (MANY as u64, 0));
}

fn too_many() {
    let (dir, path) = sharded(300);
    let output = load_under("-n 200", &path);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with(&format!("bufmap: {}/00", dir.path().display())), "{said}");
    for words in ["Too many open files", "may have 200 files open", "`ulimit -n`"] {
        assert!(said.contains(words), "should say '{words}': {said}");
    }
}

fn open_now() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc").count()
}

fn one_descriptor() {
    const FILES: usize = 200;
    const DEPTH: usize = 4;
    /// The ring's.
    const ENGINE: usize = 2;
    let (_dir, path) = sharded(FILES);
    let before = open_now();
    let manifest = Manifest::open(&[path], &Selection::default()).expect("a manifest");
    assert_eq!(open_now() - before, FILES);
    let memory = memory_of(manifest.buffer_len() as usize);
    for path in [DataPath::Direct, DataPath::Buffered] {
        let mut most = 0;
        Load {
            files: manifest.files(),
            requests: manifest.requests(),
            around: Around::Scratch,
            destination: &memory,
            options: Options { require: Some(path), depth: DEPTH as u32, ..Options::default() },
            stop: &AtomicBool::new(false),
        }
        .run(&mut |_| most = most.max(open_now() - before))
        .expect("a load");
        assert!((FILES..=FILES + DEPTH + 1 + ENGINE).contains(&most), "{path}: {most}");
        assert_eq!(open_now() - before, FILES, "{path}");
    }
    drop(manifest);
    assert_eq!(open_now(), before);
}
