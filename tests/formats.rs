//! The format readers on real files, on every kind of damage to them, and on bytes that are no file
//! at all.
//!
//! The inputs are made here: safetensors by the format's own library, archives by the zip crate's
//! writer or by hand where a writer would not make them (zip64 fields, compressed members),
//! textures by the KTX 2.0 specification.

use bufmap::format::{
    self, Checksum, Contents, Description, Format, FormatError, Item, Opened, Refusal, ShardIndex,
};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

// ---- inputs ------------------------------------------------------------------------------------

type Tensor = (&'static str, Dtype, Vec<usize>, Vec<u8>);

/// Tensors of three types, one of them empty, with their bytes.
fn tensors() -> Vec<Tensor> {
    let bytes = |len: usize, seed: u8| (0..len).map(|i| (i as u8).wrapping_mul(seed)).collect();
    vec![
        ("embeddings.weight", Dtype::F32, vec![4, 5], bytes(80, 3)),
        ("layer.0.bias", Dtype::BF16, vec![7], bytes(14, 5)),
        ("nothing", Dtype::F32, vec![0, 3], vec![]),
        ("layer.0.mask", Dtype::U8, vec![3, 3], bytes(9, 7)),
    ]
}

fn safetensors_of(tensors: &[Tensor]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (*name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// A safetensors file whose header is exactly this.
fn safetensors_with(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0x5a);
    bytes
}

/// A texture of 8 x 4 pixels, RGBA8, with all four levels, laid out as the specification asks:
/// index, descriptor, key/value data, then the levels, smallest first.
fn ktx2() -> Vec<u8> {
    let lens = [8 * 4 * 4, 4 * 2 * 4, 2 * 4, 4_u64];
    let index_end = 80 + 24 * lens.len() as u32;
    let (descriptor, keys) = (vec![0xd1; 44], b"\x11\0\0\0KTXwriter\0bufmap\0\0\0\0".to_vec());
    let keys_at = index_end + descriptor.len() as u32;
    let data = keys_at + keys.len() as u32;

    let mut bytes = ktx2::MAGIC.to_vec();
    for field in [37, 1, 8, 4, 0, 0, 1, lens.len() as u32, 0] {
        bytes.extend(u32::to_le_bytes(field));
    }
    for field in [index_end, descriptor.len() as u32, keys_at, keys.len() as u32] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend([0; 16]);
    let mut offset = u64::from(data) + lens.iter().sum::<u64>();
    for len in lens {
        offset -= len;
        for field in [offset, len, len] {
            bytes.extend(field.to_le_bytes());
        }
    }
    bytes.extend(descriptor);
    bytes.extend(keys);
    for (level, len) in lens.iter().enumerate().rev() {
        bytes.resize(bytes.len() + *len as usize, level as u8 + 1);
    }
    bytes
}

fn stored() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Stored)
}

fn members() -> Vec<(String, Vec<u8>)> {
    let mut members: Vec<_> = (0..5_u8)
        .map(|i| (format!("pack/Größe {i}.bin"), vec![i + 1; 37 * usize::from(i)]))
        .collect();
    members.push(("readme".into(), b"plain".to_vec()));
    members
}

