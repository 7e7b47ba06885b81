//! Names from files, paths, devices and peers: whatever they are, messages and tables show them harmlessly and briefly.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use bufmap::exporters::drm::DrmError;
use bufmap::exporters::outside::is_harmless;
use bufmap::exporters::socket::SocketError;
use bufmap::exporters::vfio::VfioError;
use bufmap::exporters::vulkan::VulkanError;
use bufmap::exporters::{Absent, DmaHeap, P2pmem};
use bufmap::format::ExtentMapError;
use bufmap::format::{Format, FormatError, parse};
use bufmap::pci::{Address, PciError, Process, User};
use bufmap::transfer::{DataPath, Left, SaveError, TransferError, Valid};

/// What a terminal obeys, reorders or takes for the end of a message.
const HOSTILE: &str =
    "a\x1b[2J\x1b]8;;http://x\x07\u{9b}31m\u{202e}\u{2066}\u{200b}\r\nbufmap: done\u{7f}\t";

/// The most bytes of a message, however long a name in it is.
const LONGEST: usize = 3000;

/// Names that a file, a device or a person may give, the last of 5 MB.
fn hostile() -> [String; 3] {
    [HOSTILE.into(), format!("größe 模型 {HOSTILE}"), "\x1b[31m".repeat(1 << 20)]
}

/// Whether a text is one that a terminal only shows.
#[track_caller]
fn assert_harmless(text: &str) {
    let bad: String = text.chars().filter(|&c| c != '\n' && !is_harmless(c)).collect();
    assert!(bad.is_empty(), "{bad:?} in {}", text.chars().take(LONGEST).collect::<String>());
}

/// Whether a text is a message: harmless, short, on one line.
#[track_caller]
fn assert_message(text: &str) {
    assert_harmless(text);
    assert!(text.len() <= LONGEST, "{} bytes: {}", text.len(), &text[..500]);
    assert_eq!(text.trim_end_matches('\n').lines().count(), 1, "{text}");
}

