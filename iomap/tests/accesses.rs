//! The law of I/O memory, from the instructions that were executed: no access wider or narrower than
//! asked, none repeated, none elsewhere.
//!
//! The program runs itself under valgrind's `lackey`, which writes down every load and store with its
//! address and size. What fell into the buffer is held against what each scene may do. Without
//! valgrind the test is counted as ignored, and says so.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use iomap::{Access, BufMap, Caching, Location, Memory, PageSize};
use libtest_mimic::{Arguments, Failed, Trial};

const TRACED: &str = "IOMAP_TEST_TRACED";

/// The lengths and offsets of bulk copies. Together they reach every way through the engines.
const OFFSETS: [usize; 6] = [0, 1, 4, 7, 16, 61];
const LENGTHS: [usize; 8] = [0, 1, 3, 8, 15, 64, 200, 333];

/// One operation on a buffer of I/O memory, begun with a store to the scene's own marker.
#[derive(Clone, Copy, Debug)]
enum Op {
    Read(usize),
    Write(usize),
    /// From the buffer into a slice, at each offset.
    Out,
    /// From a slice into the buffer.
    In,
    /// From the buffer into system memory that others may watch, at another alignment.
    OutToMap,
    /// From a second buffer of the same kind, at another alignment: both must obey.
    Across,
    /// From the buffer to itself, further on by a few bytes.
    Within,
    Fill,
}

#[derive(Clone, Copy, Debug)]
struct Scene {
    op: Op,
    caching: Caching,
    offset: usize,
    len: usize,
}

/// All scenes, in the order in which they are played. Both processes know them.
fn scenes() -> Vec<Scene> {
    let cachings = [Caching::Uncached, Caching::WriteCombining, Caching::WriteBack];
    let mut scenes = Vec::new();
    for caching in cachings {
        for offset in 0..9 {
            for width in [1, 2, 4, 8] {
                scenes.push(Scene { op: Op::Read(width), caching, offset, len: width });
                scenes.push(Scene { op: Op::Write(width), caching, offset, len: width });
            }
        }
        for (offset, len) in OFFSETS.iter().flat_map(|o| LENGTHS.iter().map(move |l| (*o, *l))) {
            for op in [Op::Out, Op::In, Op::OutToMap, Op::Across, Op::Within, Op::Fill] {
                scenes.push(Scene { op, caching, offset, len });
            }
        }
    }
    scenes
}

const BUFFER: usize = 4096;

/// Where the traced program has the scenes' markers, and two buffers.
const MARKERS: usize = 0x12_3400_0000;
const BUFFERS: usize = 0x12_3500_0000;

fn main() {
    if std::env::var_os(TRACED).is_some() {
        return play();
    }
    let args = Arguments::from_args();
    let absent = Command::new("valgrind").arg("--version").output().is_err();
    if absent {
        println!("SKIPPED: accesses_are_as_asked: valgrind is not installed");
    }
    let trial =
        Trial::test("accesses_are_as_asked", accesses_are_as_asked).with_ignored_flag(absent);
    libtest_mimic::run(&args, vec![trial]).exit();
}

/// In the child: plays all scenes.
fn play() {
    let (markers, system) =
        (at_address(MARKERS, scenes().len()), Memory::anonymous(BUFFER, PageSize::Base).unwrap());
    let buffers = at_address(BUFFERS, 2 * BUFFER);
    let mut slice = vec![3; BUFFER];
    for (index, scene) in scenes().into_iter().enumerate() {
        let Scene { op, caching, offset, len } = scene;
        // SAFETY: mapped for good below, and taken for I/O memory.
        let io = unsafe {
            BufMap::from_raw(buffers, 2 * BUFFER, Location::Io, caching, Access::ReadWrite)
        };
        let part = io.subrange(offset..offset + len).unwrap();
        // SAFETY: mapped for good below, a byte for each scene.
        unsafe { markers.add(index).write_volatile(1) };
        let done = match op {
            Op::Read(1) => part.read::<u8>(0).map(drop),
            Op::Read(2) => part.read::<u16>(0).map(drop),
            Op::Read(4) => part.read::<u32>(0).map(drop),
            Op::Read(_) => part.read::<u64>(0).map(drop),
            Op::Write(1) => part.write(0, 1u8),
            Op::Write(2) => part.write(0, 1u16),
            Op::Write(4) => part.write(0, 1u32),
            Op::Write(_) => part.write(0, 1u64),
            Op::Out => part.copy_to_slice(0, &mut slice[5..5 + len]),
            Op::In => part.copy_from_slice(0, &slice[5..5 + len]),
            Op::OutToMap => system.map().subrange(11..11 + len).unwrap().copy_from(&part),
            Op::Across => {
                let other = io.subrange(BUFFER + 13..BUFFER + 13 + len).unwrap();
                part.copy_from(&other)
            }
            Op::Within => io.subrange(offset + 3..offset + 3 + len).unwrap().copy_from(&part),
            Op::Fill => part.fill(9),
        };
        let _ = done;
    }
    std::process::exit(0);
}

