//! Zip: members, each behind a header of its own, then a central directory of them all, then an end
//! record.
//!
//! A member that is *stored* lies in the file as it is, so its bytes can be moved straight from
//! there. Where it lies is known only from its local header, which the central directory points to:
//! that header's own name and extra field stand before the bytes, and their lengths need not be the
//! directory's.
//!
//! The end record is found and checked here, with the sizes it gives, before memory is taken for
//! the directory. The [`zip`](::zip) crate then reads the directory's entries: names in either
//! encoding, zip64 sizes, extra fields. It is given the directory alone, in memory: reading the
//! file itself, it would search the whole of it for a directory that is not where it should be, and
//! take as much memory as an end record asks for. So that it finds its way, the directory is
//! followed there by an end record that describes just it.
//!
//! The format is specified in PKWARE's APPNOTE, whose section numbers are given below.

use exporters::outside::outside;

use super::contents::Contents;
use super::description::Description;
use super::error::FormatError;
use super::item::{Checksum, Item};
use super::kind::Format;
use super::layout::{self, Part};
use super::member::{DosTime, Member};
use super::refused::{Refusal, Refused};
use super::source::Source;
use ::zip::read::{ArchiveOffset, Config, ZipArchiveMetadata, ZipFileEntry};
use ::zip::{CompressionMethod, ZipArchive};
use std::collections::HashSet;
use std::io::Cursor;
use std::sync::Arc;

/// What an archive begins with: a local header, or the end record of an archive without members.
pub(super) const SIGNATURES: [[u8; 4]; 2] = [LOCAL_HEADER, END];

const LOCAL_HEADER: [u8; 4] = *b"PK\x03\x04";
const DIRECTORY_ENTRY: [u8; 4] = *b"PK\x01\x02";
const END: [u8; 4] = *b"PK\x05\x06";
const END64: [u8; 4] = *b"PK\x06\x06";
const END64_LOCATOR: [u8; 4] = *b"PK\x06\x07";

const LOCAL_HEADER_LEN: usize = 30;
const DIRECTORY_ENTRY_LEN: usize = 46;
const END_LEN: usize = 22;
const END64_LEN: usize = 56;
const END64_LOCATOR_LEN: usize = 20;

/// The flags of a member that is encrypted, strongly encrypted, or in an archive whose directory is
/// (4.4.4, bits 0, 6 and 13).
const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;

/// The longest directory that is read: some millions of members.
const MAX_DIRECTORY_LEN: u64 = 256 << 20;

const FIX: &str = "fetch or pack the archive again, or repair it with `zip -FF`";

/// Each stored member as an item; members that are compressed or encrypted are refused. Directories
/// are neither.
pub(super) fn contents(source: &Source<'_>) -> Result<Contents, FormatError> {
    let directory = Directory::find(source)?;
    let entries = directory.read(source)?;

    let mut contents =
        Contents { format: Format::Zip, items: Vec::new(), refused: Vec::new(), note: None };
    let mut parts = vec![directory.part()];
    let mut names = HashSet::new();
    for index in 0..entries.metadata.len() {
        let entry = entries.entry(source, &directory, index)?;
        let (name, header) = (entry.name, entry.header);
        names.insert(name.clone());
        let what = format!("member `{}`", outside(&name));
        if entry.is_directory || entry.refusal.is_some() {
            // Where its data begin is not worth a read: they begin after the fixed part of its
            // header.
            let len = entry.len.saturating_add(LOCAL_HEADER_LEN as u64);
            parts.push(Part { what, offset: header, len });
            if let Some(why) = entry.refusal.filter(|_| !entry.is_directory) {
                contents.refused.push(Refused { name, offset: header, len: entry.len, why });
            }
            continue;
        }
        let offset = data_offset(source, header, &what)?;
        source.holds(offset, entry.len, &what)?;
        parts.push(Part { what, offset: header, len: offset + entry.len - header });
        let Member { size: len, crc32, .. } = entry.member;
        let checksum = Some(Checksum::Crc32(crc32));
        let description = Description::Member(entry.member);
        contents.items.push(Item { name, offset, len, checksum, description });
    }
    layout::check(source, &mut parts, FIX)?;
    if names.len() as u64 != directory.entries {
        let (members, names) = (directory.entries, names.len());
        let problem = format!("{members} members have {names} names, so a name may mean several");
        let fix = "pack the archive again with each name once";
        return Err(source.malformed(directory.offset, problem, fix));
    }
    contents.items.sort_by_key(|item| item.offset);
    contents.refused.sort_by_key(|refused| refused.offset);
    Ok(contents)
}

