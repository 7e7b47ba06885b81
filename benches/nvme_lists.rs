//! What it costs to describe memory to a drive, beside a straightforward loop over its pages, in one
//! run.
//!
//! The rival keeps the address of every page of the buffer in a vector, as simple drivers do, and
//! writes them into a list one after another. Each line times the rivals by turns, many rounds long,
//! and prints medians: above 1.00, the lists of this crate are built faster.

use std::hint::black_box;
use std::time::Instant;

use bufmap::dma::{DmaKind, DmaList, DmaRange};
use bufmap::storage::nvme::sgl::{self, Data, SglSupport};
use bufmap::storage::nvme::{ListMemory, prp};
use iomap::{DmaAddr, Memory, PageSize};

const PAGE: u64 = 4096;
const ROUNDS: usize = 41;
const LISTS: u64 = 0x7000_0000;

/// Pages in a row, from one range to the next.
const RUNS: [(&str, u64); 4] = [
    ("one range", u64::MAX),
    ("ranges of 2 MiB", 512),
    ("ranges of 64 KiB", 16),
    ("single pages", 1),
];

fn main() {
    println!(
        "nanoseconds for each page of 4 KiB, and how many times faster than the loop over pages\n"
    );
    println!(
        "{:>18} {:>9} {:>10} {:>8} {:>7} {:>8} {:>7}",
        "memory", "KiB", "loop ns", "PRP ns", "ratio", "SGL ns", "ratio"
    );
    for (name, run) in RUNS {
        for pages in [2, 32, 512, 2048] {
            measure(name, run, pages);
        }
    }
}

fn measure(name: &str, run: u64, pages: u64) {
    // The runs lie apart, so that none is the neighbour of another.
    let address = |page: u64| (0x1_0000 + page + page / run) * PAGE;
    let frames: Vec<u64> = (0..pages).map(address).collect();
    let range = |&frame: &u64| DmaRange::new(DmaKind::Iova, DmaAddr::new(frame), PAGE);
    let list: DmaList = frames.iter().map(|f| range(f).expect("a page")).collect();
    assert_eq!(list.ranges().len() as u64, pages.div_ceil(run));

    let memory = Memory::anonymous(64 << 10, PageSize::Base).expect("memory");
    memory.populate().expect("pages");
    let lists = ListMemory::new(memory.map(), DmaAddr::new(LISTS));
    let mut plain = vec![0u64; 8192];
    let support = SglSupport { alignment: 4, bit_bucket: false };
    let [loop_ns, prp_ns, sgl_ns] = race([
        &mut || _ = black_box(loop_over_pages(black_box(&frames), &mut plain)),
        &mut || _ = black_box(prp::build(black_box(&list).whole(), PAGE, &lists).expect("PRPs")),
        &mut || {
            let data = Data { head: 0, memory: black_box(&list).whole(), tail: 0 };
            _ = black_box(sgl::build(&data, support, &[lists]).expect("an SGL"));
        },
    ])
    .map(|ns| ns / pages as f64);
    println!(
        "{name:>18} {:>9} {loop_ns:>10.2} {prp_ns:>8.2} {:>7.2} {sgl_ns:>8.2} {:>7.2}",
        pages * PAGE / 1024,
        loop_ns / prp_ns,
        loop_ns / sgl_ns
    );
}

/// The rival: both PRP entries of a command, and its lists in ordinary memory.
#[inline(never)]
fn loop_over_pages(frames: &[u64], list: &mut [u64]) -> (u64, u64) {
    match frames {
        [] => return (0, 0),
        [one] => return (*one, 0),
        [one, two] => return (*one, *two),
        _ => {}
    }
    let mut at = 0;
    for (i, &frame) in frames[1..].iter().enumerate() {
        if at % 512 == 511 && i + 2 < frames.len() {
            list[at] = LISTS + (at as u64 + 1) * 8;
            at += 1;
        }
        list[at] = frame;
        at += 1;
    }
    (frames[0], LISTS)
}

/// The median nanoseconds of each rival, timed by turns.
fn race<const N: usize>(mut rivals: [&mut dyn FnMut(); N]) -> [f64; N] {
    const CALLS: u32 = 2000;
    let mut times: [Vec<f64>; N] = std::array::from_fn(|_| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        for (rival, times) in rivals.iter_mut().zip(&mut times) {
            let begin = Instant::now();
            (0..CALLS).for_each(|_| rival());
            times.push(begin.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[ROUNDS / 2]
    })
}