/// Maps memory where the parent will look for it in the trace.
fn at_address(address: usize, len: usize) -> *mut u8 {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
    let address = std::ptr::without_provenance_mut(address);
    // SAFETY: nothing is mapped over.
    let mapped = unsafe { mmap_anonymous(address, len, ProtFlags::READ | ProtFlags::WRITE, flags) };
    mapped.unwrap().cast()
}

/// One load or store: its address and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Touch {
    store: bool,
    at: usize,
    size: usize,
}

fn accesses_are_as_asked() -> Result<(), Failed> {
    let mut child = Command::new("valgrind")
        .args(["--tool=lackey", "--trace-mem=yes", "--basic-counts=no", "--vex-iropt-level=0"])
        .arg(std::env::current_exe()?)
        .env(TRACED, "1")
        .stderr(Stdio::piped())
        .spawn()?;
    let trace = BufReader::new(child.stderr.take().ok_or("no trace")?);
    let by_scene = touches(trace)?;
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("the traced program: {status}").into());
    }
    for (index, scene) in scenes().into_iter().enumerate() {
        let touched = by_scene.get(&index).ok_or_else(|| format!("{scene:?} left no marker"))?;
        lawful(scene, touched).map_err(|why| format!("{scene:?}: {why}: {touched:?}"))?;
    }
    Ok(())
}

/// What each scene did to the buffers, relative to their beginning.
fn touches(trace: impl BufRead) -> Result<BTreeMap<usize, Vec<Touch>>, Failed> {
    let mut scenes = BTreeMap::<usize, Vec<Touch>>::new();
    let (mut current, scenes_len) = (None, self::scenes().len());
    for line in trace.lines() {
        let line = line?;
        let Some((kind, rest)) = line.trim().split_once(' ') else { continue };
        let Some((at, size)) = rest.trim().split_once(',') else { continue };
        let (Ok(at), Ok(size)) = (usize::from_str_radix(at, 16), size.parse::<usize>()) else {
            continue;
        };
        let kinds: &[bool] = match kind {
            "L" => &[false],
            "S" => &[true],
            "M" => &[false, true],
            _ => continue,
        };
        if kinds.contains(&true) && (MARKERS..MARKERS + scenes_len).contains(&at) && size == 1 {
            current = Some(at - MARKERS);
            scenes.entry(at - MARKERS).or_default();
        }
        let within = at < BUFFERS + 2 * BUFFER && at + size > BUFFERS;
        if let (true, Some(scene)) = (within, current) {
            let touches =
                kinds.iter().map(|&store| Touch { store, at: at.wrapping_sub(BUFFERS), size });
            scenes.entry(scene).or_default().extend(touches);
        }
    }
    Ok(scenes)
}

/// Holds what a scene did against the law.
fn lawful(scene: Scene, touched: &[Touch]) -> Result<(), String> {
    let Scene { op, caching, offset, len } = scene;
    let widest = if caching == Caching::WriteCombining { 16 } else { 8 };
    let loads: Vec<Touch> = touched.iter().filter(|t| !t.store).copied().collect();
    let stores: Vec<Touch> = touched.iter().filter(|t| t.store).copied().collect();
    let once = |touches: &[Touch], offset, widest| once(touches, offset, len, widest);
    match op {
        Op::Read(width) | Op::Write(width) => {
            let store = matches!(op, Op::Write(_));
            let one = [Touch { store, at: offset, size: width }];
            let wanted: &[Touch] = if offset.is_multiple_of(width) { &one } else { &[] };
            if touched == wanted { Ok(()) } else { Err(format!("wanted {wanted:?}")) }
        }
        Op::Out | Op::OutToMap => once(&loads, offset, widest).and(none(&stores)),
        Op::In => once(&stores, offset, widest).and(none(&loads)),
        Op::Fill => once(&stores, offset, widest).and(none(&loads)),
        Op::Across => once(&loads, BUFFER + 13, widest).and(once(&stores, offset, widest)),
        Op::Within => once(&loads, offset, widest).and(once(&stores, offset + 3, widest)),
    }
}

fn none(touches: &[Touch]) -> Result<(), String> {
    if touches.is_empty() { Ok(()) } else { Err("touched in the wrong direction".into()) }
}

/// Each byte once, by naturally aligned accesses, in ascending order, as wide as alignment and
/// length let them be.
fn once(touches: &[Touch], offset: usize, len: usize, widest: usize) -> Result<(), String> {
    let mut next = offset;
    for touch in touches {
        if touch.at != next {
            return Err(format!("byte {next} is next, not {}", touch.at));
        }
        let left = offset + len - next;
        let could = (1 << next.trailing_zeros().min(left.ilog2())).min(widest);
        if touch.size != could {
            return Err(format!("{} bytes at {next}, not {could}", touch.size));
        }
        next += touch.size;
    }
    if next == offset + len {
        Ok(())
    } else {
        Err(format!("{} bytes are missing", offset + len - next))
    }
}
