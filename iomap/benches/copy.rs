//! What access through a `BufMap` costs, beside the bare operation, in one run.
//!
//! Each line times the rivals by turns, many rounds long, and prints the median of each round's
//! ratio: above 1.00, `BufMap` is the faster.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::time::Instant;

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
    // At one place modulo 4096, a load waits for the stores of the copy before: both rivals are
    // slower then, and which one more is chance.
    for (src_skew, dst_skew) in
        [(0, 2048), (0, 0), (8, 2048), (0, 2056), (1, 2048), (0, 2049), (3, 2051)]
    {
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
        let (from, to) = (src.map().offset(src_skew).unwrap(), dst.map().offset(dst_skew).unwrap());
        // SAFETY: it is mapped over the length given, and used by one rival at a time.
        let source = |len| unsafe { std::slice::from_raw_parts(from.as_ptr(), len) };
        // SAFETY: as above.
        let destination = |len| unsafe { std::slice::from_raw_parts_mut(to.as_ptr(), len) };
        let line = race(
            len,
            [
                &mut repeat(|| {
                    let len = black_box(len);
                    // SAFETY: as above.
                    unsafe { from.as_ptr().copy_to_nonoverlapping(to.as_ptr(), len) };
                }),
                &mut repeat(|| {
                    let len = black_box(len);
                    let (from, to) = (from.subrange(..len).unwrap(), to.subrange(..len).unwrap());
                    to.copy_from(&from).unwrap();
                }),
                &mut repeat(|| to.copy_from_slice(0, source(black_box(len))).unwrap()),
                &mut repeat(|| from.copy_to_slice(0, destination(black_box(len))).unwrap()),
            ],
        );
        println!(
            "{len:>10} {:>12.1} {:>8.2} {:>16.2} {:>14.2}",
            len as f64 / line.first / 1e9,
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
        let to = dst.map();
        let line = race(
            len,
            [
                // SAFETY: mapped over `len` bytes, and nobody else uses them.
                &mut repeat(|| unsafe { to.as_ptr().write_bytes(black_box(5), black_box(len)) }),
                &mut repeat(|| to.subrange(..black_box(len)).unwrap().fill(black_box(5)).unwrap()),
            ],
        );
        let rate = len as f64 / line.first / 1e9;
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
            &mut repeat(|| {
                let at = black_box(map.as_ptr().cast::<u64>());
                // SAFETY: mapped over `WORDS` words.
                let sum = (0..WORDS)
                    .fold(0u64, |sum, i| sum.wrapping_add(unsafe { at.add(i).read_volatile() }));
                black_box(sum);
            }),
            &mut repeat(|| {
                let map = black_box(map);
                let sum = (0..WORDS)
                    .fold(0u64, |sum, i| sum.wrapping_add(map.read::<u64>(i * 8).unwrap()));
                black_box(sum);
            }),
        ],
    );
    print_typed("read", &line, WORDS);
    let line = race(
        WORDS * 8,
        [
            &mut repeat(|| {
                let at = black_box(map.as_ptr().cast::<u64>());
                // SAFETY: mapped over `WORDS` words.
                (0..WORDS).for_each(|i| unsafe { at.add(i).write_volatile(i as u64) });
            }),
            &mut repeat(|| {
                let map = black_box(map);
                (0..WORDS).for_each(|i| map.write(i * 8, i as u64).unwrap());
            }),
        ],
    );
    print_typed("write", &line, WORDS);

    // One access at an unknown place at a time, each address from the last value: the latency.
    map.fill(0).expect("writable");
    let line = race(
        WORDS * 8,
        [
            &mut repeat(|| {
                let at = black_box(map.as_ptr().cast::<u64>());
                let mut next = 0;
                for _ in 0..WORDS {
                    // SAFETY: all words hold 0, so `next` stays 0.
                    next = unsafe { at.byte_add(next as usize).read_volatile() };
                }
                black_box(next);
            }),
            &mut repeat(|| {
                let map = black_box(map);
                let mut next = 0;
                for _ in 0..WORDS {
                    next = map.read::<u64>(next as usize).unwrap();
                }
                black_box(next);
            }),
        ],
    );
    print_typed("dependent read", &line, WORDS);
}

fn print_typed(name: &str, line: &Line, words: usize) {
    let each = line.first * 1e9 / words as f64;
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
        let (from, to) = (src.map().subrange(..len).unwrap(), dst.map().subrange(..len).unwrap());
        let (slow_from, slow_to) = (declared(from), declared(to));
        let line = race(
            len,
            [
                // SAFETY: both are mapped over `len` bytes, and nobody else uses them.
                &mut repeat(|| unsafe {
                    from.as_ptr().copy_to_nonoverlapping(to.as_ptr(), black_box(len));
                }),
                &mut repeat(|| to.copy_from(&slow_from).unwrap()),
                &mut repeat(|| slow_to.copy_from(&from).unwrap()),
            ],
        );
        let rate = len as f64 / line.first / 1e9;
        println!("{len:>10} {rate:>12.1} {:>12.2} {:>12.2}", line.ratios[0], line.ratios[1]);
    }
}

fn lengths() -> impl Iterator<Item = usize> {
    (6..=LARGEST.ilog2()).map(|shift| 1 << shift)
}

struct Line {
    /// The first rival's median time for one call, in seconds.
    first: f64,
    /// How many times faster than the first each other rival is.
    ratios: Vec<f64>,
}

/// One call of a rival, made into a loop of them: all rivals' loops are alike.
fn repeat(mut call: impl FnMut()) -> impl FnMut(usize) {
    move |calls| (0..calls).for_each(|_| call())
}

/// Times the rivals by turns. `bytes` is the size of one call's work.
fn race<const N: usize>(bytes: usize, mut rivals: [&mut dyn FnMut(usize); N]) -> Line {
    let calls = ((8 << 20) / bytes).clamp(1, 16384);
    let mut time = |rival: usize| {
        let begin = Instant::now();
        rivals[rival](calls);
        begin.elapsed().as_secs_f64() / calls as f64
    };
    (0..N).for_each(|rival| {
        time(rival);
    });
    let rounds: Vec<[f64; N]> = (0..ROUNDS)
        .map(|round| {
            let mut times = [0.0; N];
            (0..N).for_each(|turn| {
                let rival = (turn + round) % N;
                times[rival] = time(rival);
            });
            times
        })
        .collect();
    Line {
        first: median(rounds.iter().map(|times| times[0])),
        ratios: (1..N)
            .map(|rival| median(rounds.iter().map(|times| times[0] / times[rival])))
            .collect(),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
