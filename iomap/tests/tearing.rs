//! Aligned words that another mapping writes are never seen torn, and are never written torn.
//!
//! One thread flips words between two patterns through one mapping of a memfd, another reads through
//! a second mapping: each word it sees must be one of the two.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use iomap::{Access, BufMap, Caching, Location, Memory, PageSize};

const LEN: usize = 64 << 10;
const PATTERNS: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
const TIME: Duration = Duration::from_millis(400);

/// A second mapping of a memfd.
struct Other(memmap2::MmapRaw);

impl Other {
    fn of(memory: &Memory) -> Self {
        let fd = memory.fd().unwrap();
        Self(memmap2::MmapOptions::new().len(memory.len()).map_raw(&fd).unwrap())
    }

    fn map(&self) -> BufMap<'_> {
        let (at, len) = (self.0.as_mut_ptr(), self.0.len());
        // SAFETY: mapped read-write over `len` bytes until `self` is dropped, outside Rust's memory.
        unsafe {
            BufMap::from_raw(at, len, Location::System, Caching::WriteBack, Access::ReadWrite)
        }
    }
}

/// Runs `write` again and again in another thread, with a map of the same memory and each pattern by
/// turns, while `read` runs here.
fn race(
    write: impl Fn(BufMap<'_>, u64) + Sync,
    mut read: impl FnMut(BufMap<'_>) -> Result<(), String>,
) {
    let memory = Memory::memfd("tearing", LEN, PageSize::Base).unwrap();
    let other = Other::of(&memory);
    write(memory.map(), PATTERNS[0]);
    let done = AtomicBool::new(false);
    let torn = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0;
            while !done.load(Ordering::Relaxed) {
                turn ^= 1;
                write(other.map(), PATTERNS[turn]);
            }
        });
        let begin = Instant::now();
        let mut seen = Ok(());
        while seen.is_ok() && begin.elapsed() < TIME {
            seen = read(memory.map());
        }
        done.store(true, Ordering::Relaxed);
        seen
    });
    if let Err(torn) = torn {
        panic!("{torn}");
    }
}

fn whole(word: u64, at: usize) -> Result<(), String> {
    if PATTERNS.contains(&word) { Ok(()) } else { Err(format!("torn at {at}: {word:#x}")) }
}

/// A slice of `len` bytes that holds the pattern at multiples of 8 of the map offset `at`, itself at
/// `skew` modulo 64.
fn patterned(pattern: u64, at: usize, len: usize, skew: usize) -> (Vec<u8>, usize) {
    let mut bytes = vec![0; len + 128];
    let start = bytes.as_ptr().align_offset(64) + skew;
    let repeated: Vec<u8> =
        pattern.to_ne_bytes().into_iter().cycle().skip(at % 8).take(len).collect();
    bytes[start..start + len].copy_from_slice(&repeated);
    (bytes, start)
}

fn write_words(map: BufMap<'_>, pattern: u64) {
    (0..LEN).step_by(8).for_each(|at| map.write(at, pattern).unwrap());
}

#[test]
fn typed_reads_of_typed_writes() {
    race(write_words, |map| {
        (0..LEN).step_by(8).try_for_each(|at| whole(map.read(at).unwrap(), at))
    });
}

/// Bulk reads at the map's every alignment: the words that a copy covers entirely are whole, into a
/// slice of any alignment.
#[test]
fn bulk_reads_of_typed_writes() {
    let mut turn = 0usize;
    race(write_words, |map| {
        turn += 1;
        let (at, skew) = (turn % 64, turn * 7 % 64);
        let len = [40, 127, 512, 2000, 20_000, 60_000][turn % 6];
        let mut bytes = vec![0; len + 128];
        let start = bytes.as_ptr().align_offset(64) + skew;
        map.copy_to_slice(at, &mut bytes[start..start + len]).unwrap();
        let first = at.next_multiple_of(8);
        (first..at + len - 7).step_by(8).try_for_each(|word| {
            let bytes = &bytes[start + word - at..][..8];
            whole(u64::from_ne_bytes(bytes.try_into().unwrap()), word)
        })
    });
}

/// Bulk writes at the map's every alignment, from slices of any alignment, seen by typed reads.
#[test]
fn typed_reads_of_bulk_writes() {
    let shapes: Vec<_> = (0..36usize)
        .map(|turn| {
            let len = [100, 127, 512, 2000, 20_000, 60_000][turn % 6];
            let (at, skew) = (turn * 5 % 64, turn * 11 % 64);
            (at, len, PATTERNS.map(|pattern| patterned(pattern, at, len, skew)))
        })
        .collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    race(
        |map, pattern| {
            if map.read::<u64>(0).unwrap() == 0 {
                write_words(map, pattern);
            }
            let turn = next.fetch_add(1, Ordering::Relaxed) / 2;
            let (at, len, slices) = &shapes[turn % shapes.len()];
            let (bytes, start) = &slices[usize::from(pattern == PATTERNS[1])];
            map.copy_from_slice(*at, &bytes[*start..start + len]).unwrap();
        },
        // A word that a copy covers in part holds parts of two patterns: look at those that all
        // shapes cover.
        |map| (64..88).step_by(8).try_for_each(|at| whole(map.read(at).unwrap(), at)),
    );
}

/// Map to map with ends that agree modulo 8: whole at both.
#[test]
fn map_to_map() {
    let copy = Memory::anonymous(LEN, PageSize::Base).unwrap();
    let mut turn = 0usize;
    race(write_words, |map| {
        turn += 1;
        let (at, len) = (turn % 8, [129, 1000, 40_000][turn % 3]);
        let (src, dst) = (at + 8 * (turn % 5), at + 8 * (turn % 9));
        let to = copy.map().subrange(dst..dst + len).unwrap();
        to.copy_from(&map.subrange(src..src + len).unwrap()).unwrap();
        let first = dst.next_multiple_of(8);
        (first..dst + len - 7).step_by(8).try_for_each(|at| whole(copy.map().read(at).unwrap(), at))
    });
}