/// Where a stored member's bytes begin, by its local header (4.3.7).
fn data_offset(source: &Source<'_>, header: u64, what: &str) -> Result<u64, FormatError> {
    let bytes: [u8; LOCAL_HEADER_LEN] = source.array(header, &format!("the header of {what}"))?;
    if !bytes.starts_with(&LOCAL_HEADER) {
        let problem = format!("the central directory puts {what} there, but its header is not");
        return Err(source.malformed(header, problem, FIX));
    }
    let (flags, method) = (u16_at(&bytes, 6), u16_at(&bytes, 8));
    if flags & ENCRYPTED != 0 || method != 0 {
        let problem = format!(
            "the central directory says that {what} is stored, its own header that it is not"
        );
        return Err(source.malformed(header, problem, FIX));
    }
    let names = u64::from(u16_at(&bytes, 26)) + u64::from(u16_at(&bytes, 28));
    // No overflow: the header lies inside the file, and the names are short.
    Ok(header + LOCAL_HEADER_LEN as u64 + names)
}

/// Where the central directory lies.
struct Directory {
    /// Its offset in the file, in bytes.
    offset: u64,
    /// Its length, in bytes.
    len: u64,
    /// How many entries it has.
    entries: u64,
    /// How many bytes stand in the file before the archive, such as a program that unpacks it. The
    /// archive's own offsets do not count them.
    prefix: u64,
}

/// What an end record says of the directory.
struct End {
    /// Where the record lies, in bytes; the directory lies before it.
    at: u64,
    offset: u64,
    len: u64,
    entries: u64,
}

impl Directory {
    fn find(source: &Source<'_>) -> Result<Self, FormatError> {
        let end = End::find(source)?;
        let fault = |problem: String| Err(source.malformed(end.at, problem, FIX));
        let Some(stop) = end.offset.checked_add(end.len).filter(|&stop| stop <= end.at) else {
            return fault(format!(
                "bad central directory: its {} bytes at {} do not end before this, its end record",
                end.len, end.offset
            ));
        };
        if end.entries > end.len / DIRECTORY_ENTRY_LEN as u64 {
            return fault(format!(
                "bad central directory: {} members do not fit into its {} bytes",
                end.entries, end.len
            ));
        }
        if end.len > MAX_DIRECTORY_LEN {
            let what = format!(
                "the central directory has {} bytes, and this reader takes {MAX_DIRECTORY_LEN}",
                end.len
            );
            return Err(source.unsupported(end.at, what, "pack fewer members into one archive"));
        }
        let found = |prefix| Self {
            offset: end.offset + prefix,
            len: end.len,
            entries: end.entries,
            prefix,
        };
        if end.entries == 0 {
            return Ok(found(0));
        }
        for prefix in [end.at - stop, 0] {
            let offset = end.offset + prefix;
            if source.array(offset, "the central directory")? == DIRECTORY_ENTRY {
                return Ok(found(prefix));
            }
        }
        let problem = "bad central directory: its first entry is not there";
        Err(source.malformed(end.offset, problem, FIX))
    }

    fn part(&self) -> Part {
        Part { what: "the central directory".into(), offset: self.offset, len: self.len }
    }

