//! What access through a `BufMap` costs, beside the bare operation, in one run.
//!
//! Each line times the rivals by turns, many rounds long, and prints the median of each round's
//! ratio: above 1.00, `BufMap` is the faster.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use iomap::{Access, BufMap, Caching, Location, Memory, PageSize};

const LARGEST: usize = 64 << 20;
const ROUNDS: usize = 41;

fn main() {
    let memory = || {
        let memory = Memory::anonymous(LARGEST + 4096, PageSize::Base).expect("memory");
        memory.populate().expect("pages");
        memory
    };
    let (src, dst) = (memory(), memory());
    for (src_skew, dst_skew) in [(0, 0), (8, 0), (0, 8), (1, 0), (0, 1), (3, 3)] {
        copies(&src, &dst, src_skew, dst_skew);
    }
    fills(&dst);
    typed(&src);
    combining(&src, &dst);
}

fn copies(src: &Memory, dst: &Memory, src_skew: usize, dst_skew: usize) {
    println!("\ncopy, source at {src_skew} and destination at {dst_skew} modulo 4096");
    println!(
        "{:>10} {:>12} {:>8} {:>16} {:>14}",
        "bytes", "memcpy GB/s", "ratio", "from_slice ratio", "to_slice ratio"
    );
    for len in lengths() {
        let from = src.map().subrange(src_skew..src_skew + len).expect("in bounds");
        let to = dst.map().subrange(dst_skew..dst_skew + len).expect("in bounds");
        let slice_of = |map: BufMap<'_>| (map.as_ptr(), map.len());
        let line = race(
            len,
            [
                &mut || {
                    let (src, dst) = (black_box(from.as_ptr()), black_box(to.as_ptr()));
                    // SAFETY: both are mapped over `len` bytes, and nobody else uses them.
                    unsafe { src.copy_to_nonoverlapping(dst, black_box(len)) };
                },
                &mut || {
                    let _ = black_box(black_box(to).copy_from(&black_box(from)));
                },
                &mut || {
                    let (ptr, len) = black_box(slice_of(from));
                    // SAFETY: as above; the slice ends before anything is written to those bytes.
                    let slice = unsafe { std::slice::from_raw_parts(ptr, len) };
                    let _ = black_box(black_box(to).copy_from_slice(0, slice));
                },
                &mut || {
                    let (ptr, len) = black_box(slice_of(to));
                    // SAFETY: as above.
                    let slice = unsafe { std::slice::from_raw_parts_mut(ptr, len) };
                    let _ = black_box(black_box(from).copy_to_slice(0, slice));
                },
            ],
        );
        println!(
            "{len:>10} {:>12.1} {:>8.2} {:>16.2} {:>14.2}",
            len as f64 / line.first.as_secs_f64() / 1e9,
            line.ratios[0],
            line.ratios[1],
            line.ratios[2]
        );
    }
}

fn fills(dst: &Memory) {
    println!("\nfill");
    println!("{:>10} {:>12} {:>8}", "bytes", "memset GB/s", "ratio");
    for len in lengths() {
        let to = dst.map().subrange(..len).expect("in bounds");
        let line = race(
            len,
            [
                &mut || {
                    let dst = black_box(to.as_ptr());
                    // SAFETY: mapped over `len` bytes, and nobody else uses them.
                    unsafe { dst.write_bytes(black_box(5), black_box(len)) };
                },
                &mut || {
                    let _ = black_box(black_box(to).fill(black_box(5)));
                },
            ],
        );
        let rate = len as f64 / line.first.as_secs_f64() / 1e9;
        println!("{len:>10} {rate:>12.1} {:>8.2}", line.ratios[0]);
    }
}