#[test]
fn an_error_shows_whatever_it_holds_harmlessly() {
    for name in hostile() {
        let path = PathBuf::from(&name);
        let io = || io::Error::from_raw_os_error(5);
        let valid = || Valid::default();
        let mut errors: Vec<Box<dyn Error>> = vec![
            Box::new(TransferError::Open { path: path.clone(), source: io() }),
            Box::new(TransferError::PastEnd { path: path.clone(), offset: 1, len: 2, file_len: 1 }),
            Box::new(TransferError::DataPath {
                path: path.clone(),
                data_path: DataPath::Peer,
                why: "no".into(),
            }),
            Box::new(TransferError::Read {
                path: path.clone(),
                offset: 0,
                source: io(),
                valid: valid(),
            }),
            Box::new(TransferError::Shrank {
                path: path.clone(),
                at: 1,
                file_len: 2,
                valid: valid(),
            }),
            Box::new(TransferError::OtherDrive { path: path.clone() }),
            Box::new(SaveError::Open { path: path.clone(), source: io() }),
            Box::new(SaveError::Create { path: path.clone(), source: io() }),
            Box::new(SaveError::Space {
                path: path.clone(),
                len: 1,
                source: io(),
                left: Left::AsItWas,
            }),
            Box::new(SaveError::PastEnd { path: path.clone(), offset: 1, len: 1, file_len: 1 }),
            Box::new(SaveError::DataPath {
                path: path.clone(),
                data_path: DataPath::Peer,
                why: "no".into(),
            }),
            Box::new(SaveError::Write {
                path: path.clone(),
                offset: 1,
                source: io(),
                left: Left::AsItWas,
            }),
            Box::new(SaveError::Sync { path: path.clone(), source: io(), left: Left::AsItWas }),
            Box::new(SaveError::Mismatch {
                path: path.clone(),
                offset: 1,
                len: 1,
                what: "no".into(),
                left: Left::AsItWas,
            }),
            Box::new(SaveError::SourceLost { device: name.clone(), left: Left::AsItWas }),
            Box::new(FormatError::Open { path: path.clone(), source: io() }),
            Box::new(FormatError::NotAFile { path: path.clone(), what: "a pipe", fix: "no" }),
            Box::new(FormatError::Shrank { path: path.clone(), offset: 0, len: 1 }),
            Box::new(FormatError::MissingShard {
                path: path.clone(),
                shard: path.clone(),
                tensor: name.clone(),
            }),
            Box::new(FormatError::NotInShard { shard: path.clone(), tensor: name.clone() }),
            Box::new(FormatError::NoSuchItem {
                path: path.clone(),
                format: Format::Zip,
                name: name.clone(),
                items: 1,
            }),
            Box::new(ExtentMapError::File { path: path.clone(), source: io() }),
            Box::new(ExtentMapError::OtherDrive { path: path.clone() }),
            Box::new(ExtentMapError::OtherSerial {
                address: name.clone(),
                found: name.clone(),
                expected: name.clone(),
            }),
            Box::new(ExtentMapError::NoNamespace { address: name.clone(), namespace: 1 }),
            Box::new(ExtentMapError::NoSuchItem { name: name.clone() }),
            Box::new(PciError::Address { text: name.clone() }),
            Box::new(PciError::Read { path: path.clone(), source: io() }),
            Box::new(PciError::Content {
                path: path.clone(),
                expected: "a number",
                found: name.clone(),
            }),
            Box::new(VfioError::Device { device: name.clone(), why: Absent::new("no", "no") }),
            Box::new(VfioError::Region { device: name.clone(), region: 1, why: "no".into() }),
            Box::new(VulkanError::NoSuchDevice { selector: name.clone(), have: Vec::new() }),
            Box::new(SocketError::Path {
                path: path.clone(),
                step: "connect",
                source: io(),
                fix: "no",
            }),
            Box::new(SocketError::NoListener { path: path.clone(), limit: Duration::ZERO }),
            Box::new(DrmError::NoFence { card: path.clone(), step: "wait" }),
            Box::new(DrmError::OtherFile { card: path.clone(), other: path.clone() }),
        ];
        errors.extend(name.parse::<Address>().err().map(|error| Box::new(error) as Box<dyn Error>));
        errors.extend(P2pmem::open(&name).err().map(|error| Box::new(error) as Box<dyn Error>));
        errors.extend(DmaHeap::open(&name).err().map(|error| Box::new(error) as Box<dyn Error>));
        for error in errors {
            assert_message(&error.to_string());
        }
        assert_message(&name.parse::<DataPath>().expect_err("no such").to_string());
        assert_message(&name.parse::<Format>().expect_err("no such").to_string());
        let process = Process { pid: 1, name: name.clone() };
        for user in [
            User::Mount { device: name.clone(), on: path.clone(), by: Some(process.clone()) },
            User::Mount { device: name.clone(), on: path.clone(), by: None },
            User::Swap { device: name.clone() },
            User::Holder { device: name.clone(), holder: name.clone() },
            User::Exclusive { node: path.clone() },
            User::Program { program: process, node: path.clone() },
            User::Interface { name: name.clone() },
            User::Mediated { name: name.clone() },
        ] {
            assert_message(&user.to_string());
        }
    }
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data, 7);
    file
}

fn quoted(name: &str) -> String {
    serde_json::to_string(name).expect("JSON")
}