    /// Reads the entries.
    fn read(&self, source: &Source<'_>) -> Result<Entries, FormatError> {
        let mut bytes = source.bytes(self.offset, self.len, "the central directory")?;
        bytes.extend(end_record(self.len, self.entries));

        let mut cursor = Cursor::new(&bytes);
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let archive = ZipArchive::with_config(config, &mut cursor);
        let metadata = archive.map(|archive| archive.metadata());
        let stopped = cursor.position();
        let fault = |problem: String| {
            let at = self.offset + entry_before(&bytes, stopped);
            Err(source.malformed(at, format!("bad central directory: {problem}"), FIX))
        };
        match metadata {
            Err(error) => fault(outside(&error.to_string()).to_string()),
            Ok(_) if self.entries > 0 && stopped > self.len => {
                fault("its last entry does not end in it".into())
            }
            Ok(metadata) => Ok(Entries { metadata, bytes }),
        }
    }
}

/// Where the entry begins at which a reader of the directory stopped.
fn entry_before(directory: &[u8], stopped: u64) -> u64 {
    let mut at = 0;
    while let Some(entry) = directory.get(at..at + DIRECTORY_ENTRY_LEN) {
        let names: usize = [28, 30, 32].iter().map(|&at| usize::from(u16_at(entry, at))).sum();
        let next = at + DIRECTORY_ENTRY_LEN + names;
        if next as u64 >= stopped {
            break;
        }
        at = next;
    }
    at as u64
}

/// The entries of a central directory.
struct Entries {
    metadata: Arc<ZipArchiveMetadata>,
    /// The directory, and what was put behind it.
    bytes: Vec<u8>,
}

/// One entry of the central directory.
struct Entry {
    name: String,
    /// Where its local header lies in the file, in bytes.
    header: u64,
    /// How many bytes it has in the file.
    len: u64,
    /// What it is outside of the archive.
    member: Member,
    is_directory: bool,
    refusal: Option<Refusal>,
}

impl Entries {
    fn entry(
        &self,
        source: &Source<'_>,
        directory: &Directory,
        index: usize,
    ) -> Result<Entry, FormatError> {
        let bad = |error: zip::result::ZipError| {
            let error = error.to_string();
            let problem = format!("bad central directory: entry {index}: {}", outside(&error));
            source.malformed(directory.offset, problem, FIX)
        };
        let entry = self.metadata.entry(index).map_err(bad)?;
        let name = entry.name().map_err(bad)?.into_owned();
        let at = directory.offset + entry.central_header_start();
        let fault = |problem: String| Err(source.malformed(at, problem, FIX));
        let Some(header) = entry.header_start().checked_add(directory.prefix) else {
            return fault(format!(
                "member `{}` is given an offset that no file can have",
                outside(&name)
            ));
        };
        let refusal = self.refusal(&entry);
        if refusal.is_none() && entry.compressed_size() != entry.size() {
            return fault(format!(
                "member `{}` is stored, yet given {} bytes in the archive and {} outside",
                outside(&name),
                entry.compressed_size(),
                entry.size()
            ));
        }
        Ok(Entry {
            name,
            header,
            len: entry.compressed_size(),
            member: Member {
                size: entry.size(),
                modified: entry.last_modified().map(DosTime::of),
                crc32: entry.crc32(),
            },
            is_directory: entry.is_dir() && entry.size() == 0,
            refusal,
        })
    }

    fn refusal(&self, entry: &ZipFileEntry<'_>) -> Option<Refusal> {
        // The crate tells neither every kind of encryption nor a method that it was not built for;
        // the entry does (4.3.12).
        let at = usize::try_from(entry.central_header_start()).ok();
        let field = |field| {
            let bytes = at.and_then(|at| self.bytes.get(at + field..at + field + 2));
            bytes.map_or(u16::MAX, |bytes| u16_at(bytes, 0))
        };
        if entry.encrypted() || field(8) & ENCRYPTED != 0 {
            return Some(Refusal::Encrypted);
        }
        if entry.compression() == CompressionMethod::Stored {
            return None;
        }
        Some(Refusal::Compressed { method: field(10) })
    }
}