/// Typed access in a loop over a page, against the same loop of raw volatile accesses.
fn typed(memory: &Memory) {
    println!("\ntyped access, 512 words of 8 bytes");
    println!("{:>20} {:>12} {:>8}", "", "raw ns each", "ratio");
    const WORDS: usize = 512;
    let map = memory.map().subrange(..WORDS * 8).expect("in bounds");
    let line = race(
        WORDS * 8,
        [
            &mut || {
                let at = black_box(map.as_ptr().cast::<u64>());
                // SAFETY: mapped over `WORDS` words.
                let sum = (0..WORDS)
                    .fold(0u64, |sum, i| sum.wrapping_add(unsafe { at.add(i).read_volatile() }));
                black_box(sum);
            },
            &mut || {
                let map = black_box(map);
                let sum = (0..WORDS).fold(0u64, |sum, i| {
                    sum.wrapping_add(map.read::<u64>(i * 8).unwrap_or_default())
                });
                black_box(sum);
            },
        ],
    );
    print_typed("read", &line, WORDS);
    let line = race(
        WORDS * 8,
        [
            &mut || {
                let at = black_box(map.as_ptr().cast::<u64>());
                // SAFETY: mapped over `WORDS` words.
                (0..WORDS).for_each(|i| unsafe { at.add(i).write_volatile(i as u64) });
            },
            &mut || {
                let map = black_box(map);
                (0..WORDS).for_each(|i| {
                    let _ = map.write(i * 8, i as u64);
                });
            },
        ],
    );
    print_typed("write", &line, WORDS);

    // One access at an unknown place at a time, each address from the last value: the latency.
    map.fill(0).expect("writable");
    let line = race(
        WORDS * 8,
        [
            &mut || {
                let at = black_box(map.as_ptr().cast::<u64>());
                let mut next = 0;
                for _ in 0..WORDS {
                    // SAFETY: all words hold 0, so `next` stays 0.
                    next = unsafe { at.add(next as usize).read_volatile() };
                }
                black_box(next);
            },
            &mut || {
                let map = black_box(map);
                let mut next = 0;
                for _ in 0..WORDS {
                    next = map.read::<u64>(next as usize * 8).unwrap_or_default();
                }
                black_box(next);
            },
        ],
    );
    print_typed("dependent read", &line, WORDS);
}

fn print_typed(name: &str, line: &Line, words: usize) {
    let each = line.first.as_secs_f64() * 1e9 / words as f64;
    println!("{name:>20} {each:>12.3} {:>8.2}", line.ratios[0]);
}

/// The engines for write-combining memory, on ordinary memory: what they cost where nothing is won.
fn combining(src: &Memory, dst: &Memory) {
    println!("\nstreaming loads and stores on ordinary memory, against memcpy");
    println!("{:>10} {:>12} {:>12} {:>12}", "bytes", "memcpy GB/s", "load ratio", "store ratio");
    let declared = |map: BufMap<'_>| {
        // SAFETY: the same memory, declared as what it is not: it only chooses the engine.
        unsafe {
            BufMap::from_raw(
                map.as_ptr(),
                map.len(),
                Location::Io,
                Caching::WriteCombining,
                Access::ReadWrite,
            )
        }
    };
    for len in lengths().filter(|len| *len >= 4096) {
        let from = src.map().subrange(..len).expect("in bounds");
        let to = dst.map().subrange(..len).expect("in bounds");
        let (slow_from, slow_to) = (declared(from), declared(to));
        let line = race(
            len,
            [
                &mut || {
                    let (src, dst) = (black_box(from.as_ptr()), black_box(to.as_ptr()));
                    // SAFETY: both are mapped over `len` bytes, and nobody else uses them.
                    unsafe { src.copy_to_nonoverlapping(dst, black_box(len)) };
                },
                &mut || {
                    let _ = black_box(black_box(to).copy_from(&black_box(slow_from)));
                },
                &mut || {
                    let _ = black_box(black_box(slow_to).copy_from(&black_box(from)));
                },
            ],
        );
        let rate = len as f64 / line.first.as_secs_f64() / 1e9;
        println!("{len:>10} {rate:>12.1} {:>12.2} {:>12.2}", line.ratios[0], line.ratios[1]);
    }
}

fn lengths() -> impl Iterator<Item = usize> {
    (6..=26).map(|shift| 1 << shift)
}

struct Line {
    /// The first rival's median time for one call.
    first: Duration,
    /// How many times faster than the first each other rival is.
    ratios: Vec<f64>,
}

/// Times the rivals by turns. `bytes` is the size of one call's work.
fn race<const N: usize>(bytes: usize, mut rivals: [&mut dyn FnMut(); N]) -> Line {
    let calls = ((4 << 20) / bytes).clamp(1, 8192) as u32;
    let mut time = |rival: usize| {
        let begin = Instant::now();
        for _ in 0..calls {
            rivals[rival]();
        }
        begin.elapsed() / calls
    };
    (0..N).for_each(|rival| {
        time(rival);
    });
    let rounds: Vec<[Duration; N]> = (0..ROUNDS)
        .map(|round| {
            let mut times = [Duration::ZERO; N];
            (0..N).for_each(|turn| {
                let rival = (turn + round) % N;
                times[rival] = time(rival);
            });
            times
        })
        .collect();
    let ratio =
        |times: &[Duration; N], rival: usize| times[0].as_secs_f64() / times[rival].as_secs_f64();
    Line {
        first: Duration::from_secs_f64(median(rounds.iter().map(|t| t[0].as_secs_f64()))),
        ratios: (1..N).map(|rival| median(rounds.iter().map(|t| ratio(t, rival)))).collect(),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
