//! What a `PhyrList` of 1 GiB costs to build, beside a plain vector of its pages, in one run.

use std::hint::black_box;
use std::time::Instant;

use iomap::{Phyr, PhyrKind, PhyrList, PhysAddr};

const TOTAL: u64 = 1 << 30;
const ROUNDS: usize = 41;

fn main() {
    println!("1 GiB of physical memory, against a Vec<u64> of its pages");
    println!(
        "{:>28} {:>8} {:>8} {:>10} {:>8} {:>12} {:>12} {:>12}",
        "", "pushes", "ranges", "vec us", "ratio", "vec bytes", "list bytes", "bytes ratio"
    );
    let contiguous = |i: u64| 0x1_0000_0000 + i * 4096;
    // Each page's successor is elsewhere: an odd multiplier visits all pages of 4 GiB, by jumps.
    let scattered = |i: u64| ((i * 0x9e37_79b1) & 0xf_ffff) * 4096;
    let huge = |i: u64| 0x1_0000_0000 + i * (4 << 20);
    row("4 KiB pages, contiguous", 4096, contiguous);
    row("4 KiB pages, scattered", 4096, scattered);
    row("2 MiB pages, 4 MiB apart", 2 << 20, huge);
}

fn row(name: &str, page: u64, address: impl Fn(u64) -> u64) {
    let pages = TOTAL / page;
    let vector = || {
        let mut vector = Vec::new();
        // A vector of pages holds 4 KiB pages, whatever the memory is made of.
        for i in 0..black_box(pages) {
            for part in 0..page / 4096 {
                vector.push(black_box(address(i) + part * 4096));
            }
        }
        vector
    };
    let list = || {
        let mut list = PhyrList::new();
        for i in 0..black_box(pages) {
            let range = Phyr::new(PhyrKind::System, PhysAddr::new(black_box(address(i))), page);
            list.push(range.expect("a range"));
        }
        list
    };
    let mut times: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|round| {
            if round % 2 == 0 {
                (time(vector), time(list))
            } else {
                let second = time(list);
                (time(vector), second)
            }
        })
        .collect();
    times.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    let (vector_time, list_time) = times[ROUNDS / 2];
    let (vector, mut list) = (vector(), list());
    assert_eq!(list.total(), TOTAL);
    list.shrink_to_fit();
    let (vector_bytes, list_bytes) = (vector.len() * 8, size_of_val(list.ranges()));
    println!(
        "{name:>28} {pages:>8} {:>8} {:>10.1} {:>8.2} {vector_bytes:>12} {list_bytes:>12} {:>12.2}",
        list.ranges().len(),
        vector_time * 1e6,
        vector_time / list_time,
        vector_bytes as f64 / list_bytes as f64
    );
}

fn time<T>(build: impl Fn() -> T) -> f64 {
    let begin = Instant::now();
    let built = black_box(build());
    let elapsed = begin.elapsed().as_secs_f64();
    drop(built);
    elapsed
}