impl End {
    /// Finds the end record (4.3.16) in the last bytes of the file, or its zip64 form.
    fn find(source: &Source<'_>) -> Result<Self, FormatError> {
        let tail_len = source.len().min(END_LEN as u64 + u64::from(u16::MAX));
        let start = source.len() - tail_len;
        let tail = source.bytes(start, tail_len, "the end record")?;
        let Some(at) = find_end(&tail) else {
            let problem = "no end record follows: the file is cut short, or is no zip archive";
            return Err(source.malformed(start, problem, "fetch or pack the archive again"));
        };
        let record = &tail[at..];
        let at = start + at as u64;
        let end = Self {
            at,
            offset: u32_at(record, 16).into(),
            len: u32_at(record, 12).into(),
            entries: u16_at(record, 10).into(),
        };
        let saturated = end.offset == u64::from(u32::MAX)
            || end.len == u64::from(u32::MAX)
            || end.entries == u64::from(u16::MAX);
        if saturated && let Some(end64) = Self::find64(source, at)? {
            return Ok(end64);
        }
        let disks = [u16_at(record, 4), u16_at(record, 6)];
        if disks != [0, 0] || u16_at(record, 8) != u16_at(record, 10) {
            return Err(split(source, at));
        }
        Ok(end)
    }

    /// Finds the zip64 end record (4.3.14) by the locator (4.3.15) that stands before the end
    /// record at `end`.
    fn find64(source: &Source<'_>, end: u64) -> Result<Option<Self>, FormatError> {
        let Some(at) = end.checked_sub(END64_LOCATOR_LEN as u64) else { return Ok(None) };
        let locator: [u8; END64_LOCATOR_LEN] = source.array(at, "the zip64 locator")?;
        if !locator.starts_with(&END64_LOCATOR) {
            return Ok(None);
        }
        let given = u64_at(&locator, 8);
        // In an archive that was put behind something else, it is not where the locator says.
        let adjacent = at.saturating_sub(END64_LEN as u64);
        for record_at in [given, adjacent] {
            let Some(room) = at.checked_sub(record_at).filter(|&room| room >= END64_LEN as u64)
            else {
                continue;
            };
            let record: [u8; END64_LEN] = source.array(record_at, "the zip64 end record")?;
            // The record's own length does not count its first 12 bytes.
            let len = u64_at(&record, 4);
            if !record.starts_with(&END64) || len.checked_add(12) != Some(room) {
                continue;
            }
            if u64_at(&record, 16) != 0 || u64_at(&record, 24) != u64_at(&record, 32) {
                return Err(split(source, record_at));
            }
            return Ok(Some(Self {
                at: record_at,
                offset: u64_at(&record, 48),
                len: u64_at(&record, 40),
                entries: u64_at(&record, 32),
            }));
        }
        let problem = format!("the zip64 locator names an end record at {given}, where none is");
        Err(source.malformed(at, problem, FIX))
    }
}

/// The last end record in the bytes: one whose comment ends with them, or, if none does, one whose
/// comment fits.
fn find_end(tail: &[u8]) -> Option<usize> {
    let rest =
        |at: usize| (tail.len() - at).checked_sub(END_LEN + usize::from(u16_at(&tail[at..], 20)));
    let starts = || {
        let last = tail.len().checked_sub(END_LEN)?;
        Some((0..=last).rev().filter(|&at| tail[at..].starts_with(&END)))
    };
    starts()?.find(|&at| rest(at) == Some(0)).or_else(|| starts()?.find(|&at| rest(at).is_some()))
}