/// A header of one tensor that is said to be of `len` bytes and to lie at `from..to`.
fn tensor(name: &str, len: u64, from: u64, to: u64) -> String {
    format!(r#"{{{}:{{"dtype":"U8","shape":[{len}],"data_offsets":[{from},{to}]}}}}"#, quoted(name))
}

/// A zip of one member by the name, which says that it is compressed by `method`, of these bytes.
fn zip(name: &str, method: u16, bytes: &[u8]) -> Vec<u8> {
    // What the local header and the directory have in common: version, flags (names are UTF-8) to lengths.
    let mut common = Vec::new();
    for half in [20, 0x800, method, 0, 0x21] {
        common.extend(half.to_le_bytes());
    }
    for whole in [crc32fast::hash(bytes), bytes.len() as u32, bytes.len() as u32] {
        common.extend(whole.to_le_bytes());
    }
    common.extend((name.len() as u16).to_le_bytes());
    common.extend([0; 2]);
    let mut file = b"PK\x03\x04".to_vec();
    file.extend(&common);
    file.extend(name.as_bytes());
    file.extend(bytes);
    let directory = file.len() as u32;
    file.extend(b"PK\x01\x02\x14\x03");
    file.extend(&common);
    file.extend([0; 14]); // no comment, disk 0, no attributes, at offset 0
    file.extend(name.as_bytes());
    let len = file.len() as u32 - directory;
    file.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    file.extend(len.to_le_bytes());
    file.extend(directory.to_le_bytes());
    file.extend([0; 2]);
    file
}

/// Files that hold a name and are wrong, each with its format.
fn wrong_files(name: &str) -> Vec<(Format, Vec<u8>)> {
    let twice =
        tensor(name, 9, 0, 9).replace('}', "},").replace(",,", "},") + &tensor(name, 9, 0, 9)[1..];
    let mut files: Vec<_> = [
        tensor(name, 9, 0, 8),
        tensor(name, 9, 9, 0),
        tensor(name, 9, 1, 10),
        tensor(name, 9, 0, 1 << 40),
        tensor(name, 9, 0, 9).replace("U8", "\u{9b}2J"),
        tensor(name, 9, 0, 9).replace("shape", &quoted(name).replace('"', "")),
        twice,
    ]
    .map(|header| (Format::Safetensors, safetensors(&header, 9)))
    .into();
    let indices = [
        format!(r#"{{"weight_map":{{{}:"../a"}}}}"#, quoted(name)),
        format!(r#"{{"weight_map":{{"a":{}}}}}"#, quoted(&format!("../{name}"))),
        format!(r#"{{"weight_map":{{{}:1}}}}"#, quoted(name)),
    ];
    files.extend(indices.map(|index| (Format::SafetensorsIndex, index.into_bytes())));
    if name.len() <= u16::MAX.into() {
        let mut torn = zip(name, 0, b"content");
        torn[0] = b'K';
        files.push((Format::Zip, torn));
    }
    files
}

#[test]
fn a_file_that_is_wrong_is_refused_in_a_harmless_message() {
    for name in hostile() {
        for (format, bytes) in wrong_files(&name) {
            let error = parse(Path::new(&name), format, &bytes).expect_err("it is wrong");
            assert_message(&error.to_string());
        }
    }
}

/// A directory that the command runs in.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory"))
    }

    fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        fs::write(self.0.path().join(name), bytes).expect("a file");
    }

    /// Runs the command and holds all that it says to be harmless; messages to be short.
    #[track_caller]
    fn run(&self, args: &[impl AsRef<std::ffi::OsStr>], status: i32) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bufmap"));
        let output = command.args(args).current_dir(&self.0).output().expect("the command runs");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_harmless(&out);
        assert_harmless(&err);
        assert!(err.len() <= LONGEST, "{} bytes: {}", err.len(), &err[..500]);
        if status < 2 {
            assert!(err.lines().count() <= 1, "{err}");
        }
        assert_eq!(output.status.code(), Some(status), "{out}{err}");
        output
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("all that is printed is text")
}

#[test]
fn names_in_files_reach_a_terminal_harmlessly() {
    let place = Place::new();
    for name in hostile() {
        for (number, (format, bytes)) in wrong_files(&name).into_iter().enumerate() {
            place.write("wrong", bytes);
            let format = format.to_string();
            // What takes the others its time with a long name is its reading, which is the same.
            let long = name.len() > LONGEST;
            for command in ["load", "explain", "extents"].into_iter().take(if long { 1 } else { 3 })
            {
                let output = place.run(&[command, "wrong", "--format", &format], 1);
                assert!(output.stdout.is_empty(), "{command} {number}");
            }
        }
        place.write("right.safetensors", safetensors(&tensor(&name, 9, 0, 9), 9));
        place.run(&["load", "right.safetensors"], 0);
        place.run(&["explain", "right.safetensors"], 0);
        let json = place.run(&["load", "right.safetensors", "--json"], 0);
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
        assert!(json["items"][0]["name"] == name.as_str(), "programs get the name as it is");
        let index = format!(r#"{{"weight_map":{{{}:"absent"}}}}"#, quoted(&name));
        place.write("index.safetensors.index.json", index);
        place.run(&["load", "index.safetensors.index.json"], 1);
    }
    place.write("stored.zip", zip(HOSTILE, 0, b"content"));
    place.run(&["load", "stored.zip"], 0);
    place.write("packed.zip", zip(HOSTILE, 8, b"content"));
    place.run(&["load", "packed.zip"], 1);
    let left_out = place.run(&["load", "packed.zip", "--skip-compressed"], 0);
    assert!(text(&left_out.stdout).contains(r"a\u{1b}[2J\u{1b}]8;;http://x\u{7}\u{9b}31m\u{202e}"));
    place.run(&["load", "packed.zip", "--item", HOSTILE], 1);
    place.run(&["load", "right.safetensors", "--item", HOSTILE], 1);
}

#[test]
fn maps_of_extents_are_no_way_around() {
    let place = Place::new();
    for name in hostile() {
        let name = quoted(&name);
        let map = |address: &str, serial: &str, path: &str, item: &str, format: &str, len: u64| {
            format!(
                r#"{{"drive": {{"address": {address}, "serial": {serial}, "namespace": 1}}, "files": [{{
                "path": {path}, "format": {format}, "extents": [{{"file_offset": 0, "offset": 0, "len": 8192}}],
                "items": [{{"name": {item}, "offset": 0, "len": {len}}}]}}]}}"#
            )
        };
        let (address, raw) = ("\"ffff:ff:1f.7\"", "\"raw\"");
        place.write("a.extents.json", map(address, &name, &name, &name, raw, 5000));
        place.run(&["explain", "a.extents.json"], 0);
        place.run(&["load", "a.extents.json"], 1);
        for wrong in [
            map(&name, &name, &name, &name, raw, 5000),
            map(address, &name, &name, &name, raw, 50000),
            map(address, &name, &name, &name, &name, 5000),
            map(address, &name, &name, &name, raw, 5000).replace("\"extents\"", &name),
        ] {
            place.write("b.extents.json", wrong);
            place.run(&["load", "b.extents.json"], 1);
        }
    }
}

