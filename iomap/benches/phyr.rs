//! What a `PhyrList` of 1 GiB costs to build, beside a plain vector of its pages, in one run.

use std::hint::black_box;
use std::time::Instant;

use iomap::{Phyr, PhyrKind, PhyrList, PhysAddr};

const TOTAL: u64 = 1 << 30;
const ROUNDS: usize = 41;

fn main() {
    println!("1 GiB of physical memory, against a Vec<u64> of its pages");
    println!(
        "{:>26} {:>8} {:>8} {:>8} {:>12} {:>10} {:>11} {:>11} {:>11}",
        "",
        "pages",
        "ranges",
        "vec us",
        "extend ratio",
        "push ratio",
        "vec bytes",
        "list bytes",
        "bytes ratio"
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
    // A vector of pages holds 4 KiB pages, whatever the memory is made of.
    let vector = || {
        let mut vector = Vec::new();
        for i in 0..black_box(pages) {
            for part in 0..page / 4096 {
                vector.push(address(i) + part * 4096);
            }
        }
        vector
    };
    let range = |i| Phyr::new(PhyrKind::System, PhysAddr::new(address(i)), page).expect("a range");
    let extended = || (0..black_box(pages)).map(range).collect::<PhyrList>();
    let pushed = || {
        let mut list = PhyrList::new();
        for i in 0..black_box(pages) {
            list.push(range(i));
        }
        list
    };
    let rounds: Vec<[f64; 3]> =
        (0..ROUNDS).map(|_| [time(vector), time(extended), time(pushed)]).collect();
    let (vector, mut list) = (vector(), extended());
    assert_eq!(list, pushed());
    assert_eq!(list.total(), TOTAL);
    list.shrink_to_fit();
    let (vector_bytes, list_bytes) = (vector.len() * 8, size_of_val(list.ranges()));
    println!(
        "{name:>26} {pages:>8} {:>8} {:>8.1} {:>12.2} {:>10.2} {vector_bytes:>11} {list_bytes:>11} \
         {:>11.2}",
        list.ranges().len(),
        median(rounds.iter().map(|times| times[0])) * 1e6,
        median(rounds.iter().map(|times| times[0] / times[1])),
        median(rounds.iter().map(|times| times[0] / times[2])),
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

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