/// A zip64 end record, its locator and an end record, of a directory of `len` bytes at offset 0.
fn end_record(len: u64, entries: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(END64_LEN + END64_LOCATOR_LEN + END_LEN);
    bytes.extend(END64);
    bytes.extend((END64_LEN as u64 - 12).to_le_bytes());
    bytes.extend([0; 12]);
    for number in [entries, entries, len, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(END64_LOCATOR);
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(END);
    bytes.extend([0; 4]);
    bytes.extend([0xff; 12]);
    bytes.extend([0; 2]);
    bytes
}

fn split(source: &Source<'_>, at: u64) -> FormatError {
    source.unsupported(
        at,
        "the archive is split over several files",
        "join it into one with `zip -s 0 SPLIT.zip --out WHOLE.zip`",
    )
}

/// The number at a place in a record. Like the two below, it panics where the record is too short
/// for it: their callers give records of a known length.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[at + index])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(comment: &[u8]) -> Vec<u8> {
        let len = u16::try_from(comment.len()).unwrap();
        [&END[..], &[0; 16], &len.to_le_bytes(), comment].concat()
    }

    #[test]
    fn the_end_record_is_the_one_whose_comment_ends_the_file() {
        assert_eq!(find_end(&end(b"")), Some(0));
        assert_eq!(find_end(&[&[7; 9][..], &end(b"comment")].concat()), Some(9));
        // One in the comment of another, whose own comment would end too early or too late.
        assert_eq!(find_end(&end(&[&end(b"")[..], b"more"].concat())), Some(0));
        let mut late = end(b"");
        late[20] = 1;
        assert_eq!(find_end(&end(&late)), Some(0));
        // Bytes behind the archive.
        assert_eq!(find_end(&[&end(b"")[..], &[0; 30]].concat()), Some(0));
        assert_eq!(find_end(&end(b"")[..21]), None);
        assert_eq!(find_end(&[]), None);
    }

    #[test]
    fn a_member_has_the_size_and_time_of_the_directory() {
        let (date, time) = (46 << 9 | 11 << 5 | 27_u16, 16 << 11 | 50 << 5 | 29_u16);
        for (time, date, modified) in
            [(time, date, Some("2026-11-27T16:50:58")), (0, 0, None), (31, date, None)]
        {
            let mut fields = [20, 0, 0, time, date].map(u16::to_le_bytes).concat();
            fields.extend([0x1234_5678, 4, 4].map(u32::to_le_bytes).concat());
            fields.extend([1, 0].map(u16::to_le_bytes).concat());
            let member = [&LOCAL_HEADER[..], &fields, b"m", b"data"].concat();
            let entry = [&DIRECTORY_ENTRY[..], &[20, 0], &fields, &[0; 14], b"m"].concat();
            let mut end = end(b"");
            end[8..12].copy_from_slice(&[1, 0, 1, 0]);
            end[12..16].copy_from_slice(&(entry.len() as u32).to_le_bytes());
            end[16..20].copy_from_slice(&(member.len() as u32).to_le_bytes());
            let bytes = [member, entry, end].concat();
            let read = contents(&Source::in_memory("f".as_ref(), Format::Zip, &bytes)).unwrap();
            let [item] = &read.items[..] else { panic!("one item: {read:?}") };
            let modified = modified.map(|text| text.parse().unwrap());
            let member = Member { size: 4, modified, crc32: 0x1234_5678 };
            assert_eq!(item.description, Description::Member(member));
            assert_eq!(item.checksum, Some(Checksum::Crc32(0x1234_5678)));
        }
    }

    #[test]
    fn the_end_record_put_behind_a_directory_is_found_again() {
        let bytes = [vec![1; 92], end_record(92, 2)].concat();
        let source = Source::in_memory("f".as_ref(), Format::Zip, &bytes);
        let end = End::find(&source).unwrap();
        assert_eq!((end.at, end.offset, end.len, end.entries), (92, 0, 92, 2));
    }
}