fn zip_of(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.add_directory("pack/", stored()).unwrap();
    for (name, data) in members {
        writer.start_file(name.as_str(), stored()).unwrap();
        writer.write_all(data).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A member of an archive made by hand.
struct Member {
    name: &'static str,
    method: u16,
    flags: u16,
    /// Its bytes in the archive.
    data: Vec<u8>,
    /// How many they are outside.
    size: u32,
    crc32: u32,
    /// Give sizes and offset in zip64 extra fields, as Python's `zipfile` does for large members.
    zip64: bool,
}

impl Member {
    fn stored(name: &'static str, data: &[u8]) -> Self {
        let crc32 = crc32fast::hash(data);
        let size = data.len() as u32;
        Self { name, method: 0, flags: 0, data: data.to_vec(), size, crc32, zip64: false }
    }

    fn stored64(name: &'static str, data: &[u8]) -> Self {
        Self { zip64: true, ..Self::stored(name, data) }
    }

    /// A member whose data are a real deflate stream: one block that is stored within it.
    fn deflated(name: &'static str, data: &[u8]) -> Self {
        let len = data.len() as u16;
        let mut stream = vec![1];
        stream.extend(len.to_le_bytes());
        stream.extend((!len).to_le_bytes());
        stream.extend(data);
        Self { method: 8, data: stream, ..Self::stored(name, data) }
    }

    /// The fields that a local header and a directory entry have in common, up to the extra field's
    /// length.
    fn fields(&self, extra: &[u8]) -> Vec<u8> {
        let mut fields = Vec::new();
        for field in [20, self.flags, self.method, 0, 0x21] {
            fields.extend(u16::to_le_bytes(field));
        }
        fields.extend(self.crc32.to_le_bytes());
        for size in [self.data.len() as u32, self.size] {
            fields.extend((if self.zip64 { u32::MAX } else { size }).to_le_bytes());
        }
        fields.extend((self.name.len() as u16).to_le_bytes());
        fields.extend((extra.len() as u16).to_le_bytes());
        fields
    }
}

/// An archive of these members, with a zip64 end record if one of them has zip64 fields.
fn zip_by_hand(members: &[Member]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    for member in members {
        let header = bytes.len() as u64;
        let mut extra = Vec::new();
        if member.zip64 {
            extra.extend([1, 0, 16, 0]);
            extra.extend(u64::from(member.size).to_le_bytes());
            extra.extend((member.data.len() as u64).to_le_bytes());
        }
        bytes.extend(b"PK\x03\x04");
        bytes.extend(member.fields(&extra));
        bytes.extend(member.name.bytes());
        bytes.extend(&extra);
        bytes.extend(&member.data);

        if member.zip64 {
            extra[2] = 24;
            extra.extend(header.to_le_bytes());
        }
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(member.fields(&extra));
        directory.extend([0; 10]);
        let header = if member.zip64 { u32::MAX } else { header as u32 };
        directory.extend(header.to_le_bytes());
        directory.extend(member.name.bytes());
        directory.extend(&extra);
    }
    let (at, len, entries) = (bytes.len() as u64, directory.len() as u64, members.len() as u64);
    bytes.extend(directory);
    let zip64 = members.iter().any(|member| member.zip64);
    if zip64 {
        let record = bytes.len() as u64;
        bytes.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0");
        bytes.extend([entries, entries, len, at].iter().flat_map(|field| field.to_le_bytes()));
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend(record.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
    }
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    let (entries, len, at) = match zip64 {
        true => (u16::MAX, u32::MAX, u32::MAX),
        false => (entries as u16, len as u32, at as u32),
    };
    bytes.extend([entries, entries].iter().flat_map(|field| field.to_le_bytes()));
    bytes.extend([len, at].iter().flat_map(|field| field.to_le_bytes()));
    bytes.extend([0, 0]);
    bytes
}

// ---- checks ------------------------------------------------------------------------------------

fn slice<'a>(bytes: &'a [u8], item: &Item) -> &'a [u8] {
    &bytes[item.offset as usize..item.end() as usize]
}

/// Every item lies inside the file, in file order, and no two share a byte.
fn assert_inside(contents: &Contents, len: usize) {
    let mut end = 0;
    for item in &contents.items {
        let item_end = item.offset.checked_add(item.len).expect("an end");
        assert!(item_end <= len as u64, "{item:?} in a file of {len}");
        if item.len > 0 {
            assert!(item.offset >= end, "{item:?} begins before {end}");
            end = item_end;
        }
    }
}

fn parse(format: Format, bytes: &[u8]) -> Result<Contents, FormatError> {
    let contents = format::parse(Path::new("bad.file"), format, bytes);
    if let Ok(contents) = &contents {
        assert_inside(contents, bytes.len());
    }
    contents
}

/// The bytes are refused with an error at `offset` whose text names the file, that offset, what is
/// wrong (each of `words`) and what to do.
#[track_caller]
fn assert_fault(format: Format, bytes: &[u8], offset: u64, words: &[&str]) {
    let error = parse(format, bytes).expect_err("these bytes are bad");
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
    assert_eq!(error.offset(), Some(offset), "{text}");
    assert_names_all(&error, offset);
}

/// The text names the file first, the offset, and at the end a remedy.
#[track_caller]
fn assert_names_all(error: &FormatError, offset: u64) {
    let text = error.to_string();
    assert!(text.starts_with("bad.file: "), "no file in: {text}");
    assert!(text.contains(&format!("offset {offset}")), "no offset {offset} in: {text}");
    let remedies =
        ["fetch", "pack", "write", "load it as raw", "see whether", "join", "give", "put"];
    let (_, remedy) = text.rsplit_once("; ").expect("a remedy after a semicolon");
    assert!(remedies.iter().any(|word| remedy.contains(word)), "no remedy in: {text}");
}

/// No start of the file passes as the file, and each is refused with a whole error.
fn assert_no_start_passes(format: Format, bytes: &[u8]) {
    parse(format, bytes).expect("the whole file is good");
    for cut in 0..bytes.len() {
        let Err(error) = parse(format, &bytes[..cut]) else { panic!("{cut} bytes pass as whole") };
        assert_names_all(&error, error.offset().expect("an offset"));
    }
}

fn dir_with(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn replace(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

/// Where a signature stands for the `nth` time, from 0.
fn find(bytes: &[u8], signature: &[u8], nth: usize) -> usize {
    let mut places = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(signature));
    places.nth(nth).unwrap()
}

// ---- safetensors -------------------------------------------------------------------------------

#[test]
fn each_tensor_is_an_item() {
    let bytes = safetensors_of(&tensors());
    let dir = dir_with(&[("m.safetensors", &bytes)]);
    let path = dir.path().join("m.safetensors");
    let read = format::read(&path, None).unwrap();
    let [Opened { file, contents }] = &read[..] else { panic!("one file: {read:?}") };
    assert_eq!((file.path(), contents.format), (&*path, Format::Safetensors));
    assert_eq!(contents.items.len(), tensors().len());
    assert_inside(contents, bytes.len());
    for (name, _, _, data) in tensors() {
        let item = contents.select(&path, &[name]).unwrap()[0];
        assert_eq!(slice(&bytes, item), data, "{name}");
        assert_eq!(item.checksum, None);
    }
}

#[test]
fn a_safetensors_file_without_tensors_is_good() {
    assert_eq!(parse(Format::Safetensors, &safetensors_with("{}", 0)).unwrap().items, []);
}

#[test]
fn no_start_of_a_safetensors_file_passes() {
    assert_no_start_passes(Format::Safetensors, &safetensors_of(&tensors()));
}

#[test]
fn bad_safetensors_headers() {
    let bad = |header: &str, data, offset, words: &[&str]| {
        assert_fault(Format::Safetensors, &safetensors_with(header, data), offset, words);
    };
    let tensor = |name: &str, dtype: &str, shape: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{offsets}]}}"#)
    };
    let one = |dtype, shape, offsets| format!("{{{}}}", tensor("a", dtype, shape, offsets));
    let two = |offsets| {
        format!("{{{},{}}}", tensor("a", "U8", "4", "0,4"), tensor("b", "U8", "4", offsets))
    };
    let data = |header: &str| 8 + header.len() as u64;

    let overlap = two("2,6");
    bad(&overlap, 6, data(&overlap) + 2, &["`b` begins inside", "ends at"]);
    let hole = two("6,10");
    bad(&hole, 10, data(&hole) + 6, &["2 bytes before tensor `b` belong to no tensor"]);
    let past = two("4,8");
    bad(&past, 7, data(&past) + 4, &["tensor `b`", "needs 4 bytes", "the file ends at"]);
    bad(&past, 11, data(&past) + 8, &["3 bytes follow the last tensor"]);
    let backwards = one("U8", "4", "4,0");
    bad(&backwards, 4, data(&backwards) + 4, &["ends at 0, before its start at 4"]);
    let huge = one("U8", "4", "0,18446744073709551615");
    bad(&huge, 4, data(&huge), &["needs 18446744073709551615 bytes"]);
    let far = one("U8", "4", "18446744073709551611,18446744073709551615");
    bad(&far, 4, u64::MAX, &["needs 4 bytes"]);
    let wrong_size = one("U8", "4", "0,5");
    bad(&wrong_size, 5, data(&wrong_size), &["`a` has 5 bytes, but U8 of shape [4] takes 4"]);
    let overflow = one("F64", "4294967296,4294967296", "0,8");
    bad(&overflow, 8, data(&overflow), &["`a`", "no size"]);
    let half_byte = one("F4", "3", "0,2");
    bad(&half_byte, 2, data(&half_byte), &["`a`", "no size in whole bytes"]);

    let a = tensor("a", "U8", "", "0,1");
    bad(&format!("{{{a},{a}}}"), 1, 8 + a.len() as u64 + 5, &["`a` comes twice"]);
    bad(r#"{"a":"#, 0, 8 + 5, &["JSON", "EOF"]);
    bad("{\"a\":\n!", 0, 8 + 7, &["JSON", "line 2 column 1"]);
    bad("[]", 0, 8, &["JSON", "an object with a member for each tensor"]);
    bad(&one("F17", "0", "0,0"), 0, 8 + 19, &["unknown variant `F17`"]);
    bad(r#"{"__metadata__":{"a":1}}"#, 0, 8 + 22, &["expected a string"]);
    assert_fault(Format::Safetensors, b"\x01\0\0\0\0\0\0\0\xff", 9, &["JSON"]);
}

#[test]
fn lying_safetensors_header_lengths() {
    let good = safetensors_of(&tensors());
    for len in [1_u64 << 63, u64::MAX, 100_000_001] {
        let bytes = replace(&good, 0, &len.to_le_bytes());
        assert_fault(Format::Safetensors, &bytes, 0, &[&len.to_string(), "100000000"]);
    }
    let bytes = replace(&good, 0, &100_000_000_u64.to_le_bytes());
    assert_fault(Format::Safetensors, &bytes, 8, &["the header", "needs 100000000 bytes"]);
}

// ---- sharded safetensors -----------------------------------------------------------------------

fn sharded(index: &str) -> (TempDir, PathBuf) {
    let all = tensors();
    let (first, second) = (safetensors_of(&all[..2]), safetensors_of(&all[2..]));
    let dir = dir_with(&[
        ("m-1.safetensors", &first),
        ("m-2.safetensors", &second),
        ("m.safetensors.index.json", index.as_bytes()),
    ]);
    let path = dir.path().join("m.safetensors.index.json");
    (dir, path)
}

#[test]
fn a_sharded_model_is_read_by_its_index() {
    let (dir, path) = sharded(
        r#"{"metadata": {"total_size": 103}, "weight_map": {
            "layer.0.mask": "m-2.safetensors", "nothing": "m-2.safetensors",
            "embeddings.weight": "m-1.safetensors", "layer.0.bias": "m-1.safetensors"}}"#,
    );
    let read = format::read(&path, None).unwrap();
    let paths: Vec<_> = read.iter().map(|opened| opened.file.path().to_owned()).collect();
    assert_eq!(paths, ["m-1.safetensors", "m-2.safetensors"].map(|name| dir.path().join(name)));
    for (name, _, _, data) in tensors() {
        let (path, item) = read
            .iter()
            .find_map(|Opened { file, contents }| {
                Some((file.path(), contents.select(file.path(), &[name]).ok()?[0]))
            })
            .unwrap();
        assert_eq!(slice(&fs::read(path).unwrap(), item), data, "{name}");
    }
}

