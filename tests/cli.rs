//! The `bufmap` command as a user meets it: what it prints, and what it exits with.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use support::*;
use tempfile::TempDir;

fn bufmap(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bufmap")).args(args).output().expect("the command runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A directory for files by name, on the disk of the build.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory"))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).expect("a file");
        path.to_string_lossy().into_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

const TWO_TENSORS: &str = r#"{"a":{"dtype":"U8","shape":[1000],"data_offsets":[0,1000]},"b":{"dtype":"F32","shape":[500],"data_offsets":[1000,3000]}}"#;

/// Runs a load that must fail with status 1 and a message that holds each of `words`.
#[track_caller]
fn refused(args: &[&str], words: &[&str]) {
    let mut all = vec!["load"];
    all.extend(args);
    let output = bufmap(&all);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    assert!(stdout(&output).is_empty(), "{args:?}");
    assert!(said.starts_with("bufmap: ") && said.lines().count() == 1, "{args:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{args:?} should say '{word}': {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_load_prints_a_table_and_nothing_else_into_a_pipe() {
    let files = Files::new();
    let path = files.write("model.safetensors", &safetensors(TWO_TENSORS, &bytes_of(3000)));
    let output = bufmap(&["load", &path, "--verify", "full"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).is_empty(), "no progress in a pipe: {}", stderr(&output));
    let table = stdout(&output);
    for word in [
        path.as_str(),
        "2 items",
        "system memory",
        "GiB/s",
        "CPU seconds per GiB",
        "by the CPU",
        "equal to a second read",
    ] {
        assert!(table.contains(word), "should say '{word}': {table}");
    }
    assert!(!table.contains('\u{1b}'), "no colour in a pipe");
}

/// Without a word about it, a load into the system's memory is fingerprinted there, and says so.
#[test]
fn the_default_check_is_the_one_that_suits_the_path() {
    let files = Files::new();
    let path = files.write("model.safetensors", &safetensors(TWO_TENSORS, &bytes_of(3000)));
    let checked = |more: &[&str]| {
        let output = bufmap(&[&["load", &path, "--json"], more].concat());
        let json: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
        json["receipt"]["checked"].clone()
    };
    let own = checked(&[]);
    assert_eq!(
        (&own["verify"], &own["compared"], &own["read_back"]),
        (&"auto".into(), &0.into(), &0.into())
    );
    let shares = own["checks"].as_array().expect("checks");
    let bytes: u64 = shares.iter().filter_map(|share| share["bytes"].as_u64()).sum();
    assert_eq!(bytes, 3000, "{own:#}");
    for share in shares {
        let how = share["check"].as_str().expect("how");
        assert!(["fingerprint-in-buffer", "fingerprint-in-slot"].contains(&how), "{own:#}");
    }
    assert_eq!(checked(&["--verify", "hash"])["checks"], own["checks"]);
    let full = serde_json::json!([{"check": "compared", "bytes": 3000}]);
    assert_eq!(checked(&["--verify", "full"])["checks"], full);
    assert_eq!(checked(&["--verify", "none"])["checks"], serde_json::json!([]));
    let table = stdout(&bufmap(&["load", &path]));
    assert!(table.contains("fingerprinted") && table.contains("by the CPU"), "{table}");
    assert!(table.contains("the format records no checksums"), "{table}");
}

#[test]
fn json_names_every_item_with_its_place_and_fingerprint() {
    let files = Files::new();
    let data = bytes_of(3000);
    let path = files.write("model.safetensors", &safetensors(TWO_TENSORS, &data));
    let output = bufmap(&["load", &path, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let items = json["items"].as_array().expect("items");
    assert_eq!(items.len(), 2);
    assert_eq!(items[1]["name"], "b");
    assert_eq!(items[1]["len"], 2000);
    assert_eq!(items[1]["crc32"], format!("{:08x}", crc32fast::hash(&data[1000..])));
    assert_eq!(json["receipt"]["bytes"], 3000);
    assert!(json["receipt"]["cpu_copied"].is_u64());
}

/// The descriptions of the items that a load of a file prints, in file order.
fn described(path: &str) -> Vec<serde_json::Value> {
    let output = bufmap(&["load", path, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let items = json["items"].as_array().unwrap_or_else(|| panic!("items: {}", stderr(&output)));
    items.iter().map(|item| item["description"].clone()).collect()
}

#[test]
fn json_says_what_every_item_is() {
    use std::io::Write;
    use zip::{CompressionMethod, DateTime, ZipWriter, write::SimpleFileOptions};
    let files = Files::new();
    let path = files.write("model.safetensors", &safetensors(TWO_TENSORS, &bytes_of(3000)));
    let tensor =
        |dtype: &str, len: u64| json!({ "kind": "tensor", "dtype": dtype, "shape": [len] });
    assert_eq!(described(&path), [tensor("U8", 1000), tensor("F32", 500)]);

    // A cube map of BC7, 8 texels wide, with one level of 6 times 64 bytes.
    let mut texture = ktx2::MAGIC.to_vec();
    texture.extend([145, 1, 8, 8, 0, 0, 6, 1, 0].map(u32::to_le_bytes).concat());
    texture.extend([0; 32]);
    texture.extend([104, 384, 384].map(u64::to_le_bytes).concat());
    texture.extend(bytes_of(384));
    let level = json!({
        "kind": "texture",
        "format": { "number": 145, "name": "VK_FORMAT_BC7_UNORM_BLOCK" },
        "supercompression": null,
        "dimensions": 2, "level": 0, "width": 8, "height": 8, "depth": 1,
        "layers": 1, "is_array": false, "faces": 6,
        "uncompressed_len": 384,
    });
    assert_eq!(described(&files.write("sky.ktx2", &texture)), [level]);
    texture[12..16].fill(0);
    texture[44] = 1;
    let level = &described(&files.write("basis.ktx2", &texture))[0];
    assert_eq!(level["format"], json!({ "number": 0, "name": "VK_FORMAT_UNDEFINED" }));
    assert_eq!(level["supercompression"], json!({ "number": 1, "name": "BasisLZ" }));

    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let time = DateTime::from_date_and_time(2026, 11, 27, 16, 50, 2).expect("a time");
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    writer.start_file("one", stored.last_modified_time(time)).expect("a member");
    writer.write_all(b"content").expect("written");
    let pack = files.write("pack.zip", &writer.finish().expect("an archive").into_inner());
    let crc32 = crc32fast::hash(b"content");
    let modified = "2026-11-27T16:50:02";
    let member = json!({ "kind": "member", "size": 7, "modified": modified, "crc32": crc32 });
    assert_eq!(described(&pack), [member]);

    assert_eq!(described(&files.write("x.bin", b"raw")), [json!({ "kind": "bytes" })]);
}

/// A map that says what its items are is read like one that does not, unless it says what cannot be.
#[test]
fn a_map_may_say_what_its_items_are() {
    let files = Files::new();
    let map = |description: &str| {
        format!(
            r#"{{"drive": {{"address": "ffff:ff:1f.7", "serial": "x", "namespace": 1}}, "files": [{{
            "path": "a", "format": "safetensors", "extents": [{{"file_offset": 0, "offset": 0, "len": 8192}}],
            "items": [{{"name": "w", "offset": 96, "len": 24{description}}}]}}]}}"#
        )
    };
    let tensor = r#", "description": {"kind": "tensor", "dtype": "BF16", "shape": [3, 4]}"#;
    for description in ["", tensor] {
        let path = files.write("a.extents.json", map(description).as_bytes());
        let output = bufmap(&["explain", &path, "--json"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let path = files.write("b.extents.json", map(&tensor.replace("BF16", "F32")).as_bytes());
    let output = bufmap(&["explain", &path]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(stderr(&output).contains("`w` has 24 bytes"), "{}", stderr(&output));
}

#[test]
fn a_reader_that_has_read_enough_is_no_error() {
    let files = Files::new();
    let path = files.write("file.bin", &bytes_of(10_000));
    for args in [&["load", &path, "--json"][..], &["load", &path], &["probe"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_bufmap"));
        let output = command.args(args).stdout(writer).output().expect("the command runs");
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()), "{args:?}");
    }
}

#[test]
fn a_path_that_is_no_text_can_be_loaded() {
    use std::os::unix::ffi::OsStrExt;
    let files = Files::new();
    let path = files.path("x").with_file_name(std::ffi::OsStr::from_bytes(b"\xff\xfe.bin"));
    fs::write(&path, bytes_of(5000)).expect("a file");
    for json in [None, Some("--json")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bufmap"));
        let output = command.arg("load").arg(&path).args(json).output().expect("the command runs");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
}

#[test]
fn one_item_of_a_file_can_be_loaded() {
    let files = Files::new();
    let path = files.write("model.safetensors", &safetensors(TWO_TENSORS, &bytes_of(3000)));
    let output = bufmap(&["load", &path, "--item", "b", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(json["receipt"]["bytes"], 2000);
    refused(&[&path, "--item", "c"], &[&path, "`c`"]);
}

#[test]
fn bad_headers_are_refused_with_file_offset_and_remedy() {
    let files = Files::new();
    let huge = files.write("huge.safetensors", &(1u64 << 63).to_le_bytes());
    refused(&[&huge], &[&huge, "9223372036854775808"]);
    let overlap = TWO_TENSORS.replace("[1000,3000]", "[500,2500]");
    let overlap = files.write("overlap.safetensors", &safetensors(&overlap, &bytes_of(2500)));
    refused(&[&overlap], &[&overlap]);
    let whole = safetensors(TWO_TENSORS, &bytes_of(3000));
    for len in [1, 7, 8, 20, whole.len() - 1] {
        let cut = files.write("cut.safetensors", &whole[..len]);
        refused(&[&cut], &[&cut]);
    }
    let empty = files.write("empty.safetensors", b"");
    refused(&[&empty], &[&empty]);
    let ktx2 = files.write("short.ktx2", &[0xAB; 40]);
    refused(&[&ktx2], &[&ktx2]);
    let zip = files.write("broken.zip", b"PK\x03\x04 and then nothing of a zip");
    refused(&[&zip], &[&zip]);
}

/// A valid file without a byte to load is loaded: nothing is what it holds.
#[test]
fn a_file_with_nothing_in_it_is_a_success_of_no_bytes() {
    let files = Files::new();
    let shape = r#"{"t":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]}}"#;
    let paths = [
        files.write("nothing.bin", b""),
        files.write("metadata.safetensors", &safetensors(r#"{"__metadata__":{"a":"b"}}"#, b"")),
        files.write("empty.safetensors", &safetensors(shape, b"")),
        files.write("none.zip", &[&b"PK\x05\x06"[..], &[0; 18]].concat()),
    ];
    for path in &paths {
        for verify in ["auto", "none", "hash", "full"] {
            let output = bufmap(&["load", path, "--json", "--verify", verify]);
            assert_eq!(output.status.code(), Some(0), "{path}: {}", stderr(&output));
            let json: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
            let receipt = &json["receipt"];
            assert_eq!((&receipt["bytes"], &receipt["reads"]), (&0.into(), &0.into()), "{json:#}");
            for rate in ["gib_per_s", "cpu_s_per_gib"] {
                assert_eq!(receipt[rate], 0.0, "{json:#}");
            }
        }
        let output = bufmap(&["load", path]);
        let table = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{path}: {}", stderr(&output));
        assert!(table.contains("nothing to read") && table.contains("0 B"), "{table}");
        assert!(!table.contains("NaN") && !table.contains("inf"), "{table}");
        assert_eq!(bufmap(&["explain", path]).status.code(), Some(0), "{path}");
    }
    let mut all = vec!["load", "--json"];
    all.extend(paths.iter().map(String::as_str));
    assert_eq!(bufmap(&all).status.code(), Some(0));
}

fn pack(files: &Files) -> String {
    use std::io::Write;
    use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for name in ["one", "two", "three"] {
        writer.start_file(name, stored).expect("a member");
        writer.write_all(name.as_bytes()).expect("room");
    }
    let mut bytes = writer.finish().expect("a pack").into_inner();
    // The second is said to be deflated, in its own header and in the directory.
    for (signature, method) in [(&b"PK\x03\x04"[..], 8), (b"PK\x01\x02", 10)] {
        let starts = bytes.windows(4).enumerate().filter(|(_, window)| *window == signature);
        let at = starts.map(|(at, _)| at).nth(1).expect("a second member");
        bytes[at + method] = 8;
    }
    files.write("pack.zip", &bytes)
}

/// What a pack's load would lack is refused, unless it is chosen or allowed, and then it is told.
#[test]
fn members_that_cannot_be_loaded_are_never_left_out_in_silence() {
    let files = Files::new();
    let path = pack(&files);
    let words =
        ["1 of its members", "`two`", "compressed with deflate", "--skip-compressed", "--item"];
    refused(&[&path], &words);
    for command in ["explain", "extents"] {
        let output = bufmap(&[command, &path]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(stderr(&output).contains("`two`"), "{command}: {}", stderr(&output));
    }
    let output = bufmap(&["load", &path, "--item", "one", "--item", "three", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(json["receipt"]["bytes"], 8, "{json:#}");
    assert_eq!(json["receipt"]["left_out"], serde_json::json!([]), "the caller chose");
    refused(&[&path, "--item", "two"], &["`two`", "deflate"]);

    let output = bufmap(&["load", &path, "--skip-compressed", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(json["receipt"]["bytes"], 8, "{json:#}");
    let left_out = &json["receipt"]["left_out"];
    assert_eq!(left_out.as_array().map(Vec::len), Some(1), "{json:#}");
    assert_eq!((&left_out[0]["name"], &left_out[0]["file"]), (&"two".into(), &0.into()));
    assert_eq!(
        (&left_out[0]["len"], &left_out[0]["why"]),
        (&3.into(), &"compressed with deflate".into())
    );
    let output = bufmap(&["load", &path, "--skip-compressed", "--item", "one"]);
    assert_eq!(output.status.code(), Some(2), "one or the other: {}", stderr(&output));
    for command in ["load", "explain"] {
        let table = stdout(&bufmap(&[command, &path, "--skip-compressed"]));
        assert!(
            table.contains("left out") && table.contains("`two` of") && table.contains("3 B"),
            "{table}"
        );
    }
}

/// What was left out when a map was recorded, and how its bytes are stored, is said where it is used; but
/// not of items that are named.
#[test]
fn a_map_tells_what_was_left_out_of_it() {
    let files = Files::new();
    let map = r#"{"drive": {"address": "ffff:ff:1f.7", "serial": "x", "namespace": 1}, "files": [{
        "path": "a", "format": "ktx2", "note": "the levels are as they are stored",
        "extents": [{"file_offset": 0, "offset": 0, "len": 8192}],
        "items": [{"name": "all", "offset": 0, "len": 5000}]}],
        "left_out": [{"file": 0, "name": "secret", "len": 2048, "why": "encrypted"}]}"#;
    let path = files.write("a.extents.json", map.as_bytes());
    let table = stdout(&bufmap(&["explain", &path]));
    for words in ["`secret` of a", "2.0 KiB (2048 B)", "encrypted", "as they are stored"] {
        assert!(table.contains(words), "should say '{words}': {table}");
    }
    let output = bufmap(&["explain", &path, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(json["left_out"][0]["name"], "secret", "{json:#}");
    assert_eq!(json["files"][0]["note"], "the levels are as they are stored", "{json:#}");
    let table = stdout(&bufmap(&["explain", &path, "--item", "all"]));
    assert!(!table.contains("secret") && table.contains("as they are stored"), "{table}");
    let wrong = map.replace("\"file\": 0", "\"file\": 1");
    let path = files.write("b.extents.json", wrong.as_bytes());
    let output = bufmap(&["explain", &path]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(stderr(&output).contains("left out of a file"), "{}", stderr(&output));
}

/// Many names of many items, and metadata longer than the rest: neither time nor memory may grow with the
/// product of the names and the items, or with what is passed over.
#[test]
fn many_items_and_long_metadata_cost_little() {
    const ITEMS: usize = 100_000;
    const NAMES: usize = 20_000;
    let files = Files::new();
    let mut header = String::from("{\"__metadata__\":{");
    for i in 0..400_000 {
        header.push_str(&format!(
            "{}\"key {i}\":\"{}\"",
            if i == 0 { "" } else { "," },
            "x".repeat(40)
        ));
    }
    header.push('}');
    for i in 0..ITEMS {
        header.push_str(&format!(
            ",\"t{i}\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[{i},{}]}}",
            i + 1
        ));
    }
    header.push('}');
    let long = header.len() as u64;
    let path = files.write("many.safetensors", &safetensors(&header, &bytes_of(ITEMS)));
    let mut command = Command::new(env!("CARGO_BIN_EXE_bufmap"));
    command.args(["explain", &path, "--json"]);
    for i in 0..NAMES {
        command.args(["--item", &format!("t{}", i * 5)]);
    }
    let mut child = command.stdout(std::process::Stdio::null()).spawn().expect("the command runs");
    // The quadratic way takes 20,000 times 100,000 comparisons: minutes without optimisation.
    let limit = rustix::process::Rlimit { current: Some(60), maximum: Some(60) };
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::prlimit(Some(pid), rustix::process::Resource::Cpu, limit).expect("a limit");
    let mut peak = 0;
    let status = loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib =
            line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        if let Some(status) = child.try_wait().expect("an end") {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    assert!(status.success(), "{status}");
    println!("a header of {long} bytes: at most {peak} bytes resident");
    // The header once, and the items; a map of the metadata alone would take twice as much again.
    assert!(peak > long && peak < 3 * long, "{peak} bytes for a header of {long}");
}

#[test]
fn files_and_buffers_that_cannot_be_had_are_refused() {
    let files = Files::new();
    let path = files.write("file.bin", &bytes_of(10_000));
    let missing = files.path("missing").to_string_lossy().into_owned();
    refused(&[&missing], &[&missing, "No such file"]);
    refused(&[&files.0.path().to_string_lossy()], &["directory"]);
    refused(&[&path, "--buffer", "4KiB"], &["too small", "10000", "4096"]);
    refused(&[&path, "--buffer", "7EiB"], &["8070450532247928832 bytes", "available"]);
    refused(&[&path, "--require", "staged"], &[&path, "staged", "direct"]);
}

#[test]
fn wrong_command_lines_exit_with_2_and_say_how() {
    for args in
        [&["load"][..], &["load", "x", "--block", "5000"], &["load", "x", "--depth", "0"], &["fly"]]
    {
        let output = bufmap(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains("help"), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn help_teaches() {
    let help = stdout(&bufmap(&["--help"]));
    assert!(help.contains("Examples:") && help.contains("Exit status"), "{help}");
    let help = stdout(&bufmap(&["load", "--help"]));
    for word in ["direct", "staged", "cached", "buffered", "--verify", "--json"] {
        assert!(help.contains(word), "{help}");
    }
    for word in ["auto:", "[default: auto]", "a sample that nobody can foretell", "hash:", "full:"]
    {
        assert!(help.contains(word), "{word}: {help}");
    }
}

#[test]
fn probe_gives_every_absence_its_reason_and_remedy() {
    let output = bufmap(&["probe", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let found = report["offers"].as_array().expect("a list").clone();
    let peers = &report["peers"];
    assert!(peers["pairs"].is_array() || peers["why"].is_string(), "{peers}");
    for what in ["udmabuf", "dma-heap", "io_uring", "locked memory", "cachestat"] {
        assert!(found.iter().any(|finding| finding["what"] == what), "{what}");
    }
    for finding in found {
        let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        match finding["present"].as_bool() {
            Some(true) => assert!(finding["detail"].is_string(), "{finding}"),
            _ => assert!(!text("why").is_empty() && !text("fix").is_empty(), "{finding}"),
        }
    }
}

/// Ctrl-C ends a load in order: status 130, and an account of what is valid.
#[test]
fn an_interrupt_ends_a_load_in_order() {
    let file = file_of(512 << 20);
    drop_cache(file.as_file());
    let args = ["load", "--require", "direct", "--block", "4KiB", "--depth", "1"];
    let child = started(&args, file.path());
    wait_until_it_reads(child.id());
    interrupt(&child);
    let (status, said) = ended(child);
    assert_eq!(status, Some(130), "{said}");
    assert!(said.contains("stopped") && said.contains("bytes are valid"), "{said}");
}

/// The buffer is compared once all is read, which is when the file is read a second time.
#[test]
fn an_interrupt_ends_a_comparison() {
    const LEN: u64 = 256 << 20;
    let file = file_of(LEN as usize);
    drop_cache(file.as_file());
    let child = started(&["load", "--require", "buffered", "--verify", "full"], file.path());
    wait_until_it_has_read(child.id(), "rchar: ", LEN + (8 << 20));
    let begun = Instant::now();
    interrupt(&child);
    let (status, said) = ended(child);
    assert_eq!(status, Some(130), "{said}");
    assert!(said.contains("268435456 of 268435456 bytes are valid"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

/// As timeout(1) does: to the child, and to the group that it is in.
#[test]
fn an_interrupt_that_comes_twice_at_once_is_one() {
    let file = file_of(64 << 20);
    drop_cache(file.as_file());
    let args = ["load", "--require", "direct", "--block", "4KiB", "--depth", "1"];
    let child = started(&args, file.path());
    wait_until_it_reads(child.id());
    interrupt(&child);
    std::thread::sleep(Duration::from_millis(2));
    interrupt(&child);
    let (status, said) = ended(child);
    assert_eq!(status, Some(130), "{said}");
    assert!(said.contains("bytes are valid"), "{said}");
}

fn started(args: &[&str], file: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bufmap"));
    command.args(args).arg(file).stderr(Stdio::piped()).stdout(Stdio::null());
    command.spawn().expect("the command runs")
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
}

/// The exit status, and what was said on standard error.
fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().expect("an end");
    (output.status.code(), stderr(&output))
}

/// Whatever cannot be written down ends in a status, and never in a panic.
#[test]
fn a_full_output_is_a_failure_and_no_panic() {
    let files = Files::new();
    let path = files.write("model.safetensors", &safetensors(TWO_TENSORS, &bytes_of(3000)));
    let full = || fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    for (args, status) in [
        (&["load", path.as_str()][..], 1),
        (&["load", "/no/such/file"], 1),
        (&["load"], 2),
        (&["--help"], 1),
        (&["load", "--help"], 1),
        (&["--version"], 1),
        (&["probe"], 1),
        (&["explain", path.as_str()], 1),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bufmap"));
        let done = command.args(args).stdout(full()).stderr(full()).status().expect("it runs");
        assert_eq!(done.code(), Some(status), "{args:?}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_bufmap"));
        let output = command.args(args).stdout(full()).output().expect("it runs");
        assert!(!stderr(&output).contains("panicked"), "{args:?}: {}", stderr(&output));
        assert_eq!(output.status.code(), Some(status), "{args:?}");
    }
}

fn wait_until_it_reads(pid: u32) {
    wait_until_it_has_read(pid, "read_bytes: ", 1 << 20);
}

/// Waits until a counter of `/proc/PID/io` is above `least`.
fn wait_until_it_has_read(pid: u32, counter: &str, least: u64) {
    let io = Path::new("/proc").join(pid.to_string()).join("io");
    for _ in 0..10_000 {
        let text = fs::read_to_string(&io).unwrap_or_default();
        let read = text.lines().find_map(|line| line.strip_prefix(counter));
        if read.and_then(|bytes| bytes.parse::<u64>().ok()).is_some_and(|bytes| bytes > least) {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("it never began to read");
}

#[test]
fn phyrs_are_the_whole_buffer_in_system_memory() {
    let output = bufmap(&["phyrs", "--size", "1MiB", "--json"]);
    if output.status.code() == Some(1) {
        let said = stderr(&output);
        assert!(said.contains("CAP_SYS_ADMIN") || said.contains("RLIMIT_MEMLOCK"), "{said}");
        return;
    }
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let ranges = report["ranges"].as_array().expect("a list");
    let total: u64 = ranges.iter().filter_map(|range| range["len"].as_u64()).sum();
    assert_eq!(total, 1 << 20, "{report}");
    for range in ranges {
        assert_eq!(range["place"], "system memory", "{range}");
        assert_eq!(range["as_claimed"], true, "{range}");
    }
}

#[test]
fn a_function_that_is_not_there_is_not_bound() {
    for command in ["bind", "unbind"] {
        let output = bufmap(&[command, "ffff:ff:1f.7", "--dry-run"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let said = stderr(&output);
        assert!(said.contains("ffff:ff:1f.7") || said.contains("PCI"), "{said}");
        let output = bufmap(&[command, "nvme0", "--dry-run"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("0000:3b:00.0"), "{}", stderr(&output));
    }
    let output = bufmap(&["phyrs", "--of", "bar:0000:01:00.0:6"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("0 to 5"), "{}", stderr(&output));
}

/// A driver's name leads nowhere else, and a driver that is not there is not said to get a function.
#[test]
fn a_driver_is_one_that_is_there() {
    for name in ["..", ".", "", "/", "../devices", "vfio-pci/..", "a\nb"] {
        let output = bufmap(&["bind", "ffff:ff:1f.7", "--driver", name, "--dry-run"]);
        assert_eq!(output.status.code(), Some(2), "{name:?}: {}", stderr(&output));
    }
    let tree = bufmap::pci::Tree::read();
    let Some(function) = tree.as_ref().ok().and_then(|tree| tree.functions().next()) else {
        println!("SKIPPED: there is no PCI function here; run on a machine with one");
        return;
    };
    let address = function.address.to_string();
    let output = bufmap(&["bind", &address, "--driver", "no-such-driver", "--dry-run"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("modprobe no-such-driver"), "{}", stderr(&output));
}

/// A function whose disk this machine has mounted, the disk, and a driver that could be asked for it.
fn mounted_disk() -> Option<(String, String, String)> {
    let tree = bufmap::pci::Tree::read().ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    for function in tree.functions() {
        let numbers = |disk: &str| fs::read_to_string(format!("/sys/class/block/{disk}/dev")).ok();
        let is_mounted = |disk: &str| {
            numbers(disk).is_some_and(|numbers| mounts.contains(&format!(" {} ", numbers.trim())))
        };
        let mounted = function.block_devices.iter().find(|disk| is_mounted(&disk.name));
        let Some(disk) = mounted else { continue };
        let drivers = fs::read_dir("/sys/bus/pci/drivers").ok()?.flatten();
        let mut names = drivers.filter_map(|driver| driver.file_name().into_string().ok());
        let other =
            names.find(|name| Some(name) != function.driver.as_ref() && name != "vfio-pci")?;
        return Some((function.address.to_string(), disk.name.clone(), other));
    }
    None
}

/// Runs a command in a container of its own: with all of sysfs, its own processes, and no device.
const CONTAINER: &str = r#"set -e
R=$1 B=$2; shift 2
mount -t tmpfs none "$R"
mkdir "$R/proc" "$R/sys" "$R/dev"
mount -t proc proc "$R/proc"
mount --rbind /sys "$R/sys"
cp "$B" "$R/bufmap"
for library in $(ldd "$B" | grep -o '/[^ ]*'); do
    mkdir -p "$R$(dirname "$library")"
    cp -L "$library" "$R$library"
done
echo inside
exec chroot "$R" /bufmap "$@""#;

#[test]
fn a_mounted_disk_is_refused_here_and_in_a_container_without_devices() {
    let Some((address, disk, driver)) = mounted_disk() else {
        println!("SKIPPED: no disk of a PCI function is mounted here; run on a machine with one");
        return;
    };
    let bind = ["bind", &address, "--driver", &driver, "--dry-run"];
    let output = bufmap(&bind);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let said = stderr(&output);
    assert!(said.contains(&format!("{disk} is mounted on")), "{said}");

    let root = tempfile::tempdir().expect("a directory");
    let mut container = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        container.arg("--map-root-user");
    }
    container.args(["--mount", "--pid", "--fork", "sh", "-c", CONTAINER, "sh"]);
    container.arg(root.path()).arg(env!("CARGO_BIN_EXE_bufmap")).args(bind);
    let output = container.output().expect("unshare runs");
    let (told, said) = (stdout(&output), stderr(&output));
    if !told.starts_with("inside") {
        println!("SKIPPED: no container can be made here: {said}; run as root");
        return;
    }
    assert_eq!((output.status.code(), told.as_str()), (Some(1), "inside\n"), "{said}");
    assert!(said.contains(&format!("there is no /dev/{disk} here")), "{said}");
    assert!(said.contains("outside of a container"), "{said}");
}

#[test]
fn a_file_of_many_terabytes_is_explained_in_little_memory() {
    let files = Files::new();
    let long = files.path("long.bin");
    fs::File::create(&long).and_then(|file| file.set_len(15 << 40)).expect("a sparse file");
    let drive = r#"{"address": "0000:02:00.0", "serial": "x", "namespace": 1}"#;
    let map = format!(
        r#"{{"drive": {drive}, "files": [{{"path": "a", "format": "raw", "extents":
            [{{"file_offset": 0, "offset": 0, "len": {len}}}], "items": [{{"name": "x", "offset": 0, "len": {len}}}]}}]}}"#,
        len = 1u64 << 50
    );
    let map = files.write("long.extents.json", map.as_bytes());
    for (path, bytes) in [(long.to_string_lossy().into_owned(), 15u64 << 40), (map, 1 << 50)] {
        // 256 MiB of addresses.
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -v 262144 && exec \"$0\" explain \"$1\" --json"]);
        let output = command.args([env!("CARGO_BIN_EXE_bufmap"), &path]).output().expect("a shell");
        assert_eq!(output.status.code(), Some(0), "{path}: {}", stderr(&output));
        let json: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
        assert_eq!(json["paths"][0]["bytes"], bytes, "{json}");
        assert!(json["needs"].to_string().contains("bytes are needed"), "{json}");
    }
}

/// What is explained is what a load then does.
#[test]
fn a_load_does_what_was_explained() {
    let files = Files::new();
    let path = files.write("model.safetensors", &safetensors(TWO_TENSORS, &bytes_of(3000)));
    drop_cache(&fs::File::open(&path).expect("a file"));
    let report = |args: &[&str]| -> serde_json::Value {
        let output = bufmap(args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_str(&stdout(&output)).expect("JSON")
    };
    let explained = report(&["explain", &path, "--json"]);
    assert!(explained["files"][0]["lies_on"].as_str().is_some_and(|words| !words.is_empty()));
    let total = |paths: &serde_json::Value| -> u64 {
        paths.as_array().into_iter().flatten().filter_map(|path| path["bytes"].as_u64()).sum()
    };
    assert_eq!(total(&explained["paths"]), 3000, "{explained}");
    drop_cache(&fs::File::open(&path).expect("a file"));
    let loaded = report(&["load", &path, "--json"]);
    assert_eq!(explained["paths"], loaded["receipt"]["paths"]);

    let output = bufmap(&["explain", &path, "--to", "p2pmem:ffff:ff:1f.7"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let table = stdout(&output);
    for word in ["lies on", "why not", "peer for", "bounce"] {
        assert!(table.contains(word) || table.contains("buffered"), "'{word}' in:\n{table}");
    }
    let output = bufmap(&["explain", &files.path("absent").to_string_lossy()]);
    assert_eq!(output.status.code(), Some(1));
}

/// For a drive that the kernel does not have it is said which path a load will take, and what is
/// missing for it.
#[test]
fn a_map_of_extents_is_explained() {
    let files = Files::new();
    let map = r#"{"drive": {"address": "ffff:ff:1f.7", "serial": "x", "namespace": 1}, "files": [{
        "path": "a", "format": "raw", "extents": [{"file_offset": 0, "offset": 0, "len": 8192}],
        "items": [{"name": "all", "offset": 0, "len": 5000}]}]}"#;
    let path = files.write("a.extents.json", map.as_bytes());
    let output = bufmap(&["explain", &path, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let explained: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(explained["paths"][0]["path"], "direct", "{explained}");
    assert_eq!(explained["paths"][0]["bytes"], 5000, "{explained}");
    let need = explained["needs"][0].as_str().expect("a need");
    assert!(need.contains("there is no PCI function ffff:ff:1f.7"), "{need}");
    for (args, word) in [(["--item", "none"], "`none`"), (["--", &path], "by itself")] {
        let output = bufmap(&["explain", &path, args[0], args[1]]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
    }
}