#[test]
fn paths_reach_a_terminal_harmlessly() {
    let place = Place::new();
    let mut bytes = HOSTILE.replace('/', "\x1b").into_bytes();
    bytes.extend(b"\xff\x9b2J");
    let name = OsString::from_vec(bytes);
    for command in ["load", "explain", "extents"] {
        place.run(&[command.into(), name.clone()], 1);
    }
    place.write(&name, [7; 5000]);
    place.run(&["load".into(), name.clone()], 0);
    place.run(&["load".into(), name.clone(), "--json".into()], 0);
    place.run(&["explain".into(), name.clone()], 0);
    place.run(&["load".into(), name.clone(), "--require".into(), "staged".into()], 1);
    place.run(&["load".into(), name, "--format".into(), "zip".into()], 1);
}

#[test]
fn a_wrong_command_line_is_repeated_harmlessly() {
    let place = Place::new();
    for args in [
        &[HOSTILE][..],
        &["load", "x", HOSTILE, "--to", HOSTILE],
        &["load", "x", "--format", HOSTILE],
        &["load", "x", "--require", HOSTILE],
        &["load", "x", "--block", HOSTILE],
        &["load", "x", "--verify", HOSTILE],
        &["phyrs", "--of", HOSTILE],
        &["bind", HOSTILE],
        &["bind", "ffff:ff:1f.7", "--driver", HOSTILE],
        &["probe", HOSTILE],
    ] {
        place.run(args, 2);
    }
    place.run(&["load", "x", "--to", "vulkan", "--device", HOSTILE], 1);
}