#[test]
fn a_shard_gives_only_what_the_index_takes_from_it() {
    let (_dir, path) = sharded(r#"{"weight_map":{"layer.0.bias":"m-1.safetensors"}}"#);
    let read = format::read(&path, None).unwrap();
    let contents = &read[0].contents;
    let names: Vec<_> = contents.items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!((read.len(), names), (1, vec!["layer.0.bias"]));
    // The rest is told, and keeps nobody from loading what the index names.
    let refused: Vec<_> = contents.refused.iter().map(|one| (one.name.as_str(), one.why)).collect();
    assert!(refused.contains(&("embeddings.weight", Refusal::NotInIndex)), "{refused:?}");
    assert_eq!(contents.select::<&str>(&path, &[]).unwrap().len(), 1);
    let error = contents.select(&path, &["embeddings.weight"]).unwrap_err().to_string();
    assert!(
        error.contains("not named by the model's index") && error.contains("by itself"),
        "{error}"
    );
}

#[test]
fn a_missing_shard_is_named() {
    let (dir, path) = sharded(r#"{"weight_map":{"t":"m-3.safetensors"}}"#);
    let error = format::read(&path, None).unwrap_err();
    assert!(matches!(&error, FormatError::MissingShard { tensor, .. } if tensor == "t"), "{error}");
    assert_eq!(error.path(), dir.path().join("m-3.safetensors"));
    let text = error.to_string();
    assert!(text.contains("m-3.safetensors") && text.contains("fetch that file"), "{text}");
    assert!(text.starts_with(path.to_str().unwrap()), "{text}");
}

#[test]
fn a_tensor_missing_from_its_shard_is_named() {
    let (_dir, path) = sharded(r#"{"weight_map":{"layer.0.mask":"m-1.safetensors"}}"#);
    let error = format::read(&path, None).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, FormatError::NotInShard { .. }), "{text}");
    assert!(text.contains("m-1.safetensors") && text.contains("`layer.0.mask`"), "{text}");
    assert!(text.contains("fetch all of them again"), "{text}");
}

#[test]
fn a_damaged_shard_is_named() {
    let (dir, path) = sharded(r#"{"weight_map":{"layer.0.bias":"m-1.safetensors"}}"#);
    let shard = dir.path().join("m-1.safetensors");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    let error = format::read(&path, None).unwrap_err();
    assert!(matches!(error, FormatError::Truncated { .. }), "{error}");
    assert_eq!(error.path(), shard);
}

#[test]
fn shards_lie_beside_their_index() {
    for name in ["../m", "/etc/passwd", "a/b", "a/", "./a", "..", ".", "", "a\\u0000b"] {
        let json = format!(r#"{{"weight_map":{{"t":"{name}"}}}}"#);
        let error = ShardIndex::parse(Path::new("bad.file"), json.as_bytes()).unwrap_err();
        assert_names_all(&error, 0);
        assert!(error.to_string().contains("no plain file name"), "{error}");
    }
}

#[test]
fn bad_indexes() {
    for (json, offset, word) in [
        ("{}", 2, "missing field `weight_map`"),
        (r#"{"weight_map":{}}"#, 0, "names no tensor"),
        (r#"{"weight_map":{"a":"b","a":"c"}}"#, 26, "`a` comes twice"),
        (r#"{"weight_map":{"a":1}}"#, 20, "expected a string"),
        ("", 0, "EOF"),
        ("\u{0}", 1, "JSON"),
    ] {
        let error = ShardIndex::parse(Path::new("bad.file"), json.as_bytes()).unwrap_err();
        assert_names_all(&error, offset);
        assert!(error.to_string().contains(word), "no `{word}` in: {error}");
    }
    let error = parse(Format::SafetensorsIndex, b"{}").unwrap_err();
    assert!(matches!(error, FormatError::Unsupported { .. }), "{error}");
}

// ---- KTX2 --------------------------------------------------------------------------------------

/// Offsets of fields in a KTX2 header and level index.
const LEVEL_COUNT: usize = 40;
const LEVEL_0: usize = 80;
const LEVEL_1: usize = 104;

#[test]
fn each_mip_level_is_an_item() {
    let bytes = ktx2();
    let contents = parse(Format::Ktx2, &bytes).unwrap();
    let names: Vec<_> = contents.items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(names, ["level 3", "level 2", "level 1", "level 0"], "the smallest is first");
    for (level, len) in [128, 32, 8, 4].into_iter().enumerate() {
        let item = contents.select(Path::new("x"), &[format!("level {level}")]).unwrap()[0];
        assert_eq!(slice(&bytes, item), vec![level as u8 + 1; len]);
    }
}

#[test]
fn a_level_count_of_0_means_one_level() {
    let bytes = replace(&ktx2(), LEVEL_COUNT, &0_u32.to_le_bytes());
    let contents = parse(Format::Ktx2, &bytes).unwrap();
    assert_eq!(contents.items.len(), 1);
    assert_eq!((&*contents.items[0].name, contents.items[0].len), ("level 0", 128));
}

#[test]
fn no_start_of_a_ktx2_file_passes() {
    assert_no_start_passes(Format::Ktx2, &ktx2());
}

#[test]
fn bad_ktx2_headers() {
    let good = ktx2();
    let len = good.len() as u64;
    let bad = |at: usize, new: &[u8], offset, words: &[&str]| {
        assert_fault(Format::Ktx2, &replace(&good, at, new), offset, words);
    };
    bad(0, b"GIF8", 0, &["identifier"]);
    bad(20, &[0; 4], 20, &["0 pixels wide"]);
    bad(36, &[0; 4], 36, &["0 faces"]);
    bad(LEVEL_COUNT, &5_u32.to_le_bytes(), 40, &["5 levels", "at most 4"]);
    bad(LEVEL_COUNT, &u32::MAX.to_le_bytes(), 40, &["4294967295 levels"]);
    bad(LEVEL_0, &len.to_le_bytes(), len, &["level 0", "the file ends at"]);
    bad(LEVEL_0, &(1_u64 << 63).to_le_bytes(), 1 << 63, &["level 0", "needs 128 bytes"]);
    bad(LEVEL_0 + 8, &u64::MAX.to_le_bytes(), len - 128, &["level 0", &u64::MAX.to_string()]);
    bad(LEVEL_0 + 8, &[0; 8], 88, &["level 0 is given no bytes"]);
    bad(LEVEL_0, &100_u64.to_le_bytes(), 100, &["level 0 begins inside the header"]);
    bad(LEVEL_1, &(len - 8).to_le_bytes(), len - 8, &["level 1", "the file ends at"]);
    bad(LEVEL_1, &(len - 32).to_le_bytes(), len - 32, &["level 1 begins inside level 0"]);
    bad(56, &180_u32.to_le_bytes(), 180, &["the key/value data begins inside the data format"]);
    bad(64, &[len.to_le_bytes(), [1; 8]].concat(), len, &["the supercompression global data"]);
}

// ---- zip ---------------------------------------------------------------------------------------

#[test]
fn each_stored_member_is_an_item() {
    let bytes = zip_of(&members());
    let contents = parse(Format::Zip, &bytes).unwrap();
    assert_eq!((contents.items.len(), contents.refused.len()), (members().len(), 0));
    for (item, (name, data)) in contents.items.iter().zip(members()) {
        assert_eq!(item.name, name);
        assert_eq!(slice(&bytes, item), data, "{name}");
        assert_eq!(item.checksum, Some(Checksum::Crc32(crc32fast::hash(&data))), "{name}");
    }
}

#[test]
fn an_archive_behind_something_else_is_read() {
    let before = b"#!/bin/unpack\n";
    let bytes = [before, &*zip_of(&members())].concat();
    let contents = parse(Format::Zip, &bytes).unwrap();
    assert_eq!(contents.items.len(), members().len());
    for (item, (name, data)) in contents.items.iter().zip(members()) {
        assert_eq!(slice(&bytes, item), data, "{name}");
    }
    let bytes = [before, &*zip_by_hand(&[Member::stored64("a", b"abc")])].concat();
    assert_eq!(slice(&bytes, &parse(Format::Zip, &bytes).unwrap().items[0]), b"abc");
}

#[test]
fn an_archive_without_members_is_good() {
    let bytes = ZipWriter::new(Cursor::new(Vec::new())).finish().unwrap().into_inner();
    let contents = parse(Format::Zip, &bytes).unwrap();
    assert_eq!((contents.items, contents.refused), (vec![], vec![]));
}

#[test]
fn a_comment_may_hold_an_end_record() {
    let mut comment = zip_by_hand(&[Member::stored("wrong", b"x")]);
    comment.extend(b" and so on");
    let mut bytes = zip_by_hand(&[Member::stored("right", b"abc")]);
    let comment_len = bytes.len() - 2;
    bytes[comment_len..].copy_from_slice(&(comment.len() as u16).to_le_bytes());
    bytes.extend(comment);
    assert_eq!(parse(Format::Zip, &bytes).unwrap().items[0].name, "right");
}

#[test]
fn zip64_sizes_and_offsets_are_read() {
    let members = [
        Member::stored("a", b"first"),
        Member::stored64("b", b"second"),
        Member::stored64("c", b""),
    ];
    let bytes = zip_by_hand(&members);
    let contents = parse(Format::Zip, &bytes).unwrap();
    assert_eq!(contents.items.len(), members.len());
    for (item, member) in contents.items.iter().zip(&members) {
        assert_eq!((&*item.name, slice(&bytes, item)), (member.name, &*member.data));
    }
    assert_no_start_passes(Format::Zip, &bytes);
}

#[test]
fn more_members_than_16_bits_count() {
    let members: Vec<_> =
        (0..70_000_u32).map(|i| (i.to_string(), i.to_le_bytes().to_vec())).collect();
    let bytes = zip_of(&members);
    let contents = parse(Format::Zip, &bytes).unwrap();
    assert_eq!(contents.items.len(), members.len());
    for (item, (name, data)) in contents.items.iter().zip(&members) {
        assert_eq!((&item.name, slice(&bytes, item)), (name, &**data));
    }
}

#[test]
fn compressed_and_encrypted_members_are_refused_by_name() {
    let encrypted = Member { flags: 1, size: 4, ..Member::stored("secret", b"xxxxxxxxxxxxdata") };
    let bytes = zip_by_hand(&[
        Member::deflated("deflated", b"some data"),
        Member::stored("plain", b"more data"),
        encrypted,
        Member { method: 93, ..Member::stored("zstd", b"....") },
        Member { method: 7777, ..Member::stored("odd", b"....") },
    ]);
    let contents = parse(Format::Zip, &bytes).unwrap();
    assert_eq!(contents.items.len(), 1);
    assert_eq!(slice(&bytes, &contents.items[0]), b"more data");
    let why: Vec<_> = contents.refused.iter().map(|member| (&*member.name, member.why)).collect();
    let compressed = |method| Refusal::Compressed { method };
    assert_eq!(
        why,
        [
            ("deflated", compressed(8)),
            ("secret", Refusal::Encrypted),
            ("zstd", compressed(93)),
            ("odd", compressed(7777)),
        ]
    );

    let path = Path::new("bad.file");
    let whole = contents.select::<&str>(path, &[]).unwrap_err();
    assert!(matches!(whole, FormatError::Incomplete { refused: 4, items: 1, .. }), "{whole}");
    assert_eq!(contents.select(path, &["plain"]).unwrap(), [&contents.items[0]]);
    for (refused, word) in contents.refused.iter().zip([
        "compressed with deflate",
        "encrypted",
        "compressed with Zstandard",
        "compressed with method 7777",
    ]) {
        let error = contents.select(path, &["plain", &refused.name]).unwrap_err();
        assert_names_all(&error, refused.offset);
        let text = error.to_string();
        assert!(text.contains(&format!("`{}`", refused.name)) && text.contains(word), "{text}");
    }
    let error = contents.select(path, &["nowhere"]).unwrap_err();
    assert!(matches!(error, FormatError::NoSuchItem { .. }), "{error}");
}

#[test]
fn a_pack_with_refused_members_is_refused_as_a_whole() {
    let members = [
        Member::stored("s", b"stored"),
        Member::deflated("a", b"some"),
        Member { method: 9, ..Member::deflated("b", b"data") },
        Member { flags: 1, ..Member::stored("c", b"secret") },
    ];
    let bytes = zip_by_hand(&members);
    let contents = parse(Format::Zip, &bytes).unwrap();
    let error = contents.select::<&str>(Path::new("bad.file"), &[]).unwrap_err();
    let header = contents.refused[0].offset;
    assert!(
        matches!(&error, FormatError::Incomplete { name, refused: 3, items: 1, .. } if name == "a"),
        "{error}"
    );
    assert_names_all(&error, header);
    let text = error.to_string();
    assert!(text.contains("3 of its members") && text.contains("--skip-compressed"), "{text}");
    let items = contents.select(Path::new("bad.file"), &["s"]).unwrap();
    assert_eq!(slice(&bytes, items[0]), b"stored");
}

/// A directory has nothing to be loaded, however it is packed, as jars are.
#[test]
fn directories_refuse_nothing() {
    let members = [
        Member::stored("plain/", b""),
        Member { data: vec![3, 0], ..Member::deflated("deflated/", b"") },
        Member { flags: 1, ..Member::stored("encrypted/", b"") },
        Member::stored("plain/a", b"some data"),
    ];
    let contents = parse(Format::Zip, &zip_by_hand(&members)).unwrap();
    assert_eq!((contents.items.len(), contents.refused.len()), (1, 0));
    assert_eq!(contents.select::<&str>(Path::new("bad.file"), &[]).unwrap()[0].name, "plain/a");
    // What is only called a directory and has content is a member like others.
    let content = zip_by_hand(&[Member::deflated("no directory/", b"content")]);
    assert_eq!(parse(Format::Zip, &content).unwrap().refused.len(), 1);
}

#[test]
fn every_kind_of_encryption_is_refused() {
    for bit in [0, 6, 13] {
        let secret = Member { flags: 1 << bit, ..Member::stored("secret", b"xxxx") };
        let contents = parse(Format::Zip, &zip_by_hand(&[secret])).unwrap();
        assert_eq!(contents.items, [], "bit {bit}");
        let [refused] = &contents.refused[..] else { panic!("one member: {contents:?}") };
        assert_eq!((refused.why, refused.len), (Refusal::Encrypted, 4), "bit {bit}");
    }
}

#[test]
fn no_start_of_a_zip_archive_passes() {
    assert_no_start_passes(Format::Zip, &zip_of(&members()));
}

#[test]
fn bad_central_directories() {
    let good = zip_by_hand(&[Member::stored("first", b"abcdef"), Member::stored("second", b"gh")]);
    let entry = |nth| find(&good, b"PK\x01\x02", nth);
    let (end, header) = (find(&good, b"PK\x05\x06", 0), find(&good, b"PK\x03\x04", 1));
    let bad = |at: usize, new: &[u8], offset: usize, words: &[&str]| {
        assert_fault(Format::Zip, &replace(&good, at, new), offset as u64, words);
    };
    let directory = "bad central directory";

    // The end record.
    bad(end, b"PK__", 0, &["no end record"]);
    bad(end + 16, &(end as u32).to_le_bytes(), end, &[directory, "do not end before"]);
    bad(end + 16, &u32::MAX.to_le_bytes(), end, &[directory]);
    bad(end + 12, &u32::MAX.to_le_bytes(), end, &[directory]);
    bad(end + 8, &[9, 0, 9, 0], end, &[directory, "9 members do not fit"]);
    bad(end + 8, &[1, 0, 2, 0], end, &["split over several files"]);
    bad(end + 4, &[1, 0], end, &["split over several files"]);

    // The entries.
    bad(entry(0), b"PK__", entry(0), &[directory, "first entry is not there"]);
    bad(entry(1), b"PK__", entry(1), &[directory]);
    bad(entry(1) + 28, &u16::MAX.to_le_bytes(), entry(1), &[directory]);
    bad(entry(1) + 28, &20_u16.to_le_bytes(), entry(1), &[directory, "does not end in it"]);
    bad(entry(0) + 24, &[7], entry(0), &["`first` is stored, yet given 6 bytes"]);
    bad(entry(1) + 20, &[0xf0; 8], header + 36, &["member `second`", "needs"]);

    // Where they point.
    bad(entry(1) + 42, &[5], 5, &["`second` there, but its header is not"]);
    bad(entry(1) + 42, &[0xf0; 4], 0xf0f0_f0f0, &["the header of member `second`"]);
    bad(entry(1) + 42, &[0], 0, &["begins inside"]);
    bad(entry(0) + 20, &[9, 0, 0, 0, 9], header, &["`second` begins inside member `first`"]);
    bad(entry(1) + 20, &[3, 0, 0, 0, 3], entry(0), &["begins inside member `second`"]);
    bad(header + 8, &[8, 0], header, &["`second` is stored, its own header that it is not"]);
    bad(header + 6, &[1, 0], header, &["`second` is stored, its own header that it is not"]);
    bad(header + 26, &[0xff; 2], header + 30 + 65535, &["member `second`"]);

    // Two members by one name, also where one writes it in UTF-8 and one in the DOS code page.
    let twice = zip_by_hand(&[Member::stored("a", b"1"), Member::stored("a", b"2")]);
    let mut encoded = zip_by_hand(&[Member::stored("aü", b"1"), Member::stored("a!", b"2")]);
    for _header_and_entry in 0..2 {
        let at = find(&encoded, b"a!", 0);
        encoded = replace(&encoded, at, b"a\x81");
    }
    for bytes in [twice, encoded] {
        let at = find(&bytes, b"PK\x01\x02", 0) as u64;
        assert_fault(Format::Zip, &bytes, at, &["2 members have 1 names"]);
    }
}

#[test]
fn bad_zip64_end_records() {
    let good = zip_by_hand(&[Member::stored64("a", b"abc")]);
    let (record, locator) = (find(&good, b"PK\x06\x06", 0), find(&good, b"PK\x06\x07", 0));
    let bad = |at: usize, new: &[u8], offset: usize, words: &[&str]| {
        assert_fault(Format::Zip, &replace(&good, at, new), offset as u64, words);
    };
    bad(record, b"PK__", locator, &["zip64 locator names an end record"]);
    bad(record + 4, &[0xff; 8], locator, &["zip64 locator"]);
    bad(record + 48, &[0xff; 8], record, &["bad central directory"]);
    bad(record + 40, &[0xff; 8], record, &["bad central directory"]);
    bad(record + 24, &[0xff; 16], record, &["bad central directory", "do not fit"]);
    bad(record + 16, &[1], record, &["split over several files"]);
    // Without its locator the record is not looked for, and the end record's own numbers are too
    // large.
    bad(locator, b"PK__", locator + 20, &["bad central directory"]);
}

// ---- files -------------------------------------------------------------------------------------

#[test]
fn formats_are_told_by_content_then_by_name() {
    let zip = zip_of(&members());
    let model = safetensors_of(&tensors());
    let cases: [(&str, &[u8], Format); 15] = [
        ("x", &ktx2(), Format::Ktx2),
        ("x.wz", &zip, Format::Zip),
        ("x", b"PK\x05\x06", Format::Zip),
        ("M.SafeTensors", b"", Format::Safetensors),
        ("m.safetensors.index.json", b"{}", Format::SafetensorsIndex),
        ("x.ktx2", b"\xabKTX", Format::Ktx2),
        ("x.zip", b"no", Format::Zip),
        ("m.json", b"{}", Format::Raw),
        ("..", b"", Format::Raw),
        // A cache names its files by their hashes.
        ("53aa51172d142c89d9012cce15ae4d6c", &model, Format::Safetensors),
        ("model.bin", &model, Format::Safetensors),
        (
            "blob",
            b" {\n \"metadata\": {}, \"weight_map\": {\"t\": \"m\"}}",
            Format::SafetensorsIndex,
        ),
        ("config.json", b"{\"architectures\": []}", Format::Raw),
        ("numbers.bin", b"\x20\0\0\0\0\0\0\0{no", Format::Raw),
        ("numbers.bin", b"\x20\0\0\0\0\0\0\x01{\"a\"", Format::Raw),
    ];
    for (name, bytes, format) in cases {
        assert_eq!(format::detect(Path::new(name), bytes).unwrap(), format, "{name}");
    }
}

#[test]
fn json_is_an_index_if_it_maps_tensors_to_files() {
    let long = format!(r#"{{"metadata":{{"a":"{}"}},"weight_map":{{"t":"m"}}}}"#, "x".repeat(9000));
    let cases: [(&str, Format); 8] = [
        (&long, Format::SafetensorsIndex),
        ("\n{ \"weight_map\" : {} }", Format::SafetensorsIndex),
        (&long[..long.len() - 1], Format::Raw),
        (r#"{"metadata":{"about":"\"weight_map\""}}"#, Format::Raw),
        (r#"{"metadata":{"weight_map":{"t":"m"}}}"#, Format::Raw),
        (r#"{"weight_map":{"t":1}}"#, Format::Raw),
        (r#"{"weight_map":["t"]}"#, Format::Raw),
        (r#"{"doc":"the weight_map","weight_map":7}"#, Format::Raw),
    ];
    for (json, format) in cases {
        assert_eq!(format::detect(Path::new("2d9e"), json.as_bytes()).unwrap(), format, "{json}");
    }
}

/// A header of one certain length begins as a zip archive does.
#[test]
fn a_model_that_begins_like_an_archive_is_a_model() {
    let bytes = [&b"PK\x03\x04\0\0\0\0{\"a\""[..], &[b' '; 80]].concat();
    for name in ["1f0c", "m.safetensors"] {
        assert_eq!(format::detect(Path::new(name), &bytes).unwrap(), Format::Safetensors);
    }
}

/// What only its first bytes call a model may be something else: the error says what to do then.
#[test]
fn a_guess_that_fails_is_said_to_be_one() {
    let model = safetensors_of(&tensors());
    let zip = zip_of(&members());
    for (bytes, format) in [
        (&model[..model.len() - 1], Format::Safetensors),
        (&model[..20], Format::Safetensors),
        (&zip[..zip.len() - 1], Format::Zip),
        (br#"{"weight_map":{"t":"../m"}}"#, Format::SafetensorsIndex),
    ] {
        let dir = dir_with(&[("1f0c", bytes)]);
        let path = dir.path().join("1f0c");
        let error = format::read(&path, None).unwrap_err();
        assert!(
            matches!(&error, FormatError::Guessed { format: f, .. } if *f == format),
            "{error}"
        );
        assert_eq!(error.path(), path);
        let text = error.to_string();
        assert!(text.contains("--format raw") && text.contains(&format.to_string()), "{text}");
        let told = format::read(&path, Some(format)).unwrap_err();
        assert!(text.starts_with(&told.to_string()), "{text}");
        assert_eq!(format::read(&path, Some(Format::Raw)).unwrap()[0].contents.items.len(), 1);
    }
}

#[test]
fn a_name_that_contradicts_the_content_is_said() {
    let (zip, model, texture) = (zip_of(&members()), safetensors_of(&tensors()), ktx2());
    for (name, bytes, named, found) in [
        ("bad.file.zip", &model, "zip", "safetensors"),
        ("bad.file.zip", &texture, "zip", "KTX2"),
        ("bad.file.safetensors", &zip, "safetensors", "zip"),
        ("bad.file.ktx2", &zip, "KTX2", "zip"),
        ("bad.file.safetensors.index.json", &model, "safetensors-index", "safetensors"),
    ] {
        let dir = dir_with(&[(name, bytes)]);
        let path = dir.path().join(name);
        let error = format::read(&path, None).unwrap_err();
        assert!(matches!(error, FormatError::Contradiction { .. }), "{error}");
        assert_eq!((error.path(), error.offset()), (&*path, Some(0)));
        let text = error.to_string();
        let words =
            [format!("a {named} file"), format!("give --format {found}"), "offset 0".into()];
        words.iter().for_each(|word| assert!(text.contains(word), "no `{word}` in: {text}"));
        // Told what it is, it is read.
        let told = found.parse().unwrap();
        assert_eq!(format::read(&path, Some(told)).unwrap()[0].contents.format, told);
    }
}

/// As Hugging Face's cache has it: a link with a speaking name to a file named by its hash.
#[test]
fn a_model_in_a_cache_is_found_by_its_link_and_by_its_hash() {
    let dir = dir_with(&[("1f0c", &safetensors_of(&tensors())), ("2d9e", b"")]);
    let [shard, blob, index] = ["m-1.safetensors", "2d9e", "model.safetensors.index.json"];
    let weight_map = r#"{"weight_map":{"layer.0.bias":"m-1.safetensors"}}"#;
    fs::write(dir.path().join(blob), weight_map).unwrap();
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(dir.path().join(target), dir.path().join(name)).unwrap();
    };
    link("1f0c", shard);
    link(blob, index);
    for name in ["1f0c", shard] {
        let read = format::read(&dir.path().join(name), None).unwrap();
        assert_eq!(read[0].contents.format, Format::Safetensors, "{name}");
        assert_eq!(read[0].contents.items.len(), tensors().len(), "{name}");
    }
    for name in [blob, index] {
        let read = format::read(&dir.path().join(name), None).unwrap();
        assert_eq!((read.len(), read[0].contents.items.len()), (1, 1), "{name}");
    }
}

#[test]
fn a_supercompressed_texture_says_so_and_has_its_global_data() {
    let plain = parse(Format::Ktx2, &ktx2()).unwrap();
    assert_eq!(plain.note, None);
    for (scheme, name) in [(1, "BasisLZ"), (2, "Zstandard"), (3, "zlib")] {
        let bytes = replace(&ktx2(), 44, &u32::to_le_bytes(scheme));
        let contents = parse(Format::Ktx2, &bytes).unwrap();
        let note = contents.note.expect("a note");
        assert!(note.contains(name) && note.contains("as they are stored"), "{note}");
    }
    // Global data behind all else.
    let mut bytes = replace(&ktx2(), 44, &1_u32.to_le_bytes());
    let at = bytes.len() as u64;
    bytes.extend(b"codebooks");
    bytes = replace(&bytes, 64, &at.to_le_bytes());
    bytes = replace(&bytes, 72, &9_u64.to_le_bytes());
    let contents = parse(Format::Ktx2, &bytes).unwrap();
    let item = contents.items.iter().find(|item| item.name == "supercompression global data");
    assert_eq!(slice(&bytes, item.expect("an item")), b"codebooks");
    assert!(contents.note.expect("a note").contains("supercompression global data"));
}

/// A file that is valid and has nothing in it holds nothing; one that is no file of its format is bad.
#[test]
fn a_file_with_nothing_in_it_is_read_if_its_format_allows_it() {
    let header = |json: &str| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.bytes());
        bytes
    };
    let none = |format, bytes: &[u8]| {
        let contents = parse(format, bytes).unwrap();
        assert!(contents.items.iter().all(|item| item.len == 0), "{contents:?}");
        contents.items.len()
    };
    assert_eq!(none(Format::Raw, b""), 1);
    assert_eq!(none(Format::Safetensors, &header("{}")), 0);
    assert_eq!(none(Format::Safetensors, &header(r#"{"__metadata__":{"a":"b"}}"#)), 0);
    assert_eq!(none(Format::Safetensors, &header(r#"{"__metadata__":null}"#)), 0);
    let empty = r#"{"t":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]}}"#;
    assert_eq!(none(Format::Safetensors, &header(empty)), 1);
    assert_eq!(none(Format::Zip, &zip_of(&[])), 0);
    for format in [Format::Safetensors, Format::Ktx2, Format::Zip] {
        assert_fault(format, b"", 0, &[]);
    }
}

#[test]
fn metadata_that_are_no_strings_are_refused() {
    for metadata in [r#"{"a":1}"#, r#"{"a":null}"#, r#"{"a":{}}"#, "[]", "7", r#""s""#] {
        let json = format!(r#"{{"__metadata__":{metadata}}}"#);
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.bytes());
        let error = parse(Format::Safetensors, &bytes).unwrap_err();
        assert!(matches!(error, FormatError::Malformed { .. }), "{metadata}: {error}");
    }
}

#[test]
fn a_format_is_read_as_it_is_written() {
    for format in
        [Format::Raw, Format::Safetensors, Format::SafetensorsIndex, Format::Ktx2, Format::Zip]
    {
        assert_eq!(format.to_string().to_uppercase().parse(), Ok(format));
    }
    let error = "tar".parse::<Format>().unwrap_err().to_string();
    assert!(error.contains("`tar`") && error.contains("safetensors-index"), "{error}");
}

#[test]
fn a_raw_file_is_one_item() {
    let dir = dir_with(&[("data.bin", &[7; 1001])]);
    let path = dir.path().join("data.bin");
    let read = format::read(&path, None).unwrap();
    let [opened] = &read[..] else { panic!("one file: {read:?}") };
    let Contents { format, items, refused, note } = &opened.contents;
    assert_eq!((opened.file.path(), *format, refused.len(), note), (&*path, Format::Raw, 0, &None));
    let [item] = &items[..] else { panic!("one item: {items:?}") };
    assert_eq!(
        (item.name.as_str(), item.offset, item.len, item.checksum),
        ("data.bin", 0, 1001, None)
    );
    assert_eq!(item.description, Description::Bytes);
}

#[test]
fn a_named_format_is_not_guessed() {
    let dir = dir_with(&[("t.ktx2", &ktx2())]);
    let path = dir.path().join("t.ktx2");
    assert_eq!(format::read(&path, Some(Format::Raw)).unwrap()[0].contents.format, Format::Raw);
    assert!(format::read(&path, Some(Format::Zip)).is_err());
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = dir_with(&[("empty.zip", b"")]);
    let pipe = dir.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for (path, words) in [
        (dir.path().join("empty.zip"), ["no end record", "fetch or pack the archive again"]),
        (dir.path().join("gone"), ["cannot open", "check the path"]),
        (dir.path().to_owned(), ["a directory", "name a file in it"]),
        (pipe, ["a pipe", "write its output to a file"]),
        ("/dev/null".into(), ["a character device", "copy what it gives"]),
    ] {
        let error = format::read(&path, None).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.path(), path);
        assert!(text.starts_with(path.to_str().unwrap()), "{text}");
        for word in words {
            assert!(text.contains(word), "no `{word}` in: {text}");
        }
    }
}

/// A sparse file of 8 TiB, of which a reader that searches or believes it would never come back.
#[test]
fn a_huge_file_costs_no_more_than_its_table_of_contents() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.zip");
    let file = fs::File::create(&path).unwrap();
    let len = [8_u64 << 40, 1 << 30].into_iter().find(|&len| file.set_len(len).is_ok()).unwrap();
    println!("the file has {len} bytes");

    let start = std::time::Instant::now();
    for format in [Format::Zip, Format::Safetensors, Format::SafetensorsIndex, Format::Ktx2] {
        format::read(&path, Some(format)).unwrap_err();
    }
    // A zip64 end record that claims a directory of half the file.
    let good = zip_by_hand(&[Member::stored64("a", b"abc")]);
    let mut tail = good[find(&good, b"PK\x06\x06", 0)..].to_vec();
    let record_at = len - tail.len() as u64;
    tail[40..48].copy_from_slice(&(len / 2).to_le_bytes());
    tail[48..56].copy_from_slice(&(len / 4).to_le_bytes());
    tail[64..72].copy_from_slice(&record_at.to_le_bytes());
    file.write_all_at(&tail, record_at).unwrap();
    let error = format::read(&path, None).unwrap_err();
    assert!(matches!(error, FormatError::Unsupported { .. }), "{error}");
    assert_eq!(error.offset(), Some(record_at));
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

/// The fuzzer's seeds, most of them made by other programs, are good files.
#[test]
fn the_seeds_are_read() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for format in [Format::Safetensors, Format::Ktx2, Format::Zip] {
        let dir = seeds.join(format.to_string().to_lowercase());
        let paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!paths.is_empty());
        for path in paths {
            let bytes = fs::read(&path).unwrap();
            for item in &format::read(&path, None).unwrap()[0].contents.items {
                let Some(Checksum::Crc32(crc32)) = item.checksum else { continue };
                assert_eq!(crc32fast::hash(slice(&bytes, item)), crc32, "{path:?}: {item:?}");
            }
        }
    }
    let index = fs::read(seeds.join("safetensors_index/index.json")).unwrap();
    assert_eq!(ShardIndex::parse(&seeds, &index).unwrap().shards().collect::<Vec<_>>().len(), 1);
}

// ---- properties --------------------------------------------------------------------------------

/// Some bytes of a good file overwritten, and its end cut or lengthened.
fn damaged(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = good.len();
    let byte = prop_oneof![Just(0), Just(0xff), Just(1), any::<u8>()];
    let edits = prop::collection::vec((0..len, byte), 0..6);
    (edits, prop_oneof![4 => Just(len), 1 => 0..len + 40]).prop_map(move |(edits, len)| {
        let mut bytes = good.clone();
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        bytes.resize(len, 0);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for format in [Format::Raw, Format::Safetensors, Format::Ktx2, Format::Zip] {
            let _ = parse(format, &bytes);
        }
        let _ = ShardIndex::parse(Path::new("bad.file"), &bytes);
        // Bytes that are no file at all are not taken for one because a name says nothing.
        prop_assert_eq!(format::detect(Path::new("bad.file"), &bytes).unwrap(), Format::Raw);
    }

    /// Whatever a file holds and is called, it is read, or refused in words that name it and a remedy.
    #[test]
    fn what_is_found_out_is_read_or_refused(
        bytes in prop_oneof![
            damaged(safetensors_of(&tensors())),
            damaged(ktx2()),
            damaged(zip_of(&members())),
            damaged(br#"{"metadata":{"a":1},"weight_map":{"t":"m"}}"#.to_vec()),
        ],
        ending in prop::sample::select(
            vec!["", ".safetensors", ".safetensors.index.json", ".ktx2", ".zip", ".bin"]
        ),
    ) {
        let path = PathBuf::from(format!("bad.file{ending}"));
        match format::detect(&path, &bytes) {
            Ok(Format::SafetensorsIndex) => drop(ShardIndex::parse(&path, &bytes)),
            Ok(format) => drop(parse(format, &bytes)),
            Err(error) => {
                prop_assert!(matches!(error, FormatError::Contradiction { .. }), "{}", error);
                prop_assert!(!["", ".bin"].contains(&ending), "{}", error);
                prop_assert!(error.to_string().contains("--format"), "{}", error);
            }
        }
    }

    #[test]
    fn damaged_safetensors_are_judged_as_by_the_library(
        bytes in damaged(safetensors_of(&tensors()))
    ) {
        let ours = parse(Format::Safetensors, &bytes);
        match (&ours, safetensors::SafeTensors::read_metadata(&bytes)) {
            (Ok(contents), Ok((_, metadata))) => {
                prop_assert_eq!(contents.items.len(), metadata.tensors().len());
            }
            (Err(_), Err(_)) => {}
            // The library takes the last of two tensors by one name.
            (Err(error), Ok(_)) if error.to_string().contains("comes twice") => {}
            (ours, theirs) => prop_assert!(false, "ours {ours:?}, theirs {theirs:?}"),
        }
    }

    #[test]
    fn damaged_ktx2_files_are_read_or_refused(bytes in damaged(ktx2())) {
        let _ = parse(Format::Ktx2, &bytes);
    }

    #[test]
    fn damaged_archives_are_read_as_by_the_library(bytes in damaged(zip_of(&members()))) {
        let Ok(contents) = parse(Format::Zip, &bytes) else { return Ok(()) };
        let mut archive = zip::ZipArchive::new(Cursor::new(&bytes)).unwrap();
        for item in &contents.items {
            let member = archive.by_name(&item.name).unwrap();
            prop_assert_eq!(member.data_start(), Some(item.offset));
            prop_assert_eq!(member.size(), item.len);
        }
    }

    #[test]
    fn damaged_zip64_archives_are_read_or_refused(
        bytes in damaged(zip_by_hand(&[
            Member::deflated("b", b"data"),
            Member::stored64("a", b"abc"),
        ]))
    ) {
        let _ = parse(Format::Zip, &bytes);
    }
}
